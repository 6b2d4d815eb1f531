"""Random numbers for seeded kernels: a pure function of seed and counter, equal on every device.

NumPy's and CuPy's generators give different numbers for one seed, and NumPy may change its own.
"""

import hashlib


def uniform(seed: int, counter: int) -> float:
    """Return draw `counter` of `seed`: at least 0, below 1, 53 bits of a SHA-256."""
    text = f"enclave-worker/kernels/uniform {seed} {counter}"
    block = hashlib.sha256(text.encode()).digest()
    return float((int.from_bytes(block[:8], "big") >> 11) * 2.0**-53)
