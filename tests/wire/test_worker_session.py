"""The worker's session takes each message once, believes nothing unsigned, and fails for good."""

from os import urandom

import attrs
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.encoding.digests import Label, digest, prefix
from attestation.errors import (
    LocalProtocolError,
    NotAuthenticError,
    RemoteProtocolError,
    SignatureInvalidError,
)
from attestation.evidence.bundle import EvidenceBundle
from attestation.evidence.keyset import KeySet
from attestation.identifiers import Digest, KeySetId
from attestation.sealing import hybrid_kem
from attestation.sealing.session_keys import SessionKeys, Transcript
from attestation.wire.messages import AttestationReply, SessionOpen
from attestation.wire.transitions import Machine
from attestation.wire.worker_session import TRANSITIONS, State, WorkerSession
from tests.worker.simulated_client import SimulatedClient

NOW = 1_800_000_000_000


class KeyHolder:
    """A key set whose private half stays here, and the reply that carries it."""

    def __init__(self, nonce: bytes) -> None:
        self._private, public = hybrid_kem.generate_key_pair()
        self.keyset = KeySet(
            kem_public_key=public,
            receipt_key=bytes(32),
            not_before_ms=NOW,
            not_after_ms=NOW + 1000,
            catalogue_digest=digest(Label.CATALOGUE, b""),
        )
        bundle = EvidenceBundle(
            kind="insecure",
            keyset=self.keyset.to_bytes(),
            nonce_root=nonce,
            gpu_evidence=None,
            body=b"",
        )
        self.evidence = bundle.digest()
        self.reply = AttestationReply(
            bundle=bundle.to_bytes(), leaf_index=0, tree_size=1, path=(), catalogue=b""
        )

    def open(self, enc: bytes, transcript: Transcript) -> SessionKeys:
        return hybrid_kem.open_session(self._private, enc, transcript)


@pytest.fixture
def client() -> SimulatedClient:
    return SimulatedClient()


@pytest.fixture
def holder(client: SimulatedClient) -> KeyHolder:
    holder = KeyHolder(client.nonce)
    client.keyset, client.evidence_digest = holder.keyset, holder.evidence
    return holder


@pytest.fixture
def session(client: SimulatedClient, holder: KeyHolder) -> WorkerSession:
    """An attested session."""
    session = WorkerSession(nonce=client.nonce)
    session.attest(holder.reply, keyset_id=holder.keyset.keyset_id(), evidence=holder.evidence)
    return session


def refuse(
    session: WorkerSession, message: SessionOpen, holder: KeyHolder, error: type[Exception]
) -> None:
    with pytest.raises(error):
        session.receive_open(message, open_keys=holder.open)
    assert session.state is State.FAILED
    with pytest.raises(LocalProtocolError):
        session.keys  # noqa: B018 - reading it is the attack


def test_both_sides_end_with_the_same_keys(
    session: WorkerSession, client: SimulatedClient, holder: KeyHolder
) -> None:
    client.take_accepted(session.receive_open(client.open(), open_keys=holder.open))
    assert session.state is State.OPEN
    assert session.client_key == client.public_key
    assert session.session_id == client.session_id


def test_a_second_opening_is_refused_and_ends_the_session(
    session: WorkerSession, client: SimulatedClient, holder: KeyHolder
) -> None:
    """A relay replays the opening to get a second session for one client."""
    message = client.open()
    session.receive_open(message, open_keys=holder.open)
    refuse(session, message, holder, RemoteProtocolError)


def test_an_opening_before_the_evidence_is_refused(
    client: SimulatedClient, holder: KeyHolder
) -> None:
    refuse(WorkerSession(nonce=client.nonce), client.open(), holder, RemoteProtocolError)


def test_an_opening_for_another_key_set_is_refused(
    session: WorkerSession, client: SimulatedClient, holder: KeyHolder
) -> None:
    message = attrs.evolve(client.open(), keyset_id=KeySetId(bytes(32)))
    refuse(session, message, holder, RemoteProtocolError)


def test_an_opening_signed_by_another_key_is_refused(
    session: WorkerSession, client: SimulatedClient, holder: KeyHolder
) -> None:
    """A thief cannot open a session that names its victim as the client who will be billed."""
    honest = client.open()
    forged = attrs.evolve(honest, signature=Ed25519PrivateKey.generate().sign(b"anything"))
    refuse(session, forged, holder, SignatureInvalidError)


