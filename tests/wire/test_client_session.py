"""What a client accepts from a worker before it wraps a key, and everything it refuses.

The worker is the real thing (key store, attester, session machine) with `insecure` evidence, under
a policy that spells that out: what is tested here is the session, not the hardware.
"""

import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import attrs
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestation.encoding.digests import Label, digest
from attestation.errors import (
    DecodeError,
    EvidenceRefusedError,
    LocalProtocolError,
    NotAuthenticError,
    RemoteProtocolError,
    SignatureInvalidError,
)
from attestation.evidence.keyset import KeySet
from attestation.identifiers import Digest, SessionId
from attestation.policy.policy import CataloguePolicy, Policy
from attestation.programs.catalogue import Catalogue
from attestation.sealing.content_key import ContentKey
from attestation.wire.client_session import CatalogueMismatchError, ClientSession, State
from attestation.wire.control import RefusalCode
from attestation.wire.messages import (
    AttestationReply,
    SessionAccepted,
    SessionOpen,
    SessionRefused,
)
from attestation.wire.worker_session import WorkerSession
from enclave_worker.attester.collect import EvidenceCollector
from enclave_worker.attester.insecure import InsecureAttester
from enclave_worker.keystore import Keystore
from tests.programs.kernels import MATMUL
from tests.simulators.evidence import insecure_policy

CATALOGUE = Catalogue(entries=())
REQUEST = digest(Label.JOB_HEADER, b"a request")


def policy(*, allow: bool = True) -> Policy:
    catalogue = CataloguePolicy(accept_any=False, digests=(CATALOGUE.digest(),))
    return attrs.evolve(insecure_policy(allow=allow), catalogue=catalogue)


def now() -> datetime:
    return datetime.now(UTC)


def now_ms() -> int:
    return int(now().timestamp() * 1000)


class Worker:
    """Answers challenges as `enclave worker` does, without its loop."""

    def __init__(self) -> None:
        self.keystore = Keystore()
        self.collector = EvidenceCollector(InsecureAttester(), draw_keyset=self._draw)
        self.sessions: dict[bytes, WorkerSession] = {}

    def _draw(self) -> KeySet:
        return self.keystore.draw_keyset(CATALOGUE.digest(), now_ms())

    def attest(self, nonces: Sequence[bytes]) -> list[AttestationReply]:
        window = self.collector.collect_window(nonces)
        replies = []
        for nonce, proof in zip(nonces, window.proofs, strict=True):
            reply = AttestationReply(
                bundle=window.bundle.to_bytes(),
                leaf_index=proof.leaf_index,
                tree_size=proof.tree_size,
                path=proof.path,
                catalogue=CATALOGUE.to_bytes(),
            )
            session = WorkerSession(nonce=nonce)
            session.attest(
                reply, keyset_id=window.keyset.keyset_id(), evidence=window.bundle.digest()
            )
            self.sessions[nonce] = session
            replies.append(reply)
        return replies

    def accept(self, nonce: bytes, opening: SessionOpen) -> SessionAccepted:
        return self.sessions[nonce].receive_open(
            opening,
            open_keys=lambda enc, transcript: self.keystore.open_session(
                opening.keyset_id, enc, transcript, now_ms=now_ms()
            ),
        )


class Relying:
    """One client with its key and a session."""

    def __init__(self, rules: Policy | None = None) -> None:
        self.key = Ed25519PrivateKey.generate()
        public = self.key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.session = ClientSession(policy=rules or policy(), client_key=public)
        self.nonce = os.urandom(32)

    def challenge(self) -> bytes:
        return self.session.challenge(self.nonce).nonce

    def open(self) -> SessionOpen:
        return self.session.open(SessionId(os.urandom(16)), sign=self.key.sign)


def trusted(worker: Worker) -> Relying:
    client = Relying()
    (reply,) = worker.attest([client.challenge()])
    client.session.receive_attestation(reply, now=now())
    return client


def ready(worker: Worker) -> Relying:
    client = trusted(worker)
    client.session.receive_accepted(worker.accept(client.nonce, client.open()))
    return client


def test_an_honest_exchange_ends_with_a_key_that_the_worker_unwraps() -> None:
    worker = Worker()
    client = ready(worker)
    key = ContentKey.generate()
    wrapped = client.session.wrap(key, REQUEST)
    unwrapped = worker.sessions[client.nonce].keys.unwrap(wrapped, REQUEST)
    assert unwrapped.body_key(REQUEST) == key.body_key(REQUEST)


def test_one_window_serves_several_clients_each_with_its_own_path() -> None:
    worker = Worker()
    clients = [Relying() for _ in range(5)]
    for client, reply in zip(
        clients, worker.attest([client.challenge() for client in clients]), strict=True
    ):
        client.session.receive_attestation(reply, now=now())
        client.session.receive_accepted(worker.accept(client.nonce, client.open()))
        assert client.session.state is State.READY


