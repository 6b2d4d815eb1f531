"""A cursor over bytes from outside that cannot run past the end or leave a rest unnoticed."""

from typing import Self

from attestation.errors import DecodeError


class Reader:
    """Take fields from the front of `data`; every short read or leftover is a `DecodeError`."""

    __slots__ = ("_data", "_offset")

    def __init__(self, data: bytes | bytearray | memoryview, *, limit: int) -> None:
        """Read `data`, refusing more than `limit` bytes before looking at any of them."""
        if len(data) > limit:
            raise DecodeError(f"{len(data)} bytes where at most {limit} are allowed")
        self._data = bytes(data)
        self._offset = 0

    @property
    def remaining(self) -> int:
        """Bytes not yet taken."""
        return len(self._data) - self._offset

    def take(self, count: int) -> bytes:
        """Take exactly `count` bytes."""
        end = self._offset + count
        if count < 0 or end > len(self._data):
            raise DecodeError(
                f"needs {count} bytes at offset {self._offset}, {self.remaining} left"
            )
        piece = self._data[self._offset : end]
        self._offset = end
        return piece

    def take_uint(self, count: int) -> int:
        """Take a big-endian unsigned integer of `count` bytes."""
        return int.from_bytes(self.take(count), "big")

    def take_prefixed(self, count: int, *, limit: int) -> bytes:
        """Take a byte string that is preceded by its length in `count` big-endian bytes."""
        length = self.take_uint(count)
        if length > limit:
            raise DecodeError(f"a field of {length} bytes where at most {limit} are allowed")
        return self.take(length)

    def take_rest(self) -> bytes:
        """Take everything that is left."""
        return self.take(self.remaining)

    def expect(self, literal: bytes) -> Self:
        """Take `literal`, or refuse."""
        if self.take(len(literal)) != literal:
            raise DecodeError("a fixed field has another value")
        return self

    def finish(self) -> None:
        """Refuse anything that is left over."""
        if self.remaining:
            raise DecodeError(f"{self.remaining} bytes too many")
