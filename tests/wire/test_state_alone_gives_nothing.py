"""A state is not enough: what a session gives out, it must really have."""

import os
from collections.abc import Callable

import pytest

from attestation.errors import LocalProtocolError, ProtocolError
from attestation.identifiers import SessionId
from attestation.sealing.content_key import ContentKey
from attestation.wire import client_session, worker_session
from attestation.wire.client_session import ClientSession
from attestation.wire.messages import parse
from attestation.wire.worker_session import WorkerSession
from tests.fuzz import honest
from tests.wire.test_client_session import REQUEST, Relying, Worker, now, policy, ready

CLIENT_GIVES: dict[str, Callable[[ClientSession], object]] = {
    "accepted": lambda session: session.accepted,
    "wrap": lambda session: session.wrap(ContentKey.generate(), REQUEST),
    "open": lambda session: session.open(SessionId(os.urandom(16)), sign=lambda _: bytes(64)),
    "attestation": lambda session: session.receive_attestation(
        parse(honest.session_reply()), now=now()
    ),
    "confirmation": lambda session: session.receive_accepted(
        messages_accepted(SessionId(bytes(16)))
    ),
}

WORKER_GIVES: dict[str, Callable[[WorkerSession], object]] = {
    "keys": lambda session: session.keys,
    "client_key": lambda session: session.client_key,
    "session_id": lambda session: session.session_id,
    "keyset_id": lambda session: session.keyset_id,
    "evidence_digest": lambda session: session.evidence_digest,
}


def messages_accepted(session_id: SessionId) -> client_session.SessionAccepted:
    return client_session.SessionAccepted(session_id=session_id, confirmation=bytes(32))


@pytest.mark.parametrize("state", client_session.State)
@pytest.mark.parametrize("what", CLIENT_GIVES)
def test_a_client_session_forced_into_a_state_gives_out_nothing(
    state: client_session.State, what: str
) -> None:
    """A defect that skips a step must end in an error, not in a key wrapped for nobody."""
    session = ClientSession(policy=policy(), client_key=bytes(32))
    session._machine._state = state
    with pytest.raises(ProtocolError):
        CLIENT_GIVES[what](session)


@pytest.mark.parametrize("state", worker_session.State)
@pytest.mark.parametrize("what", WORKER_GIVES)
def test_a_worker_session_forced_into_a_state_gives_out_nothing(
    state: worker_session.State, what: str
) -> None:
    session = WorkerSession(nonce=bytes(32))
    session._machine._state = state
    with pytest.raises(LocalProtocolError):
        WORKER_GIVES[what](session)


def test_a_session_without_its_nonce_binds_no_secret() -> None:
    """Without the Challenge in the transcript, the Evidence of another day would do."""
    client = Relying()
    (reply,) = Worker().attest([client.challenge()])
    client.session.receive_attestation(reply, now=now())
    client.session._nonce = None
    with pytest.raises(LocalProtocolError):
        client.open()
    assert client.session.state is client_session.State.FAILED


def test_giving_a_session_up_ends_its_wraps() -> None:
    client = ready(Worker())
    client.session.fail()
    with pytest.raises(LocalProtocolError):
        client.session.wrap(ContentKey.generate(), REQUEST)
    assert repr(client.session) == "ClientSession(failed)"


def test_a_worker_knows_which_challenge_a_session_answers() -> None:
    assert WorkerSession(nonce=b"n" * 32).nonce == b"n" * 32