def test_evidence_for_another_clients_challenge_is_refused() -> None:
    """A coordinator that replays what a worker told somebody else gets no key."""
    worker = Worker()
    victim, other = Relying(), Relying()
    victim.challenge()
    (reply,) = worker.attest([other.challenge()])
    with pytest.raises(EvidenceRefusedError):
        victim.session.receive_attestation(reply, now=now())
    assert victim.session.state is State.FAILED


def test_the_path_of_another_client_in_the_same_window_is_refused() -> None:
    worker = Worker()
    victim, other = Relying(), Relying()
    _, swapped = worker.attest([victim.challenge(), other.challenge()])
    with pytest.raises(EvidenceRefusedError):
        victim.session.receive_attestation(swapped, now=now())


def test_evidence_of_a_policy_that_does_not_allow_insecure_is_refused_with_its_checks() -> None:
    worker, client = Worker(), Relying(policy(allow=False))
    (reply,) = worker.attest([client.challenge()])
    with pytest.raises(EvidenceRefusedError) as refused:
        client.session.receive_attestation(reply, now=now())
    assert refused.value.result.refusals  # type: ignore[attr-defined]
    with pytest.raises(LocalProtocolError):
        client.open()


def test_evidence_of_an_expired_key_set_is_refused() -> None:
    worker, client = Worker(), Relying()
    (reply,) = worker.attest([client.challenge()])
    with pytest.raises(EvidenceRefusedError):
        client.session.receive_attestation(reply, now=now() + timedelta(hours=2))


def test_a_catalogue_that_the_key_set_does_not_vouch_for_is_refused() -> None:
    """A coordinator that slips in another catalogue could give kernels another meaning."""
    worker, client = Worker(), Relying()
    (reply,) = worker.attest([client.challenge()])
    entry = {"signature": MATMUL.to_map(), "source_digest": bytes(32)}
    forged = attrs.evolve(
        reply, catalogue=Catalogue.from_map({"v": 1, "entries": [entry]}).to_bytes()
    )
    with pytest.raises(CatalogueMismatchError):
        client.session.receive_attestation(forged, now=now())
    assert client.session.state is State.FAILED


def test_a_bundle_that_does_not_parse_ends_the_session() -> None:
    worker, client = Worker(), Relying()
    (reply,) = worker.attest([client.challenge()])
    with pytest.raises(DecodeError):
        client.session.receive_attestation(attrs.evolve(reply, bundle=b"\xff"), now=now())
    assert client.session.state is State.FAILED


def test_a_confirmation_of_another_session_is_refused() -> None:
    """A coordinator that swaps the answers of two clients is noticed by both."""
    worker = Worker()
    one, two = trusted(worker), trusted(worker)
    answer = worker.accept(two.nonce, two.open())
    one.open()
    with pytest.raises(RemoteProtocolError):
        one.session.receive_accepted(answer)
    assert one.session.state is State.FAILED


def test_a_confirmation_from_somebody_without_the_secret_is_refused() -> None:
    client = trusted(Worker())
    opening = client.open()
    forged = SessionAccepted(session_id=opening.session_id, confirmation=bytes(32))
    with pytest.raises(NotAuthenticError):
        client.session.receive_accepted(forged)
    with pytest.raises(LocalProtocolError):
        client.session.wrap(ContentKey.generate(), REQUEST)


def test_a_worker_cannot_open_a_session_that_another_client_signed() -> None:
    worker = Worker()
    client, thief = trusted(worker), Relying()
    stolen = attrs.evolve(
        client.open(),
        client_key=thief.key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw),
    )
    with pytest.raises(SignatureInvalidError):
        worker.accept(client.nonce, stolen)


def test_a_wrapped_key_is_good_for_one_request_only() -> None:
    worker = Worker()
    client = ready(worker)
    wrapped = client.session.wrap(ContentKey.generate(), REQUEST)
    other = Digest(digest(Label.JOB_HEADER, b"another request"))
    with pytest.raises(NotAuthenticError):
        worker.sessions[client.nonce].keys.unwrap(wrapped, other)


def test_a_refusal_is_remembered_and_final() -> None:
    client = Relying()
    nonce = client.challenge()
    client.session.receive_refused(SessionRefused(subject=nonce, code=RefusalCode.QUEUE_FULL))
    assert client.session.refusal is RefusalCode.QUEUE_FULL
    assert client.session.state is State.FAILED


def test_a_refusal_of_something_else_is_not_taken_for_ours() -> None:
    client = Relying()
    client.challenge()
    stray = SessionRefused(subject=os.urandom(32), code=RefusalCode.INTERNAL)
    assert not client.session.concerns(stray.subject)
    with pytest.raises(RemoteProtocolError):
        client.session.receive_refused(stray)


def test_no_key_is_wrapped_before_the_worker_confirmed() -> None:
    client = trusted(Worker())
    client.open()
    with pytest.raises(LocalProtocolError):
        client.session.wrap(ContentKey.generate(), REQUEST)


def test_neither_keys_nor_nonce_show_in_a_repr() -> None:
    client = ready(Worker())
    assert client.nonce.hex() not in repr(client.session)
    assert repr(client.session) == "ClientSession(ready)"
