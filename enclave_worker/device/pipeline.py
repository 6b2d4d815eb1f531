"""One job's bulk over several streams: while one part is opened, the next crosses the bus.

    the job's stream   keys, memory ─┐ begin                           ┌─ join, statuses, kernels
    side 0             copy 0 ───────└ open 0 │ copy 3 │ open 3 ───────┤
    side 1             copy 1 ───────└ open 1 │ copy 4 │ open 4 ───────┤
    side 2             copy 2 ───────└ open 2 │ copy 5 ...     ────────┘

A side does its own steps in order, so that a buffer of its own, which holds one part at a time,
needs no care, and the first parts may cross before there are keys. Two waits put the rest in order,
and each is missed by a test when it is taken out: behind `begin` every side goes on only when the
job's stream has done what came before (keys are derived, memory is zeroed), and the job's stream
goes on behind the end of every side. The second holds however the steps end, since what follows may
be zeroing: plaintext that is written after its zeros would stay.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Self

from enclave_worker.device.launcher import Launcher


class Pipeline:
    """Deals steps out to the sides of the calling thread's job. A context manager.

    Without sides every step is on the current stream, one after the other.
    """

    def __init__(self, launcher: Launcher) -> None:
        """Use the sides that the calling thread's job has now."""
        self._launcher = launcher
        self._sides = launcher.sides
        self._mark: Any = None
        self._behind: set[int] = set()
        self._used: dict[int, Any] = {}

    @property
    def width(self) -> int:
        """How many steps are under way at once."""
        return max(1, len(self._sides))

    def __enter__(self) -> Self:
        return self

    def begin(self) -> None:
        """Put every later step behind what is on the current stream by now."""
        self._mark = self._launcher.mark()
        self._behind.clear()

    @contextmanager
    def step(self, number: int) -> Iterator[int]:
        """Make the side of step `number` current, for a `with` statement; gives the side's."""
        if not self._sides:
            yield 0
            return
        side = number % len(self._sides)
        with self._sides[side]:
            self._used[side] = self._sides[side]
            if self._mark is not None and side not in self._behind:
                self._launcher.wait(self._mark)
                self._behind.add(side)
            yield side

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self._join()
            return
        # The error is what counts. If the device fails here too, it fails for good, and what then
        # must not be used is not: the pool hands out nothing more.
        with suppress(Exception):
            self._join()
            # Copies of ours may still read or write memory of the host that the caller drops next.
            self._launcher.synchronize()

    def _join(self) -> None:
        ends = []
        for stream in self._used.values():
            with stream:
                ends.append(self._launcher.mark())
        for end in ends:
            self._launcher.wait(end)
