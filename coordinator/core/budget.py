"""The memory ledger: whoever wants to hold or be sent sealed bytes reserves them here first.

A transfer reserves one *lane* (its whole window) before it starts and gives it back when it ends,
so no transfer ever waits for more while it holds some: that, and first come first served, is why
a tiny budget is slow but cannot deadlock. Dead peers' lanes come back through timeouts.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Final, TypeAlias

from attestation.errors import LocalProtocolError
from attestation.identifiers import JobId
from attestation.wire.frames import NO_JOB

Grant: TypeAlias = Callable[[], None]
Key: TypeAlias = tuple[str, JobId]
"""What the memory is for, and which job's it is."""

_DISPATCH: Final[Key] = ("dispatch", NO_JOB)
_NOBODY: Final = b""
"""The account in whose line dispatch stands; it holds nothing itself."""


class Budget:
    """A number of bytes, who holds how many of them, and who waits for some.

    Accounts (see `quota`) are served in turn, and one that has its share waits for itself. Its
    first lane it gets whatever the share, so that a tiny budget still moves.
    """

    def __init__(self, limit: int, *, share: int) -> None:
        self.limit = limit
        self.share = share
        self.used = 0
        self._held: dict[Key, tuple[int, bytes]] = {}
        self._of: Counter[bytes] = Counter()
        self._waiting: dict[Key, bytes] = {}
        self._lines: OrderedDict[bytes, OrderedDict[Key, tuple[int, Grant]]] = OrderedDict()
        self._serving = False
        self._dispatch_turn = False

    @property
    def waiting(self) -> int:
        """Requests in all lines."""
        return len(self._waiting)

    def holds(self, key: Key) -> int:
        """Return the bytes held under `key`."""
        return self._held.get(key, (0, b""))[0]

    def total_held(self) -> int:
        """Return the sum over all holders; equals `used` (checked by `validate_state`)."""
        return sum(size for size, _ in self._held.values())

    def holders(self) -> list[Key]:
        """Return every holder and waiter that is a job's."""
        return [key for key in (*self._held, *self._waiting) if key != _DISPATCH]

    def allows(self, account: bytes, size: int) -> bool:
        """Return whether `size` more are within the share of `account`."""
        own = self._of[account]
        return own == 0 or own + size <= self.share

    def hold(self, key: Key, size: int, account: bytes) -> bool:
        """Take `size` bytes now if they are free and nobody waits for them, or return False."""
        if not self._free(size) or not self.allows(account, size):
            return False
        self._take(key, size, account)
        return True

    def request(self, key: Key, size: int, grant: Grant, account: bytes) -> None:
        """Call `grant` as soon as `size` bytes are reserved under `key`: now, or after others."""
        if size > self.limit:
            raise LocalProtocolError("a request that no amount of waiting can satisfy")
        if account not in self._lines and self.hold(key, size, account):
            grant()
        else:
            self._wait(account, key, size, grant)

    def reserve_for_dispatch(self, key: Key, size: int, schedule: Grant, account: bytes) -> bool:
        """Reserve at once, or stand in line and have `schedule` called when it is our turn.

        Dispatch chooses job and worker when memory is there, not before, so it holds one place in
        the line for whatever job will then be first. It chooses among jobs that `allows` allows.
        """
        if size > self.limit:
            raise LocalProtocolError("a request that no amount of waiting can satisfy")
        ours = self._dispatch_turn and self.used + size <= self.limit
        if ours or self._free(size):
            self._dispatch_turn = False
            self._take(key, size, account)
            return True
        if _DISPATCH not in self._waiting:
            self._wait(_NOBODY, _DISPATCH, size, schedule)
            if self._dispatch_turn:
                self._lines.move_to_end(_NOBODY, last=False)
        return False

    def release(self, key: Key) -> None:
        """Give back what `key` holds or waits for; unknown keys are fine."""
        if key not in self._held and key not in self._waiting:
            # Nothing changes, so nobody's turn comes: most jobs have one of three lanes.
            return
        size, account = self._held.pop(key, (0, _NOBODY))
        self.used -= size
        self._of[account] -= size
        if not self._of[account]:
            del self._of[account]
        if key in self._waiting:
            self._leave_line(key)
        self._serve()

    def _free(self, size: int) -> bool:
        """Whether `size` bytes are there and nobody stands in line for them."""
        return self.used + size <= self.limit and self._next() is None

    def _next(self) -> Key | None:
        """Return whose turn it is: the head of the first line that is within its share."""
        for account, line in self._lines.items():
            key, (size, _) = next(iter(line.items()))
            if self.allows(account, size):
                return key
        return None

    def _wait(self, account: bytes, key: Key, size: int, grant: Grant) -> None:
        self._waiting[key] = account
        self._lines.setdefault(account, OrderedDict())[key] = (size, grant)

    def _leave_line(self, key: Key) -> tuple[int, Grant, bytes]:
        account = self._waiting.pop(key)
        line = self._lines[account]
        size, grant = line.pop(key)
        if line:
            self._lines.move_to_end(account)
        else:
            del self._lines[account]
        return size, grant, account

    def _take(self, key: Key, size: int, account: bytes) -> None:
        if key in self._held:
            raise LocalProtocolError("one key reserves twice")
        self._held[key] = (size, account)
        self._of[account] += size
        self.used += size

    def _serve(self) -> None:
        if self._serving:
            return
        self._serving = True
        try:
            while (key := self._next()) is not None:
                if self.used + self._lines[self._waiting[key]][key][0] > self.limit:
                    return
                size, grant, account = self._leave_line(key)
                if key == _DISPATCH:
                    self._dispatch_turn = True
                    grant()
                    self._dispatch_turn = False
                else:
                    self._take(key, size, account)
                    grant()
        finally:
            self._serving = False
