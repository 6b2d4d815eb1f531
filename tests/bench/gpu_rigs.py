"""What `tests.bench.gpu` measures on: a GPU, or, for a dry run, this processor in its place.

Both offer the same few things, so that a dry run goes through every line of every measurement; what
it measures then is the host shim, and every table says so.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from enclave_worker.device import cubins
from enclave_worker.device.cubins import TUNINGS, Tuning
from enclave_worker.device.gpu import open_gpu
from enclave_worker.device.launcher import CupyMemory, Launcher, load_launcher
from enclave_worker.device.segment_table import Span
from tests.gpu_aead import host_launcher
from tests.gpu_aead.host_launcher import HostLauncher, HostMemory

_TO_DEVICE, _TO_HOST = 1, 2


class Clocked:
    """A launcher that notes when the kernels of one `begin_*` started and ended on the device."""

    def __init__(self, launcher: Launcher, mark: Callable[[], Any]) -> None:
        self._launcher, self._mark = launcher, mark
        self.marks: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._launcher, name)

    def launch(
        self, kernel: str, blocks: int, threads: int, shared: int, arguments: Sequence[int]
    ) -> None:
        if kernel == "gcm_body":
            self.marks.append(self._mark())
        self._launcher.launch(kernel, blocks, threads, shared, arguments)
        if kernel == "gcm_finish":
            self.marks.append(self._mark())


class Rig(Protocol):
    """A device with clocks, lanes and copies."""

    dry: bool
    name: str

    def about(self) -> dict[str, Any]: ...
    def tunings(self) -> tuple[Tuning, ...]: ...
    def launcher(self, tuning: Tuning) -> Launcher: ...
    def memory(self, nbytes: int) -> Any: ...
    def release(self) -> None: ...
    def staging(self, nbytes: int) -> np.ndarray[Any, Any]: ...
    def copy_in(self, memory: Any, host: np.ndarray[Any, Any]) -> None: ...
    def copy_out(self, host: np.ndarray[Any, Any], memory: Any) -> None: ...
    def lane(self) -> AbstractContextManager[Any]: ...
    def synchronize(self) -> None: ...
    def mark(self) -> Any: ...
    def seconds(self, start: Any, end: Any) -> float: ...
    def record(self, launch: Callable[[], None]) -> Callable[[], None]: ...
    def product(self) -> tuple[Callable[[], Any], float]: ...
    def thread(self) -> AbstractContextManager[None]: ...
    def forget(self) -> None: ...
    def dirty_bytes(self) -> int: ...


def span(memory: Any) -> Span:
    """Return all of a device buffer."""
    return Span(pointer=memory.pointer, nbytes=memory.nbytes)


class GpuRig:
    """The first GPU, its memory from the worker's scrubbing pool."""

    dry = False

    def __init__(self) -> None:
        self.device = open_gpu(0, reason="measured")
        self.cupy = self.device.xp
        self.name = self.device.name
        self._loaded: dict[Tuning, Launcher] = {}
        self._graphs: list[Any] = []
        capability = int(self.cupy.cuda.Device(0).compute_capability)
        self.architecture = cubins.architecture_for(capability)

    def about(self) -> dict[str, Any]:
        properties = self.cupy.cuda.runtime.getDeviceProperties(0)
        keys = ("multiProcessorCount", "totalGlobalMem", "clockRate", "memoryClockRate")
        return {
            "device": self.name,
            "architecture": self.architecture,
            "cuda": self.device.cuda,
            "libraries": dict(self.device.libraries),
            "properties": {key: properties.get(key) for key in keys},
            "pinned": self.device.staging.pinned,
        }

    def tunings(self) -> tuple[Tuning, ...]:
        return TUNINGS[self.architecture]

    def launcher(self, tuning: Tuning) -> Launcher:
        if tuning not in self._loaded:
            self._loaded[tuning] = load_launcher(self.cupy, tuning=tuning)
        return self._loaded[tuning]

    def memory(self, nbytes: int) -> CupyMemory:
        return CupyMemory(self.cupy, nbytes)

    def release(self) -> None:
        self.cupy.cuda.Device(0).synchronize()
        self.device.release()

    def staging(self, nbytes: int) -> np.ndarray[Any, Any]:
        return self.device.staging.take(nbytes)[:nbytes]

    def copy_in(self, memory: Any, host: np.ndarray[Any, Any]) -> None:
        self._copy(memory.pointer, host.ctypes.data, host.nbytes, _TO_DEVICE)

    def copy_out(self, host: np.ndarray[Any, Any], memory: Any) -> None:
        self._copy(host.ctypes.data, memory.pointer, host.nbytes, _TO_HOST)

    def _copy(self, target: int, source: int, nbytes: int, kind: int) -> None:
        stream = self.cupy.cuda.get_current_stream().ptr
        self.cupy.cuda.runtime.memcpyAsync(target, source, nbytes, kind, stream)

    def lane(self) -> AbstractContextManager[Any]:
        lane: AbstractContextManager[Any] = self.cupy.cuda.Stream(non_blocking=True)
        return lane

    def synchronize(self) -> None:
        self.cupy.cuda.get_current_stream().synchronize()

    def mark(self) -> Any:
        event = self.cupy.cuda.Event()
        event.record()
        return event

    def seconds(self, start: Any, end: Any) -> float:
        end.synchronize()
        return float(self.cupy.cuda.get_elapsed_time(start, end)) / 1e3

    def record(self, launch: Callable[[], None]) -> Callable[[], None]:
        stream = self.cupy.cuda.get_current_stream()
        stream.begin_capture()
        launch()
        graph = stream.end_capture()
        self._graphs.append(graph)
        return lambda: graph.launch(self.cupy.cuda.get_current_stream())

    def product(self) -> tuple[Callable[[], Any], float]:
        """Return one matrix product in half precision, and its floating-point operations."""
        n = 8192
        a, b = (self.cupy.ones((n, n), dtype="float16") for _ in range(2))
        out = self.cupy.empty((n, n), dtype="float16")
        return lambda: self.cupy.matmul(a, b, out=out), 2.0 * n**3

    def thread(self) -> AbstractContextManager[None]:
        self.device.use()
        return nullcontext()

    def forget(self) -> None:
        """Wait until the pool's queued zeros have been written; its blocks stay where they are."""
        self.cupy.cuda.Device(0).synchronize()

    def dirty_bytes(self) -> int:
        """Return how many bytes of idle pool memory are not zero."""
        dirty = 0
        for (_, size), addresses in list(self.device.pool._idle.items()):
            for address in addresses:
                # To the host and counted there: a reduction of CuPy's would take from this pool.
                host = np.empty(size, np.uint8)
                self.cupy.cuda.runtime.memcpy(host.ctypes.data, address, size, _TO_HOST)
                dirty += int(np.count_nonzero(host))
        return dirty


