"""The kernels on the processor: g++ compiles them with the shim, and they work on host memory."""

import ctypes
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from attestation.sealing.floe import Buffer, octets, writable
from enclave_worker.device import cubins
from enclave_worker.device.cubins import Tuning
from enclave_worker.device.launcher import Pointer
from enclave_worker.device.segment_table import Span

HOST = Path(__file__).parent / "host"
COMPILER = shutil.which("g++")
POISON = 0xA5
_CONSTANTS = ("threads", "context", "shared", "row", "setup", "setup_shared", "finish")


class HostMemory:
    """Host memory at a multiple of 256 bytes, full of a pattern, with a guard after its end."""

    GUARD = 64

    def __init__(self, nbytes: int) -> None:
        self._whole = np.full(nbytes + 256 + self.GUARD, POISON, np.uint8)
        start = -self._whole.ctypes.data % 256
        self.array: np.ndarray[Any, Any] = self._whole[start : start + nbytes]
        self._guard = self._whole[start + nbytes :]
        self.pointer = int(self.array.ctypes.data)
        self.nbytes = nbytes

    @property
    def span(self) -> Span:
        return Span(pointer=self.pointer, nbytes=self.nbytes)

    shared = False

    @property
    def guarded(self) -> bool:
        """Whether nothing was written behind its end."""
        return bool((self._guard == POISON).all())


def build(tuning: Tuning, folder: Path, flags: tuple[str, ...] = ("-O2",)) -> Path:
    """Compile one tuning; raises `CalledProcessError` with g++'s words."""
    assert COMPILER is not None
    source, library = folder / f"{tuning.name}.cu", folder / f"{tuning.name}.so"
    source.write_text(cubins.source())
    command = [COMPILER, "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
    command += [*flags, *tuning.options, f'-DKERNELS="{source}"']
    command += [str(HOST / "entry.cpp"), "-o", str(library)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return library


class HostLauncher:
    """A `Launcher` whose device is this processor. A `seed` of 0 runs threads in their order."""

    def __init__(self, library: Path, tuning: Tuning, *, seed: int = 1, sm_count: int = 4) -> None:
        self._library = ctypes.CDLL(str(library))
        self.tuning, self.seed, self.sm_count = tuning, seed, sm_count
        self.memory: list[HostMemory] = []
        self.launched: list[str] = []
        self.left_in_shared_memory = 0

    def constants(self) -> dict[str, int]:
        return {name: self._library.constant(i) for i, name in enumerate(_CONSTANTS)}

    def forget(self) -> None:
        """Clear the stacks on which the shim ran the kernels' threads."""
        self._library.forget()

    def divergent_barrier(self) -> bool:
        return bool(self._library.run_divergent(ctypes.c_uint64(self.seed)))

    def allocate(self, nbytes: int) -> HostMemory:
        memory = HostMemory(nbytes)
        self.memory.append(memory)
        return memory

    def put(self, data: bytes) -> HostMemory:
        memory = self.allocate(len(data))
        memory.array[:] = np.frombuffer(data, np.uint8)
        return memory

    def upload(self, pointer: int, data: Buffer) -> None:
        # Without a copy in between: the residue of a dry run is looked for too.
        view = np.frombuffer(octets(data), np.uint8)
        ctypes.memmove(pointer, view.ctypes.data, view.nbytes)

    def download(self, pointer: int, out: Buffer) -> None:
        view = writable(out)
        view[:] = ctypes.string_at(pointer, view.nbytes)

    def fill(self, pointer: int, value: int, nbytes: int) -> None:
        ctypes.memset(pointer, value, nbytes)

    def launch(
        self, kernel: str, blocks: int, threads: int, shared: int, arguments: Sequence[int]
    ) -> None:
        typed = [
            ctypes.c_void_p(a) if isinstance(a, Pointer) else ctypes.c_uint32(a) for a in arguments
        ]
        self.launched.append(kernel)
        run = getattr(self._library, f"run_{kernel}")
        size = (ctypes.c_uint32(blocks), ctypes.c_uint32(threads), ctypes.c_uint64(shared))
        if run(ctypes.c_uint64(self.seed), *size, *typed):
            raise RuntimeError(f"{kernel}: a barrier that is never complete")
        # The AES tables are the same for every key; behind them only what must be gone.
        public = 8192 * self.tuning.tables if kernel == "gcm_body" else 0
        self.left_in_shared_memory += self._library.secrets_left(ctypes.c_uint32(public))

    copy_in, copy_out = upload, download

    def synchronize(self) -> None:
        pass

    # It does everything at once and in order, so there is nothing to put in order.

    @property
    def sides(self) -> tuple[()]:
        return ()

    def mark(self) -> None:
        pass

    def wait(self, mark: None) -> None:
        pass

    def record(self, launch: Callable[[], None]) -> Callable[[], None]:
        return launch
