"""The job machine: its states, its transition table, and what the coordinator knows of one job.

A durable job leaves `done` only by its client's word: acknowledged, it is over; rejected, since
what came proves nothing, it waits for another worker. The table has no other entry, `Job.apply`
refuses what the table does not have, and the model in tests/properties explores the interleavings.
`RecordingFailed` is no exception: it says that the
transaction that would have made the job done did not happen.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from attrs import define, field

from attestation import limits
from attestation.errors import LocalProtocolError
from attestation.identifiers import JobId, WorkerId
from attestation.wire.control import RefusalCode, SubmitRecord
from coordinator.core.budget import Key
from coordinator.core.instructions import Payload, PeerKey, SpoolFile
from coordinator.core.lengths import Cursor, SegmentLengths


class State(StrEnum):
    """Where a job is. Streaming jobs have their own states: they are never on disk."""

    RECEIVING = "receiving"
    QUEUED = "queued"
    LEASED = "leased"
    DONE = "done"
    REFUSED = "refused"
    """A durable job that ended while its client was away."""
    STREAM_QUEUED = "streaming-queued"
    STREAM_LEASED = "streaming-leased"
    STREAM_DELIVERED = "streaming-delivered"
    FINISHED = "finished"


class JobEvent:
    """Root of what can happen to one job."""


class InputsStored(JobEvent):
    """Every input segment of a durable job arrived."""


class Assigned(JobEvent):
    """A worker holds the lease of a new attempt."""


class Declined(JobEvent):
    """The worker refused before a kernel ran."""


class LeaseLost(JobEvent):
    """The worker is gone, silent, or broke the protocol."""


class ResultAccepted(JobEvent):
    """Lease, attempt and owner matched."""


class RecordingFailed(JobEvent):
    """The disk refused the result that was accepted a moment ago."""


class ResultRejected(JobEvent):
    """The client could not verify the result: its worker, or somebody on the way, lied."""


class Acknowledged(JobEvent):
    """The client has the result."""


class Refused(JobEvent):
    """The job ends without a result and its client is here to hear it."""


class RefusedUnheard(JobEvent):
    """The same, and its client is away."""


TRANSITIONS: Final[Mapping[tuple[State, type[JobEvent]], State]] = {
    (State.RECEIVING, InputsStored): State.QUEUED,
    (State.RECEIVING, Refused): State.FINISHED,
    (State.QUEUED, Assigned): State.LEASED,
    (State.QUEUED, Refused): State.FINISHED,
    (State.QUEUED, RefusedUnheard): State.REFUSED,
    (State.LEASED, Declined): State.QUEUED,
    (State.LEASED, LeaseLost): State.QUEUED,
    (State.LEASED, ResultAccepted): State.DONE,
    (State.LEASED, Refused): State.FINISHED,
    (State.LEASED, RefusedUnheard): State.REFUSED,
    (State.DONE, RecordingFailed): State.QUEUED,
    (State.DONE, ResultRejected): State.QUEUED,
    (State.DONE, Acknowledged): State.FINISHED,
    (State.REFUSED, Acknowledged): State.FINISHED,
    (State.STREAM_QUEUED, Assigned): State.STREAM_LEASED,
    (State.STREAM_QUEUED, Refused): State.FINISHED,
    (State.STREAM_LEASED, Declined): State.STREAM_QUEUED,
    (State.STREAM_LEASED, LeaseLost): State.FINISHED,
    (State.STREAM_LEASED, Refused): State.FINISHED,
    (State.STREAM_LEASED, ResultAccepted): State.STREAM_DELIVERED,
    (State.STREAM_DELIVERED, Acknowledged): State.FINISHED,
}

WAITING: Final = frozenset({State.QUEUED, State.STREAM_QUEUED})
RUNNING: Final = frozenset({State.LEASED, State.STREAM_LEASED})


@define(kw_only=True, eq=False)
class Upload:
    """Inputs of a durable job on their way into the spool."""

    window: int
    granted: int = 0
    received: int = 0
    progress_ms: int = 0


@define(kw_only=True, eq=False)
class Attempt:
    """One lease, and the segments that flow under it.

    Counts are totals: `in_sent <= in_granted` is credit from the worker, `out_relayed <=
    out_granted` is credit to it; on a streaming job `in_asked` is credit to the client.
    """

    worker_id: WorkerId
    number: int
    window: int
    expires_ms: int
    progress_ms: int
    since_ms: int = 0
    in_granted: int = 0
    in_asked: int = 0
    in_sent: int = 0
    in_bytes: int = 0
    in_cursor: Cursor | None = None
    announced: bool = False
    """Whether the headers of its outputs came."""
    out_granted: int = 0
    out_relayed: int = 0
    out_lengths: SegmentLengths = field(factory=SegmentLengths)

    @property
    def moved(self) -> bool:
        """Whether segments travelled or may, so that nobody else can continue where this stands."""
        return self.in_sent > 0 or self.in_asked > 0 or self.out_relayed > 0


@define(kw_only=True, eq=False)
class Delivery:
    """A stored result on its way to one connection; `started` once its memory is reserved."""

    peer: PeerKey
    window: int
    cursor: Cursor
    started: bool = False
    finished: bool = False
    progress_ms: int = 0


@define(kw_only=True, eq=False)
class Result:
    """What is kept in mind of a recorded result; its bytes are in the store and the spool."""

    attempt: int
    worker_id: WorkerId
    count: int
    lengths: SegmentLengths
    spooled: bool
    inline_bytes: int


@define(kw_only=True, eq=False)
class Job:
    """Everything the core knows about one job."""

    job_id: JobId
    owner: bytes
    account: bytes
    """Whose share it takes (see `quota`)."""
    record: SubmitRecord
    envelope_digest: bytes
    envelope_bytes: int
    inline: bool
    wraps: dict[WorkerId, bytes] = field(repr=False)
    state: State
    sequence: int
    submitted_ms: int
    output_window: int
    index_bytes: int = 0
    disk_bytes: int = 0
    lengths: SegmentLengths = field(factory=SegmentLengths)
    peer: PeerKey | None = None
    attempt_number: int = 0
    failures: int = 0
    declined_by: set[WorkerId] = field(factory=set)
    lost_by: dict[WorkerId, int] = field(factory=dict)
    """Workers under whose lease an attempt failed, and until when they do not get it again while
    another that is here could have it."""
    asked: set[WorkerId] = field(factory=set)
    body: tuple[Payload, ...] | None = field(default=None, repr=False)
    client_credit: int = 0
    stream_done_ms: int = 0
    upload: Upload | None = None
    attempt: Attempt | None = None
    delivery: Delivery | None = None
    result: Result | None = None
    refusal: tuple[RefusalCode, str] | None = None

    def apply(self, event: type[JobEvent]) -> None:
        """Take one step of the table, or raise `LocalProtocolError`."""
        after = TRANSITIONS.get((self.state, event))
        if after is None:
            raise LocalProtocolError(f"a {self.state} job cannot take {event.__name__}")
        self.state = after

    @property
    def durable(self) -> bool:
        """Whether the job survives us."""
        return self.record.durable

    @property
    def small_output(self) -> bool:
        """Whether the outputs fit into the RESULT message."""
        return self.record.output_bytes_max <= limits.INLINE_BYTES

    @property
    def total_bytes(self) -> int:
        """Sealed inputs and promised outputs, which a worker's limit is compared with."""
        return self.record.input_bytes + self.record.output_bytes_max

    @property
    def input_file(self) -> SpoolFile:
        """Where spooled inputs lie."""
        return SpoolFile(self.job_id)

    def output_file(self, attempt: int) -> SpoolFile:
        """Where spooled outputs of an attempt lie."""
        return SpoolFile(self.job_id, attempt)


def upload_lane(job_id: JobId) -> Key:
    """Return the budget key of a job's upload."""
    return ("upload", job_id)


def body_hold(job_id: JobId) -> Key:
    """Return the budget key of a job's body in memory."""
    return ("body", job_id)


def run_lane(job_id: JobId) -> Key:
    """Return the budget key of a job's current attempt."""
    return ("run", job_id)


def delivery_lane(job_id: JobId) -> Key:
    """Return the budget key of a job's delivery."""
    return ("delivery", job_id)
