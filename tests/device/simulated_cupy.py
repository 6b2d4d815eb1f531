"""CuPy without a GPU, for all of our code that calls it: device memory is this process's own.

Streams run as late or as early as their `Pace` says (simulated_streams.py), arrays are computed by
NumPy (simulated_arrays.py), and a cubin that is loaded is one of ours by its bytes: what runs is
the same CUDA source, compiled with the same tuning for the processor, or, where only order matters,
what it does (quick_kernels.py). Names, arguments and defaults
are those of CuPy 14.2; `test_simulated_cupy.py` looks them up where CuPy is installed.

It is stricter than CUDA: a copy reads and writes the host's side when it runs and never before, a
thread that records a stream takes no memory, and an address that is not of live memory is an error.
"""

import ctypes
import itertools
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from attrs import define

from enclave_worker.device import cubins
from enclave_worker.device.cubins import Tuning
from enclave_worker.device.launcher import Pointer
from tests.device.quick_kernels import QuickKernels
from tests.device.simulated_arrays import SimulatedArray, compute, plain
from tests.device.simulated_objects import Current, Event, Stream
from tests.device.simulated_streams import PACES, CUDARuntimeError, Pace, Streams
from tests.gpu_aead.host_launcher import HostLauncher

LEFTOVER = 0xA5
"""What another program left in memory that is fresh from the driver."""
_ALIGNMENT = 512
_GUARD = 256
_OUT_OF_MEMORY, _INVALID_VALUE = 2, 1
_TO_DEVICE = 1


class _Machine:
    """The memory of all GPUs, and what was taken of it."""

    def __init__(self, streams: Streams, size: int) -> None:
        self.streams = streams
        self.size = self.left = size
        self._taken: dict[int, np.ndarray[Any, Any]] = {}
        self.copies: list[tuple[int, int]] = []
        """Direction and size of every copy."""

    def malloc(self, size: int) -> int:
        with self.streams.lock:
            if self.streams.recording():
                raise CUDARuntimeError(900, "cudaErrorStreamCaptureUnsupported")
            if size > self.left:
                raise CUDARuntimeError(_OUT_OF_MEMORY, "cudaErrorMemoryAllocation")
            whole = np.full(size + _ALIGNMENT + _GUARD, LEFTOVER, np.uint8)
            start = -whole.ctypes.data % _ALIGNMENT
            part = whole[start : start + size + _GUARD]
            self.left -= size
            self._taken[part.ctypes.data] = part
            return int(part.ctypes.data)

    def free(self, address: int) -> None:
        with self.streams.lock:
            self.streams.synchronize_all()
            part = self._taken.pop(address)
            assert (part[-_GUARD:] == LEFTOVER).all(), "a kernel wrote behind the end of its memory"
            self.left += part.size - _GUARD

    def check(self, address: int, size: int) -> None:
        """Raise unless all of it is one allocation."""
        with self.streams.lock:
            for start, part in self._taken.items():
                if start <= address and address + size <= start + part.size - _GUARD:
                    return
        raise CUDARuntimeError(_INVALID_VALUE, "cudaErrorInvalidValue: not memory of the device")

    def count(self, marker: bytes) -> int:
        """Return how often `marker` is in the device's memory, when everything has ended."""
        with self.streams.lock:
            self.streams.synchronize_all()
            return sum(part.tobytes().count(marker) for part in self._taken.values())


class _Runtime:
    """`cupy.cuda.runtime`."""

    CUDARuntimeError = CUDARuntimeError
    streamCaptureModeRelaxed = 2  # noqa: N815 - CuPy's name

    def __init__(self, machine: _Machine, count: int) -> None:
        self._machine, self._streams, self._count = machine, machine.streams, count

    def getDeviceCount(self) -> int:  # noqa: N802
        return self._count

    def setDevice(self, device: int) -> None:  # noqa: N802
        self._streams.use_device(device)

    def getDeviceProperties(self, _device: int) -> dict[str, Any]:  # noqa: N802
        return {"name": b"a simulated GPU", "multiProcessorCount": 4, "totalGlobalMem": 1 << 30}

    def runtimeGetVersion(self) -> int:  # noqa: N802
        return 12_090

    def driverGetVersion(self) -> int:  # noqa: N802
        return 13_000

    def memGetInfo(self) -> tuple[int, int]:  # noqa: N802
        return self._machine.left, self._machine.size

    def malloc(self, size: int) -> int:
        return self._machine.malloc(size)

    def free(self, address: int) -> None:
        self._machine.free(address)

    def memsetAsync(self, address: int, value: int, size: int, stream: int) -> None:  # noqa: N802
        self._machine.check(address, size)
        self._streams.put(stream, lambda: ctypes.memset(address, value, size) and None)

    def memcpyAsync(  # noqa: N802
        self, target: int, source: int, size: int, kind: int, stream: int
    ) -> None:
        self._machine.check(target if kind == _TO_DEVICE else source, size)
        self._machine.copies.append((kind, size))
        work = lambda: ctypes.memmove(target, source, size) and None  # noqa: E731
        self._streams.put(stream, work, recordable=False)

    def memcpy(self, target: int, source: int, size: int, kind: int) -> None:
        self.memcpyAsync(target, source, size, kind, 0)
        self._streams.synchronize(0)


