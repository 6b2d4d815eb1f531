"""What client and worker say to each other past the coordinator: opaque to it.

Neither side believes a word of it before verifying. `parse` reads a session message by its `type`;
the job's own records are read by class, since their place in a message says what they are.
"""

from collections.abc import Mapping
from typing import Final, TypeAlias

from attrs import frozen

from attestation import limits
from attestation.encoding import cbor
from attestation.encoding.digests import Label, digest
from attestation.encoding.record import Record, array, boolean, item, octets, row, text, uint, word
from attestation.errors import DecodeError
from attestation.identifiers import (
    DIGEST_BYTES,
    SHORT_ID_BYTES,
    Digest,
    JobId,
    KeySetId,
    SessionId,
)
from attestation.wire.control import ED25519_KEY_BYTES, ED25519_SIGNATURE_BYTES, RefusalCode

HPKE_BYTES: Final = 4096
SEALED_HEADER_BYTES: Final = 4096

_MESSAGE_BYTES: Final = limits.EVIDENCE_BYTES + limits.CATALOGUE_BYTES + 64 * limits.KIB


@frozen(kw_only=True)
class Challenge(Record):
    """Client to worker (step 2): 32 random bytes that the Evidence must answer."""

    TYPE = "challenge"

    nonce: bytes = item(octets(exactly=limits.NONCE_BYTES))


@frozen(kw_only=True)
class AttestationReply(Record):
    """Worker to client (step 3): the evidence bundle, this nonce's Merkle path, the catalogue."""

    TYPE = "attestation"
    LIMIT = _MESSAGE_BYTES

    bundle: bytes = item(octets(limit=limits.EVIDENCE_BYTES), secret=True)
    leaf_index: int = item(uint())
    tree_size: int = item(uint())
    path: tuple[bytes, ...] = item(
        array(octets(exactly=DIGEST_BYTES), limit=limits.MERKLE_PATH), secret=True
    )
    catalogue: bytes = item(octets(limit=limits.CATALOGUE_BYTES), secret=True)


@frozen(kw_only=True)
class SessionOpen(Record):
    """Client to worker (step 5): the session secret sealed to the attested key.

    `enc` is the HPKE ciphertext (encapsulated key, then the sealed 32-byte secret); `signature` is
    the client's Ed25519 over `prefix(SESSION_OPEN) ‖ transcript digest ‖ enc`.
    """

    TYPE = "session-open"

    session_id: SessionId = item(octets(exactly=SHORT_ID_BYTES))
    keyset_id: KeySetId = item(octets(exactly=DIGEST_BYTES))
    client_key: bytes = item(octets(exactly=ED25519_KEY_BYTES))
    policy_digest: Digest = item(octets(exactly=DIGEST_BYTES))
    enc: bytes = item(octets(limit=HPKE_BYTES), secret=True)
    signature: bytes = item(octets(exactly=ED25519_SIGNATURE_BYTES), secret=True)


@frozen(kw_only=True)
class SessionAccepted(Record):
    """Worker to client: proof that it holds the session secret (HMAC under the confirm key)."""

    TYPE = "session-accepted"

    session_id: SessionId = item(octets(exactly=SHORT_ID_BYTES))
    confirmation: bytes = item(octets(exactly=DIGEST_BYTES), secret=True)


@frozen(kw_only=True)
class SessionRefused(Record):
    """Worker to client: no session, and why. `subject` is the refused nonce or session id."""

    TYPE = "session-refused"

    subject: bytes = item(octets(limit=DIGEST_BYTES))
    code: RefusalCode = item(word(RefusalCode))


Message: TypeAlias = Challenge | AttestationReply | SessionOpen | SessionAccepted | SessionRefused

_MESSAGES: Final[Mapping[str, type[Message]]] = {
    kind.TYPE: kind
    for kind in (Challenge, AttestationReply, SessionOpen, SessionAccepted, SessionRefused)
}


def parse(data: bytes | memoryview) -> Message:
    """Parse any session message, or raise `DecodeError`."""
    value = cbor.decode(data, limit=_MESSAGE_BYTES)
    kind = _MESSAGES.get(str(value.get("type"))) if isinstance(value, dict) else None
    if kind is None:
        raise DecodeError("unknown session message")
    return kind.from_map(value)


