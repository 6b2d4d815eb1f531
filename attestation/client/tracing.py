"""What a client tells of its own jobs, as the first span of each trace (docs/observability.md).

A job is traced as a whole: sealing, the way to the coordinator's acknowledgement, and from there to
a verified result. One that was sealed again under a new id after losing its worker has a new trace,
since to everybody else it is a new job.
"""

import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import TYPE_CHECKING, Final

from attestation.client.jobs import Job, Progress
from attestation.client.numpy_tensors import Array
from attestation.errors import EnclaveError
from attestation.identifiers import JobId
from attestation.observability.tracing import Span, Tracer, current_link
from attestation.wire.frames import NO_JOB

if TYPE_CHECKING:
    from opentelemetry.trace import Link

_RESUBMITTED: Final = "resubmitted"


class JobTrace:
    """The times of one job that are worth a span."""

    def __init__(self, tracer: Tracer) -> None:
        """Begin: the user called `submit`. Links to the span of the application around us."""
        self._tracer = tracer
        self._links: list[Link] = current_link()
        self._began_ns = time.time_ns()
        self._sealed_ns = 0
        self._accepted_ns = 0
        self._job_id = NO_JOB

    def job(self, job_id: JobId, progress: Progress, cancel: Callable[[Job], None]) -> Job:
        """Return the job, which is sealed now, and hear of what happens to it."""
        self._sealed_ns, self._job_id = time.time_ns(), job_id
        job = _TracedJob(job_id, progress, cancel, trace=self)
        job.add_done_callback(self._done)
        return job

    def accepted(self) -> None:
        """The coordinator acknowledged the job."""
        self._accepted_ns = self._accepted_ns or time.time_ns()

    def resubmitted(self, job_id: JobId) -> None:
        """The job was given up, and goes on as `job_id`."""
        self._export(_RESUBMITTED)
        self._job_id = job_id
        self._began_ns = self._sealed_ns = time.time_ns()
        self._accepted_ns = 0

    def _done(self, job: Future[dict[str, Array]]) -> None:
        try:
            error = job.exception()
        except CancelledError:
            code = "cancelled"
        else:
            code = _code(error)
        self._export(code)

    def _export(self, code: str) -> None:
        now_ns = time.time_ns()
        accepted_ns = self._accepted_ns or now_ns
        parts = [
            Span(name="client.seal", start_ns=self._began_ns, end_ns=self._sealed_ns),
            Span(name="client.accept", start_ns=self._sealed_ns, end_ns=accepted_ns),
        ]
        if self._accepted_ns:
            parts.append(Span(name="client.result", start_ns=accepted_ns, end_ns=now_ns))
        whole = Span(name="client.job", start_ns=self._began_ns, end_ns=now_ns, code=code)
        self._tracer.job(self._job_id, whole, parts, first=True, links=self._links)


class _TracedJob(Job):
    """A job that tells a trace what it hears."""

    def __init__(
        self,
        job_id: JobId,
        progress: Progress,
        cancel: Callable[[Job], None],
        *,
        trace: JobTrace,
    ) -> None:
        super().__init__(job_id, progress, cancel)
        self._trace = trace

    def accept(self) -> None:
        self._trace.accepted()
        super().accept()

    def resubmitted(self, job_id: JobId) -> None:
        self._trace.resubmitted(job_id)
        super().resubmitted(job_id)


def _code(error: BaseException | None) -> str:
    if error is None:
        return ""
    return str(error.code) if isinstance(error, EnclaveError) else "error"
