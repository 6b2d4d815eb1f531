"""Results: accepted once, behind the fence, and never under two contents."""

from attestation import limits
from attestation.wire.frames import Header, Kind
from coordinator.core import instructions as do
from coordinator.core.delivery import Delivering
from coordinator.core.dispatch import Dispatch
from coordinator.core.events import Message
from coordinator.core.job import (
    Attempt,
    Job,
    RecordingFailed,
    Result,
    ResultAccepted,
    ResultRejected,
    State,
    delivery_lane,
    run_lane,
)
from coordinator.core.lengths import SegmentLengths
from coordinator.core.peers import Worker
from coordinator.core.rules import SEGMENT_OVERHEAD
from coordinator.core.timers import Alarm
from coordinator.core.world import NEVER, World, ended


class Results:
    """Handles RESULT."""

    def __init__(self, world: World, dispatch: Dispatch, delivering: Delivering) -> None:
        self._world = world
        self._dispatch = dispatch
        self._delivering = delivering

    def take(self, worker: Worker, message: Message) -> None:
        """Record or relay a result if lease, attempt and owner match; answer it otherwise."""
        world, header = self._world, message.header
        job = world.jobs.get(header.job_id)
        attempt = self._dispatch.lease(job, worker, header.attempt)
        if job is None or attempt is None:
            self._late(worker, header, job)
            return
        problem = check_result(job, attempt, message)
        if problem is not None:
            world.note("worker.misbehaved", level="warning", worker_id=worker.worker_id)
            self._dispatch.lose(job, reason=problem)
            return
        worker.running.discard(job.job_id)
        self._accept(job, attempt, worker, message)
        world.counters["jobs.done"] += 1
        self._dispatch.schedule()

    def _late(self, worker: Worker, header: Header, job: Job | None) -> None:
        """A repeated result of the recorded attempt is thanked for again; others are fenced."""
        world = self._world
        over = ended(job) if job is not None else world.finished.get(header.job_id, NEVER)
        known = over.recorded == header.attempt > 0 and over.worker_id == worker.worker_id
        kind = Kind.RECORDED if known else Kind.REVOKE
        world.counters["results.repeated" if known else "results.fenced"] += 1
        world.send(worker.peer, Header(kind, header.job_id, header.attempt))

    def _accept(self, job: Job, attempt: Attempt, worker: Worker, message: Message) -> None:
        world, header = self._world, message.header
        segments = message.frames[2:]
        spooled = header.count > 0 and not segments
        lengths = attempt.out_lengths if spooled else SegmentLengths()
        job.apply(ResultAccepted)
        job.attempt = None
        job.result = Result(
            attempt=attempt.number,
            worker_id=worker.worker_id,
            count=header.count,
            lengths=lengths,
            spooled=spooled and job.durable,
            inline_bytes=sum(map(len, message.frames)),
        )
        if job.durable:
            self._record(job, attempt, job.result, message)
        world.note("job.done", level="debug", job_id=job.job_id, attempt=attempt.number)
        if job.durable:
            world.budget.release(run_lane(job.job_id))
            self._delivering.start(job, message.frames)
        else:
            self._relay(job, worker, message)
        world.send(worker.peer, Header(Kind.RECORDED, job.job_id, attempt.number))

    def _record(self, job: Job, attempt: Attempt, result: Result, message: Message) -> None:
        world, file = self._world, job.output_file(attempt.number)
        if result.spooled:
            world.out.append(do.SpoolSeal(file))
        elif attempt.out_relayed:
            world.out.append(do.SpoolDelete(file))
        world.out.append(
            do.StoreResult(
                job_id=job.job_id,
                attempt=attempt.number,
                worker_id=result.worker_id,
                header=message.frames[0],
                receipt=message.frames[1],
                segments=message.frames[2:],
                lengths=result.lengths.to_bytes(),
                spooled=result.spooled,
                count=result.count,
                finished_ms=world.unix_ms,
            )
        )
        # The inputs stay until the client acknowledges: it may reject what this worker sent.
        world.timers.set(world.now_ms + world.rules.retention_ms, Alarm.RETENTION, job.job_id)

    def _relay(self, job: Job, worker: Worker, message: Message) -> None:
        """Pass a streaming result on. Its lane stays reserved until the client acknowledges."""
        world, header = self._world, message.header
        world.drop_body(job)
        job.stream_done_ms = world.now_ms
        world.timers.set(world.now_ms + world.rules.stall_ms, Alarm.STALL, job.job_id)
        onward = Header(Kind.RESULT, job.job_id, header.attempt, 0, header.count, worker.worker_id)
        world.send_to_client(job, onward, *message.frames)

    def reject(self, job: Job, number: int) -> None:
        """Its client could not verify the result of attempt `number`: let another worker run it.

        The coordinator cannot know who is right. It costs the client's own job one attempt, and the
        worker nothing but this job.
        """
        world, result = self._world, job.result
        if job.state is not State.DONE or result is None or result.attempt != number:
            return
        self._delivering.stop(job)
        job.apply(ResultRejected)
        job.result = None
        job.failures += 1
        job.declined_by.add(result.worker_id)
        job.client_credit = job.output_window
        world.counters["results.rejected"] += 1
        worker_id = result.worker_id
        world.note("result.rejected", level="warning", job_id=job.job_id, worker_id=worker_id)
        world.out.append(do.StoreRejection(job_id=job.job_id, failures=job.failures))
        if result.spooled:
            world.out.append(do.SpoolDelete(job.output_file(result.attempt)))
        self._dispatch.wait_again(job)

    def recording_failed(self, job: Job) -> None:
        """The transaction did not happen: run the job again when the disk has had a moment."""
        world, result = self._world, job.result
        if result is None:
            return
        job.apply(RecordingFailed)
        self._delivering.stop(job)
        world.budget.release(delivery_lane(job.job_id))
        job.result = None
        if result.spooled:
            world.out.append(do.SpoolDelete(job.output_file(result.attempt)))
        world.timers.set(world.now_ms + world.rules.park_ms, Alarm.PARKED, job.job_id)


def check_result(job: Job, attempt: Attempt, message: Message) -> str | None:
    """Return the code of what is wrong with a result's shape, or None."""
    frames, count = message.frames, message.header.count
    if len(frames) < 2 or not frames[0] or not frames[1]:
        return "result-incomplete"
    if len(frames[0]) > limits.CONTROL_BYTES or len(frames[1]) > limits.RECEIPT_BYTES:
        return "result-too-large"
    segments = frames[2:]
    if not segments:
        # A program that failed after its first outputs returns none.
        return None if count in (0, attempt.out_relayed) else "result-miscounted"
    total = sum(map(len, segments))
    if attempt.out_relayed or len(segments) != count or count > limits.INLINE_SEGMENTS:
        return "result-miscounted"
    if min(map(len, segments)) < SEGMENT_OVERHEAD:
        return "result-incomplete"
    too_large = total > min(limits.INLINE_BYTES, job.record.output_bytes_max)
    return "result-too-large" if too_large else None
