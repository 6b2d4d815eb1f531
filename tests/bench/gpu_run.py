"""One run of `tests.bench.gpu`: how much of everything, what came out, and how long there is."""

import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from attrs import define, field, frozen

from attestation import limits
from attestation.sealing.segments import Layout, segment_count
from enclave_worker.device.cubins import Tuning
from enclave_worker.device.segment_table import Table, tensor_rows
from tests.bench.gpu_rigs import Rig

KEY: Final = bytes(range(32))


@frozen(kw_only=True)
class Effort:
    """How much of everything."""

    sizes: tuple[int, ...]
    segment: int
    repeats: int
    batch: int
    """Bytes of one crossing of the bus."""
    rounds: int
    small: int
    products: int
    large: int
    """Bytes of a tensor whose offsets need more than 32 bits."""
    jobs: tuple[int, ...]
    chunk: int = 0
    """Of a job; 0 for what workers take."""


FULL: Final = Effort(
    sizes=tuple(n * limits.MIB for n in (1, 16, 64, 256, 1024)),
    segment=limits.MIB,
    repeats=15,
    batch=64 * limits.MIB,
    rounds=48,
    small=64 * limits.KIB,
    products=60,
    large=(1 << 32) + 3 * limits.MIB + 5,
    jobs=tuple(n * limits.MIB for n in (1, 16, 64, 256)),
)
QUICK: Final = Effort(
    sizes=(64 * limits.MIB, 256 * limits.MIB),
    segment=limits.MIB,
    repeats=7,
    batch=64 * limits.MIB,
    rounds=16,
    small=64 * limits.KIB,
    products=30,
    large=(1 << 32) + 3 * limits.MIB + 5,
    jobs=(64 * limits.MIB,),
)
DRY: Final = Effort(
    sizes=(4096, 16384),
    segment=4096,
    repeats=2,
    batch=8192,
    rounds=3,
    small=4096,
    products=3,
    large=5 * 4096 + 5,
    jobs=(3 * limits.SEGMENT_BYTES_MIN,),
    chunk=limits.SEGMENT_BYTES_MIN + 32,
)


@define
class Run:
    """One run: what it measures on, and what came out so far."""

    rig: Rig
    effort: Effort
    seconds: float
    """Parts that would begin later than this are left out, and named."""
    begun: float = field(factory=time.monotonic)
    results: dict[str, Any] = field(factory=dict)
    failures: dict[str, str] = field(factory=dict)
    left_out: list[str] = field(factory=list)
    took: dict[str, float] = field(factory=dict)

    @property
    def left(self) -> float:
        """Seconds until no part begins any more."""
        return self.begun + self.seconds - time.monotonic()

    def section(self, name: str, measure: Callable[["Run"], Any]) -> None:
        """Run one part; what it raises is written down, and the next part runs."""
        if self.left <= 0:
            self.left_out.append(name)
            return
        sys.stderr.write(f"{name} ...\n")
        begun = time.monotonic()
        try:
            self.results[name] = measure(self)
        except Exception as error:  # noqa: BLE001 - whatever fails must not take the rest along
            self.failures[name] = f"{type(error).__name__}: {error}"
            traceback.print_exc()
        self.took[name] = round(time.monotonic() - begun, 1)

    @property
    def tuning(self) -> Tuning:
        """The fastest of those that are right, or the first of them."""
        return self.results["rates"]["best"] if "rates" in self.results else self.right[0]

    @property
    def right(self) -> list[Tuning]:
        """The tunings that computed the right bytes; raises `RuntimeError` if there are none."""
        found = [t for t in self.rig.tunings() if self.results["right"].get(t.name) == "yes"]
        if not found:
            raise RuntimeError("no tuning computes the right bytes")
        return found


def table_of(size: int, segment: int) -> Table:
    """Return the rows of one tensor; segments may be smaller here than tensors allow."""
    segment = min(segment, size)
    count = segment_count(size, segment) if segment >= limits.SEGMENT_BYTES_MIN else 0
    return tensor_rows(Layout(size, segment, count or max(1, -(-size // segment))))


def sealed_bytes(table: Table) -> int:
    """Return the bytes of all its segments."""
    return int(table["sealed"][-1]) + int(table["length"][-1]) + 32


def put(rig: Rig, data: bytes) -> Any:
    """Return device memory with `data`."""
    memory = rig.memory(max(len(data), 1))
    if data:
        rig.copy_in(memory, np.frombuffer(data, np.uint8))
    rig.synchronize()
    return memory


def get(rig: Rig, memory: Any, size: int) -> bytes:
    """Return the first bytes of device memory."""
    host = np.zeros(size, np.uint8)
    if size:
        rig.copy_out(host, memory)
    rig.synchronize()
    return host.tobytes()


def require(condition: bool, what: str) -> None:
    """Raise `AssertionError` unless `condition` holds, with `python -O` too."""
    if not condition:
        raise AssertionError(what)