class HostRig:
    """This processor with small blocks, through the shim."""

    dry = True
    name = "this processor, through the host shim (a dry run: no figure means anything)"

    def __init__(self, folder: Path) -> None:
        if host_launcher.COMPILER is None:
            raise SystemExit("a dry run needs g++")
        self._folder = folder
        self._loaded: dict[Tuning, HostLauncher] = {}
        self._lock = threading.Lock()
        self._given: list[HostMemory] = []

    def about(self) -> dict[str, Any]:
        return {"device": self.name, "dry_run": True}

    def tunings(self) -> tuple[Tuning, ...]:
        return (Tuning(threads=64), Tuning(threads=32, tables=4))

    def launcher(self, tuning: Tuning) -> Launcher:
        if tuning not in self._loaded:
            library = host_launcher.build(tuning, self._folder)
            self._loaded[tuning] = HostLauncher(library, tuning)
        return _OneAtATime(self._loaded[tuning], self._lock)

    def memory(self, nbytes: int) -> HostMemory:
        memory = HostMemory(nbytes)
        self._given.append(memory)
        return memory

    def release(self) -> None:
        self.forget()

    def forget(self) -> None:
        # As the scrubbing pool does with what is dropped.
        for launcher in self._loaded.values():
            self._given += launcher.memory
            launcher.memory.clear()
            launcher.forget()
        for memory in self._given:
            memory.array[:] = 0

    def staging(self, nbytes: int) -> np.ndarray[Any, Any]:
        return np.zeros(nbytes, np.uint8)

    def copy_in(self, memory: Any, host: np.ndarray[Any, Any]) -> None:
        memory.array[: host.nbytes] = host

    def copy_out(self, host: np.ndarray[Any, Any], memory: Any) -> None:
        host[:] = memory.array[: host.nbytes]

    def lane(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def synchronize(self) -> None:
        pass

    def mark(self) -> Any:
        return time.perf_counter()

    def seconds(self, start: Any, end: Any) -> float:
        return float(end - start)

    def record(self, launch: Callable[[], None]) -> Callable[[], None]:
        return launch

    def product(self) -> tuple[Callable[[], Any], float]:
        a = np.ones((128, 128), np.float32)
        return lambda: a @ a, 2.0 * 128**3

    @contextmanager
    def thread(self) -> Iterator[None]:
        yield

    def dirty_bytes(self) -> int:
        return sum(int(np.count_nonzero(memory.array)) for memory in self._given)


class _OneAtATime:
    """The shim has one set of fibers per library, and threads of the bench take turns."""

    def __init__(self, launcher: HostLauncher, lock: threading.Lock) -> None:
        self._launcher, self._lock = launcher, lock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._launcher, name)

    def launch(
        self, kernel: str, blocks: int, threads: int, shared: int, arguments: Sequence[int]
    ) -> None:
        with self._lock:
            self._launcher.launch(kernel, blocks, threads, shared, arguments)
