"""A heat: some systems side by side, each measured in turn, round after round.

A machine that is slow for a minute is then slow for all of them, and the ratio stands. The order
turns by one each round, so that nobody always follows the same neighbour. What is returned are the
values of each round; medians, quartiles and ratios are made from them by the report, so that the
JSON holds what was measured and not what we think of it.
"""

import os
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, Self

from attrs import Factory, define, frozen

from attestation import limits
from tests.bench import processes
from tests.bench.effort import Effort
from tests.bench.spread import percentile
from tests.bench.systems import System


@frozen(kw_only=True)
class Runner:
    """One system used in one way."""

    system: System
    way: str
    widest: int = 4096
    """The largest window it is asked for."""

    @property
    def key(self) -> str:
        """How results name it."""
        return f"{self.system.name}:{self.way}"


@define
class _Costs:
    """Processor time of each role, over what was done meanwhile."""

    seconds: dict[str, float] = Factory(lambda: defaultdict(float))
    units: float = 0.0

    def add(self, before: dict[str, float], after: dict[str, float], units: float) -> None:
        for role, seconds in after.items():
            self.seconds[role] += seconds - before.get(role, 0.0)
        self.units += units

    def per_unit(self) -> dict[str, float]:
        return {role: seconds / self.units for role, seconds in self.seconds.items()}


@frozen(kw_only=True)
class _Clocks:
    """Seconds: of the wall, of all processors' work, and of ours and our children's."""

    wall: float
    busy: float
    ours: float

    @classmethod
    def read(cls) -> Self:
        ours = processes.cpu_seconds(processes.family(os.getpid()))
        return cls(wall=time.monotonic(), busy=processes.busy_seconds(), ours=ours)

    def others_since(self, begun: "_Clocks") -> float:
        """Return the processors that others used on average since then."""
        theirs = (self.busy - begun.busy) - (self.ours - begun.ours)
        return max(0.0, theirs / max(1e-9, self.wall - begun.wall))


class Heat:
    """Measurements of some runners, gathered under one name."""

    def __init__(self, name: str, systems: Sequence[System]) -> None:
        """Note what the systems hold before the first job."""
        self._name = name
        self._systems = systems
        self._measured: list[dict[str, Any]] = []
        self._begun = _Clocks.read()
        self._note_memory(0)

    def finish(self) -> list[dict[str, Any]]:
        """Return what was measured, and how much of the machine others used meanwhile."""
        self._add(what="others", cores=_Clocks.read().others_since(self._begun))
        return self._measured

    def round_trips(
        self, runners: Sequence[Runner], size: int, *, rounds: int, effort: Effort
    ) -> Self:
        """Time single tensors of `size` bytes."""
        for runner in runners:
            runner.system.watch.prepare(runner.way, size)
        times: dict[str, list[list[float]]] = {runner.key: [] for runner in runners}
        costs = {runner.key: _Costs() for runner in runners}
        for runner in _turns(runners, rounds):
            before = runner.system.cpu_seconds()
            taken = runner.system.watch.round_trips(
                runner.way, size, count=effort.count, seconds=effort.seconds
            )
            after = runner.system.cpu_seconds()
            costs[runner.key].add(before, after, len(taken) * size / 1e9)
            times[runner.key].append(taken)
        self._add(
            what="round_trip",
            bytes=size,
            unit="seconds",
            series={key: _series(blocks) for key, blocks in times.items()},
            cpu_seconds_per_gb={key: cost.per_unit() for key, cost in costs.items()},
        )
        self._note_memory(size)
        return self

    def jobs(self, runners: Sequence[Runner], window: int, *, rounds: int, effort: Effort) -> Self:
        """Time many tensors of 1 KiB with `window` of them in flight."""
        runners = [runner for runner in runners if window <= runner.widest]
        rates: dict[str, list[float]] = {runner.key: [] for runner in runners}
        costs = {runner.key: _Costs() for runner in runners}
        for runner in _turns(runners, rounds):
            before = runner.system.cpu_seconds()
            done, taken = runner.system.watch.jobs(
                runner.way, limits.KIB, window=window, seconds=effort.job_seconds
            )
            costs[runner.key].add(before, runner.system.cpu_seconds(), done / 1e6)
            rates[runner.key].append(done / taken)
        self._add(
            what="jobs",
            bytes=limits.KIB,
            window=window,
            unit="per second",
            series={key: {"rounds": values} for key, values in rates.items()},
            cpu_microseconds_per_job={key: cost.per_unit() for key, cost in costs.items()},
        )
        return self

    def _note_memory(self, size: int) -> None:
        for system in self._systems:
            roles = {
                role: {"now": held.now, "peak": held.peak} for role, held in system.memory().items()
            }
            self._add(what="memory", bytes=size, system=system.name, roles=roles)

    def _add(self, **measurement: Any) -> None:
        self._measured.append({"heat": self._name} | measurement)


def _turns(runners: Sequence[Runner], rounds: int) -> Iterator[Runner]:
    for number in range(rounds):
        first = number % max(1, len(runners))
        yield from [*runners[first:], *runners[:first]]


def _series(blocks: list[list[float]]) -> dict[str, Any]:
    every = [seconds for block in blocks for seconds in block]
    return {
        "rounds": [statistics.median(block) for block in blocks],
        "count": len(every),
        "p50": percentile(every, 50),
        "p99": percentile(every, 99),
    }
