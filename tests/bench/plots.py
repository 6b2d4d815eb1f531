"""Which charts a run gives, by file name."""

from collections.abc import Mapping, Sequence

from attestation import limits
from tests.bench.results import NAMES, Results
from tests.bench.spread import Spread
from tests.bench.svg import Bar, bars, lines


def figures(results: Results) -> dict[str, str]:
    """Return SVG texts by file name, for what was measured."""
    found = {
        "round-trip-64-mib.svg": _speeds(results, 64 * limits.MIB, "64 MiB there and back"),
        "round-trip-1-mib.svg": _speeds(results, limits.MIB, "1 MiB there and back"),
        "latency-1-kib.svg": _latencies(results),
        "jobs-per-second.svg": _rates(results),
    }
    return {name: text for name, text in found.items() if text}


def _speeds(results: Results, size: int, title: str) -> str:
    series = _merged(results, size)
    rows = [
        _bar(key, Spread.of([size / seconds / 1e9 for seconds in rounds]))
        for key, rounds in series.items()
    ]
    rows.sort(key=lambda row: -row.value)
    return bars(f"{title}, GB/s each way (quartiles)", rows, unit="GB/s") if rows else ""


def _latencies(results: Results) -> str:
    series = _merged(results, limits.KIB)
    rows = [
        _bar(key, Spread.of([seconds * 1e6 for seconds in rounds]))
        for key, rounds in series.items()
    ]
    rows.sort(key=lambda row: row.value)
    title = "One job of 1 KiB alone, microseconds (quartiles of rounds)"
    return bars(title, rows, unit="µs") if rows else ""


def _rates(results: Results) -> str:
    points: dict[str, dict[float, float]] = {}
    for entry in results.measurements("jobs"):
        for key, series in entry["series"].items():
            shown = points.setdefault(NAMES[key], {})
            # Ours runs in every heat: the first is drawn.
            shown.setdefault(entry["window"], Spread.of(series["rounds"]).median)
    if not points:
        return ""
    return lines(
        "Jobs of 1 KiB per second",
        {name: sorted(values.items()) for name, values in points.items()},
        x_title="jobs in flight",
        y_title="jobs per second",
    )


def _merged(results: Results, size: int) -> Mapping[str, Sequence[float]]:
    """Return the rounds of every series of one size; of those in several heats, the first's."""
    found: dict[str, Sequence[float]] = {}
    for entry in results.measurements("round_trip", bytes=size):
        for key, series in entry["series"].items():
            found.setdefault(key, series["rounds"])
    return found


def _bar(key: str, spread: Spread) -> Bar:
    return Bar(
        label=NAMES[key],
        value=spread.median,
        low=spread.low,
        high=spread.high,
        strong=key.startswith("sealed:"),
    )
