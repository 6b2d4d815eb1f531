"""Jobs on threads. The loop feeds a job through its inbox; the job answers by posting events.

One thread carries one job from its envelope to its last sealed segment, so an execution needs no
locks, and the loop only ever moves frames. At most a window of sealed segments waits on either
side: a coordinator that sends more than it was granted has its job refused, and one that grants and
does not read has nothing more sealed for it.
"""

import time
from collections.abc import Callable, Iterator, Sequence
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
from enclave_worker.inbox import Inbox, Segment
from enclave_worker.metrics import Laps, Phase
from enclave_worker.refusals import (
    JobRefusedError,
    MalformedJobError,
    OverrunError,
    RevokedError,
)
from enclave_worker.scrubbing import overwrite_own_thread
from enclave_worker.timelimits import NO_LIMITS, TimeLimits

log: Final = get_logger(__name__)

WINDOW_BYTES: Final = 8 * limits.MIB
"""Sealed data in flight per job and direction: 6 MiB keep a link busy (docs/benchmarks.md)."""

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
    segment: Frame = field(repr=False)


@frozen(kw_only=True)
class OutputsBegin:
    """Outputs are about to be sent; `header` is their result's, if nothing fails any more."""

    job_id: JobId
    attempt: int
    header: bytes


@frozen(kw_only=True)
class JobDone:
    """A result waits for its receipt. `segments` holds all outputs, or none if they were sent."""

    job_id: JobId
    attempt: int
    keyset_id: KeySetId
    finished: FinishedJob
    items: int = 0
    output_segments: int
    segments: tuple[Frame, ...] = field(repr=False)


@frozen(kw_only=True)
class JobEnded:
    """The job is gone without a result. `refusal` is for the coordinator, if it should know."""

    job_id: JobId
    attempt: int
    refusal: Refusal | None


JobEvent: TypeAlias = CreditGranted | OutputsBegin | OutputSealed | JobDone | JobEnded


# -- a job ---------------------------------------------------------------------------------------


@frozen(kw_only=True)
class Bench:
    """What every job of a worker works with."""

    admission: Admission
    engine: ProgramEngine
    pool: BufferPool
    clock: Clock
    stall_seconds: float = STALL_SECONDS
    time_limits: TimeLimits = NO_LIMITS


