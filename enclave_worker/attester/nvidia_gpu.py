"""The Attester of NVIDIA GPUs in confidential mode, through nvidia-ml-py (NVML).

Every GPU that the driver shows is asked, with one nonce: which of them a job will use is CUDA's
choice, and an unattested one beside an attested one would be a way out. In confidential mode the
driver lets no program use a GPU before it is told that the GPU is ready; it is told so here, and
only after every report came, parses and answers our nonce.

A GPU has nothing to say about a key set. The nonce carries the key set's digest, and the CPU's
evidence carries a digest of what is made here (`attestation.evidence.binding`).
"""

import importlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from secrets import token_bytes
from typing import Any, Final

from attestation import limits
from attestation.errors import DecodeError
from attestation.evidence.nvidia_gpu import (
    ConfidentialState,
    DeviceKind,
    DeviceReport,
    GpuDevice,
    GpuEvidence,
    certificates_from_pem,
)
from enclave_worker.attester.patience import AttesterFailedError, AttesterMissingError, persist
from enclave_worker.device.confidential import (
    ENVIRONMENT_PRODUCTION,
    UNKNOWN_TO_DRIVER,
    read_settings,
)

_NONCE_BYTES: Final = 32

# nvml.h, nvmlReturn_t
_NO_PERMISSION: Final = 4
_DRIVER_NOT_LOADED: Final = 9
_TIMEOUT: Final = 10
_LIBRARY_NOT_FOUND: Final = 12
_IN_USE: Final = 19

_ABSENT: Final = frozenset({_DRIVER_NOT_LOADED, _LIBRARY_NOT_FOUND})
_PASSING: Final = frozenset({_TIMEOUT, _IN_USE})


class NvidiaGpuAttester:
    """GPU evidence of this machine. Safe to call from several threads; calls take turns."""

    def __init__(self, *, sleep: Callable[[float], None] = time.sleep) -> None:
        """Load NVML and see that the GPUs are in confidential mode.

        Raises `AttesterMissingError` when there is no GPU, or none in confidential mode, and
        `AttesterFailedError`.
        """
        self._nvml = _library()
        self._sleep = sleep
        self._lock = threading.Lock()
        with self._explained():
            self._nvml.nvmlInit()
            count = self._nvml.nvmlDeviceGetCount()
            if not count:
                raise AttesterMissingError("the driver shows no GPU")
            if count > limits.GPU_DEVICES:
                raise AttesterFailedError(f"{count} GPUs where {limits.GPU_DEVICES} are supported")
            self._require_confidential()
        self.count: Final = int(count)
        """GPUs that are attested."""

    def collect(self, nonce: bytes) -> bytes:
        """Return a canonical `GpuEvidence` over `nonce`, or raise an `UnavailableError`."""
        if len(nonce) != _NONCE_BYTES:
            raise AttesterFailedError(f"a nonce of {len(nonce)} bytes where a GPU takes 32")
        with self._lock, self._explained():
            # Asked each time: the mode is what the evidence says, not what it was at the start.
            state = self._require_confidential()
            devices = [self._device(index, nonce) for index in range(self.count)]
            return GpuEvidence(state=state, devices=tuple(devices)).to_bytes()

    def make_ready(self) -> bool:
        """Let programs use the GPUs, unless they may already; returns whether that was needed.

        Everything is collected once before, and nothing is changed when that fails.
        """
        self.collect(token_bytes(_NONCE_BYTES))
        with self._lock, self._explained():
            try:
                if self._nvml.nvmlSystemGetConfComputeGpusReadyState():
                    return False
            except self._nvml.NVMLError as error:
                if error.value not in UNKNOWN_TO_DRIVER:
                    raise
                return False
            self._nvml.nvmlSystemSetConfComputeGpusReadyState(
                self._nvml.NVML_CC_ACCEPTING_CLIENT_REQUESTS_TRUE
            )
        return True

    def _device(self, index: int, nonce: bytes) -> GpuDevice:
        handle = self._nvml.nvmlDeviceGetHandleByIndex(index)
        answer = persist(
            lambda: self._nvml.nvmlDeviceGetConfComputeGpuAttestationReport(handle, nonce),
            passing=self._passes,
            sleep=self._sleep,
        )
        chain = self._nvml.nvmlDeviceGetConfComputeGpuCertificate(handle)
        report = _taken(answer.attestationReport, answer.attestationReportSize)
        pem = _taken(chain.attestationCertChain, chain.attestationCertChainSize)
        try:
            signed = DeviceReport.from_bytes(report, DeviceKind.GPU).nonce
            device = GpuDevice(
                kind=DeviceKind.GPU, report=report, certificates=certificates_from_pem(pem)
            )
        except DecodeError as error:
            raise AttesterFailedError(f"GPU {index}: not readable: {error}") from error
        if signed != nonce:
            raise AttesterFailedError(f"GPU {index}: the report answers another nonce")
        return device

    def _require_confidential(self) -> ConfidentialState:
        settings = read_settings(self._nvml)
        if settings is None:
            raise AttesterMissingError("the driver knows no confidential mode")
        if not settings.enabled:
            raise AttesterMissingError(
                "confidential computing mode is off: the host's owner turns it on, "
                "for instance with gpu-admin-tools"
            )
        if settings.developer_tools != self._nvml.NVML_CC_SYSTEM_DEVTOOLS_MODE_OFF:
            raise AttesterMissingError(
                "developer tools mode is on, in which debuggers read the GPU's memory: "
                "the host's owner turns it off"
            )
        if settings.environment != ENVIRONMENT_PRODUCTION:
            raise AttesterMissingError("the GPUs' environment is simulated, not production")
        return ConfidentialState(enabled=True, developer_tools=False)

    def _passes(self, error: Exception) -> bool:
        return isinstance(error, self._nvml.NVMLError) and error.value in _PASSING

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except self._nvml.NVMLError as error:
            if error.value in _ABSENT:
                raise AttesterMissingError(f"no NVIDIA driver answers ({error})") from error
            advice = ""
            if error.value == _NO_PERMISSION:
                advice = "; as root: nvidia-smi conf-compute -srs 1"
            raise AttesterFailedError(f"NVML: {error}{advice}") from error


def _library() -> Any:
    try:
        # By name, because it is an optional library without types.
        return importlib.import_module("pynvml")
    except ImportError as error:
        raise AttesterMissingError(
            "nvidia-ml-py is not installed: pip install 'enclave-worker[nvidia]'"
        ) from error


def _taken(buffer: Any, size: int) -> bytes:
    # NVML's structures have room for the largest answer and say how much of it is used.
    if not 0 < size <= len(buffer):
        raise AttesterFailedError(f"NVML says that {size} bytes of {len(buffer)} are used")
    return bytes(buffer[:size])
