"""The client's side of one session with one worker (docs/protocol.md, steps 2 to 5).

    IDLE --Challenge--> CHALLENGED --AttestationReply--> TRUSTED
         --SessionOpen--> OPENING --SessionAccepted--> READY

Without sockets, clocks or randomness: the nonce, the session id and the time are arguments. A
message that the state does not allow, evidence that the policy does not accept and a confirmation
that does not verify each leave the session `FAILED`, and a failed session wraps no key.
"""

from collections.abc import Callable
from datetime import datetime
from enum import StrEnum
from typing import Final

from attrs import frozen

from attestation.appraisal.result import AttestationResult
from attestation.appraisal.verifier import appraise
from attestation.encoding.digests import Label, prefix
from attestation.endorsements.collateral import NO_COLLATERAL, Collateral
from attestation.errors import LocalProtocolError, RemoteProtocolError, VerificationError
from attestation.evidence.bundle import EvidenceBundle, EvidenceRecord
from attestation.evidence.keyset import KeySet
from attestation.identifiers import Digest, KeySetId, SessionId
from attestation.policy.policy import Policy
from attestation.programs.catalogue import Catalogue
from attestation.sealing.content_key import ContentKey
from attestation.sealing.envelope import seal_session
from attestation.sealing.session_keys import SessionKeys, Transcript
from attestation.wire.control import RefusalCode
from attestation.wire.messages import (
    AttestationReply,
    Challenge,
    SessionAccepted,
    SessionOpen,
    SessionRefused,
)
from attestation.wire.transitions import Machine, Table


class State(StrEnum):
    """Where a client's session stands."""

    IDLE = "idle"
    CHALLENGED = "challenged"
    TRUSTED = "trusted"
    OPENING = "opening"
    READY = "ready"
    FAILED = "failed"


TRANSITIONS: Final[Table[State]] = {
    (State.IDLE, Challenge): State.CHALLENGED,
    (State.CHALLENGED, AttestationReply): State.TRUSTED,
    (State.CHALLENGED, SessionRefused): State.FAILED,
    (State.TRUSTED, SessionOpen): State.OPENING,
    (State.OPENING, SessionAccepted): State.READY,
    (State.OPENING, SessionRefused): State.FAILED,
}


class CatalogueMismatchError(VerificationError):
    """The worker sent another kernel catalogue than the one its evidence vouches for."""

    code = "catalogue-mismatch"


@frozen(kw_only=True)
class AcceptedWorker:
    """What an accepted appraisal says of a worker: enough to judge its receipts, now and later."""

    result: AttestationResult
    keyset: KeySet
    keyset_id: KeySetId
    catalogue: Catalogue
    record: EvidenceRecord


