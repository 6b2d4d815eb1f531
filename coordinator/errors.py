"""What stops a coordinator from starting or storing."""

from attestation.errors import EnclaveError


class CoordinatorError(EnclaveError):
    """Root of the coordinator's own errors."""

    code = "coordinator-error"


class SettingsError(CoordinatorError):
    """The settings are unsafe or contradict each other. The message says what to change."""

    code = "settings-invalid"


class KeyFileError(CoordinatorError):
    """A CURVE key or allow-list file is missing or unreadable. Make one with `keygen`."""

    code = "key-file-invalid"


class StoreError(CoordinatorError):
    """The state directory cannot be used: in use, damaged, or of another version."""

    code = "store-unusable"
