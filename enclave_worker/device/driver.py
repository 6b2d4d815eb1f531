"""What the NVIDIA driver shows, asked of `libcuda` itself: no CuPy, no context, no device memory.

For those who only want to know: the supervisor, how many GPUs there are, and `enclave worker
doctor`. CUDA_VISIBLE_DEVICES counts here as it does for the workers.
"""

import ctypes
from typing import Any, Final

from attrs import frozen

from attestation.errors import UnavailableError

LIBRARY: Final = "libcuda.so.1"

_SUCCESS: Final = 0
_NO_DEVICE: Final = 100
_MAJOR: Final = 75
_MINOR: Final = 76
"""CUdevice_attribute"""

_ADVICE: Final = {
    3: "the driver did not start: dmesg says why",
    999: "the driver failed: dmesg says why",
    802: "the GPUs are in confidential mode and not ready: nvidia-smi conf-compute -srs 1",
    803: "the driver does not fit libcuda: install both from one package",
    804: "this libcuda is for other hardware: remove the package cuda-compat",
}
_NAME_BYTES: Final = 256


class DriverError(UnavailableError):
    """The NVIDIA driver does not answer. `enclave worker doctor` says what is missing."""

    code = "gpu-driver"


@frozen(kw_only=True)
class Gpu:
    """One GPU, as the driver describes it."""

    index: int
    name: str
    memory_bytes: int
    capability: str


def load_driver() -> Any:
    """Return `libcuda`, or raise `DriverError`."""
    try:
        return ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise DriverError(f"{LIBRARY} is not installed: there is no NVIDIA driver") from error


def driver_version(library: Any) -> str:
    """Return the newest CUDA that the driver can run, as `13.2`; raises `DriverError`."""
    number = ctypes.c_int()
    _check(library.cuDriverGetVersion(ctypes.byref(number)))
    return f"{number.value // 1000}.{number.value % 1000 // 10}"


def list_gpus(library: Any) -> tuple[Gpu, ...]:
    """Return the GPUs that programs of this process may use; raises `DriverError`."""
    code = library.cuInit(0)
    if code == _NO_DEVICE:
        return ()
    _check(code)
    count = ctypes.c_int()
    _check(library.cuDeviceGetCount(ctypes.byref(count)))
    return tuple(_describe(library, index) for index in range(count.value))


def _describe(library: Any, index: int) -> Gpu:
    device, size = ctypes.c_int(), ctypes.c_size_t()
    name = ctypes.create_string_buffer(_NAME_BYTES)
    _check(library.cuDeviceGet(ctypes.byref(device), index))
    _check(library.cuDeviceGetName(name, _NAME_BYTES, device))
    _check(library.cuDeviceTotalMem_v2(ctypes.byref(size), device))
    capability = []
    for attribute in (_MAJOR, _MINOR):
        value = ctypes.c_int()
        _check(library.cuDeviceGetAttribute(ctypes.byref(value), attribute, device))
        capability.append(str(value.value))
    return Gpu(
        index=index,
        name=name.value.decode("ascii", "replace"),
        memory_bytes=size.value,
        capability=".".join(capability),
    )


def _check(code: int) -> None:
    if code != _SUCCESS:
        raise DriverError(_ADVICE.get(code, f"the driver answers with CUDA error {code}"))
