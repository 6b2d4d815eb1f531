"""What a worker tells of a job, as spans: the phases that its time went into.

Made when the job is over. Off, and not even asked, unless an exporter is configured
(docs/observability.md).
"""

import time
from itertools import pairwise
from typing import Final

from attestation.identifiers import JobId
from attestation.observability.tracing import Attributes, Span, Tracer
from attestation.receipts.receipt import Metering
from enclave_worker.metrics import Laps, Phase

_PARTS: Final = {
    Phase.ADMIT: "worker.admit",
    Phase.OPEN: "worker.inputs",
    Phase.KERNEL: "worker.kernel",
    Phase.SEAL: "worker.seal",
}
"""The parts of a job in their order; waiting belongs to the part that waits."""


def trace_job(
    tracer: Tracer,
    job_id: JobId,
    laps: Laps,
    *,
    attempt: int,
    code: str = "",
    metering: Metering | None = None,
) -> None:
    """Export the span of one attempt, which ends now, and of the parts that it got through."""
    offset_ns = time.time_ns() - time.monotonic_ns()
    ended_ns = laps.ended_ns
    reached = [(name, ended_ns[phase]) for phase, name in _PARTS.items() if phase in ended_ns]
    if metering is not None:
        reached.append(("worker.receipt", time.monotonic_ns()))
    times = [("", laps.started_ns), *reached]
    parts = [
        Span(name=name, start_ns=offset_ns + start, end_ns=offset_ns + end)
        for (_, start), (name, end) in pairwise(times)
    ]
    whole = Span(
        name="worker.job",
        start_ns=offset_ns + laps.started_ns,
        end_ns=time.time_ns(),
        attributes={"enclave.attempt": attempt, **_sizes(metering)},
        code=code,
    )
    tracer.job(job_id, whole, parts)


def _sizes(metering: Metering | None) -> Attributes:
    """Return the sealed bytes of a job, as its receipt tells everybody."""
    if metering is None:
        return {}
    return {"enclave.bytes_in": metering.bytes_in, "enclave.bytes_out": metering.bytes_out}
