"""Start again from what the store holds: nothing that was acknowledged is lost."""

from attrs import evolve

from attestation.errors import DecodeError
from attestation.wire.control import SubmitRecord
from coordinator.core import instructions as do
from coordinator.core.dispatch import Dispatch
from coordinator.core.events import StoredJob
from coordinator.core.job import Attempt, Job, Result, State
from coordinator.core.lengths import SegmentLengths
from coordinator.core.timers import Alarm
from coordinator.core.world import World


class Recovery:
    """Rebuilds the tables. Limits do not apply: these jobs were accepted."""

    def __init__(self, world: World, dispatch: Dispatch) -> None:
        self._world = world
        self._dispatch = dispatch

    def recover(self, jobs: tuple[StoredJob, ...]) -> None:
        """Enter every stored job; one that cannot be read is left in the store and reported."""
        for stored in jobs:
            try:
                job, result = self._job(stored), _result(stored)
            except DecodeError:
                self._world.note("job.unreadable", level="error", job_id=stored.job_id)
                continue
            self._world.add_job(job)
            self._place(job, stored, result)
        self._world.note("store.recovered", jobs=len(self._world.jobs))

    def _job(self, stored: StoredJob) -> Job:
        record = SubmitRecord.from_bytes(stored.record)
        wraps = dict(record.wraps) | dict(stored.wraps)
        world = self._world
        disk = stored.envelope_bytes + record.input_bytes + record.output_bytes_max
        return Job(
            job_id=stored.job_id,
            owner=stored.owner,
            # Who brought it is not stored: until it ends it counts for its client key.
            account=stored.owner,
            record=evolve(record, wraps=()),
            envelope_digest=stored.envelope_digest,
            envelope_bytes=stored.envelope_bytes,
            inline=not stored.spooled,
            wraps=wraps,
            state=State.QUEUED,
            sequence=world.next_sequence(),
            submitted_ms=stored.submitted_ms,
            output_window=stored.output_window,
            index_bytes=2048 + sum(128 + len(wrap) for wrap in wraps.values()),
            disk_bytes=0 if stored.refusal else disk,
            lengths=SegmentLengths.from_bytes(stored.lengths),
            attempt_number=stored.attempt,
            failures=stored.failures,
            client_credit=stored.output_window,
            refusal=stored.refusal,
        )

    def _place(self, job: Job, stored: StoredJob, result: Result | None) -> None:
        world = self._world
        if stored.refusal is not None:
            job.state = State.REFUSED
            self._retain(job)
        elif result is not None:
            job.state = State.DONE
            job.result = result
            self._retain(job)
        elif stored.worker_id is not None and job.inline and job.small_output:
            # Nothing was under way in pieces: the worker that holds it may finish it.
            job.state = State.LEASED
            job.attempt = Attempt(
                worker_id=stored.worker_id,
                number=stored.attempt,
                window=1,
                expires_ms=world.now_ms + world.rules.lease_ms,
                progress_ms=world.now_ms,
                since_ms=world.now_ms,
            )
            world.timers.set(job.attempt.expires_ms, Alarm.LEASE, job.job_id)
        else:
            if stored.attempt:
                # Outputs of the attempt that was under way; its worker is fenced by the next.
                world.out.append(do.SpoolDelete(job.output_file(stored.attempt)))
            self._dispatch.enqueue(job)

    def _retain(self, job: Job) -> None:
        world = self._world
        world.timers.set(world.now_ms + world.rules.retention_ms, Alarm.RETENTION, job.job_id)


def _result(stored: StoredJob) -> Result | None:
    result = stored.result
    if result is None:
        return None
    return Result(
        attempt=result.attempt,
        worker_id=result.worker_id,
        count=result.count,
        lengths=SegmentLengths.from_bytes(result.lengths),
        spooled=result.spooled,
        inline_bytes=result.inline_bytes,
    )
