"""Bytes as a list of choices: how a fuzzer, which knows only bytes, steers a party's moves.

Mutating a byte changes one choice and leaves the others alone; when the bytes end, every further
choice is zero, so that a script can be cut anywhere.
"""

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

LONG = 0xFF
"""A chunk whose length byte is this has its length in the two bytes after it."""


class Script:
    """Takes choices from the front of `data`."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._offset = 0

    @property
    def done(self) -> bool:
        """Whether nothing is left."""
        return self._offset >= len(self._data)

    def take(self, count: int) -> bytes:
        """Take `count` bytes, or as many as there are."""
        piece = self._data[self._offset : self._offset + count]
        self._offset += count
        return piece

    def number(self, count: int = 1) -> int:
        """Take a big-endian number of `count` bytes; what is missing counts as zero."""
        return int.from_bytes(self.take(count).ljust(count, b"\0"), "big")

    def pick(self, choices: Sequence[T]) -> T:
        """Take one of `choices`."""
        return choices[self.number() % len(choices)]

    def chunk(self) -> bytes:
        """Take a byte string that is preceded by its length."""
        length = self.number()
        return self.take(self.number(2) if length == LONG else length)

    def rest(self) -> bytes:
        """Take everything that is left."""
        return self.take(len(self._data))

    def damaged(self, honest: bytes) -> bytes:
        """Return `honest` unless the script says what to change in it: a few edits, or a cut."""
        data = honest
        for _ in range(self.number() % 4):
            place = self.number(2) % (len(data) + 1)
            removed, added = self.number() % 16, self.chunk()
            data = data[:place] + added + data[place + removed :]
        return data


def chunk(data: bytes) -> bytes:
    """Return what `Script.chunk` reads as `data`."""
    if len(data) < LONG:
        return bytes([len(data)]) + data
    return bytes([LONG]) + len(data).to_bytes(2, "big") + data
