"""Why a step about NVIDIA devices refuses; docstrings are the advice of `--explain`."""

from attestation.errors import MissingError, VerificationError


class GpuNotAcceptedError(VerificationError):
    """There is GPU evidence and the policy has no [gpu] table. Add one if you rely on GPUs."""

    code = "gpu-not-accepted"


class GpuEvidenceMissingError(VerificationError):
    """The policy requires GPU evidence and there is none. Use a worker with a confidential GPU."""

    code = "gpu-evidence-missing"


class GpuNotBoundError(VerificationError):
    """No genuine CPU vouches that these GPUs belong to this worker. Use a worker with a TEE.

    Without that, reports of GPUs in another machine can be shown beside any key.
    """

    code = "gpu-not-bound"


class GpuNonceError(VerificationError):
    """A device answers another nonce. Ask again; if it recurs, someone replays its report."""

    code = "gpu-nonce-mismatch"


class GpuSignatureError(VerificationError):
    """The device's key did not sign the report. Treat the Evidence as forged."""

    code = "gpu-signature-invalid"


class FirmwareIdError(VerificationError):
    """The report names another firmware than the key was made for. Treat the Evidence as forged."""

    code = "gpu-firmware-id-mismatch"


class DuplicateDeviceError(VerificationError):
    """One device is shown more than once. Ask for evidence of every device that there is."""

    code = "gpu-duplicate"


class DeviceNotAcceptedError(VerificationError):
    """The policy does not name this family or device. Add it if you accept it."""

    code = "gpu-device-not-accepted"


class DeviceKindError(VerificationError):
    """A device is shown as something that its certificate says it is not. Ask what it was for."""

    code = "gpu-kind-mismatch"


class GpuVersionError(VerificationError):
    """A driver or firmware is older than the policy allows. Update the worker."""

    code = "gpu-version-too-old"


class MixedDevicesError(VerificationError):
    """GPUs of one machine run in different modes or with different drivers. Set it up anew."""

    code = "gpu-set-mixed"


class RimMissingError(MissingError):
    """There is no manifest for this driver or firmware. Gather collateral from NVIDIA."""

    code = "rim-missing"


class RimVersionError(MissingError):
    """Manifests were given, none of them of this version. Gather collateral from NVIDIA."""

    code = "rim-version-mismatch"


class RimOverlapError(VerificationError):
    """Driver and firmware manifest both set one measurement. Do not use either; ask NVIDIA."""

    code = "rim-overlap"


class GpuMeasurementError(VerificationError):
    """A device measured something that NVIDIA did not publish. It may be in developer mode.

    With an old firmware manifest it may also be good: gather NVIDIA's newest revision.
    """

    code = "gpu-measurement-mismatch"


class GpuMeasurementsUnknownError(MissingError):
    """Without valid manifests nobody knows what a device runs. Gather collateral from NVIDIA."""

    code = "gpu-measurements-unknown"


class ConfidentialModeError(VerificationError):
    """The GPUs are not in confidential mode. Set it up on the worker (nvidia-smi conf-compute)."""

    code = "gpu-not-confidential"


class DeveloperModeError(VerificationError):
    """The GPUs are in developer mode, where debuggers can read them. Turn it off on the worker."""

    code = "gpu-developer-mode"


class TopologyError(VerificationError):
    """A GPU is connected to a switch that is not attested. Ask for evidence of every switch."""

    code = "gpu-switch-not-attested"
