"""One GPU with CuPy, which is loaded only when a GPU is asked for or looked for.

Every byte of device memory comes from a `ScrubPool`. Each job has a lane, streams of its own, so
that one job's copies run beside another's kernels, and beside its own (`lanes.py`). Arrays cross
the bus by plain copies between the caller's buffer and device memory: `cupy.asarray` would go
through a pinned buffer that CuPy keeps and never clears.
"""

import os
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from types import MappingProxyType
from typing import Any, Final

import attrs
import numpy as np
from attrs import frozen

from attestation import limits
from attestation.errors import UnavailableError
from attestation.logging import get_logger
from enclave_worker.device.budget import MemoryBudget
from enclave_worker.device.confidential import Mode
from enclave_worker.device.cubins import CubinUnavailableError
from enclave_worker.device.device import Device, check_host
from enclave_worker.device.lanes import Lane, Lanes
from enclave_worker.device.launcher import load_launcher
from enclave_worker.device.replays import Replays
from enclave_worker.device.scrub_pool import Account, ScrubPool
from enclave_worker.device.sealed_tensors import SealingDevice
from enclave_worker.device.staging import StagingBuffers
from enclave_worker.errors import KernelError

log: Final = get_logger(__name__)

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

_SHARE: Final = 10
"""One part in so many of the free memory stays free: contexts, cuBLAS's workspaces, kernels."""
_MAY_PIN: Final = frozenset({Mode.OFF, Mode.UNKNOWN})
_KEPT_BYTES: Final = 64 * limits.MIB
_KEPT_SHARE: Final = 32
"""What is kept for small jobs, and the part of all memory that it may be at most."""
_STAGING_BYTES: Final = 256 * limits.MIB

_OUT_OF_MEMORY: Final = 2
"""cudaErrorMemoryAllocation"""
_TO_DEVICE: Final = 1
_TO_HOST: Final = 2
"""cudaMemcpyKind"""


class CupyRuntime:
    """CUDA's runtime as CuPy offers it, for the pool."""

    def __init__(self, cupy: Any, index: int) -> None:
        """Use GPU `index` by the runtime of the module `cupy`."""
        self._index = index
        self._runtime = cupy.cuda.runtime
        self._current = cupy.cuda.get_current_stream

    def allocate(self, size: int) -> int:
        """Return new memory of the current device, or raise `MemoryError`."""
        try:
            return int(self._runtime.malloc(size))
        except self._runtime.CUDARuntimeError as error:
            if error.status != _OUT_OF_MEMORY:
                raise
            raise MemoryError from error

    def free(self, address: int) -> None:
        """Give memory back; CUDA waits for the device first."""
        self._runtime.setDevice(self._index)
        self._runtime.free(address)

    def fill_zero(self, address: int, size: int, stream: int) -> None:
        """Queue zeros on `stream`, from whichever thread the garbage collector runs in.

        One that never called CUDA begins with GPU 0, and the stream belongs to ours.
        """
        self._runtime.setDevice(self._index)
        self._runtime.memsetAsync(address, 0, size, stream)

    def current_stream(self) -> int:
        """Return the calling thread's stream."""
        return int(self._current().ptr)


@frozen(kw_only=True)
class CupyDevice(Device):
    """One GPU, with a memory pool of its own."""

    index: int
    pool: ScrubPool = attrs.field(repr=False)
    lanes: Lanes = attrs.field(repr=False)
    kept: Account = attrs.field(repr=False)
    """What lanes keep from job to job."""

    def use(self) -> None:
        """Make it the calling thread's current GPU."""
        self.xp.cuda.Device(self.index).use()

    @contextmanager
    def turn(self, need: int, *, require_wanted: Callable[[], None]) -> Iterator[None]:
        """Give the calling thread memory and a lane; see `Device.turn`."""
        self.use()
        # Per thread. A plan that is kept has a work area with what the last transform left in it.
        self.xp.fft.config.set_plan_cache_size(0)
        assert self.budget is not None  # noqa: S101 - `open_gpu` makes one
        with (
            self.budget.reserve(need, require_wanted=require_wanted) as account,
            self.lanes.lend() as lane,
            self.pool.charge(account),
        ):
            try:
                with lane.main:
                    yield
            finally:
                self._end(lane)

    def _end(self, lane: Lane) -> None:
        try:
            lane.synchronize()
        except self.xp.cuda.runtime.CUDARuntimeError as error:
            # Such an error stays with the context: every later call of this process fails too.
            self.pool.give_up(type(error).__name__)
            raise KernelError("the device failed") from None
        for pointer in lane.pointers:
            self.pool.settle(pointer)

    def to_device(self, host: np.ndarray[Any, Any]) -> Any:
        """Copy straight from `host`, without CuPy's staging buffers."""
        if not host.flags.c_contiguous:
            raise ValueError("only C-contiguous arrays are copied to a device")
        array = self.xp.empty(host.shape, dtype=host.dtype)
        if host.nbytes:
            self._copy(array.data.ptr, host.ctypes.data, host.nbytes, _TO_DEVICE)
        return array

    def to_host(self, array: Any, out: np.ndarray[Any, Any]) -> None:
        """Copy straight into `out`; waits for the kernels that make `array`."""
        check_host(array, out)
        whole = self.xp.asarray(array, order="C")
        if out.nbytes:
            self._copy(out.ctypes.data, whole.data.ptr, out.nbytes, _TO_HOST)

    def _copy(self, target: int, source: int, size: int, kind: int) -> None:
        # On the lane, behind its kernels; a copy without a stream waits for no lane, and no lane
        # for it. The caller may change or wipe the host's side as soon as we return.
        lane = self.xp.cuda.get_current_stream()
        self.xp.cuda.runtime.memcpyAsync(target, source, size, kind, lane.ptr)
        lane.synchronize()

    def synchronize(self) -> None:
        """Wait for the calling thread's lane."""
        self.xp.cuda.get_current_stream().synchronize()

    def release(self) -> None:
        """Return the pool's idle blocks to the driver; the next peak starts here."""
        self.pool.settle(int(self.xp.cuda.get_current_stream().ptr))
        self.pool.trim()
        self.pool.restart_peak()

    @property
    def peak_bytes(self) -> int:
        """Most bytes that this thread's job held at once; of all jobs where it has no turn."""
        return self.pool.thread_peak

    @property
    def broken(self) -> bool:
        """Whether device memory could not be zeroed, or the context failed."""
        return self.pool.broken


