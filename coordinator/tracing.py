"""What the coordinator tells of a job's way, as spans: how long it waited, and each of its leases.

Made from the notes that the core writes anyway (docs/logging.md), once their transaction is
committed. Off, and not even asked, unless an exporter is configured (docs/observability.md).
"""

import time
from collections import OrderedDict
from typing import Final

from attrs import define

from attestation.identifiers import JobId
from attestation.observability.tracing import Span, Tracer
from coordinator.core.instructions import Note

REMEMBERED: Final = 100_000
"""Jobs under way that spans are kept open for; the oldest go first."""

_BEGINS: Final = {
    "job.accepted": "coordinator.queue",
    "job.assigned": "coordinator.lease",
    "job.declined": "coordinator.queue",
    "lease.lost": "coordinator.queue",
    "result.rejected": "coordinator.queue",
}
"""Which stretch of a job begins with a note."""
_ENDS: Final = frozenset({"job.done", "job.refused"})
_FAILS: Final = frozenset({"job.declined", "lease.lost", "job.refused"})


@define
class _Open:
    name: str
    since_ns: int
    attempt: int = 0


class JobTraces:
    """Turns notes into spans; a note that is about no job is passed over."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._open: OrderedDict[JobId, _Open] = OrderedDict()

    def note(self, note: Note) -> None:
        """Take a note at the moment it is written."""
        begins = _BEGINS.get(note.event)
        if begins is None and note.event not in _ENDS:
            return
        now_ns = time.time_ns()
        job_id = JobId(bytes(note.fields["job_id"]))  # type: ignore[call-overload]
        before = self._open.pop(job_id, None)
        if before is not None:
            self._close(job_id, before, note, now_ns)
        if begins is not None:
            attempt = note.fields.get("attempt", 0) if note.event == "job.assigned" else 0
            self._open[job_id] = _Open(begins, now_ns, int(str(attempt)))
            if len(self._open) > REMEMBERED:
                self._open.popitem(last=False)

    def _close(self, job_id: JobId, span: _Open, note: Note, now_ns: int) -> None:
        code = str(note.fields.get("code", "")) if note.event in _FAILS else ""
        attributes = {"enclave.attempt": span.attempt} if span.attempt else {}
        self._tracer.job(
            job_id,
            Span(
                name=span.name,
                start_ns=span.since_ns,
                end_ns=now_ns,
                attributes=attributes,
                code=code,
            ),
        )
