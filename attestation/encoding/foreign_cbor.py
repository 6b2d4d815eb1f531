"""CBOR (RFC 8949) as others write it: every well-formed encoding of the few types that they use.

What we write and sign has one encoding per value (`cbor`). A vendor's signed document does not: it
has indefinite lengths, longer heads than needed and keys in any order, and must be read as it was
signed. Still bounded in bytes, depth and items, and a repeated key is refused: two readers of it
would see two values.
"""

from typing import Any, Final

from attrs import frozen

from attestation import limits
from attestation.encoding.reader import Reader
from attestation.errors import DecodeError

_INDEFINITE: Final = 31
_BREAK: Final = 0xFF
_SIMPLE: Final = {20: False, 21: True, 22: None}


@frozen
class Tagged:
    """A tag (section 3.4) and the value that it is put on."""

    tag: int
    value: Any


def decode(data: bytes, *, limit: int) -> Any:
    """Return the one value in `data`: int, bytes, str, bool, None, list, dict or `Tagged`.

    Raises `DecodeError`, also for floats, undefined and everything else that is left out here.
    """
    decoder = _Decoder(data, limit)
    value = decoder.item(limits.CBOR_DEPTH)
    decoder.finish()
    return value


class _End:
    """The break that ends an indefinite length."""


class _Decoder:
    def __init__(self, data: bytes, limit: int) -> None:
        self._reader = Reader(data, limit=limit)
        self._items_left = limits.CBOR_ITEMS
        self.finish = self._reader.finish

    def item(self, depth: int) -> Any:
        value = self._item_or_end(depth)
        if value is _End:
            raise DecodeError("a break where a value is needed")
        return value

    def _item_or_end(self, depth: int) -> Any:  # noqa: PLR0911 - one return per major type
        self._items_left -= 1
        if depth == 0 or self._items_left < 0:
            raise DecodeError("nested too deeply, or too many items")
        first = self._reader.take_uint(1)
        if first == _BREAK:
            return _End
        major, extra = first >> 5, first & 31
        if major == 7:
            if extra not in _SIMPLE:
                raise DecodeError("a float, or an unknown simple value")
            return _SIMPLE[extra]
        length = self._argument(extra)
        match major:
            case 0 | 1 if length is not None:
                return length if major == 0 else -1 - length
            case 2 | 3:
                return self._string(major, length)
            case 4:
                return self._array(length, depth - 1)
            case 5:
                return self._map(length, depth - 1)
            case 6 if length is not None:
                return Tagged(length, self.item(depth - 1))
        raise DecodeError("an indefinite length where none can be")

    def _argument(self, extra: int) -> int | None:
        """Return the argument of a head, None when it says that the length is indefinite."""
        if extra < 24:
            return extra
        if extra == _INDEFINITE:
            return None
        if extra > 27:
            raise DecodeError("a reserved length")
        return self._reader.take_uint(1 << (extra - 24))

    def _string(self, major: int, length: int | None) -> bytes | str:
        data = self._reader.take(length) if length is not None else self._chunks(major)
        if major == 2:
            return data
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise DecodeError("a text string is not UTF-8") from error

    def _chunks(self, major: int) -> bytes:
        """Section 3.2.3: strings of the same type and definite length, until a break."""
        chunks = []
        while (first := self._reader.take_uint(1)) != _BREAK:
            length = self._argument(first & 31)
            if first >> 5 != major or length is None:
                raise DecodeError("a chunk of another type")
            self._items_left -= 1
            if self._items_left < 0:
                raise DecodeError("too many items")
            chunk = self._string(major, length)
            chunks.append(chunk if isinstance(chunk, bytes) else chunk.encode())
        return b"".join(chunks)

    def _array(self, length: int | None, depth: int) -> list[Any]:
        if length is not None:
            self._claim(length)
            return [self.item(depth) for _ in range(length)]
        values = []
        while (value := self._item_or_end(depth)) is not _End:
            values.append(value)
        return values

    def _map(self, length: int | None, depth: int) -> dict[str | int, Any]:
        self._claim(length or 0)
        result: dict[str | int, Any] = {}
        seen = 0
        while length is None or seen < length:
            key = self._item_or_end(depth) if length is None else self.item(depth)
            if key is _End:
                break
            if not isinstance(key, str | int) or isinstance(key, bool) or key in result:
                raise DecodeError("a map key that repeats, or is neither text nor an integer")
            result[key] = self.item(depth)
            seen += 1
        return result

    def _claim(self, count: int) -> None:
        # Each item takes at least one byte, so a count above the rest is a lie told before we loop.
        if count > self._reader.remaining:
            raise DecodeError("more items announced than bytes left")
