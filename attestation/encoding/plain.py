"""Read and write the common forms of CBOR without a detour through maps and lists.

A `Record` knows which field comes next, so reading one is a comparison of bytes and a slice each.
Nothing here is more lenient than `cbor`: whatever is unusual, wrong or merely rare raises
`NotPlainError`, and the record is then read the general way, which says what is wrong. A property
test holds both ways to the same verdict and value.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn, TypeAlias

from attestation.encoding.cbor import encode_text
from attestation.errors import EnclaveError, LocalProtocolError

Read: TypeAlias = Callable[[bytes, int], tuple[Any, int]]
"""The value that begins at an offset, and the offset behind it. May raise `IndexError` as well."""
Write: TypeAlias = Callable[[Any], bytes]
"""The one encoding of a value."""

PLAIN_BYTES: Final = 65_536
"""Longer documents are read the general way, which counts items: each takes a byte at least."""

_UINT, _BYTES, _TEXT, _ARRAY, _MAP = 0x00, 0x40, 0x60, 0x80, 0xA0
_FALSE, _TRUE, _NULL = 0xF4, 0xF5, 0xF6
_UINT64: Final = (1 << 64) - 1


class NotPlainError(EnclaveError):
    """Read it the general way. Never leaves `encoding`."""


def head(major: int, argument: int) -> bytes:
    """Return the shortest head of an item; `major` is in the upper three bits."""
    if argument < 24:
        return _ONE_BYTE[major | argument]
    if argument < 0x100:
        return bytes((major | 24, argument))
    if argument < 0x10000:
        return _ONE_BYTE[major | 25] + argument.to_bytes(2, "big")
    if argument < 0x100000000:
        return _ONE_BYTE[major | 26] + argument.to_bytes(4, "big")
    return _ONE_BYTE[major | 27] + argument.to_bytes(8, "big")


_ONE_BYTE: Final = [bytes((number,)) for number in range(256)]


def _argument(data: bytes, at: int, major: int) -> tuple[int, int]:
    extra = data[at] - major
    if 0 <= extra < 24:
        return extra, at + 1
    if extra == 24:
        value, end, least = data[at + 1], at + 2, 24
    elif extra == 25:
        value, end, least = data[at + 1] << 8 | data[at + 2], at + 3, 0x100
    elif extra == 26:
        value, end, least = int.from_bytes(data[at + 1 : at + 5], "big"), at + 5, 0x10000
    elif extra == 27:
        value, end, least = int.from_bytes(data[at + 1 : at + 9], "big"), at + 9, 0x100000000
    else:
        not_plain()
    if value < least or end > len(data):
        not_plain()
    return value, end


def not_plain() -> NoReturn:
    """Give up on the short way."""
    raise NotPlainError


def read_uint(maximum: int) -> Read:
    """Read unsigned integers up to `maximum`."""

    def read(data: bytes, at: int) -> tuple[int, int]:
        value, end = data[at], at + 1
        if value >= 24:
            value, end = _argument(data, at, _UINT)
        if value > maximum:
            not_plain()
        return value, end

    return read


def read_octets(*, exactly: int | None, limit: int | None) -> Read:
    """Read byte strings of one length, or of at most `limit` bytes."""
    if exactly is not None:
        start, size = head(_BYTES, exactly), exactly

        def read_exactly(data: bytes, at: int) -> tuple[bytes, int]:
            begin = at + len(start)
            value = data[begin : begin + size]
            if data[at:begin] != start or len(value) != size:
                not_plain()
            return value, begin + size

        return read_exactly

    def read(data: bytes, at: int) -> tuple[bytes, int]:
        size, begin = _argument(data, at, _BYTES)
        end = begin + size
        if limit is None or size > limit or end > len(data):
            not_plain()
        return data[begin:end], end

    return read


def read_text(limit: int) -> Read:
    """Read ASCII text of at most `limit` characters; other text is rare."""

    def read(data: bytes, at: int) -> tuple[str, int]:
        size, begin = _argument(data, at, _TEXT)
        end = begin + size
        piece = data[begin:end]
        if size > limit or len(piece) != size or not piece.isascii():
            not_plain()
        return piece.decode("ascii"), end

    return read


def read_boolean(data: bytes, at: int) -> tuple[bool, int]:
    """Read true or false."""
    if data[at] not in (_FALSE, _TRUE):
        not_plain()
    return data[at] == _TRUE, at + 1


def read_word(words: Mapping[str, Any]) -> Read:
    """Read one of `words`."""
    forms = {head(_TEXT, len(word)) + word.encode(): value for word, value in words.items()}
    longest = max(map(len, forms))

    def read(data: bytes, at: int) -> tuple[Any, int]:
        size, begin = _argument(data, at, _TEXT)
        end = begin + size
        if size > longest:
            not_plain()
        value = forms.get(data[at:end], forms)
        if value is forms:
            not_plain()
        return value, end

    return read


def read_optional(inner: Read) -> Read:
    """Read null or the inner value."""

    def read(data: bytes, at: int) -> tuple[Any, int]:
        if data[at] == _NULL:
            return None, at + 1
        return inner(data, at)

    return read


def read_array(inner: Read, limit: int) -> Read:
    """Read tuples of at most `limit` inner values."""

    def read(data: bytes, at: int) -> tuple[tuple[Any, ...], int]:
        count, at = _argument(data, at, _ARRAY)
        if count > limit:
            not_plain()
        values = []
        for _ in range(count):
            value, at = inner(data, at)
            values.append(value)
        return tuple(values), at

    return read


def read_row(inner: tuple[Read, ...]) -> Read:
    """Read tuples of a fixed number of values, each of its own type."""
    start = head(_ARRAY, len(inner))

    def read(data: bytes, at: int) -> tuple[tuple[Any, ...], int]:
        if data[at : at + len(start)] != start:
            not_plain()
        at += len(start)
        values = []
        for each in inner:
            value, at = each(data, at)
            values.append(value)
        return tuple(values), at

    return read


def read_table(inner: Read, limit: int, key: int) -> Read:
    """Read maps from ASCII text of at most `key` characters, at most `limit` entries."""
    read_key = read_text(key)

    def read(data: bytes, at: int) -> tuple[dict[str, Any], int]:
        count, at = _argument(data, at, _MAP)
        if count > limit:
            not_plain()
        values: dict[str, Any] = {}
        previous = b""
        for _ in range(count):
            start = at
            name, at = read_key(data, at)
            if data[start:at] <= previous:
                not_plain()
            previous = data[start:at]
            values[name], at = inner(data, at)
        return values, at

    return read


def write_uint(value: Any) -> bytes:
    """Return the encoding of an unsigned integer."""
    if type(value) is not int or not 0 <= value <= _UINT64:
        raise LocalProtocolError("not an unsigned integer of 64 bits")
    return head(_UINT, value)


def write_octets(value: Any) -> bytes:
    """Return the encoding of a byte string."""
    return head(_BYTES, len(value)) + bytes(value)


def write_text(value: Any) -> bytes:
    """Return the encoding of a text."""
    return encode_text(value)


def write_word(value: Any) -> bytes:
    """Return the encoding of one of a fixed list of words."""
    # Its `value` would be computed at each access.
    return encode_text(str(value))


def write_boolean(value: Any) -> bytes:
    """Return the encoding of true or false."""
    return _ONE_BYTE[_TRUE if value else _FALSE]


def write_optional(inner: Write) -> Write:
    """Encode None as null, and everything else as the inner value."""

    def write(value: Any) -> bytes:
        return _ONE_BYTE[_NULL] if value is None else inner(value)

    return write


def write_array(inner: Write) -> Write:
    """Encode the values of a sequence."""

    def write(value: Any) -> bytes:
        return head(_ARRAY, len(value)) + b"".join(map(inner, value))

    return write


def write_row(inner: tuple[Write, ...]) -> Write:
    """Encode a fixed number of values, each of its own type."""
    start = head(_ARRAY, len(inner))

    def write(value: Any) -> bytes:
        pairs = zip(inner, value, strict=True)
        return start + b"".join([encode(each) for encode, each in pairs])

    return write


def write_table(inner: Write) -> Write:
    """Encode a map from texts."""

    def write(value: Any) -> bytes:
        entries = sorted([(encode_text(name), each) for name, each in value.items()], key=_first)
        parts = [head(_MAP, len(entries))]
        for name, each in entries:
            parts += (name, inner(each))
        return b"".join(parts)

    return write


def _first(entry: tuple[bytes, Any]) -> bytes:
    return entry[0]


def octets_head(size: int) -> bytes:
    """Return the head of a byte string of `size` bytes."""
    return head(_BYTES, size)


def map_head(fields: int) -> bytes:
    """Return the head of a map."""
    return head(_MAP, fields)
