"""A client that seals, signs and wraps as the protocol says, or not quite, as a test asks.

It uses none of the client SDK: the worker is tested against the documented formats. Every step is a
field or an argument, so that an attack is one value changed.
"""

from collections.abc import Mapping
from os import urandom

import attrs
import numpy as np
from attrs import define, field
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation import limits
from attestation.encoding.digests import Label, digest, prefix
from attestation.evidence.bundle import EvidenceBundle
from attestation.evidence.keyset import KeySet
from attestation.identifiers import Digest, JobId, SessionId
from attestation.programs.catalogue import Catalogue
from attestation.programs.program import Program, encode_parameters
from attestation.receipts.signed_batch import sign_batch
from attestation.sealing import hybrid_kem
from attestation.sealing.content_key import ContentKey
from attestation.sealing.sealed_tensor import (
    Direction,
    Place,
    SealedTensorHeader,
    TensorHeader,
    TensorOpener,
    TensorSealer,
    seal_bytes,
)
from attestation.sealing.session_keys import SessionKeys, Transcript
from attestation.sealing.tensor_spec import TensorSpec
from attestation.wire.messages import (
    AttestationReply,
    Challenge,
    JobBody,
    JobEnvelope,
    JobHeader,
    ResultHeader,
    SessionAccepted,
    SessionOpen,
)

POLICY_DIGEST = digest(Label.POLICY, b"any policy: the worker only binds it")
SEGMENT_BYTES = limits.SEGMENT_BYTES_MIN


@define(kw_only=True)
class SimulatedClient:
    """One client with a signing key, and one session with one key set."""

    key: Ed25519PrivateKey = field(factory=Ed25519PrivateKey.generate, repr=False)
    nonce: bytes = field(factory=lambda: urandom(32))
    session_id: SessionId = field(factory=lambda: SessionId(urandom(16)))
    keyset: KeySet | None = None
    evidence_digest: Digest | None = None
    keys: SessionKeys | None = field(default=None, repr=False)
    secret: bytes = field(default=b"", repr=False)

    @property
    def public_key(self) -> bytes:
        """The Ed25519 public key."""
        return self.key.public_key().public_bytes_raw()

    def challenge(self) -> Challenge:
        """Return the first message."""
        return Challenge(nonce=self.nonce)

    def take_reply(self, reply: AttestationReply) -> Catalogue:
        """Believe the evidence, as only a test may."""
        bundle = EvidenceBundle.from_bytes(reply.bundle)
        self.keyset = KeySet.from_bytes(bundle.keyset)
        self.evidence_digest = bundle.digest()
        return Catalogue.from_bytes(reply.catalogue)

    def transcript(self) -> Transcript:
        """Return what this client's session is bound to."""
        assert self.keyset is not None
        assert self.evidence_digest is not None
        return Transcript(
            keyset_id=self.keyset.keyset_id(),
            evidence_digest=self.evidence_digest,
            policy_digest=POLICY_DIGEST,
            client_key=self.public_key,
            session_id=self.session_id,
            nonce=self.nonce,
        )

    def open(self, transcript: Transcript | None = None) -> SessionOpen:
        """Seal a session secret to the key set, bound to `transcript`."""
        assert self.keyset is not None
        transcript = transcript or self.transcript()
        secret = urandom(32)
        recipient = hybrid_kem.public_key_from_bytes(self.keyset.kem_public_key)
        enc = hybrid_kem.SUITE.encrypt(secret, recipient, hybrid_kem.info(transcript))
        self.keys, self.secret = SessionKeys.derive(secret, transcript), secret
        signed = prefix(Label.SESSION_OPEN) + transcript.digest() + enc
        return SessionOpen(
            session_id=transcript.session_id,
            keyset_id=transcript.keyset_id,
            client_key=self.public_key,
            policy_digest=transcript.policy_digest,
            enc=enc,
            signature=self.key.sign(signed),
        )

    def take_accepted(self, accepted: SessionAccepted) -> None:
        """Check that the worker holds the secret."""
        assert self.keys is not None
        self.keys.check_confirmation(accepted.confirmation)


