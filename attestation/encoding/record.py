"""Declare a message once: its fields, their types and their limits, and how each is encoded.

    @frozen(kw_only=True)
    class Challenge(Record):
        nonce: bytes = item(octets(exactly=32))

A `Record` is one deterministic CBOR map with text keys. `from_bytes` refuses, with `DecodeError`, a
missing field, an unknown field, a field of another type and every value outside its limit; so a
parser cannot forget a check. Hand-written parsers of twenty messages were tried first: the same
four lines each, and the fourth was the one that got forgotten.
"""

import operator
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any, ClassVar, Final, Self, TypeAlias, TypeVar

import attrs

from attestation import limits
from attestation.encoding import cbor, plain
from attestation.errors import DecodeError, EnclaveError

_CODEC: Final = "codec"
_UINT64: Final = (1 << 64) - 1


@attrs.frozen
class Codec:
    """How one value becomes CBOR and back. `decode` raises `DecodeError` and nothing else.

    `read` and `write` are the short way of the common forms (`plain`); codecs may lack them.
    `octets` above 0 says that every value is a byte string of that length.
    """

    encode: Callable[[Any], cbor.Value]
    decode: Callable[[Any], Any]
    read: plain.Read | None = None
    write: plain.Write | None = None
    octets: int = 0


def item(codec: Codec, *, default: Any = attrs.NOTHING, secret: bool = False) -> Any:
    """Declare a field of a `Record`; a `secret` one is left out of its `repr`."""
    return attrs.field(default=default, repr=not secret, metadata={_CODEC: codec})


def _same(value: Any) -> Any:
    return value


def octets(*, exactly: int | None = None, limit: int | None = None) -> Codec:
    """Byte strings of one length, or of at most `limit` bytes."""

    def decode(value: Any) -> bytes:
        if not isinstance(value, bytes):
            raise DecodeError("not a byte string")
        if exactly is not None and len(value) != exactly:
            raise DecodeError(f"{len(value)} bytes where {exactly} are needed")
        if limit is not None and len(value) > limit:
            raise DecodeError(f"{len(value)} bytes where at most {limit} are allowed")
        return value

    if exactly is None and limit is None:
        raise ValueError("a byte string needs a length or a limit")
    read = plain.read_octets(exactly=exactly, limit=limit)
    return Codec(bytes, decode, read, plain.write_octets, exactly or 0)


def text(limit: int = limits.NAME_CHARACTERS) -> Codec:
    """Text of at most `limit` characters."""

    def decode(value: Any) -> str:
        if not isinstance(value, str) or len(value) > limit:
            raise DecodeError(f"not a text of at most {limit} characters")
        return value

    return Codec(_same, decode, plain.read_text(limit), plain.write_text)


