"""Control bodies: what clients and workers tell the coordinator in clear, and what it answers.

Nothing here is believed by a client or a worker: it routes, lists and refuses.
"""

from enum import StrEnum
from typing import Final

from attrs import frozen

from attestation import limits
from attestation.encoding.record import (
    Record,
    array,
    boolean,
    item,
    octets,
    record,
    row,
    text,
    uint,
    word,
)
from attestation.identifiers import DIGEST_BYTES, SHORT_ID_BYTES, Digest, JobId, WorkerId

ED25519_KEY_BYTES: Final = 32
ED25519_SIGNATURE_BYTES: Final = 64
WRAP_BYTES: Final = 256
UINT32: Final = (1 << 32) - 1


class RefusalCode(StrEnum):
    """Why a message or job was refused. Stable: programs match these."""

    MALFORMED = "malformed"
    NOT_WELCOME = "not-welcome"
    BAD_PROOF = "bad-proof"
    NO_SUCH_WORKER = "no-such-worker"
    NO_SUCH_JOB = "no-such-job"
    NO_ELIGIBLE_WORKER = "no-eligible-worker"
    NOT_OWNER = "not-owner"
    DUPLICATE_JOB = "duplicate-job"
    QUEUE_FULL = "queue-full"
    SPOOL_FULL = "spool-full"
    TOO_LARGE = "too-large"
    DEADLINE_PASSED = "deadline-passed"
    ATTEMPTS_EXHAUSTED = "attempts-exhausted"
    CANCELLED = "cancelled"
    DRAINING = "draining"
    NO_CREDIT = "no-credit"
    UNKNOWN_KEYSET = "unknown-keyset"
    UNKNOWN_SESSION = "unknown-session"
    REPLAYED = "replayed"
    SIGNATURE_INVALID = "signature-invalid"
    NOT_AUTHENTIC = "not-authentic"
    PROGRAM_INVALID = "program-invalid"
    WORKER_LIMIT = "worker-limit"
    KERNEL_FAILED = "kernel-failed"
    EXPIRED = "expired"
    INTERNAL = "internal"


@frozen(kw_only=True)
class Refusal(Record):
    """A stable code and one sentence for people; never plaintext."""

    code: RefusalCode = item(word(RefusalCode))
    detail: str = item(text(400), default="")


@frozen(kw_only=True)
class ClientHello(Record):
    """A client's Ed25519 public key, 32 bytes."""

    client_key: bytes = item(octets(exactly=ED25519_KEY_BYTES))


@frozen(kw_only=True)
class HelloChallenge(Record):
    """The coordinator's nonce, which the client signs."""

    nonce: bytes = item(octets(exactly=limits.NONCE_BYTES))


@frozen(kw_only=True)
class ClientProof(Record):
    """Ed25519 over `prefix(CLIENT_HELLO) ‖ the coordinator's CURVE key (32 or 0 bytes) ‖ nonce`.

    Keeps clients apart at an honest coordinator, and a dishonest one from posing at another.
    """

    signature: bytes = item(octets(exactly=ED25519_SIGNATURE_BYTES))


@frozen(kw_only=True)
class ClientWelcome(Record):
    """The id under which workers can answer this connection, and the limits that apply to it."""

    peer_id: bytes = item(octets(exactly=SHORT_ID_BYTES))
    max_job_bytes: int = item(uint())


@frozen(kw_only=True)
class WorkerDescription(Record):
    """What a worker says of itself, for routing and for people. Evidence decides what is believed.

    `backend` is `numpy` or `cupy`, `device` a name such as `cpu` or the GPU's product name;
    `capacity` is the number of jobs it runs at once, `max_job_bytes` the largest sum of input and
    output bytes of one job, `price` is in micro-units per second of device time.
    """

    backend: str = item(text())
    device: str = item(text(200))
    evidence_kind: str = item(text())
    catalogue_digest: Digest = item(octets(exactly=DIGEST_BYTES))
    capacity: int = item(uint(4096))
    max_job_bytes: int = item(uint())
    price: int = item(uint(), default=0)
    region: str = item(text(), default="")


@frozen(kw_only=True)
class WorkerHello(Record):
    """A worker joins.

    `instance` is random and known to the coordinator alone: it lets this worker, and nobody else,
    take its place again after a broken connection.
    """

    instance: bytes = item(octets(exactly=SHORT_ID_BYTES), secret=True)
    description: WorkerDescription = item(record(WorkerDescription))


@frozen(kw_only=True)
class WorkerWelcome(Record):
    """The id clients will know the worker by, and the rhythm it must keep, in milliseconds."""

    worker_id: WorkerId = item(octets(exactly=SHORT_ID_BYTES))
    heartbeat_ms: int = item(uint(600_000))
    lease_ms: int = item(uint(3_600_000))


@frozen(kw_only=True)
class Heartbeat(Record):
    """The (job, attempt) pairs a worker still holds; each renews its lease."""

    running: tuple[tuple[JobId, int], ...] = item(
        array(row(octets(exactly=SHORT_ID_BYTES), uint(UINT32)), limit=4096), default=()
    )


@frozen(kw_only=True)
class SubmitRecord(Record):
    """What the coordinator must know to admit, store and place a job. All of it is in clear.

    `segment_bytes` is the plaintext of a full segment (its ciphertext is 32 bytes longer);
    `input_bytes` and `output_bytes_max` count sealed bytes; `deadline_ms` is Unix time, after which
    the job is refused rather than run; `price_limit` 0 means any price; `wraps` holds the wrapped
    content key for every eligible worker.
    """

    VERSION = 1

    program_digest: Digest = item(octets(exactly=DIGEST_BYTES))
    catalogue_digest: Digest = item(octets(exactly=DIGEST_BYTES))
    durable: bool = item(boolean())
    segment_bytes: int = item(uint(limits.SEGMENT_BYTES_MAX))
    input_segments: int = item(uint(UINT32))
    input_bytes: int = item(uint())
    output_bytes_max: int = item(uint())
    deadline_ms: int = item(uint())
    price_limit: int = item(uint())
    wraps: tuple[tuple[WorkerId, bytes], ...] = item(
        array(row(octets(exactly=SHORT_ID_BYTES), octets(limit=WRAP_BYTES)), limit=1024),
        secret=True,
    )


@frozen(kw_only=True)
class WorkerEntry(Record):
    """One line of the worker listing; `state` is `ready` or `draining`."""

    worker_id: WorkerId = item(octets(exactly=SHORT_ID_BYTES))
    state: str = item(text())
    running: int = item(uint())
    description: WorkerDescription = item(record(WorkerDescription))


@frozen(kw_only=True)
class WorkerListing(Record):
    """The workers a coordinator says it has."""

    workers: tuple[WorkerEntry, ...] = item(array(record(WorkerEntry), limit=1000))


@frozen(kw_only=True)
class JobEntry(Record):
    """One line of the job listing: what the coordinator knows, which never includes "verified"."""

    job_id: JobId = item(octets(exactly=SHORT_ID_BYTES))
    state: str = item(text())
    attempt: int = item(uint(UINT32))
    durable: bool = item(boolean())
    input_bytes: int = item(uint())
    submitted_ms: int = item(uint())


@frozen(kw_only=True)
class JobListing(Record):
    """The asking client's own jobs."""

    jobs: tuple[JobEntry, ...] = item(array(record(JobEntry), limit=1000))
