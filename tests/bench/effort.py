"""How much is measured: all of it, or a first impression."""

from typing import Final

from attrs import frozen

from attestation import limits

HUGE: Final = 512 * limits.MIB
HUGE_MEMORY: Final = 8 << 30
"""Memory that must be free for the largest tensors: several copies of them exist at once."""

GIANT_MEMORY: Final = 4 << 30
"""Memory that must be free for each GiB of the one that is larger than any bound."""


@frozen(kw_only=True)
class Effort:
    """Rounds and the length of what is timed in each."""

    sizes: tuple[int, ...]
    rounds: int
    peer_rounds: int
    count: int
    """Round trips of one block, at most."""
    seconds: float
    """And no further one is begun after this long."""
    job_seconds: float
    windows: tuple[int, ...]
    huge_rounds: int
    appraisals: int
    """Times that each piece of evidence is appraised."""
    giant_gib: int
    instructions: bool


FULL: Final = Effort(
    sizes=(limits.KIB, 64 * limits.KIB, limits.MIB, 64 * limits.MIB),
    rounds=7,
    peer_rounds=5,
    count=60,
    seconds=0.35,
    job_seconds=0.4,
    windows=(1, 8, 64, 512, 4096),
    huge_rounds=3,
    appraisals=30,
    giant_gib=4,
    instructions=True,
)
QUICK: Final = Effort(
    sizes=(limits.KIB, limits.MIB, 64 * limits.MIB),
    rounds=3,
    peer_rounds=3,
    count=30,
    seconds=0.15,
    job_seconds=0.15,
    windows=(1, 64, 1024),
    huge_rounds=0,
    appraisals=5,
    giant_gib=0,
    instructions=False,
)
