"""CuPy's streams, events and graphs over `Streams`: handles that die with their objects."""

import sys
import threading
import time
from collections.abc import Callable

from tests.device.simulated_streams import Marker, Streams


class Current:
    """The stream that is current in each thread."""

    def __init__(self, streams: Streams) -> None:
        self.streams = streams
        self._here = threading.local()
        self._null = Stream(self, null=True)

    @property
    def stack(self) -> list["Stream"]:
        if not hasattr(self._here, "stack"):
            self._here.stack = [self._null]
        return list(self._here.stack)

    def set(self, stack: list["Stream"]) -> None:
        self._here.stack = stack

    def get(self, _device: int = -1) -> "Stream":
        return self.stack[-1]

    def elapsed(self, start: "Event", end: "Event") -> float:
        assert start.timed
        assert end.timed
        self.streams.synchronize_all()
        assert start.marker is not None
        assert end.marker is not None
        return max(1e-6, (end.marker.at - start.marker.at) * 1e3)


class Stream:
    """`cupy.cuda.Stream`."""

    def __init__(
        self, current: Current, null: bool = False, non_blocking: bool = False, ptds: bool = False
    ) -> None:
        self._current, self._streams = current, current.streams
        self.ptr = 0 if null else self._streams.make()

    def __del__(self) -> None:
        if self.ptr and not sys.is_finalizing():
            self._streams.destroy(self.ptr)

    def __enter__(self) -> "Stream":
        self._current.set([*self._current.stack, self])
        return self

    def __exit__(self, *_error: object) -> None:
        self._current.set(self._current.stack[:-1])

    def synchronize(self) -> None:
        self._streams.synchronize(self.ptr)

    def wait_event(self, event: "Event") -> None:
        self._streams.wait(self.ptr, event.marker)

    def begin_capture(self, mode: int | None = None) -> None:
        self._streams.begin(self.ptr)

    def end_capture(self) -> "Graph":
        return Graph(self._current, self._streams.end(self.ptr))


class Event:
    """`cupy.cuda.Event`."""

    def __init__(self, current: Current, block: bool = False, disable_timing: bool = False) -> None:
        self._current = current
        self.marker: Marker | None = None
        self.timed = not disable_timing

    def record(self, stream: Stream | None = None) -> None:
        where, streams = (stream or self._current.get()).ptr, self._current.streams
        self.marker = marker = streams.record(where)

        def note() -> None:
            marker.at = time.perf_counter()

        streams.put(where, note)

    def synchronize(self) -> None:
        assert self.marker is not None
        self._current.streams.finish_marker(self.marker)


class Graph:
    """`cupy.cuda.Graph`."""

    def __init__(self, current: Current, work: list[Callable[[], None]]) -> None:
        self._current, self.work = current, work

    def launch(self, stream: Stream | None = None) -> None:
        where = (stream or self._current.get()).ptr
        for each in self.work:
            self._current.streams.put(where, each)
