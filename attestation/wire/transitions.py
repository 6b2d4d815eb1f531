"""The machinery that client and worker sessions share: a table, a state, and what an error does.

A session's protocol is a table `(state, event type) -> state`. A step names its event and runs its
checks inside `ours` or `theirs`; the state moves only when the checks pass, and any error at all
leaves the session failed, for good. So no session can go on after a check that did not hold, even
one that the author of the step did not think of.

    with self._machine.theirs(SessionOpen):
        self._check_signature(message)
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from typing import Generic, TypeAlias, TypeVar

from attestation.errors import LocalProtocolError, RemoteProtocolError

S = TypeVar("S", bound=StrEnum)

Table: TypeAlias = Mapping[tuple[S, type], S]


class Machine(Generic[S]):
    """One session's state. It moves along `table` or to `failed`, never anywhere else."""

    __slots__ = ("_busy", "_failed", "_state", "_table")

    def __init__(self, table: Table[S], *, start: S, failed: S) -> None:
        """Start in `start`; `failed` must be a state that the table never leaves."""
        if any(state is failed for state, _ in table):
            raise LocalProtocolError("a failed session has no way on")
        self._table = table
        self._state = start
        self._failed = failed
        self._busy = False

    @property
    def state(self) -> S:
        """Where the session stands."""
        return self._state

    def require(self, *states: S) -> None:
        """Raise `LocalProtocolError` unless the session is in one of `states`; it does not fail.

        For reading what a state promises, such as the keys of an open session.
        """
        if self._state not in states:
            raise LocalProtocolError(f"not possible while {self._state}")

    def fail(self) -> None:
        """Give the session up: a peer that is gone, or a message that does not parse."""
        self._state = self._failed

    @contextmanager
    def ours(self, event: type) -> Iterator[None]:
        """Take a step of ours; `LocalProtocolError` when the table has none."""
        with self._step(event, LocalProtocolError("we may not")):
            yield

    @contextmanager
    def theirs(self, event: type) -> Iterator[None]:
        """Take a step of the peer's; `RemoteProtocolError` when the table has none."""
        with self._step(event, RemoteProtocolError("the peer may not")):
            yield

    @contextmanager
    def _step(
        self, event: type, misuse: LocalProtocolError | RemoteProtocolError
    ) -> Iterator[None]:
        target = self._table.get((self._state, event))
        if target is None or self._busy:
            state, self._state = self._state, self._failed
            raise type(misuse)(f"{misuse} {event.__name__} while {state}")
        self._busy = True
        try:
            yield
            # A `fail` inside the step stands: the step must not bring the session back to life.
            if self._state is not self._failed:
                self._state = target
        except BaseException:
            self._state = self._failed
            raise
        finally:
            self._busy = False
