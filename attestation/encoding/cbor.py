"""Deterministic CBOR (RFC 8949 section 4.2), the subset this project signs and hashes.

Written out because everything signed goes through it: a general library accepts tags, indefinite
lengths, duplicate keys and non-shortest forms, each of which is a second encoding of the same
value. The subset: integers of 64 bits, byte and text strings, arrays, maps with text or integer
keys, booleans, null, and floats in their shortest exact form. Exactly one byte string encodes each
value, and the decoder refuses every other.
"""

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

from attestation import limits
from attestation.errors import DecodeError, LocalProtocolError

Scalar: TypeAlias = int | bytes | str | bool | float | None
Value: TypeAlias = "Scalar | Sequence[Value] | Mapping[str, Value] | Mapping[int, Value]"

_UINT, _NINT, _BYTES, _TEXT, _ARRAY, _MAP, _TAG, _SIMPLE = range(8)
_FALSE, _TRUE, _NULL, _HALF, _SINGLE, _DOUBLE = 20, 21, 22, 25, 26, 27
_CANONICAL_NAN = bytes.fromhex("f97e00")


def encode(value: Value) -> bytes:
    """Return the one deterministic encoding of `value`.

    Raises `LocalProtocolError` for a value outside the subset: only our own code calls this.
    """
    parts: list[bytes] = []
    _encode(value, parts.append)
    return b"".join(parts)


def decode(data: bytes | bytearray | memoryview, *, limit: int) -> Any:
    """Return the value that `data` encodes: int, bytes, str, bool, float, None, list or dict.

    Raises `DecodeError` when `data` is longer than `limit` bytes, is not deterministic CBOR of the
    subset, or is followed by anything.
    """
    if len(data) > limit:
        raise DecodeError(f"{len(data)} bytes where at most {limit} are allowed")
    decoder = _Decoder(bytes(data))
    value = decoder.item(limits.CBOR_DEPTH)
    decoder.finish()
    return value


def _head(major: int, argument: int) -> bytes:
    if argument < 24:
        return _SHORT_HEADS[major << 5 | argument]
    for extra, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if argument < 1 << (8 * size):
            return _SHORT_HEADS[major << 5 | extra] + argument.to_bytes(size, "big")
    raise LocalProtocolError("an integer of more than 64 bits cannot be encoded")


_SHORT_HEADS = [bytes([first]) for first in range(256)]


def _encode(value: Value, write: Callable[[bytes], None]) -> None:
    # By exact type first: a small message is encoded in microseconds this way, and a `match` over
    # abstract classes took four times as long.
    encoder = _ENCODERS.get(type(value))
    if encoder is not None:
        encoder(value, write)
    elif isinstance(value, bool | float | int | bytes | str | Mapping | list | tuple):
        base = next(kind for kind in _BASES if isinstance(value, kind))
        _ENCODERS[base](value, write)
    else:
        raise LocalProtocolError(f"{type(value).__name__} cannot be encoded")


def _encode_int(value: int, write: Callable[[bytes], None]) -> None:
    write(_head(_UINT, value) if value >= 0 else _head(_NINT, -1 - value))


def _encode_bytes(value: bytes, write: Callable[[bytes], None]) -> None:
    write(_head(_BYTES, len(value)))
    write(value)


@lru_cache(maxsize=4096)
def encode_text(value: str) -> bytes:
    """Return the encoding of a text."""
    # Field names repeat in every message, so most texts are encoded once in a process.
    encoded = value.encode()
    return _head(_TEXT, len(encoded)) + encoded


def _encode_text(value: str, write: Callable[[bytes], None]) -> None:
    write(encode_text(value))


def _encode_simple(value: bool | None, write: Callable[[bytes], None]) -> None:  # noqa: FBT001
    write(_SHORT_HEADS[_SIMPLE << 5 | (_NULL if value is None else _TRUE if value else _FALSE)])


def _encode_array(value: Sequence[Value], write: Callable[[bytes], None]) -> None:
    write(_head(_ARRAY, len(value)))
    for item in value:
        _encode(item, write)


def _encode_map(value: Mapping[Any, Value], write: Callable[[bytes], None]) -> None:
    write(_head(_MAP, len(value)))
    pairs = []
    for key, item in value.items():
        if isinstance(key, str):
            pairs.append((encode_text(key), item))
        elif isinstance(key, int) and not isinstance(key, bool):
            pairs.append((encode(key), item))
        else:
            raise LocalProtocolError("a map key must be text or an integer")
    pairs.sort(key=_first)
    for encoded_key, item in pairs:
        write(encoded_key)
        _encode(item, write)


def _first(pair: tuple[bytes, Value]) -> bytes:
    return pair[0]