class _Memory:
    """Memory from the current allocator, freed when it is dropped."""

    def __init__(self, size: int, allocate: Callable[..., int], free: Callable[..., None]) -> None:
        self.size, self._free = size, free
        self.ptr = allocate(size, 0) if size else 0

    def at(self, address: int) -> "_Pointer":
        return _Pointer(self, address)

    def __del__(self) -> None:
        if getattr(self, "ptr", 0):
            self._free(self.ptr, 0)


@define(eq=False)
class _Pointer:
    """`cupy.cuda.MemoryPointer`."""

    mem: _Memory
    ptr: int

    def copy_to_host_async(self, mem: int, size: int, stream: Any = None) -> None:
        cupy = sys.modules["cupy"]
        where = (stream or cupy.cuda.get_current_stream()).ptr
        cupy.cuda.runtime.memcpyAsync(mem, self.ptr, size, _TO_DEVICE + 1, where)


@define(eq=False)
class _Allocator:
    malloc_func: Callable[..., int]
    free_func: Callable[..., None]

    def malloc(self, size: int) -> Any:
        memory = _Memory(size, self.malloc_func, self.free_func)
        return memory.at(memory.ptr)


class _Transforms:
    """`cupy.fft`: a plan and its work area are kept per thread, unless none may be."""

    def __init__(self, cupy: Any) -> None:
        self._cupy = cupy
        self._here = threading.local()
        self.config = SimpleNamespace(set_plan_cache_size=self._set_size)

    def _set_size(self, size: int) -> None:
        self._here.size = size

    def fft(self, array: Any, norm: str | None = None) -> Any:
        work = self._cupy.empty(array.shape, dtype=array.dtype)
        work[:] = array
        plans = self._here.plans = getattr(self._here, "plans", [])
        if getattr(self._here, "size", 16):
            plans.append(work)
        return self._cupy.call(np.fft.fft, array, norm=norm)


class _Modules:
    """Our cubins by their bytes, and the same source for the processor."""

    def __init__(
        self, compiled: Callable[[Tuning], Path] | None, streams: Streams, cuda: Any
    ) -> None:
        self._compiled, self._streams, self._cuda = compiled, streams, cuda
        self._launchers: dict[Tuning, HostLauncher | QuickKernels] = {}

    def Module(self) -> Any:  # noqa: N802
        return SimpleNamespace(load=self._load, get_function=self._get, image=b"")

    def _load(self, image: bytes) -> None:
        (self._tuning,) = {
            tuning
            for architecture, tunings in cubins.TUNINGS.items()
            for tuning in tunings
            if cubins.load(architecture, tuning).image == image
        }

    def _get(self, name: str) -> Any:
        return _Function(self.host(self._tuning), name, self._streams, self._cuda)

    def host(self, tuning: Tuning) -> HostLauncher | QuickKernels:
        if tuning not in self._launchers:
            self._launchers[tuning] = (
                QuickKernels(tuning)
                if self._compiled is None
                else HostLauncher(self._compiled(tuning), tuning, seed=0)
            )
        return self._launchers[tuning]

    def forget(self) -> None:
        """Clear the stacks that stand for registers."""
        for host in self._launchers.values():
            if isinstance(host, HostLauncher):
                host.forget()


class _Function:
    """`cupy.cuda.function.Function`: an argument is as wide as the NumPy scalar that it is."""

    numbers = itertools.count(1)

    def __init__(
        self, host: HostLauncher | QuickKernels, name: str, streams: Streams, cuda: Any
    ) -> None:
        self.ptr = next(self.numbers)
        self._host, self._name, self._streams, self._cuda = host, name, streams, cuda

    def __call__(
        self,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        args: tuple[Any, ...],
        shared_mem: int = 0,
        stream: Any = None,
    ) -> None:
        assert isinstance(grid, tuple)
        assert isinstance(block, tuple)
        where = (stream or self._cuda.get_current_stream()).ptr
        typed = [Pointer(a) if isinstance(a, np.uint64) else int(np.uint32(a)) for a in args]
        self._streams.put(
            where,
            lambda: self._host.launch(self._name, grid[0], block[0], shared_mem, typed),
        )


