"""Line numbers for the keys of a TOML document, which `tomllib` does not keep.

Only used on text that `tomllib` has accepted, and only to point a person at a line: where this
cannot follow a key (inside an inline table), it gives the line of what contains it.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

Path: TypeAlias = tuple[str, ...]

_HEADER: Final = re.compile(r"^\s*\[{1,2}(?P<keys>[^\]]+)\]{1,2}\s*(?:#.*)?$")
_ASSIGNMENT: Final = re.compile(
    r"""^\s*(?P<keys>(?:"[^"]*"|'[^']*'|[A-Za-z0-9_\-]+)(?:\s*\.\s*(?:"[^"]*"|'[^']*'|[A-Za-z0-9_\-]+))*)\s*=(?P<value>.*)$"""
)
_KEY: Final = re.compile(r""""([^"]*)"|'([^']*)'|([A-Za-z0-9_\-]+)""")
_STRING: Final = re.compile(r'"""|' r"'''|" r'"(?:\\.|[^"\\])*"|' r"'[^']*'|#.*|[\[\]{}]")


class Locations:
    """Where each key of one document is written."""

    def __init__(self, text: str) -> None:
        """Scan `text`, which is valid TOML."""
        self._lines: Mapping[Path, int] = _scan(text.splitlines())

    def line(self, path: Sequence[str]) -> int:
        """Return the line of the deepest part of `path` that is written, 1 when none is."""
        for length in range(len(path), 0, -1):
            found = self._lines.get(tuple(path[:length]))
            if found is not None:
                return found
        return 1


def _scan(lines: Sequence[str]) -> dict[Path, int]:
    found: dict[Path, int] = {}
    table: Path = ()
    value = _OpenValue()
    for number, line in enumerate(lines, start=1):
        if value.open:
            value.read(line)
        elif header := _HEADER.match(line):
            table = _keys(header["keys"])
            _note(found, table, number)
        elif assignment := _ASSIGNMENT.match(line):
            _note(found, table + _keys(assignment["keys"]), number)
            value.read(assignment["value"])
    return found


def _note(found: dict[Path, int], path: Path, number: int) -> None:
    for length in range(1, len(path) + 1):
        found.setdefault(path[:length], number)


def _keys(dotted: str) -> Path:
    # One group of each match is set; all are empty for the quoted key "", which TOML allows.
    return tuple("".join(parts) for parts in _KEY.findall(dotted))


class _OpenValue:
    """Whether a value goes on after the end of a line: a bracket or a long string is open."""

    def __init__(self) -> None:
        self._depth = 0
        self._quotes = ""

    @property
    def open(self) -> bool:
        return bool(self._depth or self._quotes)

    def read(self, rest: str) -> None:
        while rest:
            if self._quotes:
                _, found, rest = rest.partition(self._quotes)
                self._quotes = "" if found else self._quotes
                continue
            token = _STRING.search(rest)
            if token is None:
                return
            rest = rest[token.end() :]
            if token[0] in ('"""', "'''"):
                self._quotes = token[0]
            elif token[0] in "[{":
                self._depth += 1
            elif token[0] in "]}":
                self._depth -= 1