class ClientSession:
    """One exchange with one worker, from our nonce to a session that wraps content keys."""

    def __init__(
        self, *, policy: Policy, client_key: bytes, collateral: Collateral = NO_COLLATERAL
    ) -> None:
        """Begin for the owner of `client_key`, an Ed25519 public key of 32 bytes.

        `collateral` is what vendors sign beside the Evidence that the policy accepts.
        """
        self._machine: Machine[State] = Machine(TRANSITIONS, start=State.IDLE, failed=State.FAILED)
        self._policy = policy
        self._client_key = client_key
        self._collateral = collateral
        self._nonce: bytes | None = None
        self._accepted: AcceptedWorker | None = None
        self._session_id: SessionId | None = None
        self._keys: SessionKeys | None = None
        self.refusal: RefusalCode | None = None
        """Why the worker refused the session, when it did."""

    def __repr__(self) -> str:
        return f"ClientSession({self.state})"

    @property
    def state(self) -> State:
        """Where the session stands."""
        return self._machine.state

    def concerns(self, subject: bytes) -> bool:
        """Tell whether `subject` is this session's nonce or id, so that a refusal is about it."""
        return subject in (self._nonce, self._session_id)

    def challenge(self, nonce: bytes) -> Challenge:
        """Return the Challenge to send. `nonce` is 32 random bytes that were never used before."""
        with self._machine.ours(Challenge):
            self._nonce = nonce
            return Challenge(nonce=nonce)

    def receive_attestation(self, reply: AttestationReply, *, now: datetime) -> AcceptedWorker:
        """Appraise the worker's evidence (step 4) and check that the catalogue is the attested one.

        Raises `DecodeError`, `EvidenceRefusedError` (with the appraisal as its `result`) or
        `CatalogueMismatchError`.
        """
        with self._machine.theirs(type(reply)):
            if self._nonce is None:
                raise LocalProtocolError("a challenged session has a nonce")
            bundle = EvidenceBundle.from_bytes(reply.bundle)
            record = EvidenceRecord(
                bundle=reply.bundle,
                nonce=self._nonce,
                leaf_index=reply.leaf_index,
                tree_size=reply.tree_size,
                path=reply.path,
                catalogue=reply.catalogue,
                collateral=self._collateral.to_bytes(),
            )
            result = appraise(
                bundle,
                policy=self._policy,
                nonce=self._nonce,
                path=record.proof(),
                now=now,
                collateral=self._collateral,
            )
            keyset = result.require_accepted()
            catalogue = Catalogue.from_bytes(reply.catalogue)
            if catalogue.digest() != keyset.catalogue_digest:
                raise CatalogueMismatchError("the catalogue is not the one in the key set")
            self._accepted = AcceptedWorker(
                result=result,
                keyset=keyset,
                keyset_id=keyset.keyset_id(),
                catalogue=catalogue,
                record=record,
            )
            return self._accepted

    def open(self, session_id: SessionId, *, sign: Callable[[bytes], bytes]) -> SessionOpen:
        """Seal a fresh secret to the accepted key (step 5); `sign` is the client's Ed25519."""
        with self._machine.ours(SessionOpen):
            transcript = self._transcript(session_id)
            accepted = self._require_accepted()
            keys, enc = seal_session(accepted.result.recipient_key(), transcript)
            self._session_id, self._keys = session_id, keys
            return SessionOpen(
                session_id=session_id,
                keyset_id=accepted.keyset_id,
                client_key=self._client_key,
                policy_digest=self._policy.digest(),
                enc=enc,
                signature=sign(prefix(Label.SESSION_OPEN) + transcript.digest() + enc),
            )

    def receive_accepted(self, message: SessionAccepted) -> None:
        """Check that the worker could open the secret; raises `VerificationError` when not."""
        with self._machine.theirs(type(message)):
            if self._keys is None or message.session_id != self._session_id:
                raise RemoteProtocolError("the answer is for another session")
            self._keys.check_confirmation(message.confirmation)

    def receive_refused(self, message: SessionRefused) -> None:
        """Note that the worker wants no session; raises for a refusal of something else."""
        with self._machine.theirs(type(message)):
            if not self.concerns(message.subject):
                raise RemoteProtocolError("the refusal is for another session")
            self.refusal = message.code

    def fail(self) -> None:
        """Give the session up."""
        self._machine.fail()
        self._keys = None

    @property
    def accepted(self) -> AcceptedWorker:
        """The appraised worker, from `TRUSTED` on; `LocalProtocolError` before."""
        self._machine.require(State.TRUSTED, State.OPENING, State.READY)
        return self._require_accepted()

    def wrap(self, content_key: ContentKey, request_digest: Digest) -> bytes:
        """Return `content_key` wrapped for this worker and this request (step 6)."""
        self._machine.require(State.READY)
        if self._keys is None:
            raise LocalProtocolError("a ready session has keys")
        return self._keys.wrap(content_key, request_digest)

    def _require_accepted(self) -> AcceptedWorker:
        if self._accepted is None:
            raise LocalProtocolError("a trusted session has an accepted worker")
        return self._accepted

    def _transcript(self, session_id: SessionId) -> Transcript:
        accepted = self._require_accepted()
        if self._nonce is None:
            raise LocalProtocolError("a trusted session has a nonce")
        return Transcript(
            keyset_id=accepted.keyset_id,
            evidence_digest=accepted.result.evidence_digest,
            policy_digest=self._policy.digest(),
            client_key=self._client_key,
            session_id=session_id,
            nonce=self._nonce,
        )
