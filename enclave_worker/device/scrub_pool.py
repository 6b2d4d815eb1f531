"""Device memory that is zeroed before anybody else sees it: CuPy allocates from here.

CuPy's own pool hands freed blocks to the next array with their old contents, and its hooks on
`free` belong to one thread, so that a block dropped by another thread, or by the garbage collector
there, would be missed. Here the callback belongs to the allocation (`PythonFunctionAllocator`).

    free    a fill with zeros is queued on the stream that the block was taken on, behind the
            kernels that still use it. Everything on the device comes from here, keys, round keys,
            powers of the hash key and partial MACs included, so all of it is zeroed.
    reuse   on the same stream at once, in stream order; on another one only after `settle`, which
            its caller calls when the stream has ended. The block is filled with zeros once more:
            a block that some stray kernel wrote to after its end is clean too, and a block fresh
            from the driver may hold what another program left.

If zeroing fails, the context is broken (CUDA errors stick): the pool says so in `broken`, hands out
nothing more and keeps the block, and the worker leaves the process, after which the driver clears
it. No callback ever raises: CuPy calls `free` where an exception would be printed and dropped.

The pool knows nothing of CuPy: its runtime is passed in, and tests run it over host memory.
"""

import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Protocol

from attrs import define, frozen

from attestation.errors import LimitError
from attestation.logging import get_logger

log: Final = get_logger(__name__)

_GRAIN: Final = 512
"""What CUDA aligns allocations to, and more than any vector load needs."""
_FINE_FROM: Final = 1 << 20


class DeviceRuntime(Protocol):
    """The four things that a pool needs of a device."""

    def allocate(self, size: int) -> int:
        """Return the address of `size` new bytes, or raise `MemoryError`."""
        ...

    def free(self, address: int) -> None:
        """Give `address` back; waits for whatever uses it."""
        ...

    def fill_zero(self, address: int, size: int, stream: int) -> None:
        """Queue zeros for `size` bytes behind what is on `stream`."""
        ...

    def current_stream(self) -> int:
        """Return the calling thread's stream."""
        ...


class DeviceMemoryShortError(LimitError, MemoryError):
    """The device's memory is used up. Send a smaller job, or choose a worker with a larger GPU.

    It is a `MemoryError` too, which is what kernels' libraries expect of an allocator.
    """

    code = "device-memory-short"


@define(kw_only=True, eq=False)
class Account:
    """What one job holds: the pool adds and takes away, whichever thread frees."""

    limit: int
    held: int = 0
    peak: int = 0
    asked: int = 0
    """What the job would have held, had the allocation that failed succeeded; 0 if none did."""


@frozen(kw_only=True)
class _Block:
    size: int
    stream: int
    account: Account


