"""Lengths of the segments of one direction, run by run, and a cursor over them.

Only a tensor's last segment is short, so the lengths of any honest job are a few runs. A list of
lengths would let a job of 64 KiB segments take more memory than its window.
"""

import struct
from typing import Final, Self

from attestation import limits
from attestation.errors import DecodeError, LimitError, LocalProtocolError

_RUN: Final = struct.Struct(">II")
MAX_RUNS: Final = 2 * limits.TENSORS_PER_JOB + 2


class SegmentLengths:
    """An append-only sequence of lengths, stored as (length, how many) runs."""

    __slots__ = ("count", "runs", "total")

    def __init__(self) -> None:
        self.runs: list[list[int]] = []
        self.count = 0
        self.total = 0

    def append(self, length: int) -> None:
        """Add one segment; raises `LimitError` when no honest job has so many runs."""
        if self.runs and self.runs[-1][0] == length:
            self.runs[-1][1] += 1
        elif len(self.runs) >= MAX_RUNS:
            raise LimitError("segments of too many different lengths")
        else:
            self.runs.append([length, 1])
        self.count += 1
        self.total += length

    def to_bytes(self) -> bytes:
        """Return eight bytes per run, for the store."""
        return b"".join(_RUN.pack(length, times) for length, times in self.runs)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read what `to_bytes` wrote, or raise `DecodeError`."""
        if len(data) % _RUN.size or len(data) > MAX_RUNS * _RUN.size:
            raise DecodeError("not a list of segment lengths")
        lengths = cls()
        for length, times in _RUN.iter_unpack(data):
            lengths.runs.append([length, times])
            lengths.count += times
            lengths.total += length * times
        return lengths


class Cursor:
    """Walks `SegmentLengths` in order; `take` gives offset and length of the next segment."""

    __slots__ = ("_done", "_lengths", "_run", "index", "offset")

    def __init__(self, lengths: SegmentLengths) -> None:
        self._lengths = lengths
        self._run = 0
        self._done = 0
        self.index = 0
        self.offset = 0

    def take(self) -> tuple[int, int]:
        """Step over the next segment; raises `LocalProtocolError` past the end."""
        if self.index >= self._lengths.count:
            raise LocalProtocolError("no segment left")
        length, times = self._lengths.runs[self._run]
        offset = self.offset
        self.offset += length
        self.index += 1
        self._done += 1
        if self._done == times:
            self._run += 1
            self._done = 0
        return offset, length

    def seek(self, index: int) -> None:
        """Go to segment `index`, at most the count."""
        self.index = self.offset = self._run = self._done = 0
        for length, times in self._lengths.runs:
            step = min(times, index - self.index)
            self.index += step
            self.offset += step * length
            if step < times:
                self._done = step
                return
            self._run += 1
