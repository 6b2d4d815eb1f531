"""Memory of sealed segments, used again once nobody looks at it any more.

Zeroed fresh memory costs more than sealing into it: a page fault per 4 KiB, at 2 GB/s, where
AES-GCM runs at 10. What is sealed is handed to ZeroMQ, which tells nobody when it is done with it,
but holds a reference until then, as does everybody else who may still read or send it.
"""

import sys
from typing import Final

from attestation import limits

SMALLEST: Final = 64 * limits.KIB
"""Below this a buffer comes from the heap without a page fault."""

KEPT_BYTES: Final = 32 * limits.MIB
"""Ciphertext that stays mapped: more than is in flight for one job each way."""

_OURS_ALONE: Final = 3
"""References to a buffer that only the list, the loop's variable and the question itself hold."""


class SegmentBuffers:
    """Buffers by length. Safe to use from several threads.

    Whoever asks holds a reference while he counts, so two threads never both find that they are
    alone. This counts on CPython's reference counts, as pyzmq does.
    """

    def __init__(self, *, keep_bytes: int = KEPT_BYTES) -> None:
        """Keep at most `keep_bytes`."""
        self._room = keep_bytes
        self._kept: list[bytearray] = []

    def take(self, length: int) -> bytearray:
        """Return a buffer of `length` bytes that nobody else holds; its contents are old."""
        if length < SMALLEST:
            return bytearray(length)
        for buffer in self._kept:
            if len(buffer) == length and sys.getrefcount(buffer) == _OURS_ALONE:
                return buffer
        fresh = bytearray(length)
        if length <= self._room:
            self._room -= length
            self._kept.append(fresh)
        return fresh