def open_gpu(
    index: int, *, reason: str, memory_bytes: int = 0, mode: Mode = Mode.UNKNOWN
) -> CupyDevice:
    """Return GPU `index`, or raise `UnavailableError` with what is missing.

    Jobs together get `memory_bytes`, or nine tenths of what is free. Where the confidential `mode`
    is on nothing of the host is pinned.
    """
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
        return _open(cupy, index, reason, memory_bytes, mode)
    except (runtime.CUDARuntimeError, ImportError) as error:
        # ImportError: CuPy loads cuBLAS and cuFFT when it first needs them.
        raise UnavailableError(f"GPU {index} cannot be used ({error})") from error


def _open(cupy: Any, index: int, reason: str, memory_bytes: int, mode: Mode) -> CupyDevice:
    runtime = cupy.cuda.runtime
    device = cupy.cuda.Device(index)
    device.use()
    free, _total = runtime.memGetInfo()
    total = min(memory_bytes or free, free - free // _SHARE)
    pool = ScrubPool(CupyRuntime(cupy, index), limit=total)
    kept = Account(limit=min(_KEPT_BYTES, total // _KEPT_SHARE))
    # One pool for the process: a worker has one GPU.
    cupy.cuda.set_allocator(cupy.cuda.PythonFunctionAllocator(pool.allocate, pool.free).malloc)
    # CuPy's pinned pool never clears what it keeps: nothing is kept.
    cupy.cuda.set_pinned_memory_allocator(None)
    staging = StagingBuffers(
        pin=cupy.cuda.alloc_pinned_memory if mode in _MAY_PIN else None,
        keep_bytes=_STAGING_BYTES,
    )
    lanes = Lanes(lambda: cupy.cuda.Stream(non_blocking=True))
    return CupyDevice(
        xp=cupy,
        backend="cupy",
        name=runtime.getDeviceProperties(index)["name"].decode("ascii", "replace"),
        sm_count=int(device.attributes["MultiProcessorCount"]),
        cuda=_version(runtime.runtimeGetVersion()),
        libraries=MappingProxyType(_libraries(cupy)),
        reason=reason,
        confidential_mode=mode.value,
        budget=MemoryBudget(total - kept.limit),
        index=index,
        pool=pool,
        kept=kept,
        sealing=_sealing(cupy, staging, lanes, lambda: pool.charge(kept)),
        lanes=lanes,
    )


def _sealing(
    cupy: Any,
    staging: StagingBuffers,
    lanes: Lanes,
    keep: Callable[[], AbstractContextManager[Any]],
) -> SealingDevice | None:
    try:
        launcher = load_launcher(cupy, sides=lambda: lanes.sides)
    except CubinUnavailableError as error:
        # The processor opens and seals instead; plaintext then crosses the bus.
        log.warning("device.sealing_on_host", reason=str(error))
        return None

    def replays() -> Replays | None:
        lane = lanes.current
        if lane is not None and lane.replays is None:
            lane.replays = Replays(launcher, keep)
        return None if lane is None else lane.replays

    def view(memory: Any) -> Any:
        return cupy.ndarray((memory.nbytes,), dtype="uint8", memptr=memory.held)

    return SealingDevice(
        xp=cupy,
        launcher=launcher,
        staging=staging,
        address=lambda array: int(array.data.ptr),
        view=view,
        replays=replays,
    )


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
