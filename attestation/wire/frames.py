"""The multipart message: one clear routing header of 48 bytes, then frames no relay reads.

A fixed layout rather than CBOR because the coordinator decodes one for every segment it relays
(0.3 us against 10 us); everything that is signed or stored is CBOR, further in.

    offset  bytes  field
    0       2      magic "EW"
    2       1      version, 1
    3       1      kind (`Kind`)
    4       4      attempt: the fencing token of a dispatch, 0 before the first
    8       4      index: of a segment
    12      4      count: of segments, or a grant of credit in segments
    16      16     job id, zero where the message is about no job
    32      16     peer id: the worker or client it is for or from, zero for none
"""

import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import Final, Self, TypeAlias

from attrs import frozen

from attestation import limits
from attestation.errors import DecodeError
from attestation.identifiers import JobId

Frame: TypeAlias = bytes | bytearray | memoryview

_LAYOUT: Final = struct.Struct(">2sBBIII16s16s")
_MAGIC: Final = b"EW"
_VERSION: Final = 1

HEADER_BYTES: Final = _LAYOUT.size
NO_JOB: Final = JobId(bytes(16))
NO_PEER: Final = bytes(16)


class Kind(IntEnum):
    """What a message is. The frames that follow the routing header are in docs/protocol.md."""

    REFUSED = 1
    """Anyone: `Refusal` about the job, or about the peer when there is no job."""

    CLIENT_HELLO = 10
    HELLO_CHALLENGE = 11
    CLIENT_PROOF = 12
    CLIENT_WELCOME = 13
    LIST_WORKERS = 14
    WORKERS = 15
    LIST_JOBS = 16
    JOBS = 17

    SUBMIT = 20
    """Client: `SubmitRecord`, job envelope, then either every segment or none (then INPUTs)."""
    ACCEPTED = 21
    """Coordinator: a durable job is on stable storage, or a streaming job is admitted."""
    CANCEL = 22
    RESULT_ACK = 23
    """Client: the result is verified and in the user's hands; the coordinator may forget it."""
    WRAP_WANTED = 24
    """Coordinator: `peer` joined and could run the job; wrap its key for that worker."""
    WRAP = 25
    """Client: one wrapped content key for `peer`."""
    LOST = 26
    """Coordinator: the worker of a streaming job is gone; submit it again."""
    RESULT_REJECT = 27
    """Client: the result of (job, attempt) proves nothing; let another worker run the job."""

    WORKER_HELLO = 40
    WORKER_WELCOME = 41
    HEARTBEAT = 42
    DRAINING = 43
    """Worker: takes no new jobs and leaves when the running ones are done."""
    ASSIGN = 44
    """Coordinator: job envelope, this worker's wrap, then either every segment or none."""
    REVOKE = 45
    """Coordinator: the lease of (job, attempt) is over; stop and wipe."""
    RECORDED = 46
    """Coordinator: the result of (job, attempt) is on stable storage, or delivered."""
    JOB_REFUSED = 47
    """Worker: `Refusal` of (job, attempt) before a kernel ran."""

    END_TO_END = 60
    """One frame between client and worker that the coordinator relays unread."""
    INPUT = 61
    """One sealed segment towards the worker; `index` counts over all inputs of the job."""
    INPUT_CREDIT = 62
    """The receiver of inputs can take `count` more segments."""
    OUTPUT = 63
    """One sealed segment towards the client; `index` counts over all outputs of the job."""
    OUTPUT_CREDIT = 64
    OUTPUT_HEADERS = 66
    """Worker: the result header as it will be if nothing fails, before its first OUTPUT."""
    RESULT = 65
    """Result header, receipt, then either every output segment (`count` of them) or none."""


@frozen
class Header:
    """One routing header. Positional, because the relay makes one per message."""

    kind: Kind
    job_id: JobId = NO_JOB
    attempt: int = 0
    index: int = 0
    count: int = 0
    peer: bytes = NO_PEER

    def to_bytes(self) -> bytes:
        """Return the 48 bytes."""
        return _LAYOUT.pack(
            _MAGIC,
            _VERSION,
            self.kind,
            self.attempt,
            self.index,
            self.count,
            self.job_id,
            self.peer,
        )

    @classmethod
    def from_bytes(cls, data: Frame) -> Self:
        """Parse 48 bytes; raises `DecodeError` for anything else, unknown kinds included."""
        if len(data) != HEADER_BYTES:
            raise DecodeError(f"a routing header of {len(data)} bytes")
        magic, version, kind, attempt, index, count, job_id, peer = _LAYOUT.unpack(data)
        if magic != _MAGIC or version != _VERSION:
            raise DecodeError("not a message of this protocol version")
        known = _KINDS.get(kind)
        if known is None:
            raise DecodeError(f"unknown message kind {kind}")
        return cls(known, JobId(job_id), attempt, index, count, peer)


_KINDS: Final = {int(kind): kind for kind in Kind}


def check_message(frames: Sequence[Frame]) -> Header:
    """Check every frame of one message (routing id removed) and return its header.

    Raises `DecodeError` before any state can change.
    """
    if not 1 <= len(frames) <= limits.FRAMES_PER_MESSAGE:
        raise DecodeError(f"a message of {len(frames)} frames")
    for frame in frames:
        if len(frame) > limits.FRAME_BYTES:
            raise DecodeError("a frame is too large")
    return Header.from_bytes(frames[0])