@frozen(kw_only=True)
class JobHeader(Record):
    """What the client signs (step 6): in clear, who asks for which program over which tensors.

    The program's parameters are not here but in the sealed body; `parameters_commitment` binds
    them, and `content_key_commitment` is compared before anything is opened. `commitment_kind` says
    how the receipt commits to inputs and outputs: `tags` or `sha256`. `inputs` are sealed tensor
    headers in the order their segments travel. A worker refuses the job after `not_after_ms`
    (Unix milliseconds) or at a price above `price_limit` (0: any). With `items` above 0 every input
    is a stack of so many, and the program runs on each of them (`programs.stacking`). A
    `deterministic` job is refused unless every kernel promises the same bits again.
    """

    VERSION = 1
    LIMIT = limits.JOB_ENVELOPE_BYTES

    job_id: JobId = item(octets(exactly=SHORT_ID_BYTES))
    client_key: bytes = item(octets(exactly=ED25519_KEY_BYTES))
    program_digest: Digest = item(octets(exactly=DIGEST_BYTES))
    catalogue_digest: Digest = item(octets(exactly=DIGEST_BYTES))
    parameters_commitment: Digest = item(octets(exactly=DIGEST_BYTES))
    content_key_commitment: Digest = item(octets(exactly=DIGEST_BYTES))
    commitment_kind: str = item(text())
    inputs: tuple[bytes, ...] = item(
        array(octets(limit=SEALED_HEADER_BYTES), limit=limits.TENSORS_PER_JOB)
    )
    segment_bytes: int = item(uint(limits.SEGMENT_BYTES_MAX))
    not_after_ms: int = item(uint())
    price_limit: int = item(uint())
    items: int = item(uint(limits.ITEMS_PER_JOB), default=0)
    deterministic: bool = item(boolean(), default=False)

    def digest(self) -> Digest:
        """Return the request digest that wraps, the sealed body and the receipt are bound to."""
        return digest(Label.JOB_HEADER, self.to_bytes())


@frozen(kw_only=True)
class JobEnvelope(Record):
    """One opaque frame towards the worker.

    `header` is a canonical `JobHeader`, kept as the bytes that were signed; `signature` is a
    `SignedLeaf` (receipts.signed_batch) over them under `Label.JOB_SIGNATURE`; `body` is a
    `JobBody` sealed under the content key.
    """

    LIMIT = limits.JOB_ENVELOPE_BYTES

    header: bytes = item(octets(limit=limits.JOB_ENVELOPE_BYTES))
    signature: bytes = item(octets(limit=limits.RECEIPT_BYTES), secret=True)
    body: bytes = item(octets(limit=limits.JOB_ENVELOPE_BYTES), secret=True)


@frozen(kw_only=True)
class JobBody(Record):
    """The confidential half of a request: the program, its parameters, the commitment's salt."""

    LIMIT = 2 * limits.PROGRAM_BYTES + limits.KIB

    program: bytes = item(octets(limit=limits.PROGRAM_BYTES), secret=True)
    parameters: bytes = item(octets(limit=limits.PROGRAM_BYTES), secret=True)
    salt: bytes = item(octets(exactly=32), secret=True)

    def commitment(self) -> Digest:
        """Return the salted commitment to the parameters: opening it takes the salt."""
        return digest(Label.PARAMETERS, self.salt + self.parameters)


@frozen(kw_only=True)
class ResultHeader(Record):
    """What a worker returns before the segments: sealed output headers, or a failure's code.

    `code` is empty when the program ran. It is never a message: that could hold plaintext. For a
    stack, `failures` says which items failed, by ascending number, and each one's code; their part
    of the outputs is zero.
    """

    VERSION = 1

    code: str = item(text())
    outputs: tuple[bytes, ...] = item(
        array(octets(limit=SEALED_HEADER_BYTES), limit=limits.TENSORS_PER_JOB)
    )
    failures: tuple[tuple[int, str], ...] = item(
        array(row(uint(limits.ITEMS_PER_JOB), text()), limit=limits.ITEMS_PER_JOB), default=()
    )

    def digest(self) -> Digest:
        """Return the result digest that the receipt carries."""
        return digest(Label.RESULT, self.to_bytes())
