"""Where a run takes place, and how fast the machine seals: the ceiling of everything sealed."""

import os
import platform
import threading
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from attestation import limits
from tests.bench.spread import Spread

SIZES: Final = (limits.KIB, 64 * limits.KIB, limits.MIB)
BLOCK_SECONDS: Final = 0.02
BLOCKS: Final = 15


def machine() -> dict[str, Any]:
    """Describe the machine and what runs on it."""
    flags = _cpuinfo("flags").split()
    return {
        "processor": _cpuinfo("model name") or platform.machine(),
        "vaes": "vaes" in flags,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(_meminfo("MemTotal") / (1 << 30)),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in ("cryptography", "pyzmq", "numpy")},
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "load_before": load(),
    }


def load() -> float:
    """Return how many processes wanted to run, on average of the last minute."""
    return round(os.getloadavg()[0], 2)


def available_memory() -> int:
    """Return the bytes that can be used without swapping."""
    return _meminfo("MemAvailable")


def aead_rates() -> list[dict[str, Any]]:
    """Seal with AES-256-GCM on one thread and on two, GB/s in all."""
    return [
        {"bytes": size, "threads": threads, "gb_s": Spread.of(_rates(size, threads)).to_map()}
        for size in SIZES
        for threads in (1, 2)
    ]


def _rates(size: int, threads: int) -> list[float]:
    sealed = [0] * threads
    rates = []
    for _ in range(BLOCKS):
        barrier = threading.Barrier(threads + 1)

        def seal(slot: int, barrier: threading.Barrier = barrier) -> None:
            # A key of its own for each block: no nonce repeats under it.
            cipher = AESGCM(AESGCM.generate_key(256))
            data, out = bytearray(size), bytearray(size + 16)
            barrier.wait()
            end = time.perf_counter() + BLOCK_SECONDS
            number = 0
            while time.perf_counter() < end:
                cipher.encrypt_into(number.to_bytes(12, "big"), data, None, out)
                number += 1
            sealed[slot] = number

        running = [threading.Thread(target=seal, args=(slot,)) for slot in range(threads)]
        for thread in running:
            thread.start()
        barrier.wait()
        begun = time.perf_counter()
        for thread in running:
            thread.join()
        rates.append(sum(sealed) * size / (time.perf_counter() - begun) / 1e9)
    return rates


def _cpuinfo(field: str) -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == field:
            return value.strip()
    return ""


def _meminfo(field: str) -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    return 0
