"""Numbers for Prometheus, written in its text format (version 0.0.4).

Our own hundred lines and no library: the worker's are part of what is measured, and counting is an
addition here, where a library's registry takes a lock. Another implementation's parser reads them
in the tests.

A label's values are members of an enumeration. Nothing that is made while a process runs can be
one, so no id, name, shape or parameter ever is.
"""

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from itertools import accumulate
from typing import Final, TypeAlias

from attrs import field, frozen, validators

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

Number: TypeAlias = int | float
Values: TypeAlias = Number | Mapping[StrEnum, Number]
"""One number, or one for each member of an enumeration."""

_NAME: Final = re.compile(r"enclave_[a-z]+(_[a-z]+)+")
_LABEL: Final = re.compile(r"[a-z]+")


class Histogram:
    """How many observations there were up to each bound. One thread observes, any may read."""

    def __init__(self, bounds: Sequence[float]) -> None:
        """Count by `bounds`, which ascend; what is above the last is counted as well."""
        self.bounds = tuple(bounds)
        self.total: float = 0
        self._counts = [0] * (len(self.bounds) + 1)

    def observe(self, value: float) -> None:
        """Count one."""
        self._counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def cumulative(self) -> tuple[int, ...]:
        """Return how many were at most each bound, and how many there were."""
        return tuple(accumulate(tuple(self._counts)))


class Kind(StrEnum):
    """What may be done with a number: subtract two readings of it, or look at one."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


def _only_enumerated(_family: "Family", _attribute: object, values: Values | Histogram) -> None:
    if isinstance(values, Mapping) and not all(isinstance(each, StrEnum) for each in values):
        raise TypeError("a label's values are members of an enumeration")


@frozen(kw_only=True)
class Family:
    """One metric: its name, what it means, and its numbers now."""

    name: str = field(validator=validators.matches_re(_NAME))
    kind: Kind
    text: str
    label: str = field(default="", validator=validators.matches_re(rf"({_LABEL.pattern})?"))
    values: Values | Histogram = field(validator=_only_enumerated)


def counter(name: str, text: str, values: Values, *, label: str = "") -> Family:
    """Return a number that only grows; its name ends in `_total`."""
    if not name.endswith("_total"):
        raise ValueError(f"{name}: the name of a counter ends in _total")
    return Family(name=name, kind=Kind.COUNTER, text=text, values=values, label=label)


def gauge(name: str, text: str, values: Values, *, label: str = "") -> Family:
    """Return a number that goes up and down."""
    return Family(name=name, kind=Kind.GAUGE, text=text, values=values, label=label)


def histogram(name: str, text: str, values: Histogram) -> Family:
    """Return what a histogram has counted so far."""
    return Family(name=name, kind=Kind.HISTOGRAM, text=text, values=values)


def render(families: Iterable[Family]) -> str:
    """Return the text that a scrape is answered with."""
    return "".join(f"{line}\n" for family in families for line in _lines(family))


def _lines(family: Family) -> Iterator[str]:
    name, values = family.name, family.values
    yield f"# HELP {name} {family.text}"
    yield f"# TYPE {name} {family.kind}"
    if isinstance(values, Histogram):
        yield from _buckets(name, values)
    elif isinstance(values, Mapping):
        for member, value in values.items():
            yield f'{name}{{{family.label}="{member.value}"}} {value!r}'
    else:
        yield f"{name} {values!r}"


def _buckets(name: str, values: Histogram) -> Iterator[str]:
    counts = values.cumulative()
    for bound, count in zip(values.bounds, counts, strict=False):
        yield f'{name}_bucket{{le="{bound:g}"}} {count}'
    yield f'{name}_bucket{{le="+Inf"}} {counts[-1]}'
    yield f"{name}_sum {values.total!r}"
    yield f"{name}_count {counts[-1]}"
