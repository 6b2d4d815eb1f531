"""What `tests.bench.gpu` measures on: a GPU, or, for a dry run, a simulated one in its place.

A dry run goes through every line of every measurement and of our code for CuPy; CuPy itself is the
tests' (tests/device/simulated_cupy.py), the kernels are compiled for the processor. What it
measures then means nothing, and every table says so.
"""

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from enclave_worker.device import cubins
from enclave_worker.device.cubins import TUNINGS, Tuning
from enclave_worker.device.gpu import open_gpu
from enclave_worker.device.lanes import lasting
from enclave_worker.device.launcher import CupyMemory, Launcher, load_launcher
from enclave_worker.device.sealed_tensors import SealingDevice
from enclave_worker.device.segment_table import Span
from tests.device.simulated_cupy import SimulatedCupy
from tests.device.simulated_streams import PACES
from tests.gpu_aead import host_launcher

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


def span(memory: Any) -> Span:
    """Return all of a device buffer."""
    return Span(pointer=memory.pointer, nbytes=memory.nbytes)


DRY = "a simulated GPU on this processor (a dry run: no figure means anything)"


class Rig:
    """The first GPU, its memory from the worker's scrubbing pool."""

    def __init__(self, dry_folder: Path | None = None) -> None:
        self.dry = dry_folder is not None
        self.simulated = None if dry_folder is None else _simulate(dry_folder)
        self.device = open_gpu(0, reason="measured")
        self.cupy = self.device.xp
        self.name = DRY if self.dry else self.device.name
        self._loaded: dict[Tuning, Launcher] = {}
        capability = int(self.cupy.cuda.Device(0).compute_capability)
        self.architecture = cubins.architecture_for(capability)

    @property
    def sealing(self) -> SealingDevice:
        assert self.device.sealing is not None
        return self.device.sealing

    def about(self) -> dict[str, Any]:
        properties = self.cupy.cuda.runtime.getDeviceProperties(0)
        keys = ("multiProcessorCount", "totalGlobalMem", "clockRate", "memoryClockRate")
        return {
            "device": self.name,
            "architecture": self.architecture,
            "cuda": self.device.cuda,
            "libraries": dict(self.device.libraries),
            "properties": {key: properties.get(key) for key in keys},
            "pinned": self.sealing.staging.pinned,
            "dry_run": self.dry,
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
        return self.sealing.staging.take(nbytes)[:nbytes]

    def copy_in(self, memory: Any, host: np.ndarray[Any, Any]) -> None:
        self._copy(memory.pointer, host.ctypes.data, host.nbytes, _TO_DEVICE)

    def copy_out(self, host: np.ndarray[Any, Any], memory: Any) -> None:
        self._copy(host.ctypes.data, memory.pointer, host.nbytes, _TO_HOST)

    def _copy(self, target: int, source: int, nbytes: int, kind: int) -> None:
        stream = self.cupy.cuda.get_current_stream().ptr
        self.cupy.cuda.runtime.memcpyAsync(target, source, nbytes, kind, stream)

    def lane(self) -> AbstractContextManager[Any]:
        lane: AbstractContextManager[Any] = lasting(self.cupy.cuda.Stream(non_blocking=True))
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

    def product(self) -> tuple[Callable[[], Any], float]:
        """Return one matrix product in half precision, and its floating-point operations."""
        n = 64 if self.dry else 8192
        a, b = (self.cupy.ones((n, n), dtype="float16") for _ in range(2))
        out = self.cupy.empty((n, n), dtype="float16")
        return lambda: self.cupy.matmul(a, b, out=out), 2.0 * n**3

    def forget(self) -> None:
        """Wait until the pool's queued zeros have been written; its blocks stay where they are."""
        self.cupy.cuda.Device(0).synchronize()
        if self.simulated is not None:
            self.simulated.modules.forget()

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


def _simulate(folder: Path) -> SimulatedCupy:
    if host_launcher.COMPILER is None:
        raise SystemExit("a dry run needs g++")
    simulated = SimulatedCupy(lambda tuning: host_launcher.build(tuning, folder), pace=PACES[1])
    sys.modules["cupy"] = simulated
    sys.modules["cupy.cuda"] = simulated.cuda  # type: ignore[assignment]
    return simulated
