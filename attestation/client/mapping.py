"""Run one program over many small inputs: items that wait are stacked and travel as one job.

A job costs milliseconds of signatures, plans and receipts, whatever its size; a thousand items of a
kilobyte share that cost as one stack, sealed in one piece under one receipt. No timer delays
anything: while fewer than two jobs are under way an item leaves alone, and otherwise what has
gathered leaves as soon as it is a quarter of the window.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import repeat
from typing import Final, NamedTuple, TypeAlias

from attrs import frozen

from attestation import limits
from attestation.client.jobs import Job
from attestation.client.numpy_tensors import Array, Stack
from attestation.errors import LocalProtocolError
from attestation.identifiers import JobId
from attestation.receipts.receipt import Receipt
from attestation.sealing.tensor_spec import TensorSpec

WINDOW: Final = 1024
"""Items in flight."""

WINDOW_BYTES: Final = 256 * limits.MIB
"""Bytes of inputs in flight, when the items are large."""

STACK_BYTES: Final = limits.SEGMENT_BYTES
"""Bytes of all inputs of one stack. What is larger than half of it travels alone."""

_ALONE_BELOW: Final = 2
"""Jobs under way, below which an item does not wait for others."""
_PARTS: Final = 4
"""Stacks that a window is cut into, so that client, coordinator and worker are busy at once."""

Submit: TypeAlias = Callable[[Mapping[str, TensorSpec], Mapping[str, Array], int], Job]
"""Send inputs as a stack of so many items, or, with 0 items, as one plain job."""


@frozen(kw_only=True)
class MapProgress:
    """How far a `map` is."""

    submitted: int
    done: int
    failed: int


class Item(NamedTuple):
    """One item of a `map`, done: what a done `Job` says, for its part of a stack."""

    # A tuple, since there is one per item: a frozen class takes twice as long to make.

    job: Job
    """The job it travelled in; its receipt is about every item of the stack."""
    number: int | None
    """Its place in the stack, None when it travelled alone."""

    @property
    def job_id(self) -> JobId:
        """The id of the job it travelled in."""
        return self.job.job_id

    @property
    def receipt(self) -> Receipt:
        """The verified receipt of that job."""
        return self.job.receipt

    def result(self, timeout: float | None = None) -> dict[str, Array]:
        """Return the outputs by name, or raise what went wrong. Those of a stack are views."""
        if self.number is None:
            return self.job.result(timeout)
        return self.job.item(self.number, timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return what went wrong with this item, None when nothing did."""
        if self.number is None:
            return self.job.exception(timeout)
        return self.job.item_exception(self.number, timeout)


class Mapper:
    """One run of `Client.map`, on the thread of whoever iterates."""

    def __init__(
        self,
        source: Iterator[Mapping[str, object]],
        submit: Submit,
        *,
        window: int,
        on_progress: Callable[[MapProgress], None] | None = None,
    ) -> None:
        """Run over `source` with at most `window` items in flight."""
        if window < 1:
            raise LocalProtocolError("a window holds at least one item")
        self._source = source
        self._submit = submit
        self._window = window
        self._on_progress = on_progress
        most = max(1, min(window // _PARTS, limits.ITEMS_PER_JOB))
        self._gathered = Stack(limit=STACK_BYTES, items=most)
        self._flying: deque[tuple[Job, int, int]] = deque()
        self._wake = threading.Event()
        self._news = False
        """Whether a job may have ended since we last looked: futures answer under their locks."""
        self._lock = threading.Lock()
        self._sent = self._ended = 0
        self._exhausted = False
        self._in_flight = self._bytes_in_flight = 0
        self._done = self._failed = 0

    def run(self) -> Iterator[Item]:
        """Yield every item, done, in order. Given up early, it cancels what is under way."""
        try:
            while True:
                self._fill()
                if not self._flying:
                    return
                yield from self._land()
        finally:
            for job, _, _ in self._flying:
                job.cancel()

    def _fill(self) -> None:
        """Take items until the window is full or the oldest job is done; send what is ready."""
        gathered = self._gathered
        # Sending moves items from one count to the other: only taking one makes the room less.
        room = self._window - self._in_flight - gathered.count
        if self._exhausted or self._must_land(room):
            return
        for inputs in self._source:
            if not gathered.add(inputs):
                # Of another shape than those before it.
                self._send()
                gathered.add(inputs)
            if gathered.full or self._sent - self._ended < _ALONE_BELOW:
                self._send()
            room -= 1
            if self._must_land(room):
                return
        self._exhausted = True
        self._send()

    def _send(self) -> None:
        count = self._gathered.count
        if not count:
            return
        specs, arrays = self._gathered.take()
        size = sum(spec.nbytes for spec in specs.values())
        job = self._submit(specs, arrays, 0 if count == 1 else count)
        self._sent += 1
        job.add_done_callback(self._note_end)  # type: ignore[arg-type]
        self._flying.append((job, count, size))
        self._in_flight += count
        self._bytes_in_flight += size

    def _land(self) -> Iterable[Item]:
        job, count, size = self._flying[0]
        while not job.done():
            self._wake.wait()
            self._wake.clear()
            if self._under_way() < _ALONE_BELOW:
                self._send()
        self._flying.popleft()
        self._news = True
        self._in_flight -= count
        self._bytes_in_flight -= size
        if self._under_way() < _ALONE_BELOW:
            # Before the caller gets to work on these: the worker shall have something to do.
            self._send()
        numbers = range(count) if count > 1 else (None,)
        # Made without a line of ours for each: in a loop they take twice as long.
        items = map(partial(tuple.__new__, Item), zip(repeat(job), numbers))
        return items if self._on_progress is None else map(self._report, items)

    def _report(self, item: Item) -> Item:
        self._done += 1
        self._failed += item.exception() is not None
        submitted = self._done + self._in_flight + self._gathered.count
        if self._on_progress is not None:
            self._on_progress(
                MapProgress(submitted=submitted, done=self._done, failed=self._failed)
            )
        return item

    def _must_land(self, room: int) -> bool:
        """Whether no further item is taken now: the window is full, or a result is there."""
        if room <= 0 or self._bytes_in_flight >= WINDOW_BYTES:
            return True
        return self._news and self._oldest_done()

    def _oldest_done(self) -> bool:
        self._news = False
        done = bool(self._flying) and self._flying[0][0].done()
        # Only ever set here: an end that is noted meanwhile must not be forgotten.
        if done:
            self._news = True
        return done

    def _under_way(self) -> int:
        return self._sent - self._ended

    def _note_end(self, _job: Job) -> None:
        # On one of the client's threads.
        with self._lock:
            self._ended += 1
        self._news = True
        self._wake.set()