def uint(maximum: int = _UINT64) -> Codec:
    """Unsigned integers up to `maximum`."""

    def decode(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= maximum:
            raise DecodeError(f"not an integer from 0 to {maximum}")
        return value

    return Codec(_same, decode, plain.read_uint(maximum), plain.write_uint)


def boolean() -> Codec:
    """True and false."""

    def decode(value: Any) -> bool:
        if not isinstance(value, bool):
            raise DecodeError("not a boolean")
        return value

    return Codec(_same, decode, plain.read_boolean, plain.write_boolean)


def word(kind: type[StrEnum]) -> Codec:
    """One word of a fixed list."""

    def decode(value: Any) -> StrEnum:
        try:
            return kind(value)
        except ValueError as error:
            raise DecodeError(f"not one of {', '.join(kind)}") from error

    return Codec(
        lambda value: value.value,
        decode,
        plain.read_word({each.value: each for each in kind}),
        plain.write_word,
    )


def optional(inner: Codec) -> Codec:
    """The inner value or null; the field itself must be there."""
    return Codec(
        lambda value: None if value is None else inner.encode(value),
        lambda value: None if value is None else inner.decode(value),
        inner.read and plain.read_optional(inner.read),
        inner.write and plain.write_optional(inner.write),
    )


def array(inner: Codec, *, limit: int) -> Codec:
    """Tuples of at most `limit` inner values."""

    def decode(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list) or len(value) > limit:
            raise DecodeError(f"not an array of at most {limit} items")
        return tuple(inner.decode(entry) for entry in value)

    return Codec(
        lambda value: [inner.encode(entry) for entry in value],
        decode,
        inner.read and plain.read_array(inner.read, limit),
        inner.write and plain.write_array(inner.write),
    )


def row(*inner: Codec) -> Codec:
    """Tuples of a fixed number of values, each of its own type."""
    reads = tuple(codec.read for codec in inner if codec.read is not None)
    writes = tuple(codec.write for codec in inner if codec.write is not None)

    def decode(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list) or len(value) != len(inner):
            raise DecodeError(f"not an array of {len(inner)} items")
        return tuple(codec.decode(entry) for codec, entry in zip(inner, value, strict=True))

    return Codec(
        lambda value: [codec.encode(entry) for codec, entry in zip(inner, value, strict=True)],
        decode,
        plain.read_row(reads) if len(reads) == len(inner) else None,
        plain.write_row(writes) if len(writes) == len(inner) else None,
    )


def table(inner: Codec, *, limit: int, key: int = limits.NAME_CHARACTERS) -> Codec:
    """Maps from text of at most `key` characters to inner values, at most `limit` of them."""

    def decode(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict) or len(value) > limit:
            raise DecodeError(f"not a map of at most {limit} entries")
        if not all(isinstance(name, str) and len(name) <= key for name in value):
            raise DecodeError("a map key is not a short text")
        return {name: inner.decode(entry) for name, entry in value.items()}

    return Codec(
        lambda value: {name: inner.encode(entry) for name, entry in value.items()},
        decode,
        inner.read and plain.read_table(inner.read, limit, key),
        inner.write and plain.write_table(inner.write),
    )


R = TypeVar("R", bound="Record")


def record(kind: type[R]) -> Codec:
    """A nested record."""
    return Codec(
        lambda value: value.to_map(),
        kind.from_map,
        lambda data, at: _layout(kind).read(data, at),
        lambda value: _layout(kind).write(value),
    )


class Record:
    """Base of every declared message. Subclasses are `attrs.frozen(kw_only=True)`."""

    __slots__ = ()

    TYPE: ClassVar[str] = ""
    """Encoded as field `type` when not empty: for messages that share a channel."""
    VERSION: ClassVar[int] = 0
    """Encoded as field `v` when not 0: for formats that are stored, signed or hashed."""
    LIMIT: ClassVar[int] = limits.CONTROL_BYTES
    """Largest encoding that `from_bytes` looks at, in bytes."""

    def to_map(self) -> dict[str, cbor.Value]:
        """Return the CBOR map."""
        fixed = _fixed(type(self))
        return fixed | {
            name: codec.encode(getattr(self, name)) for name, codec in _codecs(type(self))
        }

    def to_bytes(self) -> bytes:
        """Return the one deterministic encoding."""
        return _layout(type(self)).write(self)

    @classmethod
    def from_map(cls, value: Any) -> Self:
        """Check a decoded map; raises `DecodeError` unless each field is there and valid."""
        if not isinstance(value, dict):
            raise DecodeError(f"{cls.__name__} is not a map")
        rest = dict(value)
        for name, expected in _fixed(cls).items():
            if name not in rest or rest.pop(name) != expected:
                raise DecodeError(f"{cls.__name__}: field {name!r} is not {expected!r}")
        values = {}
        for name, codec in _codecs(cls):
            if name not in rest:
                raise DecodeError(f"{cls.__name__}: field {name!r} is missing")
            try:
                values[name] = codec.decode(rest.pop(name))
            except DecodeError as error:
                raise DecodeError(f"{cls.__name__}.{name}: {error}") from error
        if rest:
            raise DecodeError(f"{cls.__name__}: unknown field {next(iter(rest))!r}")
        return cls(**values)

    @classmethod
    def from_bytes(cls, data: bytes | bytearray | memoryview) -> Self:
        """Parse one encoding of at most `LIMIT` bytes, or raise `DecodeError`."""
        if len(data) <= min(cls.LIMIT, plain.PLAIN_BYTES):
            data = bytes(data)
            try:
                found, end = _layout(cls).read(data, 0)
            except (IndexError, EnclaveError):
                pass  # the general way says what is wrong, or finds it unusual and right
            else:
                if end == len(data):
                    return found  # type: ignore[no-any-return]
        return cls.from_map(cbor.decode(data, limit=cls.LIMIT))


def _fixed(kind: type[Record]) -> dict[str, cbor.Value]:
    fixed: dict[str, cbor.Value] = {}
    if kind.TYPE:
        fixed["type"] = kind.TYPE
    if kind.VERSION:
        fixed["v"] = kind.VERSION
    return fixed


_KNOWN: Final[dict[type[Record], tuple[tuple[str, Codec], ...]]] = {}


def _codecs(kind: type[Record]) -> tuple[tuple[str, Codec], ...]:
    known = _KNOWN.get(kind)
    if known is None:
        fields = attrs.fields(kind)  # type: ignore[arg-type]  # subclasses are attrs classes
        known = tuple((f.name, f.metadata[_CODEC]) for f in fields if _CODEC in f.metadata)
        _KNOWN[kind] = known
    return known


_Field: TypeAlias = tuple[bytes, bytes, str, Codec | None]
"""Encoded key, encoded value of a fixed field, name, codec of a field that is not fixed."""


@attrs.frozen
class _Layout:
    """The fields of a record in the order in which they are encoded, which never changes."""

    kind: type[Record]
    reads: tuple[tuple[bytes, int, str, int, plain.Read], ...]
    """What stands before a value and how long that is, its name, its length or 0, what reads it."""
    writes: tuple[tuple[bytes, plain.Write], ...]
    values: Callable[[Any], tuple[Any, ...]]
    tail: bytes
    """What stands behind the last value."""

    @classmethod
    def of(cls, kind: type[Record]) -> Self:
        fields: list[_Field] = [
            (cbor.encode(name), cbor.encode(value), name, None)
            for name, value in _fixed(kind).items()
        ]
        fields += [(cbor.encode(name), b"", name, codec) for name, codec in _codecs(kind)]
        fields.sort(key=_key)
        before, steps = plain.map_head(len(fields)), list[tuple[bytes, str, Codec]]()
        for key, value, name, codec in fields:
            before += key + value
            if codec is not None:
                steps.append((before, name, codec))
                before = b""
        return cls(
            kind=kind,
            reads=tuple(_reading(*step) for step in steps),
            writes=tuple((fixed, _writer(codec)) for fixed, _, codec in steps),
            values=_getter([name for _, name, _ in steps]),
            tail=before,
        )

    def read(self, data: bytes, at: int) -> tuple[Any, int]:
        """Read the record that begins at `at`; raises `NotPlainError` for whatever is unusual.

        A byte string of a known length may run past the end of the data: then the end that is
        returned does, too.
        """
        values = {}
        for before, skip, name, size, read in self.reads:
            if not data.startswith(before, at):
                plain.not_plain()
            at += skip
            if size:
                values[name] = data[at : at + size]
                at += size
            else:
                values[name], at = read(data, at)
        if not data.startswith(self.tail, at):
            plain.not_plain()
        return self.kind(**values), at + len(self.tail)

    def write(self, value: Any) -> bytes:
        """Return the one encoding of `value`."""
        parts: list[bytes] = []
        for (before, write), each in zip(self.writes, self.values(value), strict=True):
            parts += (before, write(each))
        parts.append(self.tail)
        return b"".join(parts)


def _key(field: _Field) -> bytes:
    return field[0]


def _reading(before: bytes, name: str, codec: Codec) -> tuple[bytes, int, str, int, plain.Read]:
    if codec.octets:
        before += plain.octets_head(codec.octets)
    return before, len(before), name, codec.octets, codec.read or _read_generally


def _read_generally(_data: bytes, _at: int) -> tuple[Any, int]:
    plain.not_plain()


def _writer(codec: Codec) -> plain.Write:
    return codec.write or (lambda value: cbor.encode(codec.encode(value)))


def _getter(names: Sequence[str]) -> Callable[[Any], tuple[Any, ...]]:
    """Return what fetches all attributes at once; `attrgetter` makes no tuple of fewer than two."""
    if len(names) > 1:
        return operator.attrgetter(*names)
    return lambda value: tuple([getattr(value, name) for name in names])


_LAYOUTS: Final[dict[type[Record], _Layout]] = {}


def _layout(kind: type[Record]) -> _Layout:
    layout = _LAYOUTS.get(kind)
    if layout is None:
        layout = _LAYOUTS[kind] = _Layout.of(kind)
    return layout
