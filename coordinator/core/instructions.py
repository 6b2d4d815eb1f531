"""What the core tells the broker to do. The broker decides nothing.

Spool writes happen at once, in order; then the store instructions of many events in one
transaction; after its commit the sends. When one fails, nothing later about its job happens.
"""

from collections.abc import Sized
from typing import Final, TypeAlias

from attrs import field, frozen

from attestation.identifiers import JobId, WorkerId
from attestation.wire.control import RefusalCode
from attestation.wire.frames import Header

PeerKey: TypeAlias = tuple[bytes, bytes]
"""(CURVE public key or empty, routing id assigned by our ROUTER)."""

Payload: TypeAlias = Sized
"""Bytes, or a received ZeroMQ frame that the core passes on without a look."""


@frozen
class SpoolFile:
    """A file of segments: the inputs of a job (attempt 0), or the outputs of one attempt."""

    job_id: JobId
    attempt: int = 0


@frozen
class Send:
    """Send a message whose frames are in memory."""

    peer: PeerKey
    header: Header
    frames: tuple[Payload, ...] = ()


@frozen(kw_only=True)
class SendSpooled:
    """Send one segment that lies in the spool."""

    peer: PeerKey
    header: Header
    file: SpoolFile
    offset: int
    length: int


@frozen(kw_only=True)
class SendStoredAssign:
    """Send an ASSIGN whose envelope (and inline segments) lie in the store."""

    peer: PeerKey
    header: Header
    wrap: bytes = field(repr=False)


@frozen(kw_only=True)
class SendStoredResult:
    """Send a RESULT whose header, receipt (and inline segments) lie in the store."""

    peer: PeerKey
    header: Header


@frozen(kw_only=True)
class StoreJob:
    """Insert an accepted durable job."""

    job_id: JobId
    owner: bytes
    record: bytes = field(repr=False)
    envelope: bytes = field(repr=False)
    segments: tuple[bytes, ...] = field(repr=False)
    lengths: bytes
    spooled: bool
    output_window: int
    submitted_ms: int


@frozen(kw_only=True)
class StoreWrap:
    """Keep one more wrapped key of a job."""

    job_id: JobId
    worker_id: WorkerId
    wrap: bytes = field(repr=False)


@frozen(kw_only=True)
class StoreLease:
    """Keep owner and attempt before the worker can hear of them: the fence survives a crash."""

    job_id: JobId
    attempt: int
    failures: int
    worker_id: WorkerId


@frozen(kw_only=True)
class StoreResult:
    """Insert result and receipt and finish the job, if its attempt is still the one stored."""

    job_id: JobId
    attempt: int
    worker_id: WorkerId
    header: bytes = field(repr=False)
    receipt: bytes = field(repr=False)
    segments: tuple[bytes, ...] = field(repr=False)
    lengths: bytes
    spooled: bool
    count: int
    finished_ms: int


@frozen(kw_only=True)
class StoreRejection:
    """Drop the result that the client rejected; the job has failed `failures` times."""

    job_id: JobId
    failures: int


@frozen(kw_only=True)
class StoreRefusal:
    """Keep the refusal of an accepted job until its client comes back to hear it."""

    job_id: JobId
    code: RefusalCode
    detail: str
    finished_ms: int


@frozen(kw_only=True)
class DeleteJob:
    """Forget a job: its row, wraps and result."""

    job_id: JobId


@frozen
class SpoolAppend:
    """Append one segment to a file, made on first use."""

    file: SpoolFile
    payload: Payload = field(repr=False)


@frozen
class SpoolSeal:
    """Put a file and its name on stable storage."""

    file: SpoolFile


@frozen
class SpoolDelete:
    """Remove a file if it is there, after the commit."""

    file: SpoolFile


@frozen(kw_only=True)
class Note:
    """Write a log event; `fields` hold ids, sizes and codes."""

    event: str
    level: str = "info"
    fields: dict[str, object] = field(factory=dict)


MUST_BE_STORED: Final = (StoreJob, StoreLease, StoreResult)
"""When one of these fails, nothing that is said about its job in the same turn may leave."""

StoreInstruction: TypeAlias = (
    StoreJob | StoreWrap | StoreLease | StoreResult | StoreRejection | StoreRefusal | DeleteJob
)
STORED: Final = (
    StoreJob,
    StoreWrap,
    StoreLease,
    StoreResult,
    StoreRejection,
    StoreRefusal,
    DeleteJob,
)
"""Every instruction that the turn's transaction carries out."""

SpoolInstruction: TypeAlias = SpoolAppend | SpoolSeal | SpoolDelete
SendInstruction: TypeAlias = Send | SendSpooled | SendStoredAssign | SendStoredResult
Instruction: TypeAlias = StoreInstruction | SpoolInstruction | SendInstruction | Note
