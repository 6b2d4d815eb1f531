"""The goals for the data path, each with the two series it compares.

Every goal is a ratio of one run: absolute figures move with the machine. A goal that could not be
measured says so; it is never counted as met.
"""

from collections.abc import Callable
from typing import Final, TypeAlias

from attrs import frozen

from attestation import limits
from tests.bench.results import Results
from tests.bench.spread import Spread

Measure: TypeAlias = Callable[[Results], Spread | None]

_KIB, _MIB = limits.KIB, limits.MIB


@frozen(kw_only=True)
class Goal:
    """One line of the table."""

    work: str
    least: float | None = None
    most: float | None = None
    measure: Measure

    @property
    def wanted(self) -> str:
        """The threshold, written out."""
        if self.least is not None:
            return f"≥ {self._written(self.least)}"
        return f"≤ {self._written(self.most or 0.0)}"

    def shown(self, found: Spread) -> str:
        """What was measured, with its quartiles."""
        low, median, high = map(self._written, (found.low, found.median, found.high))
        return f"{median} ({low} to {high})"

    def met(self, found: Spread) -> bool:
        """Tell whether the median is on the right side."""
        if self.least is not None:
            return found.median >= self.least
        return found.median <= (self.most or 0.0)

    @staticmethod
    def _written(value: float) -> str:
        return f"{value:,.0f}" if value >= 10 else f"{value:.2f}"


def _faster(key: str, than: str, size: int, heat: str = "limit") -> Measure:
    return lambda results: results.times_faster(key, than, heat=heat, size=size)


def _slower(key: str, than: str, size: int, heat: str = "limit") -> Measure:
    return lambda results: results.times_faster(than, key, heat=heat, size=size)


def _rate(key: str, than: str, heat: str = "limit", window: int | None = None) -> Measure:
    return lambda results: results.rate_ratio(key, than, heat=heat, window=window)


def _per_second(key: str, heat: str = "limit") -> Measure:
    def measure(results: Results) -> Spread | None:
        rounds = results.best_rate(key, heat=heat)
        return None if rounds is None else Spread.of(rounds)

    return measure


_SEALED: Final = "sealed:streaming"
_DURABLE_MAP: Final = "sealed:map-durable"

GOALS: Final = (
    Goal(
        work="64 MiB, sealed with receipt ÷ plaintext, streamed",
        least=0.90,
        measure=_faster(_SEALED, "plaintext:stream", 64 * _MIB),
    ),
    Goal(
        work="512 MiB, sealed with receipt ÷ plaintext, streamed",
        least=0.90,
        measure=_faster(_SEALED, "plaintext:stream", 512 * _MIB),
    ),
    Goal(
        work="64 MiB, sealed ÷ plaintext, whole-tensor kernels",
        least=0.87,
        measure=_faster(_SEALED, "plaintext:whole", 64 * _MIB),
    ),
    Goal(
        work="1 MiB, sealed with receipt ÷ plaintext",
        least=0.85,
        measure=_faster(_SEALED, "plaintext:stream", _MIB),
    ),
    Goal(
        work="64 MiB, sealed ÷ naive plaintext (one frame)",
        least=3.5,
        measure=_faster(_SEALED, "naive:naive", 64 * _MIB),
    ),
    Goal(
        work="64 MiB, sealed ÷ CurveZMQ",
        least=4,
        measure=_faster(_SEALED, "curve:stream", 64 * _MIB),
    ),
    Goal(
        work="1 MiB, sealed ÷ CurveZMQ",
        least=3,
        measure=_faster(_SEALED, "curve:stream", _MIB),
    ),
    Goal(
        work="64 MiB, sealed ÷ gRPC TLS direct",
        least=2.5,
        measure=_faster(_SEALED, "grpc:direct", 64 * _MIB, "grpc"),
    ),
    Goal(
        work="64 MiB, sealed ÷ gRPC TLS forwarded",
        least=4,
        measure=_faster(_SEALED, "grpc:forwarded", 64 * _MIB, "grpc"),
    ),
    Goal(
        work="64 MiB, sealed ÷ Arrow Flight TLS",
        least=2.6,
        measure=_faster(_SEALED, "flight:exchange", 64 * _MIB, "flight"),
    ),
    Goal(
        work="1 KiB jobs/s, sealed map ÷ Arrow Flight TLS",
        least=8,
        measure=_rate("sealed:map", "flight:exchange", "flight"),
    ),
    Goal(
        work="64 MiB, sealed ÷ Dask TLS",
        least=4,
        measure=_faster(_SEALED, "dask:submit", 64 * _MIB, "dask"),
    ),
    Goal(
        work="1 KiB latency, sealed ÷ Dask TLS",
        least=100,
        measure=_faster(_SEALED, "dask:submit", _KIB, "dask"),
    ),
    Goal(
        work="1 KiB jobs/s, sealed durable map ÷ Dask TLS",
        least=250,
        measure=_rate(_DURABLE_MAP, "dask:submit", "dask"),
    ),
    Goal(
        work="64 MiB, sealed ÷ Ray (its payload lies unencrypted)",
        least=1.0,
        measure=_faster(_SEALED, "ray:actor", 64 * _MIB, "ray"),
    ),
    Goal(
        work="1 KiB latency, sealed ÷ Ray",
        least=12,
        measure=_faster(_SEALED, "ray:actor", _KIB, "ray"),
    ),
    Goal(
        work="1 KiB jobs/s, sealed durable map ÷ Ray",
        least=40,
        measure=_rate(_DURABLE_MAP, "ray:actor", "ray"),
    ),
    Goal(
        work="1 KiB latency, receipt in line ÷ plaintext",
        most=1.3,
        measure=_slower(_SEALED, "plaintext:stream", _KIB),
    ),
    Goal(
        work="1 KiB jobs/s, all on: sealed, durable, receipts verified, in stacks",
        least=100_000,
        measure=_per_second(_DURABLE_MAP),
    ),
    Goal(
        work="the same ÷ sealed without durability and receipts",
        least=0.5,
        measure=_rate(_DURABLE_MAP, "plaintext:bare-stacks"),
    ),
    Goal(
        work="1 KiB jobs/s one per message, sealed ÷ plaintext",
        least=0.85,
        measure=_rate("sealed:submit", "plaintext:single"),
    ),
)
"""In the order of the table. `÷` reads: how many times as fast (or, for a latency, as long)."""
