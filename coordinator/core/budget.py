"""The memory ledger: whoever wants to hold or be sent sealed bytes reserves them here first.

A transfer reserves one *lane* (its whole window) before it starts and gives it back when it ends,
so no transfer ever waits for more while it holds some: that, and first come first served, is why
a tiny budget is slow but cannot deadlock. Dead peers' lanes come back through timeouts.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Final, TypeAlias

from attestation.errors import LocalProtocolError
from attestation.identifiers import JobId
from attestation.wire.frames import NO_JOB

Grant: TypeAlias = Callable[[], None]
Key: TypeAlias = tuple[str, JobId]
"""What the memory is for, and which job's it is."""

_DISPATCH: Final[Key] = ("dispatch", NO_JOB)


class Budget:
    """A number of bytes, who holds how many of them, and who waits for some."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._held: dict[Key, int] = {}
        self._waiting: OrderedDict[Key, tuple[int, Grant]] = OrderedDict()
        self._serving = False
        self._dispatch_turn = False

    @property
    def waiting(self) -> int:
        """Requests in the line."""
        return len(self._waiting)

    def holds(self, key: Key) -> int:
        """Return the bytes held under `key`."""
        return self._held.get(key, 0)

    def total_held(self) -> int:
        """Return the sum over all holders; equals `used` (checked by `validate_state`)."""
        return sum(self._held.values())

    def holders(self) -> list[Key]:
        """Return every holder and waiter that is a job's."""
        return [key for key in (*self._held, *self._waiting) if key != _DISPATCH]

    def hold(self, key: Key, size: int) -> bool:
        """Take `size` bytes now if they are free and nobody waits for them, or return False."""
        if self._waiting or self.used + size > self.limit:
            return False
        self._take(key, size)
        return True

    def request(self, key: Key, size: int, grant: Grant) -> None:
        """Call `grant` as soon as `size` bytes are reserved under `key`: now, or after others."""
        if size > self.limit:
            raise LocalProtocolError("a request that no amount of waiting can satisfy")
        if self._waiting or self.used + size > self.limit:
            self._waiting[key] = (size, grant)
        else:
            self._take(key, size)
            grant()

    def reserve_for_dispatch(self, key: Key, size: int, schedule: Grant) -> bool:
        """Reserve at once, or stand in line and have `schedule` called when it is our turn.

        Dispatch chooses job and worker when memory is there, not before, so it holds one place in
        the line for whatever job will then be first.
        """
        if size > self.limit:
            raise LocalProtocolError("a request that no amount of waiting can satisfy")
        fits = self.used + size <= self.limit
        if fits and (self._dispatch_turn or not self._waiting):
            self._dispatch_turn = False
            self._take(key, size)
            return True
        if _DISPATCH not in self._waiting:
            self._waiting[_DISPATCH] = (size, schedule)
            if self._dispatch_turn:
                self._waiting.move_to_end(_DISPATCH, last=False)
        return False

    def release(self, key: Key) -> None:
        """Give back what `key` holds or waits for; unknown keys are fine."""
        self.used -= self._held.pop(key, 0)
        self._waiting.pop(key, None)
        self._serve()

    def _take(self, key: Key, size: int) -> None:
        if key in self._held:
            raise LocalProtocolError("one key reserves twice")
        self._held[key] = size
        self.used += size

    def _serve(self) -> None:
        if self._serving:
            return
        self._serving = True
        try:
            while self._waiting:
                key, (size, grant) = next(iter(self._waiting.items()))
                if self.used + size > self.limit:
                    return
                del self._waiting[key]
                if key == _DISPATCH:
                    self._dispatch_turn = True
                    grant()
                    self._dispatch_turn = False
                else:
                    self._take(key, size)
                    grant()
        finally:
            self._serving = False
