"""Memory of large results, kept from one that the user let go of to the next.

Fresh pages take longer than opening a result into them. What is kept is bounded and given back half
a minute after the last result: whoever waits seconds for each is not to pay for pages every time.
"""

from typing import Final

from attestation import limits
from attestation.sealing.recycled import RecycledBuffers

KEPT_BYTES: Final = 1024 * limits.MIB
KEPT_SECONDS: Final = 30.0


class ResultMemory:
    """The buffers that results are opened into. `used` and `tick` belong to one thread."""

    def __init__(self) -> None:
        """Keep nothing yet."""
        self.buffers = RecycledBuffers(keep_bytes=KEPT_BYTES)
        self._let_go_at = float("inf")

    def used(self, now: float) -> None:
        """Say that a result was opened at `now`, a monotonic time in seconds."""
        self._let_go_at = now + KEPT_SECONDS

    def tick(self, now: float) -> None:
        """Give back what no result has used for a while. The user's arrays stay as they are."""
        if now >= self._let_go_at:
            self._let_go_at = float("inf")
            self.buffers.let_go()
