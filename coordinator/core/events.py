"""What can happen to the coordinator."""

from typing import TypeAlias

from attrs import field, frozen

from attestation.identifiers import JobId, WorkerId
from attestation.wire.control import RefusalCode
from attestation.wire.frames import Header
from coordinator.core.instructions import (
    Payload,
    PeerKey,
    Send,
    SendInstruction,
    SpoolFile,
    StoreInstruction,
)


@frozen
class Tick:
    """Time has passed. Every other event happens at the time of the last tick."""

    now_ms: int
    """Monotonic: leases, silence and stalls."""
    unix_ms: int
    """Wall clock: deadlines, and the times in listings."""


@frozen
class Message:
    """A well-formed message other than a segment; frames are those after the header.

    Sealed segments among them may be received ZeroMQ frames, passed on without a look.
    """

    peer: PeerKey
    header: Header
    frames: tuple[bytes, ...] = field(repr=False)


@frozen
class Segment:
    """An INPUT or OUTPUT: one opaque frame."""

    peer: PeerKey
    header: Header
    payload: Payload = field(repr=False)


@frozen
class Malformed:
    """A message that is none: wrong header, kind or number of frames."""

    peer: PeerKey
    detail: str


@frozen
class PeerLost:
    """A send found nobody there, or a queue that its reader lets grow."""

    peer: PeerKey


@frozen
class Congested:
    """A spooled segment was not sent because the peer's queue is full; nothing after it went."""

    instruction: SendInstruction


@frozen
class Unforwarded:
    """An end-to-end message was not passed on: its receiver's queue holds enough of its kind."""

    instruction: Send


@frozen
class StoreFailed:
    """The disk refused it. Nothing later about the same job was carried out either."""

    instruction: StoreInstruction


@frozen
class SpoolFailed:
    """A spool file could not be written or read; nothing later about its job was done."""

    file: SpoolFile
    reading: bool = False


@frozen
class DrainRequested:
    """The operator wants to stop: no new jobs, no new dispatches."""


@frozen(kw_only=True)
class StoredJob:
    """A job as a restarted coordinator finds it. `finished` ones have a result or a refusal."""

    job_id: JobId
    owner: bytes
    record: bytes = field(repr=False)
    wraps: tuple[tuple[WorkerId, bytes], ...] = field(repr=False)
    envelope_digest: bytes
    envelope_bytes: int
    lengths: bytes
    spooled: bool
    output_window: int
    submitted_ms: int
    attempt: int
    failures: int
    worker_id: WorkerId | None
    result: "StoredResult | None"
    refusal: tuple[RefusalCode, str] | None


@frozen(kw_only=True)
class StoredResult:
    """What the core keeps in mind of a stored result."""

    attempt: int
    worker_id: WorkerId
    lengths: bytes
    spooled: bool
    count: int
    finished_ms: int
    inline_bytes: int


@frozen
class JobsRecovered:
    """The first event after a start: everything the store holds, oldest first."""

    jobs: tuple[StoredJob, ...]


Event: TypeAlias = (
    Tick
    | Message
    | Segment
    | Malformed
    | PeerLost
    | Congested
    | Unforwarded
    | StoreFailed
    | SpoolFailed
    | DrainRequested
    | JobsRecovered
)
