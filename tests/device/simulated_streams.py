"""Streams and events as CUDA orders them, and nothing more: what is not awaited may come any time.

Work on a stream runs in its order, and otherwise only behind the events that the stream waits for.
When it runs is up to the device, which a `Pace` stands for: a stream that is `eager` runs as far as
it can with every call, another one not before somebody has to wait for it. Between them they bring
about every order of two pieces of work that nothing puts in order, so that a missing wait is seen
in the data. Misuse that CUDA punishes is an error here: a stream that was destroyed or belongs to
another device, waiting for a stream that is recorded, a wait for what can never come.
"""

import itertools
import random
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from attrs import define, field, frozen

Work = Callable[[], None]


class CUDARuntimeError(RuntimeError):
    """CUDA's own, as CuPy raises it."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status


INVALID_HANDLE = 400
CAPTURE_UNSUPPORTED = 900
ILLEGAL_ADDRESS = 700


@define(eq=False)
class Marker:
    """One recording of an event."""

    stream: int
    done: bool = False
    at: float = 0.0


@define(eq=False)
class _Await:
    marker: Marker


@define(eq=False)
class _Queue:
    device: int
    work: deque[Work | _Await] = field(factory=deque)
    recording: list[Work] | None = None
    recorder: int = 0
    """The thread that records."""
    destroyed: bool = False


@frozen(kw_only=True)
class Pace:
    """When streams run: the n-th that was made is eager if `eager` says so; else only when asked.

    With a `seed` chance decides, call by call.
    """

    name: str
    eager: Callable[[int], bool] = lambda _stream: False
    seed: int | None = None


_FIRST_LANE = range(1, 5)
"""Three sides and then the lane's own."""
PACES = (
    Pace(name="late"),
    Pace(name="early", eager=lambda _stream: True),
    *(Pace(name=f"{n}-early", eager=lambda stream, n=n: stream == n) for n in _FIRST_LANE),
    *(Pace(name=f"{n}-late", eager=lambda stream, n=n: stream != n) for n in _FIRST_LANE),
    *(Pace(name=f"chance-{seed}", seed=seed) for seed in range(2)),
)


class Streams:
    """All streams of a machine. Safe from several threads, which take turns."""

    def __init__(self, pace: Pace = PACES[0]) -> None:
        self.lock = threading.RLock()
        self._pace = pace
        self._chance = random.Random(pace.seed)  # noqa: S311 - not for secrets
        self._numbers = itertools.count(1)
        self._queues: dict[int, _Queue] = {0: _Queue(device=0)}
        self._waits = itertools.count()
        self.forget_wait: int | None = None
        """The number of the wait between streams that is left out, to see that it is needed."""
        self._here = threading.local()
        self.failing = False
        """Whether a kernel met an illegal address: every call fails from then on, as with CUDA."""

    # -- streams -----------------------------------------------------------------------------------

    @property
    def device(self) -> int:
        return int(getattr(self._here, "device", 0))

    def use_device(self, device: int) -> None:
        self._here.device = device

    @property
    def wait_count(self) -> int:
        """How many waits there were so far."""
        counted = next(self._waits)
        self._waits = itertools.count(counted)
        return counted

    def make(self) -> int:
        with self.lock:
            number = next(self._numbers)
            self._queues[number] = _Queue(device=self.device)
            return number

    def destroy(self, stream: int) -> None:
        """What is queued still runs; whoever names the stream again has a defect."""
        with self.lock:
            self._queues[stream].destroyed = True

    def _usable(self, stream: int) -> _Queue:
        if self.failing:
            raise CUDARuntimeError(ILLEGAL_ADDRESS, "cudaErrorIllegalAddress")
        queue = self._queues[stream]
        if queue.destroyed:
            raise CUDARuntimeError(INVALID_HANDLE, "cudaErrorInvalidResourceHandle: destroyed")
        if stream and queue.device != self.device:
            raise CUDARuntimeError(INVALID_HANDLE, "cudaErrorInvalidResourceHandle: other device")
        return queue

    # -- work --------------------------------------------------------------------------------------

    def put(self, stream: int, work: Work, *, recordable: bool = True) -> None:
        with self.lock:
            queue = self._usable(stream)
            if queue.recording is not None:
                if not recordable:
                    raise CUDARuntimeError(CAPTURE_UNSUPPORTED, "StreamCaptureUnsupported")
                queue.recording.append(work)
                return
            queue.work.append(work)
            self._go_on()

    def record(self, stream: int) -> Marker:
        marker = Marker(stream)

        def done() -> None:
            marker.done = True

        self.put(stream, done, recordable=False)
        return marker

    def wait(self, stream: int, marker: Marker | None) -> None:
        """Let `stream` go on only behind `marker`; an event that was never recorded is no wait."""
        with self.lock:
            queue = self._usable(stream)
            if marker is None or next(self._waits) == self.forget_wait:
                return
            queue.work.append(_Await(marker))
            self._go_on()

    def synchronize(self, stream: int) -> None:
        with self.lock:
            queue = self._usable(stream)
            if queue.recording is not None:
                raise CUDARuntimeError(CAPTURE_UNSUPPORTED, "StreamCaptureUnsupported")
            self._finish(stream)

    def finish_marker(self, marker: Marker) -> None:
        with self.lock:
            while not marker.done:
                self._step(marker.stream)

    def synchronize_all(self) -> None:
        with self.lock:
            for stream in list(self._queues):
                self._finish(stream)

    # -- recording ---------------------------------------------------------------------------------

    def begin(self, stream: int) -> None:
        with self.lock:
            queue = self._usable(stream)
            if not stream or queue.recording is not None:
                raise CUDARuntimeError(CAPTURE_UNSUPPORTED, "StreamCaptureUnsupported")
            queue.recording, queue.recorder = [], threading.get_ident()

    def end(self, stream: int) -> list[Work]:
        with self.lock:
            recorded, self._queues[stream].recording = self._queues[stream].recording, None
            assert recorded is not None
            return recorded

    def recording(self) -> bool:
        """Whether the calling thread records a stream: it may take no memory then.

        Others may: what CuPy begins is a relaxed capture, which binds nobody else.
        """
        me = threading.get_ident()
        with self.lock:
            queues = self._queues.values()
            return any(q.recording is not None and q.recorder == me for q in queues)

    # -- with the lock -----------------------------------------------------------------------------

    def _finish(self, stream: int) -> None:
        while self._queues[stream].work:
            self._step(stream)

    def _step(self, stream: int, above: tuple[int, ...] = ()) -> None:
        """Run the stream's next work, and before it what that waits for."""
        queue = self._queues[stream]
        if stream in above or not queue.work:
            raise RuntimeError("streams wait for each other, or for what was never recorded")
        first = queue.work[0]
        if isinstance(first, _Await):
            while not first.marker.done:
                self._step(first.marker.stream, (*above, stream))
            queue.work.popleft()
            return
        queue.work.popleft()
        first()

    def _ready(self, stream: int) -> bool:
        work = self._queues[stream].work
        return bool(work) and not (isinstance(work[0], _Await) and not work[0].marker.done)

    def _go_on(self) -> None:
        if self._pace.seed is not None:
            for _ in range(self._chance.randrange(4)):
                ready = [stream for stream in self._queues if self._ready(stream)]
                if ready:
                    self._step(self._chance.choice(ready))
            return
        progress = True
        while progress:
            progress = False
            for stream in self._queues:
                while self._pace.eager(stream) and self._ready(stream):
                    self._step(stream)
                    progress = True


def describe(value: Any) -> str:
    """Name a pace in a test's id."""
    return value.name if isinstance(value, Pace) else str(value)
