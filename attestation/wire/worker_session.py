"""The worker's side of one session: one client's challenge under one key set (docs/protocol.md).

    CHALLENGED --AttestationReply--> ATTESTED --SessionOpen--> OPEN --close--> CLOSED

Each message is taken once. A second `SessionOpen` is refused even when it is the same bytes: a
session secret that could be opened twice would let a relay run two sessions for one client.
"""

from collections.abc import Callable
from enum import StrEnum
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from attestation.encoding.digests import Label, prefix
from attestation.errors import LocalProtocolError, RemoteProtocolError, SignatureInvalidError
from attestation.identifiers import Digest, KeySetId, SessionId
from attestation.sealing.session_keys import SessionKeys, Transcript
from attestation.wire.messages import AttestationReply, SessionAccepted, SessionOpen
from attestation.wire.transitions import Machine, Table


class State(StrEnum):
    """Where a worker's session stands."""

    CHALLENGED = "challenged"
    ATTESTED = "attested"
    OPEN = "open"
    CLOSED = "closed"
    FAILED = "failed"


class Closed:
    """The event of a session's end: its key set expired, or its client left."""


TRANSITIONS: Final[Table[State]] = {
    (State.CHALLENGED, AttestationReply): State.ATTESTED,
    (State.ATTESTED, SessionOpen): State.OPEN,
    (State.CHALLENGED, Closed): State.CLOSED,
    (State.ATTESTED, Closed): State.CLOSED,
    (State.OPEN, Closed): State.CLOSED,
}


class WorkerSession:
    """One client's session, from its nonce to its keys. Any error leaves it `FAILED`."""

    def __init__(self, *, nonce: bytes) -> None:
        """Begin with the client's 32-byte challenge."""
        self._machine: Machine[State] = Machine(
            TRANSITIONS, start=State.CHALLENGED, failed=State.FAILED
        )
        self._nonce = nonce
        self._keyset_id: KeySetId | None = None
        self._evidence_digest: Digest | None = None
        self._open: SessionOpen | None = None
        self._keys: SessionKeys | None = None

    def __repr__(self) -> str:
        return f"WorkerSession({self.state})"

    @property
    def state(self) -> State:
        """Where the session stands."""
        return self._machine.state

    @property
    def nonce(self) -> bytes:
        """The client's challenge."""
        return self._nonce

    def attest(self, reply: AttestationReply, *, keyset_id: KeySetId, evidence: Digest) -> None:
        """Record that `reply` answers the challenge with this key set and evidence digest."""
        with self._machine.ours(type(reply)):
            self._keyset_id = keyset_id
            self._evidence_digest = evidence

    def receive_open(
        self, message: SessionOpen, *, open_keys: Callable[[bytes, Transcript], SessionKeys]
    ) -> SessionAccepted:
        """Check the client's signature, open the secret, and return the worker's confirmation.

        `open_keys(enc, transcript)` is the key store's handle. Raises
        `SignatureInvalidError`, what `open_keys` raises, and `RemoteProtocolError` for a message
        that this state does not allow or that names another key set.
        """
        with self._machine.theirs(type(message)):
            if message.keyset_id != self._keyset_id:
                raise RemoteProtocolError("the session is for another key set")
            transcript = self._transcript(message)
            self._check_signature(message, transcript)
            keys = open_keys(message.enc, transcript)
            self._open, self._keys = message, keys
            return SessionAccepted(session_id=message.session_id, confirmation=keys.confirmation())

    @property
    def keys(self) -> SessionKeys:
        """The session's keys, once it is open; `LocalProtocolError` before and after."""
        self._machine.require(State.OPEN)
        if self._keys is None:
            raise LocalProtocolError("an open session has keys")
        return self._keys

    @property
    def client_key(self) -> bytes:
        """The Ed25519 key that signed the opening and must sign every job of the session."""
        return self._opened().client_key

    @property
    def session_id(self) -> SessionId:
        """The id that the client drew, which its wraps name."""
        return self._opened().session_id

    @property
    def keyset_id(self) -> KeySetId:
        """The attested key set the session lives and dies with."""
        return self._opened().keyset_id

    @property
    def evidence_digest(self) -> Digest:
        """The evidence that vouches for the key set."""
        if self._evidence_digest is None:
            raise LocalProtocolError("the session is not attested")
        return self._evidence_digest

    def close(self) -> None:
        """End the session and forget its keys."""
        with self._machine.ours(Closed):
            self._keys = None

    def fail(self) -> None:
        """Give the session up and forget its keys."""
        self._machine.fail()
        self._keys = None

    def _opened(self) -> SessionOpen:
        self._machine.require(State.OPEN)
        if self._open is None:
            raise LocalProtocolError("an open session has been opened by a message")
        return self._open

    def _transcript(self, message: SessionOpen) -> Transcript:
        return Transcript(
            keyset_id=message.keyset_id,
            evidence_digest=self.evidence_digest,
            policy_digest=message.policy_digest,
            client_key=message.client_key,
            session_id=message.session_id,
            nonce=self._nonce,
        )

    @staticmethod
    def _check_signature(message: SessionOpen, transcript: Transcript) -> None:
        signed = prefix(Label.SESSION_OPEN) + transcript.digest() + message.enc
        try:
            Ed25519PublicKey.from_public_bytes(message.client_key).verify(message.signature, signed)
        except (InvalidSignature, ValueError) as error:
            raise SignatureInvalidError("the client did not sign this session") from error
