"""Whatever arrives in whatever order, a key is wrapped only after evidence and confirmation."""

import os
from collections.abc import Callable
from typing import Any

import attrs
from hypothesis import given
from hypothesis import strategies as st

from attestation.errors import EnclaveError, LocalProtocolError
from attestation.identifiers import SessionId
from attestation.sealing.content_key import ContentKey
from attestation.wire.client_session import TRANSITIONS, State
from attestation.wire.control import RefusalCode
from attestation.wire.messages import SessionAccepted, SessionRefused
from tests.wire.test_client_session import REQUEST, Relying, Worker, now

STEPS = (
    "challenge",
    "reply",
    "stale-reply",
    "broken-reply",
    "open",
    "accept",
    "false-accept",
    "foreign-accept",
    "refuse",
    "foreign-refuse",
    "fail",
)


class Exchange:
    """One session, and everything a worker and a hostile coordinator may hand to it."""

    def __init__(self) -> None:
        self.worker, self.client = Worker(), Relying()
        self.session = self.client.session
        self.opening: Any = None
        self.answer: SessionAccepted | None = None
        other = Relying()
        (self.stale,) = self.worker.attest([other.challenge()])
        self.steps: dict[str, Callable[[], Any]] = {
            "challenge": self.client.challenge,
            "reply": lambda: self._attest(self._reply()),
            "stale-reply": lambda: self._attest(self.stale),
            "broken-reply": lambda: self._attest(attrs.evolve(self._reply(), bundle=b"")),
            "open": self._open,
            "accept": lambda: self.session.receive_accepted(self._acceptance()),
            "false-accept": lambda: self._accept(self._session_id(), bytes(32)),
            "foreign-accept": lambda: self._accept(SessionId(os.urandom(16)), bytes(32)),
            "refuse": lambda: self._refuse(self.client.nonce),
            "foreign-refuse": lambda: self._refuse(os.urandom(32)),
            "fail": self.session.fail,
        }

    def _reply(self) -> Any:
        (reply,) = self.worker.attest([self.client.nonce])
        return reply

    def _attest(self, reply: Any) -> None:
        self.session.receive_attestation(reply, now=now())

    def _open(self) -> None:
        self.opening = self.client.open()

    def _acceptance(self) -> SessionAccepted:
        if self.opening is None:
            return SessionAccepted(session_id=SessionId(bytes(16)), confirmation=bytes(32))
        if self.answer is None:
            self.answer = self.worker.accept(self.client.nonce, self.opening)
        return self.answer

    def _session_id(self) -> SessionId:
        return SessionId(bytes(16)) if self.opening is None else self.opening.session_id

    def _accept(self, session_id: SessionId, confirmation: bytes) -> None:
        message = SessionAccepted(session_id=session_id, confirmation=confirmation)
        self.session.receive_accepted(message)

    def _refuse(self, subject: bytes) -> None:
        message = SessionRefused(subject=subject, code=RefusalCode.INTERNAL)
        self.session.receive_refused(message)


@given(st.lists(st.sampled_from(STEPS), max_size=10))
def test_only_the_one_honest_order_leads_to_a_session_that_wraps(steps: list[str]) -> None:
    exchange = Exchange()
    failed = False
    done: list[str] = []
    for step in steps:
        before = exchange.session.state
        try:
            exchange.steps[step]()
        except EnclaveError:
            failed = True
        else:
            done.append(step)
        after = exchange.session.state
        assert after is before or after is State.FAILED or after in TRANSITIONS.values()
        if failed and before is State.FAILED:
            assert after is State.FAILED, "a failed session came back"
    wraps = exchange.session.state is State.READY
    assert wraps == (not failed and done == ["challenge", "reply", "open", "accept"])
    try:
        exchange.session.wrap(ContentKey.generate(), REQUEST)
    except LocalProtocolError:
        assert not wraps
    else:
        assert wraps


@given(st.sampled_from(STEPS), st.integers(0, 4))
def test_every_step_out_of_turn_fails_the_session(step: str, progress: int) -> None:
    honest = ["challenge", "reply", "open", "accept"]
    exchange = Exchange()
    for name in honest[:progress]:
        exchange.steps[name]()
    expected = honest[progress] if progress < len(honest) else None
    try:
        exchange.steps[step]()
    except EnclaveError:
        assert step != expected
        assert exchange.session.state is State.FAILED
    else:
        refused = step == "refuse" and exchange.session.state is State.FAILED
        assert step in (expected, "fail") or refused


def test_the_table_never_leaves_failed_or_ready() -> None:
    assert all(state not in (State.FAILED, State.READY) for state, _ in TRANSITIONS)
