"""What is measured, interleaved: each round runs the plaintext pipeline and the sealed one in turn.

A machine that is slow for a minute is then slow for both, and the ratio stands. Figures from
different runs are not compared.
"""

import os
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from attrs import asdict, frozen
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from attestation import limits
from attestation.client.client import WINDOW, Client
from tests.bench.plaintext import PlaintextClient

SIZES: Final = (limits.KIB, limits.MIB, 64 * limits.MIB)
PARAMETERS: Final = {"scale": 2.0, "shift": 1.0}

Array = np.ndarray[Any, Any]


@frozen(kw_only=True)
class Effort:
    """How often each thing is measured."""

    rounds: int
    large_rounds: int
    small_jobs: int
    latencies: int

    def rounds_of(self, size: int) -> int:
        """Return the rounds for tensors of `size` bytes."""
        return self.rounds if size <= limits.MIB else self.large_rounds


FULL: Final = Effort(rounds=60, large_rounds=9, small_jobs=2000, latencies=1000)
QUICK: Final = Effort(rounds=15, large_rounds=3, small_jobs=500, latencies=200)


@frozen(kw_only=True)
class Spread:
    """Several measurements of one thing."""

    median: float
    low: float
    """First quartile."""
    high: float
    """Third quartile."""

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Summarise at least two values."""
        low, median, high = statistics.quantiles(values, n=4)
        return cls(median=median, low=low, high=high)


def everything(plain: PlaintextClient, sealed: Client, effort: Effort) -> dict[str, Any]:
    """Run all measurements; every figure comes from this one run."""
    _warm_up(plain, sealed)
    return {
        "aead_gb_s": asdict(aead_rate()),
        "round_trips": [round_trips(plain, sealed, size, effort) for size in SIZES],
        "small_jobs": small_jobs(plain, sealed, effort),
        "latency": latency(plain, sealed, effort),
    }


def sealed_round_trip(client: Client, x: Array, *, durable: bool = False) -> Array:
    """Return scale·x + shift, computed in the worker, with its receipt verified."""
    job = client.submit("nn.affine", {"x": x}, parameters=PARAMETERS, durable=durable)
    return job.result(60)["y"]


def aead_rate() -> Spread:
    """AES-256-GCM over 1 MiB on one core, GB/s: the ceiling of everything sealed."""
    cipher, data = AESGCM(bytes(32)), bytearray(limits.MIB)
    out = bytearray(limits.MIB + 16)
    rates = []
    for _ in range(20):
        begun = time.perf_counter()
        for number in range(20):
            # The key is thrown away with the function; no nonce repeats under it.
            nonce = (len(rates) * 20 + number).to_bytes(12, "big")
            cipher.encrypt_into(nonce, data, None, out)
        rates.append(20 * len(data) / (time.perf_counter() - begun) / 1e9)
    return Spread.of(rates)


def round_trips(
    plain: PlaintextClient, sealed: Client, size: int, effort: Effort
) -> dict[str, Any]:
    """One tensor there and back, in GB/s of tensor bytes (each way)."""
    x = _random(size)
    expected = 2 * x + 1
    runs: dict[str, Callable[[], Array]] = {
        "plaintext": lambda: plain.round_trip(x),
        "sealed": lambda: sealed_round_trip(sealed, x),
        "sealed_durable": lambda: sealed_round_trip(sealed, x, durable=True),
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(effort.rounds_of(size)):
        for name, run in runs.items():
            begun = time.perf_counter()
            result = run()
            seconds[name].append(time.perf_counter() - begun)
            if not np.array_equal(result, expected):
                raise RuntimeError(f"{name} computed something else")
    rates = {
        name: Spread.of([size / each / 1e9 for each in values]) for name, values in seconds.items()
    }
    return {
        "bytes": size,
        "gb_s": {name: asdict(rate) for name, rate in rates.items()},
        "sealed_part_of_plaintext": rates["sealed"].median / rates["plaintext"].median,
    }


def small_jobs(plain: PlaintextClient, sealed: Client, effort: Effort) -> dict[str, Any]:
    """Jobs of 1 KiB per second, `WINDOW` of them in flight; every sealed one with its receipt."""
    tensors = [_random(limits.KIB) for _ in range(effort.small_jobs)]

    def run_plain() -> None:
        for _ in plain.map(tensors, window=WINDOW):
            pass

    def run_sealed() -> None:
        batches = ({"x": x} for x in tensors)
        for job in sealed.map("nn.affine", batches, parameters=PARAMETERS):
            job.result(60)

    rates: dict[str, list[float]] = {"plaintext": [], "sealed": []}
    for _ in range(3):
        for name, run in (("plaintext", run_plain), ("sealed", run_sealed)):
            begun = time.perf_counter()
            run()
            rates[name].append(len(tensors) / (time.perf_counter() - begun))
    spreads = {name: Spread.of(values) for name, values in rates.items()}
    return {
        "bytes": limits.KIB,
        "in_flight": WINDOW,
        "per_second": {name: asdict(spread) for name, spread in spreads.items()},
        "sealed_part_of_plaintext": spreads["sealed"].median / spreads["plaintext"].median,
    }


def latency(plain: PlaintextClient, sealed: Client, effort: Effort) -> dict[str, Any]:
    """Microseconds of one 1 KiB job alone in the pipeline, in blocks of 50 taken in turn."""
    x = _random(limits.KIB)
    taken: dict[str, list[float]] = {"plaintext": [], "sealed": []}
    while len(taken["sealed"]) < effort.latencies:
        for _ in range(50):
            taken["plaintext"].append(_microseconds(lambda: plain.round_trip(x)))
        for _ in range(50):
            taken["sealed"].append(_microseconds(lambda: sealed_round_trip(sealed, x)))
    points = {
        name: {"p50": statistics.median(values), "p99": statistics.quantiles(values, n=100)[98]}
        for name, values in taken.items()
    }
    return {
        "bytes": limits.KIB,
        "microseconds": points,
        "added": {
            point: points["sealed"][point] - points["plaintext"][point] for point in ("p50", "p99")
        },
    }


def _microseconds(run: Callable[[], object]) -> float:
    begun = time.perf_counter()
    run()
    return (time.perf_counter() - begun) * 1e6


def _random(size: int) -> Array:
    return np.frombuffer(os.urandom(size // 4), np.uint8).astype(np.float32)


def _warm_up(plain: PlaintextClient, sealed: Client) -> None:
    for size in SIZES:
        x = _random(size)
        plain.round_trip(x)
        sealed_round_trip(sealed, x)
