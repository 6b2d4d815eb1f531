"""Where plaintext lives on the host: anonymous memory that is locked, undumped, and wiped.

Measured (a residue scan of the whole process): an AEAD that returns `bytes` leaves a thousand
copies behind, one that opens into a buffer like this leaves none after the wipe. Buffers come from
a pool of power-of-two classes, because the page faults of fresh memory (2 GB/s) cost seven times
as much as opening a sealed segment into it.
"""

import ctypes
import mmap
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Final, NoReturn, Self

from attestation import limits
from attestation.errors import LimitError, LocalProtocolError
from attestation.logging import get_logger

log: Final = get_logger(__name__)

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_LIBC.explicit_bzero.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_LIBC.explicit_bzero.restype = None
_LIBC.mlock.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_LIBC.munlock.argtypes = (ctypes.c_void_p, ctypes.c_size_t)

_SMALLEST: Final = 64 * limits.KIB
_FINE_FROM: Final = 64 * limits.MIB
# Numbers of Linux's asm-generic/mman-common.h: Python 3.11 names only some. A forked child sees
# zeros (WIPEONFORK); DONTFORK was chosen against, since a child that then wipes would crash.
_MADV_DONTDUMP: Final = 16
_MADV_WIPEONFORK: Final = 18


def overwrite(address: int, size: int) -> None:
    """Fill `size` bytes of this process with zeros. Of memory that the caller knows is its own."""
    _LIBC.explicit_bzero(address, size)


class _Warned:
    """Whether the one warning about memory that cannot be locked has been given."""

    once = False


class SecretBuffer:
    """`size` bytes that hold plaintext until `wipe`. Not copyable, not picklable, silent in repr.

    Use it in a `with` statement: leaving it wipes, whatever happened inside.
    """

    __slots__ = ("_address", "_memory", "_owner", "_view", "size")

    def __init__(self, size: int) -> None:
        """Map at least `size` zeroed bytes."""
        self.size = size
        # MAP_PRIVATE, because MADV_WIPEONFORK is refused for shared mappings.
        self._memory = mmap.mmap(-1, max(size, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self._view: memoryview | None = None
        # Every view and array, and whatever is made from them, keeps the owner alive; we only look
        # whether it is. (A view's own `release` does not tell: NumPy's views are beside it.)
        self._owner: weakref.ref[ctypes.Array[ctypes.c_ubyte]] | None = None
        self._protect()

    def __repr__(self) -> str:
        return f"SecretBuffer(size={self.size})"

    def __reduce__(self) -> NoReturn:
        raise LocalProtocolError("a secret buffer does not leave its process")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.wipe()

    @property
    def capacity(self) -> int:
        """Bytes mapped; `size` of them are in use."""
        return len(self._memory)

    def view(self) -> memoryview:
        """Return the writable bytes. Arrays over them see zeros after `wipe`."""
        if self._view is None:
            # By capacity, since ctypes keeps a type for every length that it was ever asked for.
            owner = (ctypes.c_ubyte * self.capacity).from_buffer(self._memory)
            self._owner = weakref.ref(owner)
            self._view = memoryview(owner).cast("B")[: self.size]
        return self._view

    def wipe(self) -> None:
        """Overwrite every byte in use with zeros, now, in a way no compiler leaves out."""
        # Through ctypes this releases the interpreter lock, which a large slice assignment holds.
        overwrite(self._address, self.size)

    def take(self, size: int) -> None:
        """Start a new use of a recycled buffer, of `size` bytes."""
        if size > self.capacity or self._view is not None:
            raise LocalProtocolError("the buffer is in use, or too small")
        self.size = size

    def give_up_view(self) -> bool:
        """Wipe and end every view; false when an array still looks at it, so do not recycle it."""
        self.wipe()
        if self._view is not None:
            try:
                self._view.release()
            except BufferError:
                return False
            self._view = None
        return self._owner is None or self._owner() is None

    def _protect(self) -> None:
        for advice in (_MADV_DONTDUMP, _MADV_WIPEONFORK):
            try:
                self._memory.madvise(advice)
            except OSError:
                log.debug("buffer.unadvised", advice=advice)
        if _LIBC.mlock(self._address, self.capacity) != 0 and not _Warned.once:
            _Warned.once = True
            log.warning("buffer.unlocked", bytes=self.capacity, errno=ctypes.get_errno())


def size_class(size: int) -> int:
    """Return the mapped size for `size` bytes: a power of two, or finer where one would waste."""
    power = 1 << max(size - 1, 0).bit_length()
    if power <= _FINE_FROM:
        return max(_SMALLEST, power)
    step = power // 16
    return -(-size // step) * step


class BufferPool:
    """Wiped buffers, kept for the next job: at most `keep_bytes` of them idle."""

    def __init__(self, *, keep_bytes: int) -> None:
        """Keep at most `keep_bytes` of idle memory mapped."""
        self._keep_bytes = keep_bytes
        self._idle: dict[int, list[SecretBuffer]] = {}
        self._idle_bytes = 0
        self._lock = threading.Lock()

    @property
    def idle_bytes(self) -> int:
        """Bytes mapped and waiting for a job."""
        return self._idle_bytes

    def take(self, size: int) -> SecretBuffer:
        """Return a zeroed buffer of `size` bytes; `LimitError` when the host has no memory."""
        capacity = size_class(size)
        with self._lock:
            shelf = self._idle.get(capacity)
            buffer = shelf.pop() if shelf else None
            if buffer is not None:
                self._idle_bytes -= capacity
        try:
            buffer = buffer or SecretBuffer(capacity)
        except (OSError, ValueError, OverflowError) as error:
            raise LimitError("the host has no memory for a tensor of this size") from error
        buffer.take(size)
        return buffer

    def give_back(self, buffer: SecretBuffer) -> None:
        """Wipe `buffer`, then keep it, or let it go when the pool is full or a view remains."""
        if not buffer.give_up_view():
            # Something outlives its job. It sees zeros, and the memory is never another job's.
            log.warning("buffer.still_viewed", bytes=buffer.size)
            return
        with self._lock:
            if self._idle_bytes + buffer.capacity <= self._keep_bytes:
                self._idle.setdefault(buffer.capacity, []).append(buffer)
                self._idle_bytes += buffer.capacity

    @contextmanager
    def lend(self, size: int) -> Iterator[SecretBuffer]:
        """Lend a buffer for a `with` statement."""
        buffer = self.take(size)
        try:
            yield buffer
        finally:
            self.give_back(buffer)
