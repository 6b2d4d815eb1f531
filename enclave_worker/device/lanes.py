"""Streams of one GPU: a lane per job, and beside it the sides over which the job's bulk is dealt.

A lane has a stream of its own, on which the job's arrays are made and its kernels run, and `SIDES`
more, so that a part of its ciphertext crosses the bus while another is opened (`pipeline.py`). A
lane is lent to one job at a time and put back when nothing runs on any of its streams. None is ever
destroyed: a block that is freed late, as the process ends perhaps, is zeroed on the stream that it
was taken on.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from attrs import define

from enclave_worker.device.replays import Replays

SIDES: Final = 3
"""One copies in, one computes, one has a part to begin with: more would only hold more memory."""


_FOREVER: Final[list[Any]] = []
"""Every stream. CuPy destroys one that nobody holds, unless the interpreter is ending."""


def lasting(stream: Any) -> Any:
    """Return `stream`, which is never destroyed from now on."""
    _FOREVER.append(stream)
    return stream


@define(kw_only=True, eq=False)
class Lane:
    """The streams of one job, as CuPy has them."""

    main: Any
    sides: tuple[Any, ...]
    replays: Replays | None = None
    """What it keeps from job to job, made on its own stream."""

    def synchronize(self) -> None:
        """Wait until nothing runs on any of its streams."""
        for stream in (*self.sides, self.main):
            stream.synchronize()

    @property
    def pointers(self) -> tuple[int, ...]:
        """Return CUDA's name of each of its streams."""
        return tuple(int(stream.ptr) for stream in (self.main, *self.sides))


class Lanes:
    """Lanes that jobs take and put back. Safe to call from several threads."""

    def __init__(self, make: Callable[[], Any], *, sides: int = SIDES) -> None:
        """Make streams with `make`, when they are needed."""
        self._make = make
        self._sides = sides
        self._idle: list[Lane] = []
        self._lock = threading.Lock()
        self._here = threading.local()

    @contextmanager
    def lend(self) -> Iterator[Lane]:
        """Lend the calling thread a lane that nothing runs on, and on which nothing runs later."""
        with self._lock:
            lane = self._idle.pop() if self._idle else None
        if lane is None:
            sides = tuple(lasting(self._make()) for _ in range(self._sides))
            lane = Lane(main=lasting(self._make()), sides=sides)
        self._here.lane = lane
        try:
            yield lane
        finally:
            self._here.lane = None
            with self._lock:
                self._idle.append(lane)

    @property
    def current(self) -> Lane | None:
        """The lane that the calling thread was lent; none outside of a job's turn."""
        return getattr(self._here, "lane", None)

    @property
    def sides(self) -> tuple[Any, ...]:
        """The sides of the calling thread's lane; none outside of a job's turn."""
        lane = self.current
        return () if lane is None else lane.sides
