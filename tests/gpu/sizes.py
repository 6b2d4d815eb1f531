"""How large tests on a GPU are, and how large where it is simulated (conftest.py)."""

import os
from typing import Final

SIMULATED: Final = os.environ.get("SIMULATED_GPU") == "1"


def sized(real: int, simulated: int) -> int:
    """Return how large something is: on a GPU, or as a processor does it in a test's time."""
    return simulated if SIMULATED else real
