"""Questions to the results of one run: what was measured, side by side, and how it compares.

A ratio is made of two series of the same heat, round by round; figures of different heats, sizes or
runs are never divided by one another.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from attrs import field, frozen

from tests.bench.spread import Spread

NAMES: Final = {
    "plaintext:stream": "plaintext pyzmq, streamed",
    "plaintext:whole": "plaintext pyzmq, whole tensor",
    "plaintext:bare": "AES-GCM pieces, nothing else",
    "plaintext:signed": "AES-GCM and Ed25519, nothing else",
    "plaintext:single": "plaintext pyzmq, one per message",
    "plaintext:stacks": "plaintext pyzmq, stacks",
    "plaintext:bare-single": "AES-GCM messages, nothing else",
    "plaintext:signed-single": "AES-GCM and Ed25519 messages, nothing else",
    "plaintext:bare-stacks": "AES-GCM stacks, nothing else",
    "naive:naive": "plaintext pyzmq, naive",
    "curve:stream": "CurveZMQ, streamed",
    "curve:single": "CurveZMQ, one per message",
    "curve:stacks": "CurveZMQ, stacks",
    "sealed:streaming": "sealed",
    "sealed:whole": "sealed, whole tensor",
    "sealed:durable": "sealed, durable",
    "sealed:map": "sealed, map",
    "sealed:map-durable": "sealed, map, durable",
    "sealed:submit": "sealed, submit",
    "sealed:submit-durable": "sealed, submit, durable",
    "grpc:direct": "gRPC TLS, direct",
    "grpc:forwarded": "gRPC TLS, forwarded",
    "flight:exchange": "Arrow Flight TLS, direct",
    "dask:submit": "Dask TLS",
    "ray:actor": "Ray TLS, actor",
}
"""What people are shown, by the key of a series."""


@frozen
class Results:
    """One run, as its JSON holds it."""

    document: Mapping[str, Any] = field(repr=False)

    def measurements(self, what: str, **wanted: Any) -> Iterator[Mapping[str, Any]]:
        """Yield the measurements of one kind whose fields are as wanted."""
        for entry in self.document["measurements"]:
            if entry["what"] == what and all(entry.get(k) == v for k, v in wanted.items()):
                yield entry

    def rounds(self, what: str, key: str, **wanted: Any) -> Sequence[float] | None:
        """Return the values of one series, None when it was not measured."""
        for entry in self.measurements(what, **wanted):
            if key in entry["series"]:
                values: Sequence[float] = entry["series"][key]["rounds"]
                return values
        return None

    def times_faster(self, key: str, than: str, *, heat: str, size: int) -> Spread | None:
        """Return how many times faster round trips of `key` are than those of another."""
        mine = self.rounds("round_trip", key, heat=heat, bytes=size)
        theirs = self.rounds("round_trip", than, heat=heat, bytes=size)
        return None if mine is None or theirs is None else Spread.of_ratios(theirs, mine)

    def rate_ratio(self, key: str, than: str, *, heat: str) -> Spread | None:
        """Return jobs per second of `key` by another's, each in the window that suits it best."""
        mine, theirs = self.best_rate(key, heat=heat), self.best_rate(than, heat=heat)
        return None if mine is None or theirs is None else Spread.of_ratios(mine, theirs)

    def best_rate(self, key: str, *, heat: str) -> Sequence[float] | None:
        """Return the rounds of the window in which `key` is fastest."""
        found = [
            entry["series"][key]["rounds"]
            for entry in self.measurements("jobs", heat=heat)
            if key in entry["series"]
        ]
        return max(found, key=lambda values: Spread.of(values).median, default=None)
