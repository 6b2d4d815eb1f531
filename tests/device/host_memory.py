"""A device whose memory is this process's own and whose streams run when they are told to.

What a pool does to it is real: bytes are written and read at the addresses that it hands out, and
what is queued on a stream takes effect no earlier than the stream runs, as on a GPU.
"""

import ctypes
from collections import defaultdict
from collections.abc import Callable

LEFTOVER = 0xA5
"""What another program left in memory that is fresh from the driver."""


class HostMemory:
    """A `DeviceRuntime` of `size` bytes."""

    def __init__(self, size: int = 1 << 30) -> None:
        self._left = size
        self._buffers: dict[int, ctypes.Array[ctypes.c_char]] = {}
        self._queues: dict[int, list[Callable[[], None]]] = defaultdict(list)
        self.stream = 0
        self.residue = 0
        """Bytes that were not zero when memory went back to the driver."""
        self.failing = False
        self.allocations = 0

    # -- DeviceRuntime -----------------------------------------------------------------------------

    def allocate(self, size: int) -> int:
        if size > self._left:
            raise MemoryError
        self._left -= size
        self.allocations += 1
        buffer = ctypes.create_string_buffer(size)
        ctypes.memset(buffer, LEFTOVER, size)
        address = ctypes.addressof(buffer)
        self._buffers[address] = buffer
        return address

    def free(self, address: int) -> None:
        for stream in list(self._queues):
            self.run(stream)
        buffer = self._buffers.pop(address)
        self.residue += sum(map(bool, buffer.raw))
        self._left += len(buffer)

    def fill_zero(self, address: int, size: int, stream: int) -> None:
        self.write(address, bytes(size), stream)

    def current_stream(self) -> int:
        return self.stream

    # -- what a kernel does ------------------------------------------------------------------------

    def write(self, address: int, data: bytes, stream: int | None = None) -> None:
        """Queue a write behind what is on the stream."""
        if self.failing:
            raise RuntimeError("an illegal address was met")
        stream = self.stream if stream is None else stream
        # Looked up now: a write to memory that is not ours is a defect of the test or of the pool.
        buffer = self._buffers[address]
        assert len(data) <= len(buffer)
        self._queues[stream].append(lambda: ctypes.memmove(buffer, data, len(data)))

    def read(self, address: int, size: int) -> bytes:
        """Return what a kernel on the current stream would see."""
        self.run(self.stream)
        return self._buffers[address].raw[:size]

    def run(self, stream: int) -> None:
        """Let a stream end."""
        for action in self._queues.pop(stream, []):
            action()

    def count(self, marker: bytes) -> int:
        """Return how often `marker` is in the device's memory, when every stream has ended."""
        for stream in list(self._queues):
            self.run(stream)
        return sum(buffer.raw.count(marker) for buffer in self._buffers.values())
