"""Records: a field that is missing, unknown, of another type or too large is refused."""

from typing import Any

import pytest
from attrs import frozen

from attestation.encoding import cbor
from attestation.encoding.record import (
    Record,
    array,
    boolean,
    item,
    octets,
    optional,
    record,
    row,
    table,
    text,
    uint,
)
from attestation.errors import DecodeError


@frozen(kw_only=True)
class Inner(Record):
    number: int = item(uint(10))


@frozen(kw_only=True)
class Outer(Record):
    TYPE = "outer"
    VERSION = 2

    key: bytes = item(octets(exactly=2), secret=True)
    note: str = item(text(4))
    flag: bool = item(boolean())
    inner: Inner = item(record(Inner))
    rows: tuple[tuple[bytes, int], ...] = item(array(row(octets(limit=1), uint()), limit=2))
    extra: bytes | None = item(optional(octets(limit=3)))
    names: dict[str, int] = item(table(uint(), limit=1, key=3))


GOOD: dict[str, Any] = {
    "type": "outer",
    "v": 2,
    "key": b"kk",
    "note": "note",
    "flag": True,
    "inner": {"number": 10},
    "rows": [[b"", 1], [b"x", 2]],
    "extra": None,
    "names": {"abc": 1},
}


def test_a_record_survives_its_own_encoding() -> None:
    outer = Outer.from_bytes(cbor.encode(GOOD))
    assert outer.rows == ((b"", 1), (b"x", 2))
    assert outer.to_bytes() == cbor.encode(GOOD)


def test_a_secret_field_is_not_in_the_repr() -> None:
    assert "kk" not in repr(Outer.from_map(GOOD))


@pytest.mark.parametrize("name", sorted(GOOD))
def test_a_missing_field_is_refused(name: str) -> None:
    with pytest.raises(DecodeError):
        Outer.from_map({key: value for key, value in GOOD.items() if key != name})


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(DecodeError):
        Outer.from_map(GOOD | {"surprise": 1})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("type", "other"),
        ("v", 3),
        ("key", b"k"),
        ("key", b"kkk"),
        ("key", "kk"),
        ("note", "notes"),
        ("note", b"note"),
        ("flag", 1),
        ("flag", None),
        ("inner", {"number": 11}),
        ("inner", {"number": -1}),
        ("inner", {"number": True}),
        ("inner", {"number": 1.0}),
        ("inner", {}),
        ("inner", 5),
        ("rows", [[b"", 1]] * 3),
        ("rows", [[b""]]),
        ("rows", [[b"xx", 1]]),
        ("rows", {}),
        ("extra", b"xxxx"),
        ("extra", False),
        ("names", {"abc": 1, "abd": 2}),
        ("names", {"abcd": 1}),
        ("names", {1: 1}),
        ("names", []),
    ],
)
def test_a_field_outside_its_type_or_limit_is_refused(name: str, value: object) -> None:
    with pytest.raises(DecodeError):
        Outer.from_map(GOOD | {name: value})


def test_something_that_is_no_map_is_refused() -> None:
    with pytest.raises(DecodeError):
        Outer.from_bytes(cbor.encode([1, 2, 3]))
