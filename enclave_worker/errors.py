"""The errors of the worker. Codes travel to the client in a receipt; messages hold no data."""

from attestation.errors import EnclaveError


class EnclaveWorkerError(EnclaveError):
    """Root of every error of this package."""

    code = "worker-error"


class RegistryError(EnclaveWorkerError):
    """A kernel cannot be registered. Fix or uninstall the package that the message names."""

    code = "kernel-registry-invalid"


class DuplicateKernelError(RegistryError):
    """Two installed packages define one kernel name. Uninstall one, or rename its kernel."""

    code = "kernel-duplicate"


class KernelSourceError(RegistryError):
    """The source of a kernel cannot be read, so no digest can vouch for it. Install it as files."""

    code = "kernel-source-missing"


class KernelError(EnclaveWorkerError):
    """A kernel ended without a result. The job failed; nothing of its input is in the message."""

    code = "kernel-failed"


class NotFiniteError(KernelError):
    """An input holds NaN or infinity where the kernel has no answer for it. Clean it and resend."""

    code = "input-not-finite"


class DomainError(KernelError):
    """Inputs and parameters do not fit each other, as in more clusters than rows. Change one."""

    code = "input-out-of-domain"


class SingularMatrixError(KernelError):
    """The inputs do not determine an answer. Drop dependent columns, or raise `l2`."""

    code = "singular-matrix"


class NotConvergedError(KernelError):
    """The iteration did not reach its tolerance. Allow more iterations, or raise `l2`."""

    code = "not-converged"


class TimeLimitError(KernelError):
    """The kernels ran longer than the worker allows one job. Split it, or choose another worker."""

    code = "time-limit"


class DeviceMemoryError(KernelError):
    """The device has too little memory for this job. Split it, or choose a larger worker."""

    code = "device-memory"
