"""The sessions of one worker: found by peer and key set until they are open, then by session id.

Peer ids come from the untrusted coordinator, so they only find a session; what a session is worth
is decided by its transcript and the client's signature.
"""

from typing import Final

from attestation import limits
from attestation.identifiers import KeySetId, SessionId
from attestation.wire.messages import SessionOpen
from attestation.wire.worker_session import State, WorkerSession
from enclave_worker.refusals import UnknownKeySetError, UnknownSessionError, WorkerBusyError

UNOPENED: Final = 4 * limits.CHALLENGES_PER_WINDOW
"""Attested sessions whose client has not come back: what a flood of challenges can make us hold."""


class SessionTable:
    """Every session that is attested or open."""

    def __init__(self, *, unopened: int = UNOPENED) -> None:
        """Hold at most `unopened` sessions that are not open yet."""
        self._capacity = unopened
        self._attested: dict[tuple[bytes, KeySetId], WorkerSession] = {}
        self._open: dict[SessionId, WorkerSession] = {}

    def __repr__(self) -> str:
        return f"SessionTable({len(self._attested)} attested, {len(self._open)} open)"

    def require_room(self, count: int) -> None:
        """Raise `WorkerBusyError` unless `count` more challenges can be answered."""
        if len(self._attested) + count > self._capacity:
            raise WorkerBusyError("too many sessions wait for their clients")

    def add(self, peer: bytes, keyset_id: KeySetId, session: WorkerSession) -> None:
        """Keep an attested session for when its client opens it."""
        self._attested[peer, keyset_id] = session

    def take_attested(self, peer: bytes, message: SessionOpen) -> WorkerSession:
        """Return, once, the session that `message` opens.

        Raises `UnknownKeySetError`, and `WorkerBusyError` for a session id that is in use: it is
        drawn from 128 random bits, so somebody is trying to take another client's place.
        """
        session = self._attested.pop((peer, message.keyset_id), None)
        if session is None:
            raise UnknownKeySetError("no challenge of this client was answered with that key set")
        if message.session_id in self._open:
            session.fail()
            raise WorkerBusyError("the session id is in use")
        return session

    def add_open(self, session: WorkerSession) -> None:
        """Keep an open session for its jobs."""
        self._open[session.session_id] = session

    def find(self, session_id: SessionId) -> WorkerSession:
        """Return the open session with this id; raises `UnknownSessionError`."""
        session = self._open.get(session_id)
        if session is None or session.state is not State.OPEN:
            raise UnknownSessionError("no open session has this id")
        return session

    def keep_only(self, keyset_ids: frozenset[KeySetId]) -> None:
        """Close every session whose key set is gone."""
        for place in [place for place in self._attested if place[1] not in keyset_ids]:
            _end(self._attested.pop(place))
        for session_id, session in list(self._open.items()):
            if session.state is not State.OPEN or session.keyset_id not in keyset_ids:
                del self._open[session_id]
                _end(session)

    def close(self) -> None:
        """Close every session: the worker stops."""
        self.keep_only(frozenset())


def _end(session: WorkerSession) -> None:
    # One that failed has no way to be closed, and that must not be the end of the worker.
    if session.state is State.FAILED:
        session.fail()
    else:
        session.close()