class RunningJob:
    """One attempt at one job. A thread calls `run`, the loop everything else."""

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
        self._inbox = Inbox(stall_seconds=bench.stall_seconds)
        self._execution: JobExecution | None = None
        self.laps = Laps(bench.clock.monotonic_ns)

    # -- on the loop's thread ----------------------------------------------------------------------

    def feed(self, index: int, data: Frame) -> None:
        """Pass on an input segment; without credit for it, the job is refused."""
        try:
            self._inbox.feed(Segment(index, data))
        except OverrunError as error:
            self.stop(error)

    def grant(self, count: int) -> None:
        """Pass on credit for `count` output segments."""
        self._inbox.grant(count)

    def left(self) -> None:
        """Say that the socket took one of the job's output segments."""
        self._inbox.left()

    def stop(self, error: JobRefusedError) -> None:
        """Stop at the next step, with `error` as the reason."""
        self._inbox.stop(error)
        execution = self._execution
        if execution is not None:
            execution.revoke()

    def hung(self, now_ns: int) -> bool:
        """Whether its kernel did not come back in its time and the grace after."""
        execution = self._execution
        return execution is not None and execution.hung(now_ns)

    # -- on the job's thread -----------------------------------------------------------------------

    def run(self) -> None:
        """Run the job to its end, and post how it ended. Never raises."""
        try:
            self._post(self._run())
        except RevokedError:
            stopped = self._inbox.stopped
            self._end(None if isinstance(stopped, RevokedError | None) else stopped.refusal())
        except JobRefusedError as error:
            self._end(error.refusal())
        except Exception as error:  # noqa: BLE001 - one job's defect must not end the worker
            # The type and not the message, which may hold anything.
            log.warning("job.crashed", job_id=self.offer.job_id, error=type(error).__name__)
            self._end(Refusal(code=RefusalCode.INTERNAL))
        finally:
            overwrite_own_thread()

    def _run(self) -> JobDone:
        bench, offer, laps = self._bench, self.offer, self.laps
        laps.lap(Phase.WAIT)
        self._inbox.require_wanted()
        job = bench.admission.admit(offer, now_ms=bench.clock.now_ms())
        with JobExecution(
            job,
            engine=bench.engine,
            pool=bench.pool,
            clock=bench.clock,
            time_limits=bench.time_limits,
        ) as execution:
            self._execution = execution
            self._inbox.require_wanted()
            laps.lap(Phase.ADMIT)
            segments = self._carry_out(execution, _window(job.header.segment_bytes))
            done = JobDone(
                job_id=offer.job_id,
                attempt=offer.attempt,
                keyset_id=job.keyset_id,
                finished=execution.finish(),
                items=job.header.items,
                output_segments=execution.output_segments,
                segments=segments,
            )
            laps.lap(Phase.SEAL)
            return done

    def _carry_out(self, execution: JobExecution, window: int) -> tuple[Frame, ...]:
        """Take the inputs in, run the program, and send the outputs or return them."""
        if execution.streamed:
            return self._pass_through(execution, window)
        for _ in self._input_segments(execution, window):
            pass
        execution.run()
        self.laps.lap(Phase.KERNEL)
        return self._seal_outputs(execution, window)

    def _input_segments(self, execution: JobExecution, window: int) -> Iterator[Segment]:
        """Yield every input segment, once it is open."""
        if not self._inline:
            yield from self._arriving_segments(execution, window)
            return
        if len(self._inline) != self.offer.input_segments:
            raise MalformedJobError("the message holds some of the segments, not all")
        for index, data in enumerate(self._inline):
            execution.add_segment(index, data)
            self.laps.lap(Phase.OPEN)
            yield Segment(index, data)
        self._inline = ()

    def _arriving_segments(self, execution: JobExecution, window: int) -> Iterator[Segment]:
        left = execution.input_segments
        left -= self._grant_input(min(window, left))
        # Credit goes back in halves of a window: one message for several segments.
        consumed = 0
        while not execution.inputs_complete:
            segment = self._inbox.next_segment()
            self.laps.lap(Phase.WAIT)
            execution.add_segment(segment.index, segment.data)
            self.laps.lap(Phase.OPEN)
            yield segment
            consumed += 1
            if left and consumed >= max(1, window // 2):
                left -= self._grant_input(min(consumed, left))
                consumed = 0

    def _pass_through(self, execution: JobExecution, window: int) -> tuple[Frame, ...]:
        """Run a streamed job on each segment, and send what that gives before the next one."""
        inline: list[Frame] = []
        for segment in self._input_segments(execution, window):
            execution.run_segment()
            self.laps.lap(Phase.KERNEL)
            sealed = execution.seal_segment(segment.data)
            self.laps.lap(Phase.SEAL)
            if sealed is None:
                continue
            if execution.inline:
                inline.append(sealed)
            else:
                self._inbox.take_credit(window)
                self.laps.lap(Phase.WAIT)
                self._send_output(execution, segment.index, sealed)
        self._wait_until_left()
        # A program that failed on a later segment returns none.
        return tuple(inline) if execution.output_segments else ()

    def _grant_input(self, count: int) -> int:
        self._inbox.make_room(count)
        if count:
            self._post(
                CreditGranted(job_id=self.offer.job_id, attempt=self.offer.attempt, count=count)
            )
        return count

    def _seal_outputs(self, execution: JobExecution, window: int) -> tuple[Frame, ...]:
        if execution.inline:
            return tuple(execution.segments())
        segments = execution.segments()
        for index in range(execution.output_segments):
            # Credit first: a segment that nobody waits for is not even sealed.
            self._inbox.take_credit(window)
            self.laps.lap(Phase.WAIT)
            self._send_output(execution, index, next(segments))
            self.laps.lap(Phase.SEAL)
        self._wait_until_left()
        return ()

    def _send_output(self, execution: JobExecution, index: int, segment: Frame) -> None:
        if index == 0:
            # So that the client can open each as it comes.
            job_id, attempt = self.offer.job_id, self.offer.attempt
            header = execution.expected_result().to_bytes()
            self._post(OutputsBegin(job_id=job_id, attempt=attempt, header=header))
        self._post(
            OutputSealed(
                job_id=self.offer.job_id,
                attempt=self.offer.attempt,
                index=index,
                segment=segment,
            )
        )

    def _wait_until_left(self) -> None:
        # The result must not overtake its outputs.
        self._inbox.wait_until_left()
        self.laps.lap(Phase.WAIT)

    def _end(self, refusal: Refusal | None) -> None:
        self._post(JobEnded(job_id=self.offer.job_id, attempt=self.offer.attempt, refusal=refusal))


def _window(segment_bytes: int) -> int:
    return max(2, WINDOW_BYTES // segment_bytes)


def system_clock() -> Clock:
    """Return the clock of this machine."""
    return Clock(now_ms=lambda: time.time_ns() // 1_000_000, monotonic_ns=time.monotonic_ns)
