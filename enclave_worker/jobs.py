"""Jobs on threads. The loop feeds a job through its inbox; the job answers by posting events.

One thread carries one job from its envelope to its last sealed segment, so an execution needs no
locks, and the loop only ever moves frames. At most `window` sealed segments wait in an inbox: a
coordinator that sends more than it was granted has its job refused.
"""

import queue
import time
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from attrs import field, frozen

from attestation import limits
from attestation.identifiers import JobId, KeySetId
from attestation.logging import get_logger
from attestation.wire.control import Refusal, RefusalCode
from attestation.wire.frames import Frame
from enclave_worker.admission import Admission, JobOffer
from enclave_worker.buffers import BufferPool
from enclave_worker.engine import ProgramEngine
from enclave_worker.executor import Clock, FinishedJob, JobExecution
from enclave_worker.refusals import (
    JobRefusedError,
    MalformedJobError,
    OverrunError,
    RevokedError,
    StalledError,
)
from enclave_worker.scrubbing import overwrite_own_thread

log: Final = get_logger(__name__)

WINDOW_BYTES: Final = 8 * limits.MIB
"""Sealed input in flight per job: 6 MiB keep a fast link busy (docs/benchmarks.md)."""

STALL_SECONDS: Final = 90.0
"""A job that waits so long for its next segment or credit gives its place to another."""


# -- what a job tells the loop --------------------------------------------------------------------


@frozen(kw_only=True)
class CreditGranted:
    """The job can take `count` more input segments."""

    job_id: JobId
    attempt: int
    count: int


@frozen(kw_only=True)
class OutputSealed:
    """One sealed output segment, under credit that the coordinator gave."""

    job_id: JobId
    attempt: int
    index: int
    segment: bytearray = field(repr=False)


@frozen(kw_only=True)
class JobDone:
    """A result waits for its receipt. `segments` holds all outputs, or none if they were sent."""

    job_id: JobId
    attempt: int
    keyset_id: KeySetId
    finished: FinishedJob
    output_segments: int
    segments: tuple[bytearray, ...] = field(repr=False)


@frozen(kw_only=True)
class JobEnded:
    """The job is gone without a result. `refusal` is for the coordinator, if it should know."""

    job_id: JobId
    attempt: int
    refusal: Refusal | None


JobEvent: TypeAlias = CreditGranted | OutputSealed | JobDone | JobEnded


# -- what the loop tells a job --------------------------------------------------------------------


@frozen
class _Segment:
    index: int
    data: Frame = field(repr=False)


@frozen
class _Credit:
    count: int


@frozen
class _Stop:
    error: JobRefusedError


@frozen(kw_only=True)
class Bench:
    """What every job of a worker works with."""

    admission: Admission
    engine: ProgramEngine
    pool: BufferPool
    clock: Clock
    stall_seconds: float = STALL_SECONDS


