"""Host memory for ciphertext on its way to and from a device: one large copy per direction.

Only what is sealed comes here, so nothing is ever wiped, and the buffers may be of a kind that
other parts of the system see. Outside confidential mode they are pinned, which is what lets the bus
run at its speed. In confidential mode the driver encrypts every copy through buffers of its own:
pinning (`cudaHostRegister`) is refused there, `cudaMallocHost` turns into managed memory with
encrypted paging, and a crossing costs the same however small it is. So memory is plain there, and
either way a job crosses once, with everything that it has.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeAlias

import numpy as np

from attestation import limits
from attestation.errors import LimitError
from attestation.logging import get_logger
from enclave_worker.device.scrub_pool import round_up

log: Final = get_logger(__name__)

Ciphertext: TypeAlias = np.ndarray[Any, np.dtype[np.uint8]]
Pin: TypeAlias = Callable[[int], Any]
"""Returns an object with `size` bytes of pinned memory behind the buffer protocol, or raises."""

_ALIGNMENT: Final = 16
"""The kernels read 16 bytes at a time (`part`)."""
_SMALLEST: Final = 64 * limits.KIB
_FINE_FROM: Final = 64 * limits.MIB


def aligned(size: int) -> int:
    """Return `size` rounded up so that what follows begins where the kernels can read it."""
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def capacity_of(size: int) -> int:
    """Return how large a buffer for `size` bytes is made: few sizes, little waste where it counts.

    Twice 4 GiB is much to pin, twice 4 MiB is a buffer that serves the next job too.
    """
    if size > _FINE_FROM:
        return round_up(size)
    return max(_SMALLEST, 1 << max(size - 1, 0).bit_length())


class StagingBuffers:
    """Buffers of few sizes, at most `keep_bytes` of them idle. Safe from several threads."""

    def __init__(self, *, pin: Pin | None, keep_bytes: int) -> None:
        """Take pinned memory from `pin`, or plain memory where that is none."""
        self._pin = pin
        self._keep_bytes = keep_bytes
        self._idle: dict[int, list[Ciphertext]] = {}
        self._idle_bytes = 0
        self._lock = threading.Lock()

    @property
    def pinned(self) -> bool:
        """Whether new buffers are pinned."""
        return self._pin is not None

    @contextmanager
    def lend(self, size: int) -> Iterator[Ciphertext]:
        """Lend `size` bytes for a `with` statement; raises `LimitError` when there are none."""
        buffer = self.take(size)
        try:
            yield buffer[:size]
        finally:
            self.give_back(buffer)

    def take(self, size: int) -> Ciphertext:
        """Return a buffer of at least `size` bytes, with whatever ciphertext was in it before."""
        capacity = capacity_of(size)
        with self._lock:
            shelf = self._idle.get(capacity)
            if shelf:
                self._idle_bytes -= capacity
                return shelf.pop()
        return self._make(capacity)

    def give_back(self, buffer: Ciphertext) -> None:
        """Keep a buffer that `take` returned, unless enough are kept."""
        with self._lock:
            if self._idle_bytes + buffer.size <= self._keep_bytes:
                self._idle.setdefault(buffer.size, []).append(buffer)
                self._idle_bytes += buffer.size

    def _make(self, capacity: int) -> Ciphertext:
        if self._pin is not None:
            try:
                return np.frombuffer(self._pin(capacity), dtype=np.uint8, count=capacity)
            except Exception as error:  # noqa: BLE001 - a driver may raise anything
                # A limit on locked memory, or a mode that forbids it: plain memory is only slower.
                log.warning("staging.unpinned", bytes=capacity, error=type(error).__name__)
                self._pin = None
        try:
            return np.empty(capacity, dtype=np.uint8)
        except MemoryError as error:
            raise LimitError("the host has no memory for a job's ciphertext") from error
