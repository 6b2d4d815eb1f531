"""Several measurements of one thing, and ratios of what was measured side by side."""

import statistics
from collections.abc import Sequence
from typing import Any, Self

from attrs import asdict, frozen


@frozen(kw_only=True)
class Spread:
    """Median and quartiles."""

    median: float
    low: float
    """First quartile."""
    high: float
    """Third quartile."""
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Summarise at least one value."""
        if not values:
            raise ValueError("nothing was measured")
        if len(values) == 1:
            return cls(median=values[0], low=values[0], high=values[0], count=1)
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median=median, low=low, high=high, count=len(values))

    @classmethod
    def of_ratios(cls, above: Sequence[float], below: Sequence[float]) -> Self:
        """Summarise `above / below`, round by round: both of a round met the same machine."""
        return cls.of([a / b for a, b in zip(above, below, strict=True)])

    def to_map(self) -> dict[str, Any]:
        """Return what goes into JSON."""
        return asdict(self)


def percentile(values: Sequence[float], percent: int) -> float:
    """Return the value that `percent` of the values stay below, interpolated."""
    if len(values) == 1:
        return values[0]
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]
