"""What happens to a job when time passes: deadlines, expired leases, stalls, retention."""

from attestation.wire.control import RefusalCode
from coordinator.core.delivery import Delivering
from coordinator.core.dispatch import Dispatch
from coordinator.core.job import Acknowledged, Attempt, Job, State
from coordinator.core.timers import Alarm
from coordinator.core.world import World


class Alarms:
    """Looks at a job whose timer rang; a timer that no longer applies does nothing."""

    def __init__(self, world: World, dispatch: Dispatch, delivering: Delivering) -> None:
        self._world = world
        self._dispatch = dispatch
        self._delivering = delivering

    def ring(self, alarm: Alarm, job: Job) -> None:
        """Do what is due."""
        match alarm:
            case Alarm.LEASE:
                self._dispatch.check_lease(job)
            case Alarm.DEADLINE:
                self._deadline(job)
            case Alarm.STALL:
                self._stall(job)
            case Alarm.PARKED:
                self._dispatch.unpark(job)
                if job.state is State.DONE:
                    self._delivering.start(job)
            case Alarm.RETENTION:
                self._retention(job)

    def _deadline(self, job: Job) -> None:
        over = job.state in (State.DONE, State.REFUSED, State.STREAM_DELIVERED)
        if not over:
            self._dispatch.refuse_job(job, RefusalCode.DEADLINE_PASSED)

    def _retention(self, job: Job) -> None:
        if job.state in (State.DONE, State.REFUSED):
            self._world.note("job.expired", job_id=job.job_id)
            self._delivering.acknowledge(job)

    def _stall(self, job: Job) -> None:
        """Free the memory that waits for somebody who does not do his part."""
        world, since = self._world, self._owes_since(job)
        if since is None:
            return
        due = since + world.rules.stall_ms
        if due > world.now_ms:
            world.timers.set(due, Alarm.STALL, job.job_id)
            return
        if job.state is State.LEASED:
            self._dispatch.lose(job, reason="worker-stalled")
            return
        world.counters["clients.stalled"] += 1
        world.note("client.stalled", level="warning", job_id=job.job_id)
        if job.delivery is not None:
            self._delivering.stop(job)
        elif job.state is State.STREAM_DELIVERED:
            job.apply(Acknowledged)
            world.forget_job(job)
        else:
            self._dispatch.refuse_job(job, RefusalCode.CANCELLED, "its client sent nothing")

    def _owes_since(self, job: Job) -> int | None:
        """Return since when somebody owes (now: nobody does; None: stop looking)."""
        world = self._world
        if job.upload is not None:
            waits = job.upload.received < job.upload.granted
            return job.upload.progress_ms if waits else world.now_ms
        if job.delivery is not None:
            return job.delivery.progress_ms if job.delivery.started else world.now_ms
        if job.state is State.STREAM_DELIVERED:
            return job.stream_done_ms
        if job.state is State.STREAM_LEASED and job.attempt is not None:
            return job.attempt.progress_ms if _starved(job, job.attempt) else world.now_ms
        if job.state is State.LEASED and job.attempt is not None and not job.inline:
            return job.attempt.progress_ms if _unasked(job, job.attempt) else world.now_ms
        return None


def _unasked(job: Job, attempt: Attempt) -> bool:
    """Whether a worker holds the memory for a transfer and does not take the job's inputs."""
    return attempt.in_sent < job.record.input_segments and attempt.in_granted <= attempt.in_sent


def _starved(job: Job, attempt: Attempt) -> bool:
    """Whether a streaming attempt waits for its client."""
    owes_input = attempt.in_sent < attempt.in_asked
    owes_credit = not job.small_output and attempt.out_relayed >= job.client_credit
    return owes_input or owes_credit