def _encode_float(value: float, write: Callable[[bytes], None]) -> None:
    write(_float(value))


def _float(value: float) -> bytes:
    # RFC 8949 section 4.2.2: the shortest of half, single and double that keeps the value.
    if math.isnan(value):
        return _CANONICAL_NAN
    for extra, code in ((_HALF, ">e"), (_SINGLE, ">f")):
        try:
            packed = struct.pack(code, value)
        except OverflowError:
            continue
        if struct.unpack(code, packed)[0] == value:
            return bytes([_SIMPLE << 5 | extra]) + packed
    return bytes([_SIMPLE << 5 | _DOUBLE]) + struct.pack(">d", value)


_ENCODERS: dict[type, Callable[[Any, Callable[[bytes], None]], None]] = {
    bool: _encode_simple,
    type(None): _encode_simple,
    float: _encode_float,
    int: _encode_int,
    bytes: _encode_bytes,
    str: _encode_text,
    dict: _encode_map,
    list: _encode_array,
    tuple: _encode_array,
    Mapping: _encode_map,
}
_BASES = (float, int, bytes, str, Mapping, list, tuple)


class _Decoder:
    """One document: counts its items so that a small input cannot make a large object."""

    __slots__ = ("_data", "_end", "_items_left", "_offset")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._end = len(data)
        self._offset = 0
        self._items_left = limits.CBOR_ITEMS

    def finish(self) -> None:
        if self._offset != self._end:
            raise DecodeError(f"{self._end - self._offset} bytes too many")

    def item(self, depth: int) -> Any:  # noqa: PLR0911 - one return per major type
        if depth == 0:
            raise DecodeError("nested too deeply")
        self._items_left -= 1
        if self._items_left < 0:
            raise DecodeError("too many items")
        if self._offset == self._end:
            raise DecodeError("an item is missing")
        first = self._data[self._offset]
        self._offset += 1
        major, extra = first >> 5, first & 31
        if major == _SIMPLE:
            return self._simple(extra)
        argument = extra if extra < 24 else self._argument(extra)
        match major:
            case 0:
                return argument
            case 1:
                return -1 - argument
            case 2:
                return self._take(argument)
            case 3:
                return self._text(argument)
            case 4:
                self._claim(argument)
                return [self.item(depth - 1) for _ in range(argument)]
            case 5:
                return self._map(argument, depth - 1)
            case _:
                raise DecodeError("tags are not part of the subset")

    def _take(self, count: int) -> bytes:
        end = self._offset + count
        if end > self._end:
            raise DecodeError(f"{count} bytes needed, {self._end - self._offset} left")
        piece = self._data[self._offset : end]
        self._offset = end
        return piece

    def _argument(self, extra: int) -> int:
        if extra > 27:
            raise DecodeError("indefinite or reserved length")
        size = 1 << (extra - 24)
        argument = int.from_bytes(self._take(size), "big")
        if argument < (24 if size == 1 else 1 << (4 * size)):
            raise DecodeError("an integer is not in its shortest form")
        return argument

    def _claim(self, count: int) -> None:
        # Each item takes at least one byte, so a count above the rest is a lie told before we loop.
        if count > self._end - self._offset:
            raise DecodeError("more items announced than bytes left")

    def _text(self, length: int) -> str:
        if length > limits.TEXT_BYTES:
            raise DecodeError("a text string is too long")
        try:
            return self._take(length).decode()
        except UnicodeDecodeError as error:
            raise DecodeError("a text string is not UTF-8") from error

    def _map(self, count: int, depth: int) -> dict[str | int, Any]:
        self._claim(count)
        result: dict[str | int, Any] = {}
        previous = b""
        for _ in range(count):
            start = self._offset
            key = self.item(depth)
            if not isinstance(key, str | int) or isinstance(key, bool):
                raise DecodeError("a map key is neither text nor an integer")
            # The key parsed, so these bytes are its one encoding.
            encoded = self._data[start : self._offset]
            if encoded <= previous:
                raise DecodeError("map keys are not in order, or one repeats")
            previous = encoded
            result[key] = self.item(depth)
        return result

    def _simple(self, extra: int) -> bool | float | None:
        match extra:
            case 20:
                return False
            case 21:
                return True
            case 22:
                return None
            case 25 | 26 | 27:
                size, code = {25: (2, ">e"), 26: (4, ">f"), 27: (8, ">d")}[extra]
                raw = self._take(size)
                value: float = struct.unpack(code, raw)[0]
                if _float(value)[1:] != raw:
                    raise DecodeError("a float is not in its shortest form")
                return value
            case _:
                raise DecodeError("an unknown simple value")
