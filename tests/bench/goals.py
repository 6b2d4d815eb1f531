"""The goals for the data path, each with the two series it compares, and what is out of reach.

Every goal is a ratio of one run: absolute figures move with the machine. A goal that could not be
measured says so; it is never counted as met.

Beside it stands the same ratio for the bare pipeline in our place: the same pieces over the same
sockets, with nothing but AES-GCM where it is compared with plaintext (and a signature each way
where each job has its own), with no protection at all where it is compared with a peer. What that
does not reach, no protocol over these sockets does.
"""

from collections.abc import Callable
from typing import Final, TypeAlias

from attrs import frozen

from attestation import limits
from tests.bench.results import Results
from tests.bench.spread import Spread

Compare: TypeAlias = Callable[[Results, str], Spread | None]
"""Of a run, and the key of the series that is compared with something."""

_KIB, _MIB = limits.KIB, limits.MIB


@frozen(kw_only=True)
class Goal:
    """One line of the table."""

    work: str
    least: float | None = None
    most: float | None = None
    ours: str = "sealed:streaming"
    bare: str | None = None
    """What is put in our place to see what the sockets allow."""
    compare: Compare

    def measure(self, results: Results) -> Spread | None:
        """Return our ratio."""
        return self.compare(results, self.ours)

    def limit(self, results: Results) -> Spread | None:
        """Return the bare pipeline's ratio, none where the run has none."""
        return None if self.bare is None else self.compare(results, self.bare)

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

    def beyond(self, limit: Spread) -> bool:
        """Tell whether not even the better quartile is on the right side."""
        return limit.high < self.least if self.least is not None else limit.low > (self.most or 0.0)

    @staticmethod
    def _written(value: float) -> str:
        return f"{value:,.0f}" if value >= 10 else f"{value:.2f}"


def _faster(than: str, size: int, heat: str = "limit") -> Compare:
    return lambda results, key: results.times_faster(key, than, heat=heat, size=size)


def _slower(than: str, size: int, heat: str = "limit") -> Compare:
    return lambda results, key: results.times_faster(than, key, heat=heat, size=size)


def _rate(than: str, heat: str = "limit") -> Compare:
    return lambda results, key: results.rate_ratio(key, than, heat=heat)


def _per_second(results: Results, key: str) -> Spread | None:
    rounds = results.best_rate(key, heat="limit")
    return None if rounds is None else Spread.of(rounds)


_PLAIN: Final = "plaintext:stream"
_AES: Final = "plaintext:bare"
_DURABLE_MAP: Final = "sealed:map-durable"

GOALS: Final = (
    Goal(
        work="64 MiB, sealed with receipt ÷ plaintext, streamed",
        least=0.90,
        bare=_AES,
        compare=_faster(_PLAIN, 64 * _MIB),
    ),
    Goal(
        work="512 MiB, sealed with receipt ÷ plaintext, streamed",
        least=0.90,
        bare=_AES,
        compare=_faster(_PLAIN, 512 * _MIB),
    ),
    Goal(
        work="64 MiB, sealed ÷ plaintext, whole-tensor kernels",
        least=0.87,
        ours="sealed:whole",
        compare=_faster("plaintext:whole", 64 * _MIB),
    ),
    Goal(
        work="1 MiB, sealed with receipt ÷ plaintext",
        least=0.85,
        bare=_AES,
        compare=_faster(_PLAIN, _MIB),
    ),
    Goal(
        work="64 MiB, sealed ÷ naive plaintext (one frame)",
        least=3.5,
        bare=_PLAIN,
        compare=_faster("naive:naive", 64 * _MIB),
    ),
    Goal(
        work="64 MiB, sealed ÷ CurveZMQ",
        least=4,
        bare=_PLAIN,
        compare=_faster("curve:stream", 64 * _MIB),
    ),
    Goal(
        work="1 MiB, sealed ÷ CurveZMQ",
        least=3,
        bare=_PLAIN,
        compare=_faster("curve:stream", _MIB),
    ),
    Goal(
        work="64 MiB, sealed ÷ gRPC TLS direct",
        least=2.5,
        bare=_PLAIN,
        compare=_faster("grpc:direct", 64 * _MIB, "grpc"),
    ),
    Goal(
        work="64 MiB, sealed ÷ gRPC TLS forwarded",
        least=4,
        bare=_PLAIN,
        compare=_faster("grpc:forwarded", 64 * _MIB, "grpc"),
    ),
    Goal(
        work="64 MiB, sealed ÷ Arrow Flight TLS",
        least=2.6,
        bare=_PLAIN,
        compare=_faster("flight:exchange", 64 * _MIB, "flight"),
    ),
    Goal(
        work="1 KiB jobs/s, sealed map ÷ Arrow Flight TLS",
        least=8,
        ours="sealed:map",
        compare=_rate("flight:exchange", "flight"),
    ),
    Goal(
        work="64 MiB, sealed ÷ Dask TLS",
        least=4,
        bare=_PLAIN,
        compare=_faster("dask:submit", 64 * _MIB, "dask"),
    ),
    Goal(
        work="1 KiB latency, sealed ÷ Dask TLS",
        least=100,
        bare=_PLAIN,
        compare=_faster("dask:submit", _KIB, "dask"),
    ),
    Goal(
        work="1 KiB jobs/s, sealed durable map ÷ Dask TLS",
        least=250,
        ours=_DURABLE_MAP,
        compare=_rate("dask:submit", "dask"),
    ),
    Goal(
        work="64 MiB, sealed ÷ Ray (its payload lies unencrypted)",
        least=1.0,
        bare=_PLAIN,
        compare=_faster("ray:actor", 64 * _MIB, "ray"),
    ),
    Goal(
        work="1 KiB latency, sealed ÷ Ray",
        least=12,
        bare=_PLAIN,
        compare=_faster("ray:actor", _KIB, "ray"),
    ),
    Goal(
        work="1 KiB jobs/s, sealed durable map ÷ Ray",
        least=40,
        ours=_DURABLE_MAP,
        compare=_rate("ray:actor", "ray"),
    ),
    Goal(
        work="1 KiB latency, receipt in line ÷ plaintext",
        most=1.3,
        bare="plaintext:signed",
        compare=_slower(_PLAIN, _KIB),
    ),
    Goal(
        work="1 KiB jobs/s, all on: sealed, durable, receipts verified, in stacks",
        least=100_000,
        ours=_DURABLE_MAP,
        bare="plaintext:bare-stacks",
        compare=_per_second,
    ),
    Goal(
        work="the same ÷ sealed without durability and receipts",
        least=0.5,
        ours=_DURABLE_MAP,
        compare=_rate("plaintext:bare-stacks"),
    ),
    Goal(
        work="1 KiB jobs/s one per message, sealed ÷ plaintext",
        least=0.85,
        ours="sealed:submit",
        bare="plaintext:signed-single",
        compare=_rate("plaintext:single"),
    ),
)
"""In the order of the table. `÷` reads: how many times as fast (or, for a latency, as long)."""
