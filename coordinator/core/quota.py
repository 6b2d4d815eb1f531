"""What everybody shares, and how much of it one account may hold.

An account is whoever can be told apart: a CURVE key, which the operator allowed, or where there is
no CURVE a client key. Client keys cost nothing to make, so behind one CURVE key they count as one.
"""

from collections import Counter


class Quota:
    """A limited number of things, and who holds how many."""

    def __init__(self, limit: int, share: int) -> None:
        self.limit = limit
        self.share = share
        self.used = 0
        self._of: Counter[bytes] = Counter()

    def room(self, account: bytes, amount: int) -> bool:
        """Return whether `account` may hold so many more."""
        within_share = self._of[account] + amount <= self.share
        return within_share and self.used + amount <= self.limit

    def add(self, account: bytes, amount: int) -> None:
        """Count `amount` more; a negative one is given back."""
        self.used += amount
        held = self._of[account] + amount
        if held:
            self._of[account] = held
        else:
            self._of.pop(account, None)

    def total_held(self) -> int:
        """Return the sum over all accounts; equals `used` (checked by `validate_state`)."""
        return self._of.total()
