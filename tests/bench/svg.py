"""Two kinds of chart as SVG text: bars with quartiles, and lines over a logarithmic axis.

Written here because a plotting library would be the largest dependency of the project, for two
charts. Colours are readable on white and on black.
"""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Final

from attrs import frozen

WIDTH: Final = 760
LABEL: Final = 230
"""Pixels for the names at the left."""
BAR: Final = 18
GAP: Final = 8
RIGHT: Final = 90
TOP: Final = 34

_COLOURS: Final = ("#2a78d6", "#d9822b", "#2f9e6e", "#b0489b", "#7a7f87", "#c0392b", "#8c6d1f")
_MARKS: Final = ("", "6 3", "2 3", "8 3 2 3", "1 2", "10 4", "4 2")
_STYLE: Final = (
    "text{font:12px system-ui,sans-serif;fill:#3a3f46}"
    ".title{font-weight:600;font-size:13px}.axis{stroke:#9aa0a8;stroke-width:1}"
    ".grid{stroke:#9aa0a8;stroke-opacity:.3}.whisker{stroke:#3a3f46;stroke-width:1.5}"
    "@media(prefers-color-scheme:dark){text{fill:#d5d9de}.whisker{stroke:#d5d9de}}"
)


@frozen(kw_only=True)
class Bar:
    """One bar: its end, and the quartiles around it."""

    label: str
    value: float
    low: float
    high: float
    strong: bool = False
    """Ours."""


def bars(title: str, rows: Sequence[Bar], *, unit: str) -> str:
    """Return a chart of horizontal bars from zero, each with its value and quartiles."""
    height = TOP + len(rows) * (BAR + GAP) + GAP
    longest = max((row.high for row in rows), default=1.0) or 1.0
    scale = (WIDTH - LABEL - RIGHT) / longest
    parts = [_text(8, 20, title, kind="title")]
    for number, row in enumerate(rows):
        top = TOP + number * (BAR + GAP)
        middle = top + BAR / 2
        end = LABEL + max(row.value, row.high) * scale + 8
        colour = _COLOURS[0] if row.strong else _COLOURS[4]
        parts += [
            _text(LABEL - 8, middle + 4, row.label, anchor="end"),
            f'<rect x="{LABEL}" y="{top}" width="{max(row.value * scale, 1):.1f}" '
            f'height="{BAR}" fill="{colour}"/>',
            _line(LABEL + row.low * scale, middle, LABEL + row.high * scale, middle, "whisker"),
            _text(
                max(end, LABEL + row.high * scale) + 8, middle + 4, f"{number_of(row.value)} {unit}"
            ),
        ]
    return _document(WIDTH, height, title, parts)


def lines(
    title: str, series: Mapping[str, Sequence[tuple[float, float]]], *, x_title: str, y_title: str
) -> str:
    """Return a chart of lines, both axes logarithmic; a series is (x, y) points."""
    left, right, top = 70, WIDTH - 220, TOP + 10
    height = max(330, top + 20 * len(series) + 20)
    bottom = height - 50
    xs = [x for points in series.values() for x, _ in points]
    ys = [y for points in series.values() for _, y in points]
    across = _Scale.over(xs, left, right)
    up = _Scale.over(ys, bottom, top, decades=True)
    parts = [_text(8, 20, title, kind="title")]
    for y in up.decades():
        parts += [
            _line(left, up.at(y), right, up.at(y), "grid"),
            _text(left - 8, up.at(y) + 4, number_of(y), anchor="end"),
        ]
    parts += [
        _text(across.at(x), bottom + 18, number_of(x), anchor="middle") for x in sorted(set(xs))
    ]
    parts.append(_line(left, bottom, right, bottom, "axis"))
    parts.append(_text((left + right) / 2, bottom + 38, x_title, anchor="middle"))
    parts.append(_text(left, top - 6, y_title))
    for number, (name, points) in enumerate(series.items()):
        again, place = divmod(number, len(_COLOURS))
        colour, mark = _COLOURS[place], _MARKS[again % len(_MARKS)]
        path = " ".join(f"{across.at(x):.1f},{up.at(y):.1f}" for x, y in points)
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2" '
            f'stroke-dasharray="{mark}"/>'
        )
        legend = top + 10 + number * 20
        parts.append(
            f'<line x1="{right + 16}" y1="{legend}" x2="{right + 44}" y2="{legend}" '
            f'stroke="{colour}" stroke-width="2" stroke-dasharray="{mark}"/>'
        )
        parts.append(_text(right + 50, legend + 4, name))
    return _document(WIDTH, height, title, parts)


def number_of(value: float) -> str:
    """Return a number with three significant digits, for people."""
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{float(f'{value:.3g}'):,.0f}"
    return f"{value:.3g}"


@frozen(kw_only=True)
class _Scale:
    """Logarithms to pixels."""

    low: float
    high: float
    start: float
    end: float

    @classmethod
    def over(
        cls, values: Sequence[float], start: float, end: float, *, decades: bool = False
    ) -> "_Scale":
        low, high = math.log10(min(values)), math.log10(max(values))
        if decades:
            low, high = math.floor(low), math.ceil(high)
        return cls(low=low, high=max(high, low + 1e-9), start=start, end=end)

    def at(self, value: float) -> float:
        part = (math.log10(value) - self.low) / (self.high - self.low)
        return self.start + part * (self.end - self.start)

    def decades(self) -> list[float]:
        return [10.0**power for power in range(math.ceil(self.low), math.floor(self.high) + 1)]


def _document(width: int, height: float, title: str, parts: Sequence[str]) -> str:
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height:.0f}" '
            f'role="img" aria-label="{escape(title)}">',
            f"<style>{_STYLE}</style>",
            *parts,
            "</svg>\n",
        ]
    )


def _text(x: float, y: float, text: str, *, anchor: str = "start", kind: str = "label") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">{escape(text)}</text>'
    )


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'
