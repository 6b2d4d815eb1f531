"""What a worker's loop tells its operator of what happens: counted always, traced when asked."""

from collections.abc import Iterable

from attestation.observability.exposition import Family
from attestation.observability.tracing import Tracer
from attestation.wire.control import RefusalCode
from attestation.wire.messages import SessionRefused
from enclave_worker.attesting import Collected, Reply
from enclave_worker.jobs import JobDone, RunningJob
from enclave_worker.metrics import Ending, Levels, Meters
from enclave_worker.tracing import trace_job


class Observer:
    """Hears of everything on the loop's thread."""

    def __init__(self, tracer: Tracer | None) -> None:
        """Trace through `tracer`, if there is one."""
        self._tracer = tracer
        self._meters = Meters()

    def families(self, levels: Levels) -> Iterable[Family]:
        """Return every number as it is now. From any thread."""
        return self._meters.families(levels)

    def job_over(
        self, job: RunningJob | None, *, done: JobDone | None = None, code: str = ""
    ) -> None:
        """A job has its receipt, or ended without one for the reason `code`."""
        if done is not None:
            self._meters.finished(done.finished, done.items)
        if job is None:
            return
        self._meters.ended(job.laps)
        if self._tracer is not None:
            finished = None if done is None else done.finished
            trace_job(
                self._tracer,
                job.offer.job_id,
                job.laps,
                attempt=job.offer.attempt,
                code=code if finished is None else finished.result.code,
                metering=None if finished is None else finished.draft.metering,
            )

    def refused(self, code: RefusalCode) -> None:
        """A job was refused."""
        self._meters.refusals[code] += 1

    def collected(self, event: Collected) -> None:
        """Evidence was collected, or could not be."""
        ending = Ending.FAILED if event.window is None else Ending.DONE
        self._meters.collections[ending] += 1

    def replied(self, reply: Reply) -> None:
        """A client was answered about its session."""
        if isinstance(reply.record, SessionRefused):
            self._meters.session_refusals[reply.record.code] += 1
