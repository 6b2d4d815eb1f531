"""A job that is not done: how far it is, and the messages it is made of."""

from enum import StrEnum
from typing import Final

from attrs import define, evolve, field

from attestation.client.jobs import Job
from attestation.client.requests import JobSpec, SealedRequest
from attestation.client.results import Collector, announced_outputs
from attestation.sealing.recycled import RecycledBuffers
from attestation.wire.frames import Frame, Header, Kind

OUTPUT_WINDOW: Final = 16
"""Output segments that may be on their way to us, per job."""


class Stage(StrEnum):
    """How far a job is, as the coordinator knows it."""

    WAITING = "waiting"
    SENT = "sent"
    ACCEPTED = "accepted"


@define(eq=False)
class Active:
    """A job that is not done."""

    job: Job
    spec: JobSpec = field(repr=False)
    request: SealedRequest
    collector: Collector
    stage: Stage = Stage.WAITING
    credit: int = 0
    owed: int = 0
    resubmissions: int = 0
    rejections: int = 0
    retry_at: float = float("inf")

    @classmethod
    def of(cls, job: Job, spec: JobSpec, request: SealedRequest) -> "Active":
        """Return the beginning of a job's life."""
        return cls(job, spec, request, Collector.of(request))

    def submit_message(self) -> list[Frame]:
        """Return SUBMIT, with every segment of a small request."""
        request = self.request
        header = Header(Kind.SUBMIT, request.job_id, count=OUTPUT_WINDOW)
        if request.inline:
            self.count_sent()
        return [header.to_bytes(), request.record.to_bytes(), request.envelope, *request.inline]

    def announce(self, attempt: int, body: Frame, buffers: RecycledBuffers) -> None:
        """Open the outputs of `attempt` as they come, into `buffers`.

        Raises an `EnclaveError` for an announcement of something else than this job's outputs.
        """
        self.collector.announce(attempt, announced_outputs(self.request, attempt, body, buffers))

    def take_output(self, attempt: int, index: int, segment: Frame) -> int:
        """Take an output segment; return the credit that is to be granted for more.

        Raises `RemoteProtocolError` for a segment that is not the next.
        """
        self.collector.add(attempt, index, segment)
        received = self.collector.bytes_received
        self.job.progress = evolve(self.job.progress, bytes_received=received)
        self.owed += 1
        if self.owed < OUTPUT_WINDOW // 2:
            return 0
        grant, self.owed = self.owed, 0
        return grant

    def start_over(self) -> None:
        """Forget the segments of a result that was rejected; another worker sends its own."""
        self.collector = Collector.of(self.request)
        self.owed = 0
        self.rejections += 1

    def count_sent(self) -> None:
        """Tell the job how much of it is sealed and sent."""
        record = self.request.record
        part = self.request.segments_sealed / max(1, record.input_segments)
        self.job.progress = evolve(self.job.progress, bytes_sent=int(record.input_bytes * part))