def test_a_client_key_put_in_place_of_the_signers_is_refused(
    session: WorkerSession, client: SimulatedClient, holder: KeyHolder
) -> None:
    """A coordinator that writes its own key into an honest opening breaks the signature."""
    own = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    refuse(session, attrs.evolve(client.open(), client_key=own), holder, SignatureInvalidError)


def test_a_key_that_is_no_point_is_refused(
    session: WorkerSession, client: SimulatedClient, holder: KeyHolder
) -> None:
    refuse(
        session, attrs.evolve(client.open(), client_key=b"\xff" * 32), holder, SignatureInvalidError
    )


@pytest.mark.parametrize(
    "change",
    [
        {"policy_digest": Digest(bytes(32))},
        {"session_id": bytes(16)},
    ],
)
def test_a_changed_transcript_breaks_the_signature(
    session: WorkerSession, client: SimulatedClient, holder: KeyHolder, change: dict
) -> None:
    refuse(session, attrs.evolve(client.open(), **change), holder, SignatureInvalidError)


def test_a_secret_sealed_for_other_evidence_does_not_open(
    session: WorkerSession, client: SimulatedClient, holder: KeyHolder
) -> None:
    """A client that was shown other evidence than this worker's shares nothing with it."""
    client.evidence_digest = Digest(urandom(32))
    refuse(session, client.open(), holder, SignatureInvalidError)


def test_a_session_for_another_clients_nonce_does_not_open(
    session: WorkerSession, client: SimulatedClient, holder: KeyHolder
) -> None:
    client.nonce = urandom(32)
    refuse(session, client.open(), holder, SignatureInvalidError)


def test_a_signed_secret_that_does_not_open_is_refused(
    session: WorkerSession, client: SimulatedClient, holder: KeyHolder
) -> None:
    client.keyset = KeyHolder(client.nonce).keyset
    other = client.open()
    client.keyset = holder.keyset
    transcript = client.transcript()
    signed = prefix(Label.SESSION_OPEN) + transcript.digest() + other.enc
    message = attrs.evolve(
        other, keyset_id=holder.keyset.keyset_id(), signature=client.key.sign(signed)
    )
    refuse(session, message, holder, NotAuthenticError)


def test_attesting_twice_is_our_own_error(session: WorkerSession, holder: KeyHolder) -> None:
    """No challenge is answered twice, so no key is attested twice for one client."""
    with pytest.raises(LocalProtocolError):
        session.attest(holder.reply, keyset_id=holder.keyset.keyset_id(), evidence=holder.evidence)
    assert session.state is State.FAILED


def test_a_closed_session_has_no_keys_and_stays_closed(
    session: WorkerSession, client: SimulatedClient, holder: KeyHolder
) -> None:
    session.receive_open(client.open(), open_keys=holder.open)
    session.close()
    assert session.state is State.CLOSED
    for read in ("keys", "client_key", "session_id"):
        with pytest.raises(LocalProtocolError):
            getattr(session, read)
    with pytest.raises(LocalProtocolError):
        session.close()


def test_a_session_shows_nothing_of_its_secret(
    session: WorkerSession, client: SimulatedClient, holder: KeyHolder
) -> None:
    session.receive_open(client.open(), open_keys=holder.open)
    assert repr(session) == "WorkerSession(open)"


def test_a_failed_session_has_no_way_on() -> None:
    assert not [state for state, _ in TRANSITIONS if state in (State.FAILED, State.CLOSED)]
    with pytest.raises(LocalProtocolError):
        Machine({(State.FAILED, SessionOpen): State.OPEN}, start=State.OPEN, failed=State.FAILED)


def test_a_step_inside_a_step_fails() -> None:
    machine = Machine(TRANSITIONS, start=State.CHALLENGED, failed=State.FAILED)
    with (
        pytest.raises(LocalProtocolError),
        machine.ours(AttestationReply),
        machine.ours(AttestationReply),
    ):
        pass
    assert machine.state is State.FAILED


def test_a_step_that_gives_up_stays_given_up() -> None:
    machine = Machine(TRANSITIONS, start=State.CHALLENGED, failed=State.FAILED)
    with machine.ours(AttestationReply):
        machine.fail()
    assert machine.state is State.FAILED
