"""Sessions of a worker: each client gets its own, nobody takes another's, floods are bounded."""

from os import urandom

import pytest

from attestation import limits
from attestation.errors import RemoteProtocolError, UnavailableError
from attestation.identifiers import KeySetId
from attestation.wire.control import RefusalCode
from attestation.wire.messages import Challenge, SessionAccepted, SessionRefused
from attestation.wire.worker_session import State, WorkerSession
from enclave_worker.attesting import Reply
from enclave_worker.refusals import UnknownSessionError, WorkerBusyError
from enclave_worker.sessions import SessionTable
from enclave_worker.windows import Asked, ChallengeWindow
from tests.worker.conftest import Workshop
from tests.worker.simulated_client import SimulatedClient


def asked(number: int) -> Asked:
    return Asked(peer=number.to_bytes(16, "big"), nonce=urandom(32))


def open_at(workshop: Workshop, client: SimulatedClient, message: bytes) -> object:
    (reply,) = workshop.attestations.receive(client.public_key[:16], message, workshop.now_ms)
    return reply.record


def test_a_window_closes_after_its_time_and_not_before() -> None:
    window = ChallengeWindow(window_ms=20)
    assert window.due_in_ms(1000) is None
    window.add(asked(1), now_ms=1000)
    window.add(asked(2), now_ms=1015)
    assert window.due_in_ms(1000) == 20
    assert window.due_in_ms(1020) == 0
    assert len(window.close()) == 2
    assert window.due_in_ms(1020) is None


def test_a_window_is_bounded() -> None:
    window = ChallengeWindow(capacity=2)
    window.add(asked(1), now_ms=0)
    window.add(asked(2), now_ms=0)
    with pytest.raises(WorkerBusyError):
        window.add(asked(3), now_ms=0)


def test_a_peers_newer_challenge_takes_the_place_of_its_older_one() -> None:
    window = ChallengeWindow(capacity=1)
    first, second = asked(1), asked(1)
    window.add(first, now_ms=0)
    window.add(second, now_ms=5)
    assert window.close() == (second,)


def test_two_clients_of_one_window_share_a_key_set_and_no_session(workshop: Workshop) -> None:
    first, second = SimulatedClient(), SimulatedClient()
    workshop.attest(first, second)
    assert first.keyset == second.keyset
    for client in (first, second):
        accepted = open_at(workshop, client, client.open().to_bytes())
        assert isinstance(accepted, SessionAccepted)
        client.take_accepted(accepted)


def test_two_windows_have_two_key_sets(workshop: Workshop) -> None:
    """Keys are drawn after the nonces: no key is ever attested twice (CVE-2026-33697)."""
    first, second = SimulatedClient(), SimulatedClient()
    workshop.attest(first)
    workshop.attest(second)
    assert first.keyset.kem_public_key != second.keyset.kem_public_key
    assert first.keyset.receipt_key != second.keyset.receipt_key


def test_a_session_of_another_clients_challenge_is_refused(workshop: Workshop) -> None:
    """A thief that saw a client's evidence opens a session as the client's peer, with its key."""
    victim, thief = SimulatedClient(), SimulatedClient()
    workshop.attest(victim)
    thief.keyset, thief.evidence_digest = victim.keyset, victim.evidence_digest
    refused = open_at(workshop, thief, thief.open().to_bytes())
    assert isinstance(refused, SessionRefused)
    assert refused.code is RefusalCode.UNKNOWN_KEYSET
    # As the victim's peer it fails too: the transcript holds the victim's nonce.
    peer = victim.public_key[:16]
    (reply,) = workshop.attestations.receive(peer, thief.open().to_bytes(), workshop.now_ms)
    assert isinstance(reply.record, SessionRefused)
    assert reply.record.code is RefusalCode.SIGNATURE_INVALID


def test_a_session_id_in_use_is_refused(workshop: Workshop, client: SimulatedClient) -> None:
    """Nobody takes over a session by its id, which the coordinator sees in clear."""
    thief = SimulatedClient(session_id=client.session_id)
    workshop.attest(thief)
    refused = open_at(workshop, thief, thief.open().to_bytes())
    assert isinstance(refused, SessionRefused)
    assert refused.code is RefusalCode.QUEUE_FULL
    assert workshop.sessions.find(client.session_id).client_key == client.public_key


@pytest.mark.parametrize(
    "message",
    [b"", b"\xff" * 40, SessionAccepted(session_id=bytes(16), confirmation=bytes(32)).to_bytes()],
)
def test_what_no_client_sends_is_refused(workshop: Workshop, message: bytes) -> None:
    (reply,) = workshop.attestations.receive(bytes(16), message, workshop.now_ms)
    assert isinstance(reply.record, SessionRefused)
    assert reply.record.code is RefusalCode.MALFORMED


def test_a_flood_of_challenges_is_refused_and_not_remembered(workshop: Workshop) -> None:
    workshop.sessions._capacity = 3
    replies: list[Reply] = []
    for number in range(6):
        message = Challenge(nonce=urandom(32)).to_bytes()
        replies += workshop.attestations.receive(asked(number).peer, message, workshop.now_ms)
    assert [reply.record.code for reply in replies] == [RefusalCode.QUEUE_FULL] * 3


def test_a_device_that_fails_refuses_the_challenges_and_the_worker_goes_on(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_nonces: object) -> None:
        raise UnavailableError("the TPM is gone")

    with monkeypatch.context() as broken:
        broken.setattr(workshop.attestations._collector, "collect_window", fail)
        workshop.attestations.receive(bytes(16), Challenge(nonce=bytes(32)).to_bytes(), 0)
        workshop.attestations.tick(workshop.now_ms)
        (reply,) = workshop.attestations.collected(workshop.wait_for_collection())
        assert reply.record == SessionRefused(subject=bytes(32), code=RefusalCode.INTERNAL)
    workshop.attest(SimulatedClient())


def test_sessions_end_with_their_key_set(workshop: Workshop, client: SimulatedClient) -> None:
    workshop.sessions.keep_only(frozenset())
    with pytest.raises(UnknownSessionError):
        workshop.sessions.find(client.session_id)
    assert repr(workshop.sessions) == "SessionTable(0 attested, 0 open)"


def test_a_session_that_failed_ends_with_its_key_set_like_any_other(
    workshop: Workshop, client: SimulatedClient
) -> None:
    """Closing what has failed is misuse; a message that made it fail must not end the worker."""
    (session,) = workshop.sessions._open.values()
    with pytest.raises(RemoteProtocolError):
        session.receive_open(client.open(), open_keys=lambda *_: pytest.fail("opened twice"))
    assert session.state is State.FAILED
    unopened = WorkerSession(nonce=bytes(32))
    unopened.fail()
    workshop.sessions.add(b"somebody", KeySetId(bytes(32)), unopened)
    workshop.now_ms += limits.KEYSET_SECONDS * 1000
    workshop.attestations.tick(workshop.now_ms)
    assert repr(workshop.sessions) == "SessionTable(0 attested, 0 open)"


def test_an_empty_table_knows_nobody() -> None:
    with pytest.raises(UnknownSessionError):
        SessionTable().find(bytes(16))
