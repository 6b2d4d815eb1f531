"""Challenges gather for a moment, so that one hardware signature answers all of them.

A window closes when it has been open for `window_ms` and no earlier collection is running: a TPM
takes a tenth of a second per quote, and a queue of collections would make every challenge stale.
No clock in here: time is an argument.
"""

from typing import Final

from attrs import frozen

from attestation import limits
from enclave_worker.refusals import WorkerBusyError

WINDOW_MS: Final = 20


@frozen(kw_only=True)
class Asked:
    """One client's challenge, and the peer id that the answer goes to."""

    peer: bytes
    nonce: bytes


class ChallengeWindow:
    """The challenges that wait for the next key set."""

    def __init__(
        self, *, window_ms: int = WINDOW_MS, capacity: int = limits.CHALLENGES_PER_WINDOW
    ) -> None:
        """Gather for `window_ms`, at most `capacity` challenges."""
        self._window_ms = window_ms
        self._capacity = capacity
        self._waiting: dict[bytes, Asked] = {}
        self._opened_ms: int | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, asked: Asked, *, now_ms: int) -> None:
        """Let a challenge wait; a peer's newer one takes the place of its older one.

        One per peer, because a session is found by its peer and key set: two nonces of one peer in
        one window could not be told apart. Raises `WorkerBusyError` when the window is full.
        """
        if asked.peer not in self._waiting and len(self._waiting) >= self._capacity:
            raise WorkerBusyError("too many challenges are waiting")
        self._waiting[asked.peer] = asked
        if self._opened_ms is None:
            self._opened_ms = now_ms

    def due_in_ms(self, now_ms: int) -> int | None:
        """Milliseconds until the window may close; none when nothing waits."""
        if self._opened_ms is None:
            return None
        return max(0, self._opened_ms + self._window_ms - now_ms)

    def close(self) -> tuple[Asked, ...]:
        """Return what waits, and begin the next window."""
        asked = tuple(self._waiting.values())
        self._waiting.clear()
        self._opened_ms = None
        return asked