class SimulatedCupy(ModuleType):
    """The module; put it into `sys.modules` as `cupy`, and `open_gpu` opens it."""

    __version__ = "14.2.0 (simulated)"

    def __init__(
        self,
        compiled: Callable[[Tuning], Path] | None = None,
        *,
        pace: Pace = PACES[0],
        capability: str = "90",
        gpus: int = 1,
        memory_bytes: int = 1 << 30,
    ) -> None:
        super().__init__("cupy")
        self.streams = Streams(pace)
        self.machine = _Machine(self.streams, memory_bytes)
        self._pinned: list[np.ndarray[Any, Any]] = []
        runtime = _Runtime(self.machine, gpus)
        attributes = {"MultiProcessorCount": 4}
        current = Current(self.streams)
        streams = self.streams

        class Device:
            def __init__(self, index: int | None = None) -> None:
                self.id = streams.device if index is None else index
                self.compute_capability, self.attributes = capability, attributes

            def use(self) -> None:
                streams.use_device(self.id)

            def synchronize(self) -> None:
                streams.synchronize_all()

        self._allocator: Any = _Allocator(
            lambda size, _d: runtime.malloc(size), lambda p, _d: runtime.free(p)
        )
        self.cuda = SimpleNamespace(
            runtime=runtime,
            Device=Device,
            PythonFunctionAllocator=_Allocator,
            set_allocator=self._set_allocator,
            alloc=self._alloc,
            set_pinned_memory_allocator=lambda allocator=None: None,
            alloc_pinned_memory=self._pin,
            cublas=SimpleNamespace(getVersion=lambda _handle: 120_900),
            cufft=SimpleNamespace(getVersion=lambda: 11_400),
            device=SimpleNamespace(get_cublas_handle=lambda: 1),
            driver=SimpleNamespace(
                CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES=8,
                CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES=3,
                CUDADriverError=type("CUDADriverError", (RuntimeError,), {}),
                funcSetAttribute=lambda _function, _attribute, _value: None,
                funcGetAttribute=lambda _attribute, _function: 0,
            ),
            Stream=partial(Stream, current),
            Event=partial(Event, current),
            get_current_stream=current.get,
            get_elapsed_time=current.elapsed,
        )
        self.fft = _Transforms(self)
        self.modules = _Modules(compiled, self.streams, self.cuda)
        self.cuda.function = SimpleNamespace(Module=self.modules.Module)
        self._allocator = self._allocator.malloc

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Be what `import cupy` gives, until the patch is undone."""
        patch.setitem(sys.modules, "cupy", self)
        patch.setitem(sys.modules, "cupy.cuda", self.cuda)

    def _alloc(self, size: int) -> Any:
        return self._allocator(size)

    def _pin(self, size: int) -> Any:
        # Kept for good: a copy that comes too late is to be seen in the data, not to crash.
        self._pinned.append(np.zeros(size, np.uint8))
        return self._pinned[-1]

    def _set_allocator(self, allocator: Any) -> None:
        self._allocator = allocator

    def RawModule(self, *, code: str, options: tuple[str, ...], backend: str) -> Any:  # noqa: N802
        assert code == cubins.source()
        for tuning in itertools.chain(*cubins.TUNINGS.values()):
            if tuning.options == options:
                self.modules._tuning = tuning
        return SimpleNamespace(
            get_function=lambda name: SimpleNamespace(kernel=self.modules._get(name))
        )

    # -- arrays ------------------------------------------------------------------------------------

    def queue(self, work: Callable[[], None]) -> None:
        """Queue on the current stream."""
        self.streams.put(self.cuda.get_current_stream().ptr, work)

    def empty(self, shape: Any, dtype: Any = float) -> SimulatedArray:
        like = np.empty(shape, np.dtype(dtype)) if np.prod(shape) == 0 else None
        kind, size = np.dtype(dtype), int(np.prod(shape)) * np.dtype(dtype).itemsize
        pointer = self.cuda.alloc(size)
        if like is None:
            raw = np.frombuffer((ctypes.c_uint8 * size).from_address(pointer.ptr), np.uint8)
            like = raw.view(kind).reshape(shape)
        return SimulatedArray(self, pointer.mem, like)

    def ndarray(self, shape: Any, dtype: Any, memptr: Any) -> SimulatedArray:
        """A view of memory that is there already."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        raw = np.frombuffer((ctypes.c_uint8 * size).from_address(memptr.ptr), np.uint8)
        array = SimulatedArray(self, memptr.mem, raw.view(dtype).reshape(shape))
        array.pointer = memptr
        return array

    def full(self, shape: Any, value: Any, dtype: Any = float) -> SimulatedArray:
        array = self.empty(shape, dtype)
        array.fill(value)
        return array

    def zeros(self, shape: Any, dtype: Any = float) -> SimulatedArray:
        return self.full(shape, 0, dtype)

    def ones(self, shape: Any, dtype: Any = float) -> SimulatedArray:
        return self.full(shape, 1, dtype)

    def asarray(self, value: Any, dtype: Any = None, order: Any = None) -> SimulatedArray:
        if isinstance(value, SimulatedArray):
            return value
        host = np.array(value, dtype=dtype)
        array = self.empty(host.shape, host.dtype)
        view = array._view
        self.queue(lambda: np.copyto(view, host))
        return array

    def copyto(self, target: SimulatedArray, source: Any) -> None:
        view, given = target._view, plain(source)
        self.queue(lambda: np.copyto(view, given))

    def call(self, function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        return compute(self, function, arguments, keywords)

    def matmul(self, a: Any, b: Any, out: Any = None) -> Any:
        return compute(self, np.matmul, (a, b), {"out": out})

    def sqrt(self, value: Any) -> Any:
        return compute(self, np.sqrt, (value,), {})

    def exp(self, value: Any, out: Any = None) -> Any:
        return compute(self, np.exp, (value,), {"out": out})
