"""One GPU with CuPy, which is loaded only when a GPU is asked for or looked for.

Arrays cross the bus by plain copies between the caller's buffer and device memory: `cupy.asarray`
would go through a pinned buffer that CuPy keeps and never clears. CuPy's memory pool does keep old
contents until `release` gives its memory back to the driver; a pool that scrubs is not here yet
(docs/kernels.md, limits).
"""

import os
import platform
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import attrs
import numpy as np
from attrs import frozen

from attestation.errors import UnavailableError
from enclave_worker.device.device import Device, check_host

_ENVIRONMENT: Final[Mapping[str, str]] = {
    # CuPy guards the entries of its cache in ~/.cupy with an unkeyed SHA-1 only: whoever can write
    # there runs code on our plaintext. In memory there is nothing to write to.
    "CUPY_CACHE_IN_MEMORY": "1",
    # Single precision stays single precision, not the 10 bits of TF32.
    "CUPY_TF32": "0",
    # cuBLAS gives equal bits with several streams only if its workspaces have a fixed size.
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
}
"""Read by CuPy and CUDA when they load, so it is set before."""


@frozen(kw_only=True)
class CupyDevice(Device):
    """One GPU, with a memory pool of its own."""

    index: int
    _pool: Any = attrs.field(repr=False, alias="pool")

    def use(self) -> None:
        """Make it the calling thread's current GPU."""
        self.xp.cuda.Device(self.index).use()

    def to_device(self, host: np.ndarray[Any, Any]) -> Any:
        """Copy straight from `host`, without CuPy's staging buffers."""
        if not host.flags.c_contiguous:
            raise ValueError("only C-contiguous arrays are copied to a device")
        array = self.xp.empty(host.shape, dtype=host.dtype)
        if host.nbytes:
            array.data.copy_from_host(host.ctypes.data, host.nbytes)
        return array

    def to_host(self, array: Any, out: np.ndarray[Any, Any]) -> None:
        """Copy straight into `out`; waits for the kernels that make `array`."""
        check_host(array, out)
        whole = self.xp.asarray(array, order="C")
        self.synchronize()
        if out.nbytes:
            whole.data.copy_to_host(out.ctypes.data, out.nbytes)

    def synchronize(self) -> None:
        """Wait for the whole GPU, whichever stream the work went to."""
        self.xp.cuda.Device(self.index).synchronize()

    def release(self) -> None:
        """Return the pool's free blocks to the driver; the next peak starts here."""
        self._pool.free_all_blocks()

    @property
    def peak_bytes(self) -> int:
        """Bytes that the pool took from the driver: it grows only, until `release`."""
        return int(self._pool.total_bytes())


def open_gpu(index: int, *, reason: str) -> Device:
    """Return GPU `index`, or raise `UnavailableError` with what is missing."""
    os.environ.update(_ENVIRONMENT)
    try:
        import cupy  # noqa: PLC0415 - 200 MB, wanted only where there may be a GPU
    except ImportError as error:
        raise UnavailableError(
            "CuPy is not installed; install the extra cuda12 or cuda13: "
            "pip install 'enclave-worker[cuda13]'"
        ) from error
    runtime = cupy.cuda.runtime
    try:
        count = runtime.getDeviceCount()
    except runtime.CUDARuntimeError as error:
        raise UnavailableError(f"CUDA finds no usable driver ({error})") from error
    if index >= count:
        raise UnavailableError(f"there is no GPU {index}: CUDA finds {count}")
    try:
        device = cupy.cuda.Device(index)
        device.use()
        pool = cupy.cuda.MemoryPool()
        cupy.cuda.set_allocator(pool.malloc)
        name = runtime.getDeviceProperties(index)["name"].decode("ascii", "replace")
        return CupyDevice(
            xp=cupy,
            backend="cupy",
            name=name,
            sm_count=int(device.attributes["MultiProcessorCount"]),
            cuda=_version(runtime.runtimeGetVersion()),
            libraries=MappingProxyType(_libraries(cupy)),
            reason=reason,
            index=index,
            pool=pool,
        )
    except (runtime.CUDARuntimeError, ImportError) as error:
        # ImportError: CuPy loads cuBLAS and cuFFT when it first needs them.
        raise UnavailableError(f"GPU {index} cannot be used ({error})") from error


def _libraries(cupy: Any) -> dict[str, str]:
    from cupy.cuda import cufft  # noqa: PLC0415 - as CuPy itself

    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "cupy": cupy.__version__,
        "cuda-driver": _version(cupy.cuda.runtime.driverGetVersion()),
        "cublas": str(cupy.cuda.cublas.getVersion(cupy.cuda.device.get_cublas_handle())),
        "cufft": str(cufft.getVersion()),
    }


def _version(number: int) -> str:
    """Return CUDA's 13020 as 13.2."""
    return f"{number // 1000}.{number % 1000 // 10}"