@define(kw_only=True)
class SimulatedJob:
    """One job, put together step by step. Change a field before `envelope` to attack with it."""

    client: SimulatedClient
    program: Program
    catalogue_digest: Digest
    arrays: Mapping[str, np.ndarray]
    parameters: Mapping[str, Mapping[str, object]] = field(factory=dict)
    job_id: JobId = field(factory=lambda: JobId(urandom(16)))
    content_key: ContentKey = field(factory=ContentKey.generate)
    commitment_kind: str = "tags"
    not_after_ms: int = (1 << 63) - 1
    price_limit: int = 0
    segment_bytes: int = SEGMENT_BYTES
    sealers: list[TensorSealer] = field(factory=list, init=False)
    body: JobBody = field(init=False)
    header: JobHeader = field(init=False)

    def __attrs_post_init__(self) -> None:
        for index, (name, array) in enumerate(self.arrays.items()):
            header = TensorHeader.for_tensor(
                TensorSpec(dtype=array.dtype.name, shape=array.shape),
                name=name,
                place=Place(job_id=self.job_id, direction=Direction.INPUT, attempt=0, index=index),
                segment_bytes=self.segment_bytes,
            )
            self.sealers.append(TensorSealer(self.content_key, header))
        self.body = JobBody(
            program=self.program.to_bytes(),
            parameters=encode_parameters(self.parameters),
            salt=urandom(32),
        )
        self.header = JobHeader(
            job_id=self.job_id,
            client_key=self.client.public_key,
            program_digest=self.program.digest(),
            catalogue_digest=self.catalogue_digest,
            parameters_commitment=self.body.commitment(),
            content_key_commitment=self.content_key.commitment(self.job_id),
            commitment_kind=self.commitment_kind,
            inputs=tuple(sealer.sealed_header.to_bytes() for sealer in self.sealers),
            segment_bytes=self.segment_bytes,
            not_after_ms=self.not_after_ms,
            price_limit=self.price_limit,
        )

    def change_header(self, **changes: object) -> None:
        """Change what the client signs."""
        self.header = attrs.evolve(self.header, **changes)

    def envelope(self, *, signer: Ed25519PrivateKey | None = None) -> bytes:
        """Sign the header, with another key than the client's if `signer` is given, and seal."""
        signer = signer or self.client.key
        (leaf,) = sign_batch(
            [self.header.to_bytes()],
            label=Label.JOB_SIGNATURE,
            key_id=digest(Label.CLIENT_KEY, signer.public_key().public_bytes_raw()),
            sign=signer.sign,
        )
        request = self.header.digest()
        return JobEnvelope(
            header=self.header.to_bytes(),
            signature=leaf.to_bytes(),
            body=seal_bytes(self.content_key.body_key(request), request, self.body.to_bytes()),
        ).to_bytes()

    def wrap(self) -> bytes:
        """Wrap the content key in the client's session."""
        assert self.client.keys is not None
        return self.client.keys.wrap(self.content_key, self.header.digest())

    def segments(self) -> list[bytearray]:
        """Seal every input segment, in the order in which they travel."""
        return [
            sealer.segment(index, np.ascontiguousarray(array).view(np.uint8).reshape(-1))
            for sealer, array in zip(self.sealers, self.arrays.values(), strict=True)
            for index in range(sealer.segment_count)
        ]

    def open_outputs(
        self, result: ResultHeader, segments: list[bytes], *, attempt: int
    ) -> dict[str, np.ndarray]:
        """Open what the worker sealed."""
        arrays = {}
        left = list(segments)
        for index, sealed in enumerate(result.outputs):
            place = Place(
                job_id=self.job_id, direction=Direction.OUTPUT, attempt=attempt, index=index
            )
            opener = TensorOpener(
                self.content_key, SealedTensorHeader.from_bytes(sealed), expected=place
            )
            data = bytearray(opener.header.spec.nbytes)
            for position in range(opener.segment_count):
                opener.open_into(position, left.pop(0), data)
            opener.finish()
            flat = np.frombuffer(bytes(data), dtype=opener.header.dtype)
            arrays[opener.header.name] = flat.reshape(opener.header.shape)
        assert not left
        return arrays
