"""What the on-device AEAD needs of CUDA, and CUDA through CuPy.

Everything happens on the calling thread's current stream, in order, and device memory comes from
CuPy's current allocator, which is the worker's scrubbing pool (`gpu.py`).
"""

import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final, Protocol

import numpy as np

from attestation.errors import UnavailableError
from attestation.logging import get_logger
from attestation.sealing.floe import Buffer, octets, writable
from enclave_worker.device import cubins
from enclave_worker.device.cubins import KERNELS, Cubin, Tuning

log: Final = get_logger(__name__)

_TO_DEVICE: Final = 1
_TO_HOST: Final = 2
"""cudaMemcpyKind"""
_STATIC_SHARED: Final = 48 << 10
"""More shared memory than this has to be asked for."""


class Memory(Protocol):
    """Device memory, given back when it is dropped."""

    @property
    def pointer(self) -> int:
        """Its address on the device, a multiple of 16."""
        ...

    @property
    def nbytes(self) -> int:
        """Its size."""
        ...

    @property
    def shared(self) -> bool:
        """Whether somebody holds a view of it."""
        ...


class Launcher(Protocol):
    """A device that our kernels run on."""

    @property
    def tuning(self) -> Tuning:
        """How the kernels it holds were compiled."""
        ...

    @property
    def sm_count(self) -> int:
        """Its multiprocessors."""
        ...

    def allocate(self, nbytes: int) -> Memory:
        """Return new memory; raises `MemoryError`."""
        ...

    def upload(self, pointer: int, data: Buffer) -> None:
        """Copy to the device; `data` is the caller's again, to wipe, on return."""
        ...

    def download(self, pointer: int, out: Buffer) -> None:
        """Wait for everything before, and copy from the device."""
        ...

    def copy_in(self, pointer: int, data: Buffer) -> None:
        """Start to copy to the device; `data` is the device's until a `synchronize` behind it."""
        ...

    def copy_out(self, pointer: int, out: Buffer) -> None:
        """Start to copy from the device; `out` is the device's until a `synchronize` behind it."""
        ...

    def fill(self, pointer: int, value: int, nbytes: int) -> None:
        """Set bytes on the device, in order with what was launched."""
        ...

    def launch(
        self, kernel: str, blocks: int, threads: int, shared: int, arguments: Sequence[int]
    ) -> None:
        """Start a kernel. Arguments of more than 32 bits are pointers."""
        ...

    def synchronize(self) -> None:
        """Wait for everything before."""
        ...

    @property
    def sides(self) -> Sequence[AbstractContextManager[Any]]:
        """The streams beside the current one that the thread's job has; `with` makes one current.

        None where everything is done in order.
        """
        ...

    def mark(self) -> Any:
        """Return a mark behind everything before on the current stream."""
        ...

    def wait(self, mark: Any) -> None:
        """Let the current stream go on only behind `mark`, of whatever stream."""
        ...

    def record(self, launch: Callable[[], None]) -> Callable[[], None]:
        """Return what does, in one call, all that `launch` launches and fills; nothing runs yet.

        `launch` may neither allocate nor copy nor wait.
        """
        ...


class Pointer(int):
    """An argument of 64 bits."""


class CupyMemory:
    """Memory from CuPy's current allocator."""

    def __init__(self, cupy: Any, nbytes: int) -> None:
        """Allocate; an `OutOfMemoryError` of CuPy is a `MemoryError`."""
        self.held = cupy.cuda.alloc(nbytes)
        self.pointer = int(self.held.ptr)
        self.nbytes = nbytes
        # An array of CuPy's holds this very pointer, or the memory through one of its own.
        self._holders = self._count()

    def _count(self) -> int:
        return sys.getrefcount(self.held) + sys.getrefcount(self.held.mem)

    @property
    def shared(self) -> bool:
        """Whether an array still looks at it."""
        return self._count() > self._holders


