"""The processor: NumPy, the reference backend, which runs everywhere."""

import os
import platform
import re
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from enclave_worker.device.budget import MemoryBudget
from enclave_worker.device.device import Device, Meter, check_host


class NumpyDevice(Device):
    """The processor. Arrays on the device are the host's arrays; nothing is copied to it."""

    def use(self) -> None:
        """Do nothing: a thread has one processor to choose from."""

    def to_device(self, host: np.ndarray[Any, Any]) -> Any:
        """Return `host` itself."""
        return host

    def to_host(self, array: Any, out: np.ndarray[Any, Any]) -> None:
        """Copy, unless the kernel wrote into `out` already."""
        check_host(array, out)
        if array is not out:
            np.copyto(out, array)

    def synchronize(self) -> None:
        """Return at once: NumPy has finished when it returns."""

    def release(self) -> None:
        """Do nothing: large arrays go back to the system when they are dropped."""

    @contextmanager
    def meter(self) -> Iterator[Meter]:
        """Measure the time of a block. To ask for the peak would cost as much as a small job."""
        meter = Meter()
        started = time.perf_counter_ns()
        try:
            yield meter
        finally:
            meter.device_ns = time.perf_counter_ns() - started

    @property
    def peak_bytes(self) -> int:
        """Largest resident size of the process so far; the system keeps no figure per job."""
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def open_processor(*, reason: str, memory_bytes: int = 0) -> Device:
    """Return the processor of this machine; with `memory_bytes`, jobs together get no more."""
    return NumpyDevice(
        xp=np,
        backend="numpy",
        name=_processor_name(),
        sm_count=0,
        cuda="",
        libraries=MappingProxyType(_libraries()),
        reason=reason,
        budget=MemoryBudget(memory_bytes) if memory_bytes else None,
    )


def _processor_name() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        text = ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()


def _libraries() -> dict[str, str]:
    libraries = {"python": platform.python_version(), "numpy": np.__version__}
    # Untyped in NumPy's stubs for this mode.
    config: Any = np.show_config(mode="dicts")
    blas = (config or {}).get("Build Dependencies", {}).get("blas", {})
    if blas.get("name"):
        libraries[str(blas["name"])] = str(blas.get("version", ""))
        # Part of the class within which results are bit-equal: each thread sums a part.
        libraries["blas-threads"] = _blas_threads()
    return libraries


def _blas_threads() -> str:
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        if os.environ.get(name, "").isdecimal():
            return str(int(os.environ[name]))
    return str(os.cpu_count() or 1)
