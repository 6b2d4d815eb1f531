"""Overwrite what neither buffers nor the allocator do: small arrays, numbers, stacks, registers.

With the heap of `hardening`, freed memory is overwritten. NumPy keeps the data of freed
arrays below 1 KiB for itself, up to seven for every length, and Python keeps freed floats (and, in
newer versions, ints), a hundred of each. Both hand out what they keep before they ask for more, so
whoever takes as much as they can hold, and fills it, has overwritten all of it.

That takes as long as a small job, and so it is done half a second after the last of several jobs,
or every two seconds while they do not end: a column's mean or a parameter may be found that much
longer than its job.

A function that returned leaves its variables on the stack until another call reaches as deep, and
the last values that it moved in vector registers, which nobody uses for minutes and the dynamic
linker then saves to the stack: half of a session secret was found there. A thread clears both of
itself in microseconds. Threads of jobs do so after each job, the loop with everything else.
"""

import ctypes
import gc
from typing import Any, Final

import numpy as np
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

DELAY_MS: Final = 500
"""How long after the last job its last copies are overwritten."""
BUSY_MS: Final = 2_000
"""How long after the first of many jobs that follow each other closely, at most."""
_SETTLE_MS: Final = 50
"""A thread that reports the end of its job may hold the last references this much longer."""

_ARRAY_BYTES: Final = 1024
_ARRAYS_PER_LENGTH: Final = 8
_NUMBERS: Final = 256
_STACK_BYTES: Final = 128 * 1024
"""Deeper than any call with a secret goes, and within the smallest stacks that threads have."""


class _Zeros(ctypes.Structure):
    _fields_ = (("octets", ctypes.c_ubyte * _STACK_BYTES),)


# Passed by value, an argument of this size is copied to the stack below the caller, without holes.
# What is called looks at no argument.
_ON_THE_STACK: Final = ctypes.CFUNCTYPE(ctypes.c_int, _Zeros)(("getpid", ctypes.CDLL(None)))
_ZEROS: Final = _Zeros()

# OpenSSL's AES-GCM takes every vector register that the processor has and clears it afterwards.
# Nothing is sealed here: the result is dropped.
_REGISTERS: Final = AESGCM(bytes(32))
_NOTHING: Final = bytes(4096)


class Scrubber:
    """Knows when secrets were last used and when leftovers are due. Without a clock of its own."""

    def __init__(self) -> None:
        """Begin with nothing to do."""
        self._first_ms: int | None = None
        self._last_ms = 0

    def used(self, now_ms: int) -> None:
        """Say that a job ended, however it did, or that a session's keys were used."""
        self._last_ms = now_ms
        if self._first_ms is None:
            self._first_ms = now_ms

    def due_in_ms(self, now_ms: int) -> int | None:
        """Milliseconds until `tick` has something to do; none when nothing is left to overwrite."""
        if self._first_ms is None:
            return None
        return max(0, min(self._last_ms + DELAY_MS, self._first_ms + BUSY_MS) - now_ms)

    def tick(self, now_ms: int) -> None:
        """Overwrite what is due."""
        if self.due_in_ms(now_ms) != 0:
            return
        overwrite_leftovers()
        settled = now_ms - self._last_ms >= _SETTLE_MS
        self._first_ms = None if settled else now_ms


def set_aside_what_stays() -> None:
    """Leave what exists now out of later collections: call it when a process is set up.

    Modules, kernels and the catalogue live as long as the worker; looking through them each time
    takes ten times as long as everything else that `overwrite_leftovers` does.
    """
    gc.collect()
    gc.freeze()


def overwrite_leftovers() -> None:
    """Overwrite every freed small array and number that is kept, and this thread's leftovers."""
    # An exception and the frames that it passed through hold each other, and what was in them.
    gc.collect()
    arrays = [
        np.zeros(length, dtype=np.uint8)
        for length in range(1, _ARRAY_BYTES)
        for _ in range(_ARRAYS_PER_LENGTH)
    ]
    numbers: list[Any] = [number + 0.5 for number in range(_NUMBERS)]
    numbers += [(1 << 62) + number for number in range(_NUMBERS)]
    del arrays, numbers
    overwrite_own_thread()


def overwrite_own_thread() -> None:
    """Overwrite what returned functions left on the calling thread's stack and in its registers."""
    _ON_THE_STACK(_ZEROS)
    _REGISTERS.encrypt(_NOTHING[:12], _NOTHING, None)
