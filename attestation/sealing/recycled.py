"""Memory of segments and results, used again once nobody looks at it any more.

Zeroed fresh memory costs more than sealing into it: a page fault per 4 KiB, at 2 GB/s, where
AES-GCM runs at 10. What is sealed is handed to ZeroMQ, and what is opened to the user; neither
tells when it is done, but holds a reference until then, as does everybody else who may still look.
"""

import sys
import threading
from typing import Final

from attestation import limits

SMALLEST: Final = 64 * limits.KIB
"""Below this a buffer comes from the heap without a page fault."""

KEPT_BYTES: Final = 32 * limits.MIB
"""Ciphertext that stays mapped: more than is in flight for one job each way."""

_OURS_ALONE: Final = 3
"""References to a buffer that only the list, the loop's variable and the question itself hold."""


class RecycledBuffers:
    """Buffers by length. Safe to use from several threads.

    Whoever asks holds a reference while he counts, so two threads never both find that they are
    alone. This counts on CPython's reference counts, as pyzmq does.
    """

    def __init__(self, *, keep_bytes: int = KEPT_BYTES) -> None:
        """Keep at most `keep_bytes`."""
        self._room = keep_bytes
        self._kept: list[bytearray] = []
        self._lock = threading.Lock()

    def take(self, length: int) -> bytearray:
        """Return a buffer of `length` bytes that nobody else holds; its contents are old."""
        if length < SMALLEST:
            return bytearray(length)
        for buffer in self._kept:
            if len(buffer) == length and sys.getrefcount(buffer) == _OURS_ALONE:
                return buffer
        # Let go before asking for more: the two together may be more than there is.
        with self._lock:
            keep = self._make_room(length)
        fresh = bytearray(length)
        if keep:
            with self._lock:
                self._kept.append(fresh)
        return fresh

    def let_go(self) -> None:
        """Keep nothing of what is there now; whoever holds a buffer goes on holding it."""
        with self._lock:
            self._room += sum(map(len, self._kept))
            self._kept = []

    def _make_room(self, length: int) -> bool:
        """Reserve room for `length` bytes, letting go of what nobody holds, oldest first."""
        number = 0
        while self._room < length and number < len(self._kept):
            buffer = self._kept[number]
            if sys.getrefcount(buffer) == _OURS_ALONE:
                self._room += len(buffer)
                # Another list, since others may be looking through this one.
                self._kept = [each for each in self._kept if each is not buffer]
            else:
                number += 1
            del buffer
        if self._room < length:
            return False
        self._room -= length
        return True