class CupyLauncher:
    """The current GPU, with one tuning's kernels loaded."""

    def __init__(
        self,
        cupy: Any,
        kernels: dict[str, Any],
        tuning: Tuning,
        sm_count: int,
        sides: Callable[[], Sequence[AbstractContextManager[Any]]] = tuple,
    ) -> None:
        """Take loaded kernels, and what gives a thread's sides; see `load_launcher`."""
        self._cupy = cupy
        self._runtime = cupy.cuda.runtime
        self._kernels = kernels
        self._sides = sides
        self._recording = threading.Lock()
        self._recorder: Any = None
        self.tuning = tuning
        self.sm_count = sm_count

    def allocate(self, nbytes: int) -> Memory:
        """Return memory of the worker's pool."""
        return CupyMemory(self._cupy, nbytes)

    def upload(self, pointer: int, data: Buffer) -> None:
        """Copy from plain memory, and wait, since the caller may wipe it then."""
        self.copy_in(pointer, data)
        self.synchronize()

    def download(self, pointer: int, out: Buffer) -> None:
        """Copy into plain memory."""
        self.copy_out(pointer, out)
        self.synchronize()

    def copy_in(self, pointer: int, data: Buffer) -> None:
        """Queue a copy; from pinned memory this returns at once."""
        view = np.frombuffer(octets(data), np.uint8)
        self._copy(pointer, view.ctypes.data, view.nbytes, _TO_DEVICE)

    def copy_out(self, pointer: int, out: Buffer) -> None:
        """Queue a copy; into pinned memory this returns at once."""
        view = np.frombuffer(writable(out), np.uint8)
        self._copy(view.ctypes.data, pointer, view.nbytes, _TO_HOST)

    def _copy(self, target: int, source: int, nbytes: int, kind: int) -> None:
        if nbytes:
            self._runtime.memcpyAsync(target, source, nbytes, kind, self._stream().ptr)

    def fill(self, pointer: int, value: int, nbytes: int) -> None:
        """Set bytes."""
        if nbytes:
            self._runtime.memsetAsync(pointer, value, nbytes, self._stream().ptr)

    def launch(
        self, kernel: str, blocks: int, threads: int, shared: int, arguments: Sequence[int]
    ) -> None:
        """Start a kernel."""
        typed = tuple(np.uint64(a) if isinstance(a, Pointer) else np.uint32(a) for a in arguments)
        self._kernels[kernel]((blocks,), (threads,), typed, shared_mem=shared)

    def synchronize(self) -> None:
        """Wait for the current stream."""
        self._stream().synchronize()

    @property
    def sides(self) -> Sequence[AbstractContextManager[Any]]:
        """The sides of the lane that the calling thread's job was lent."""
        return self._sides()

    def mark(self) -> Any:
        """Record an event."""
        event = self._cupy.cuda.Event(disable_timing=True)
        event.record(self._stream())
        return event

    def wait(self, mark: Any) -> None:
        """Wait for an event, on the device."""
        self._stream().wait_event(mark)

    def record(self, launch: Callable[[], None]) -> Callable[[], None]:
        """Record a CUDA graph."""
        with self._recording:
            # On a stream that nothing else uses. On a job's own, whatever the garbage collector
            # frees meanwhile would be recorded too: a block's zeros, written again at every replay.
            if self._recorder is None:
                self._recorder = self._cupy.cuda.Stream(non_blocking=True)
            with self._recorder:
                self._recorder.begin_capture()
                try:
                    launch()
                finally:
                    graph = self._recorder.end_capture()
        return lambda: graph.launch(self._stream())

    def _stream(self) -> Any:
        return self._cupy.cuda.get_current_stream()


def load_launcher(
    cupy: Any,
    *,
    tuning: Tuning | None = None,
    compile_at_run_time: bool = False,
    sides: Callable[[], Sequence[AbstractContextManager[Any]]] = tuple,
) -> CupyLauncher:
    """Load the kernels for the current GPU, from the pinned cubins; `sides` gives a thread's.

    `compile_at_run_time` is for developing the kernels: what runs then is what NVRTC makes of the
    source, no hash vouches for it, and a warning says so. Raises `CubinUnavailableError`,
    `CubinRefusedError`, and `UnavailableError` if the driver refuses the cubin.
    """
    device = cupy.cuda.Device()
    architecture = cubins.architecture_for(int(device.compute_capability))
    chosen = tuning or cubins.TUNINGS[architecture][0]
    if compile_at_run_time:
        log.warning("cubin.compiled_here", device=device.id, reason=chosen.name)
        kernels = _compile(cupy, chosen)
    else:
        kernels = _load(cupy, cubins.load(architecture, chosen))
    if chosen.shared_bytes > _STATIC_SHARED:
        driver = cupy.cuda.driver
        attribute = driver.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        driver.funcSetAttribute(kernels["gcm_body"].ptr, attribute, chosen.shared_bytes)
    sm_count = int(device.attributes["MultiProcessorCount"])
    return CupyLauncher(cupy, kernels, chosen, sm_count, sides)


def _load(cupy: Any, cubin: Cubin) -> dict[str, Any]:
    module = cupy.cuda.function.Module()
    try:
        # From bytes that were checked: no path, no cache, nothing to swap in between.
        module.load(cubin.image)
        return {name: module.get_function(name) for name in KERNELS}
    except cupy.cuda.driver.CUDADriverError as error:
        raise UnavailableError(f"the driver does not take our cubins ({error})") from error


def _compile(cupy: Any, tuning: Tuning) -> dict[str, Any]:
    module = cupy.RawModule(code=cubins.source(), options=tuning.options, backend="nvrtc")
    return {name: module.get_function(name).kernel for name in KERNELS}
