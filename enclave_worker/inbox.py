"""What the loop hands to one job's thread: input segments, credit for outputs, the order to stop.

The coordinator decides how much of it comes, so all of it is bounded: segments by the credit that
the job gave, and the credit that it is given is counted and not queued. Credit is only a number;
what the socket takes is told by `left`, and no more than `window` sealed outputs wait for it.
"""

import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from attrs import field, frozen

from attestation.wire.frames import Frame
from enclave_worker.refusals import JobRefusedError, OverrunError, StalledError

_MOST_CREDIT: Final = 1 << 32
"""More outputs than any job has."""


@frozen
class Segment:
    """One sealed input segment."""

    index: int
    data: Frame = field(repr=False)


class Inbox:
    """Filled on the loop's thread, emptied on the job's."""

    def __init__(self, *, stall_seconds: float) -> None:
        """Whoever waits here longer than `stall_seconds` gets a `StalledError`."""
        self._stall_seconds = stall_seconds
        self._changed = threading.Condition()
        self._segments: deque[Segment] = deque()
        self._room = 0
        self._credit = 0
        self._under_way = 0
        self._stopped: JobRefusedError | None = None

    # -- on the loop's thread ----------------------------------------------------------------------

    def feed(self, segment: Segment) -> None:
        """Pass on an input segment; raises `OverrunError` when the job did not ask for it."""
        with self._changed:
            if not self._room:
                raise OverrunError("more segments than were granted")
            self._room -= 1
            self._segments.append(segment)
            self._changed.notify()

    def grant(self, count: int) -> None:
        """Pass on the coordinator's credit for `count` more outputs."""
        with self._changed:
            self._credit = min(self._credit + count, _MOST_CREDIT)
            self._changed.notify()

    def left(self) -> None:
        """Say that the socket took an output."""
        with self._changed:
            self._under_way -= 1
            self._changed.notify()

    def stop(self, error: JobRefusedError) -> None:
        """End every wait with `error`; the first reason counts."""
        with self._changed:
            self._stopped = self._stopped or error
            self._changed.notify()

    # -- on the job's thread -----------------------------------------------------------------------

    @property
    def stopped(self) -> JobRefusedError | None:
        """Why the job must stop, if it must."""
        return self._stopped

    def require_wanted(self) -> None:
        """Raise the reason to stop, if there is one."""
        if self._stopped is not None:
            raise self._stopped

    def make_room(self, count: int) -> None:
        """Let `count` more segments in: the coordinator is told of them now."""
        with self._changed:
            self._room += count

    def next_segment(self) -> Segment:
        """Return the next segment, when it comes."""
        with self._changed:
            self._wait(lambda: bool(self._segments))
            return self._segments.popleft()

    def take_credit(self, window: int) -> None:
        """Return when one more output may be sealed: it is wanted, and less than `window` wait."""
        with self._changed:
            self._wait(lambda: self._credit > 0 and self._under_way < window)
            self._credit -= 1
            self._under_way += 1

    def wait_until_left(self) -> None:
        """Return when the socket has taken every output."""
        with self._changed:
            self._wait(lambda: not self._under_way)

    def _wait(self, ready: Callable[[], bool]) -> None:
        done = self._changed.wait_for(lambda: self._stopped or ready(), self._stall_seconds)
        self.require_wanted()
        if not done:
            raise StalledError("no segment, credit or room for output came for too long")