class RunningJob:
    """One attempt at one job. The loop calls `feed`, `grant` and `stop`; a thread calls `run`."""

    def __init__(
        self,
        offer: JobOffer,
        inline: Sequence[Frame],
        *,
        bench: Bench,
        post: Callable[[JobEvent], None],
    ) -> None:
        """Prepare to run `offer`, whose input segments are `inline` or follow one by one."""
        self.offer = offer
        self._inline = tuple(inline)
        self._bench = bench
        self._post = post
        self._inbox: queue.SimpleQueue[_Segment | _Credit | _Stop] = queue.SimpleQueue()
        self._granted = 0
        self._fed = 0
        self._output_credit = 0
        self._execution: JobExecution | None = None
        self._stopped: JobRefusedError | None = None

    # -- on the loop's thread ----------------------------------------------------------------------

    def feed(self, index: int, data: Frame) -> None:
        """Pass on an input segment; without credit for it, the job is refused."""
        self._fed += 1
        if self._fed > self._granted:
            self.stop(OverrunError("more segments than were granted"))
        else:
            self._inbox.put(_Segment(index, data))

    def grant(self, count: int) -> None:
        """Pass on credit for `count` output segments."""
        self._inbox.put(_Credit(count))

    def stop(self, error: JobRefusedError) -> None:
        """Stop at the next step, with `error` as the reason."""
        if self._stopped is None:
            self._stopped = error
            self._inbox.put(_Stop(error))
        execution = self._execution
        if execution is not None:
            execution.revoke()

    # -- on the job's thread -----------------------------------------------------------------------

    def run(self) -> None:
        """Run the job to its end, and post how it ended. Never raises."""
        refusal: Refusal | None
        try:
            self._post(self._run())
        except RevokedError:
            refusal = self._stopped.refusal() if self._stopped else None
            self._end(None if isinstance(self._stopped, RevokedError) else refusal)
        except JobRefusedError as error:
            self._end(error.refusal())
        except Exception as error:  # noqa: BLE001 - one job's defect must not end the worker
            # The type and not the message, which may hold anything.
            log.warning("job.crashed", job_id=self.offer.job_id, error=type(error).__name__)
            self._end(Refusal(code=RefusalCode.INTERNAL))
        finally:
            overwrite_own_thread()

    def _run(self) -> JobDone:
        bench, offer = self._bench, self.offer
        self._require_wanted()
        job = bench.admission.admit(offer, now_ms=bench.clock.now_ms())
        with JobExecution(
            job, engine=bench.engine, pool=bench.pool, clock=bench.clock
        ) as execution:
            self._execution = execution
            self._require_wanted()
            self._receive_inputs(execution, segment_bytes=job.header.segment_bytes)
            execution.run()
            segments = self._seal_outputs(execution)
            return JobDone(
                job_id=offer.job_id,
                attempt=offer.attempt,
                keyset_id=job.keyset_id,
                finished=execution.finish(),
                output_segments=execution.output_segments,
                segments=segments,
            )

    def _receive_inputs(self, execution: JobExecution, *, segment_bytes: int) -> None:
        if self._inline:
            if len(self._inline) != self.offer.input_segments:
                raise MalformedJobError("the message holds some of the segments, not all")
            for index, data in enumerate(self._inline):
                execution.add_segment(index, data)
            self._inline = ()
            return
        left = execution.input_segments
        window = max(2, WINDOW_BYTES // segment_bytes)
        left -= self._grant_input(min(window, left))
        # Credit goes back in halves of a window: one message for several segments.
        consumed = 0
        while not execution.inputs_complete:
            segment = self._next_segment()
            execution.add_segment(segment.index, segment.data)
            consumed += 1
            if left and consumed >= max(1, window // 2):
                left -= self._grant_input(min(consumed, left))
                consumed = 0

    def _grant_input(self, count: int) -> int:
        self._granted += count
        if count:
            self._post(
                CreditGranted(job_id=self.offer.job_id, attempt=self.offer.attempt, count=count)
            )
        return count

    def _seal_outputs(self, execution: JobExecution) -> tuple[bytearray, ...]:
        if execution.inline:
            return tuple(execution.segments())
        segments = execution.segments()
        for index in range(execution.output_segments):
            # Credit first: a segment that nobody waits for is not even sealed.
            while not self._output_credit:
                self._take()
            self._output_credit -= 1
            self._post(
                OutputSealed(
                    job_id=self.offer.job_id,
                    attempt=self.offer.attempt,
                    index=index,
                    segment=next(segments),
                )
            )
        return ()

    def _next_segment(self) -> _Segment:
        while True:
            item = self._take()
            if item is not None:
                return item

    def _take(self) -> _Segment | None:
        try:
            item = self._inbox.get(timeout=self._bench.stall_seconds)
        except queue.Empty:
            raise StalledError("no segment or credit came for too long") from None
        match item:
            case _Segment():
                return item
            case _Credit(count):
                self._output_credit += count
                return None
            case _Stop(error):
                raise error

    def _require_wanted(self) -> None:
        if self._stopped is not None:
            raise self._stopped

    def _end(self, refusal: Refusal | None) -> None:
        self._post(JobEnded(job_id=self.offer.job_id, attempt=self.offer.attempt, refusal=refusal))


def system_clock() -> Clock:
    """Return the clock of this machine."""
    return Clock(now_ms=lambda: time.time_ns() // 1_000_000, monotonic_ns=time.monotonic_ns)
