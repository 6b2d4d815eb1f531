"""What a coordinator does with keys of its own: pose as the worker, and read.

It swaps its own KEM key into the worker's evidence, opens the session that is then sealed to it,
unwraps the content key and opens the inputs. With every defence in place it never gets that far.
"""

from collections.abc import Sequence

import attrs
import numpy as np

from attestation.evidence.bundle import EvidenceBundle
from attestation.evidence.keyset import KeySet
from attestation.sealing import hybrid_kem
from attestation.sealing.sealed_tensor import SealedTensorHeader, TensorOpener
from attestation.sealing.session_keys import SessionKeys, Transcript
from attestation.wire.control import SubmitRecord
from attestation.wire.frames import Header, Kind
from attestation.wire.messages import (
    AttestationReply,
    Challenge,
    JobEnvelope,
    JobHeader,
    SessionAccepted,
    SessionOpen,
    parse,
)
from tests.simulators.hostile_coordinator import Leg, Message, Relay


class Impostor:
    """A lie: the worker behind every id is the coordinator itself."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._private, self._public = hybrid_kem.generate_key_pair()
        self._nonce = b""
        self._bundle: EvidenceBundle | None = None
        self._keys: SessionKeys | None = None
        self.read: list[np.ndarray] = []
        """The inputs that were sealed to us."""

    def __call__(self, leg: Leg, peer: bytes, message: Message) -> Sequence[Message]:
        match leg, message.kind:
            case Leg.TO_CLIENT, Kind.END_TO_END:
                return (self._attest(message),)
            case Leg.FROM_CLIENT, Kind.END_TO_END:
                return self._answer(peer, message)
            case Leg.FROM_CLIENT, Kind.SUBMIT if self._keys is not None:
                self._read(message)
        return (message,)

    def _attest(self, message: Message) -> Message:
        reply = parse(message.body[0])
        if not isinstance(reply, AttestationReply):
            return message
        bundle = EvidenceBundle.from_bytes(reply.bundle)
        keyset = attrs.evolve(KeySet.from_bytes(bundle.keyset), kem_public_key=self._public)
        self._bundle = attrs.evolve(bundle, keyset=keyset.to_bytes())
        return message.but(attrs.evolve(reply, bundle=self._bundle.to_bytes()).to_bytes())

    def _answer(self, peer: bytes, message: Message) -> Sequence[Message]:
        said = parse(message.body[0])
        if isinstance(said, Challenge):
            self._nonce = said.nonce
        if not isinstance(said, SessionOpen) or self._bundle is None:
            return (message,)
        transcript = Transcript(
            keyset_id=said.keyset_id,
            evidence_digest=self._bundle.digest(),
            policy_digest=said.policy_digest,
            client_key=said.client_key,
            session_id=said.session_id,
            nonce=self._nonce,
        )
        self._keys = hybrid_kem.open_session(self._private, said.enc, transcript)
        accepted = SessionAccepted(
            session_id=said.session_id, confirmation=self._keys.confirmation()
        )
        header = Header(Kind.END_TO_END, peer=message.header.peer)
        self._relay.inject(Leg.TO_CLIENT, peer, Message(header, (accepted.to_bytes(),)))
        return ()

    def _read(self, message: Message) -> None:
        assert self._keys is not None
        record, envelope = (
            SubmitRecord.from_bytes(message.body[0]),
            JobEnvelope.from_bytes(message.body[1]),
        )
        header = JobHeader.from_bytes(envelope.header)
        key = self._keys.unwrap(record.wraps[0][1], header.digest())
        sealed = SealedTensorHeader.from_bytes(header.inputs[0])
        opener = TensorOpener(key, sealed, expected=sealed.tensor.place)
        data = bytearray(opener.header.spec.nbytes)
        opener.open_into(0, message.body[2], data)
        flat = np.frombuffer(bytes(data), dtype=opener.header.dtype)
        self.read.append(flat.reshape(opener.header.shape))