class ScrubPool:
    """Zeroed blocks of one device. Safe to call from several threads."""

    def __init__(self, runtime: DeviceRuntime, *, limit: int) -> None:
        """Hold at most `limit` bytes of the device."""
        self._runtime = runtime
        self._limit = limit
        self._lock = threading.RLock()
        self._live: dict[int, _Block] = {}
        self._idle: dict[tuple[int | None, int], list[int]] = defaultdict(list)
        self._held = 0
        self._used = 0
        self._peak = 0
        self._thread = threading.local()
        self._common = Account(limit=limit)
        self.broken = False
        """Whether zeroing failed once: leave the process."""

    # -- what CuPy calls ---------------------------------------------------------------------------

    def allocate(self, size: int, _device: int = 0) -> int:
        """Return the address of at least `size` zeroed bytes; raises `DeviceMemoryShortError`."""
        rounded = round_up(size)
        stream = self._runtime.current_stream()
        account: Account = getattr(self._thread, "account", self._common)
        # The garbage collector may free a block in the middle of this, hence the reentrant lock.
        with self._lock:
            if self.broken:
                raise DeviceMemoryShortError("the device's memory could not be zeroed")
            self._require_room(account, rounded)
            address = self._take(rounded, stream)
            if address is None:
                address = self._fresh(account, rounded)
            if not self._zero(address, rounded, stream):
                raise DeviceMemoryShortError("the device's memory could not be zeroed")
            self._live[address] = _Block(size=rounded, stream=stream, account=account)
            account.held += rounded
            account.peak = max(account.peak, account.held)
            self._used += rounded
            self._peak = max(self._peak, self._used)
        return address

    def free(self, address: int, _device: int = 0) -> None:
        """Zero the block behind what still uses it, and keep it for another. Never raises."""
        with self._lock:
            block = self._live.pop(address, None)
            if block is None:
                log.error("device.memory_unknown")
                return
            block.account.held -= block.size
            self._used -= block.size
            if self._zero(address, block.size, block.stream):
                self._idle[block.stream, block.size].append(address)

    # -- what the device calls ---------------------------------------------------------------------

    @contextmanager
    def charge(self, account: Account) -> Iterator[Account]:
        """Put what this thread allocates on `account`, for a `with` statement."""
        before = getattr(self._thread, "account", self._common)
        self._thread.account = account
        try:
            yield account
        finally:
            self._thread.account = before

    def settle(self, stream: int) -> None:
        """Let every stream reuse what `stream` freed. Only when all that was on it has ended."""
        with self._lock:
            for key in [key for key in self._idle if key[0] == stream]:
                self._idle[None, key[1]].extend(self._idle.pop(key))

    def trim(self) -> None:
        """Give idle blocks, zeroed, back to the driver."""
        with self._lock:
            for key in list(self._idle):
                for address in self._idle.pop(key):
                    self._give_back(address, key[1])

    @property
    def held_bytes(self) -> int:
        """Bytes taken from the driver."""
        return self._held

    @property
    def used_bytes(self) -> int:
        """Bytes in use by arrays."""
        return self._used

    @property
    def peak_bytes(self) -> int:
        """Most bytes in use at once, since `restart_peak`."""
        return self._peak

    @property
    def thread_peak(self) -> int:
        """Most bytes at once of the job that the calling thread allocates for; of all for none."""
        account: Account | None = getattr(self._thread, "account", None)
        if account is None or account is self._common:
            return self._peak
        return account.peak

    def give_up(self, reason: str) -> None:
        """Hand out nothing more: the device failed in a way that its memory cannot be zeroed."""
        self.broken = True
        log.error("device.unclean", error=reason)

    def restart_peak(self) -> None:
        """Begin the next peak at what is in use now."""
        with self._lock:
            self._peak = self._used

    # -- with the lock -----------------------------------------------------------------------------

    def _require_room(self, account: Account, size: int) -> None:
        if account.held + size > account.limit:
            raise self._short(account, size)

    def _short(self, account: Account, size: int) -> DeviceMemoryShortError:
        account.asked = account.held + size
        return DeviceMemoryShortError(f"{account.asked} bytes where {account.limit} are left")

    def _take(self, size: int, stream: int) -> int | None:
        for key in ((stream, size), (None, size)):
            shelf = self._idle.get(key)
            if shelf:
                return shelf.pop()
        return None

    def _fresh(self, account: Account, size: int) -> int:
        # Blocks of other sizes may be all that is in the way: what is idle goes before we give up.
        if self._held + size > self._limit:
            self.trim()
        if self._held + size > self._limit:
            raise self._short(account, size)
        try:
            address = self._runtime.allocate(size)
        except MemoryError:
            self.trim()
            try:
                address = self._runtime.allocate(size)
            except MemoryError as error:
                raise self._short(account, size) from error
        self._held += size
        return address

    def _zero(self, address: int, size: int, stream: int) -> bool:
        try:
            self._runtime.fill_zero(address, size, stream)
        except Exception as error:  # noqa: BLE001 - CUDA's errors have no common base with ours
            self.give_up(type(error).__name__)
            return False
        return True

    def _give_back(self, address: int, size: int) -> None:
        try:
            self._runtime.free(address)
        except Exception as error:  # noqa: BLE001 - as above
            self.give_up(type(error).__name__)
        self._held -= size


def round_up(size: int) -> int:
    """Return the size of the block for `size` bytes: few classes, and at most an eighth wasted."""
    if size <= _FINE_FROM:
        return max(_GRAIN, -(-size // _GRAIN) * _GRAIN)
    step = 1 << ((size - 1).bit_length() - 4)
    return -(-size // step) * step
