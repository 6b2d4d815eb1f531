"""The short way of reading and writing records never differs from the general one."""

from enum import StrEnum
from typing import Any

from attrs import frozen
from hypothesis import example, given, settings
from hypothesis import strategies as st

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
    word,
)
from attestation.errors import DecodeError


class Word(StrEnum):
    YES = "yes"
    NO = "no"


@frozen(kw_only=True)
class Inner(Record):
    number: int = item(uint(1000))


@frozen(kw_only=True)
class Everything(Record):
    TYPE = "everything"
    VERSION = 1

    key: bytes = item(octets(exactly=3))
    data: bytes = item(octets(limit=300))
    note: str = item(text(30))
    flag: bool = item(boolean())
    answer: Word = item(word(Word))
    inner: Inner = item(record(Inner))
    rows: tuple[tuple[bytes, int], ...] = item(array(row(octets(limit=2), uint()), limit=30))
    extra: bytes | None = item(optional(octets(limit=3)))
    names: dict[str, int] = item(table(uint(70_000), limit=30, key=5))


RECORDS = st.builds(
    Everything,
    key=st.binary(min_size=3, max_size=3),
    data=st.binary(max_size=300),
    note=st.text(max_size=30),
    flag=st.booleans(),
    answer=st.sampled_from(Word),
    inner=st.builds(Inner, number=st.integers(0, 1000)),
    rows=st.lists(st.tuples(st.binary(max_size=2), st.integers(0, (1 << 64) - 1)), max_size=30).map(
        tuple
    ),
    extra=st.none() | st.binary(max_size=3),
    names=st.dictionaries(st.text(max_size=5), st.integers(0, 70_000), max_size=30),
)
EDITS = st.lists(
    st.tuples(
        st.floats(0, 1), st.sampled_from(["set", "insert", "delete", "cut"]), st.integers(0, 255)
    ),
    max_size=3,
)


def edited(data: bytes, edits: list[tuple[float, str, int]]) -> bytes:
    changed = bytearray(data)
    for where, what, value in edits:
        at = int(where * max(0, len(changed) - 1))
        if what == "set" and changed:
            changed[at] = value
        elif what == "insert":
            changed[at:at] = bytes([value])
        elif what == "delete":
            del changed[at : at + 1]
        else:
            del changed[at:]
    return bytes(changed)


def general(data: bytes) -> Any:
    try:
        return Everything.from_map(cbor.decode(data, limit=Everything.LIMIT))
    except DecodeError:
        return None


@given(RECORDS)
def test_both_ways_write_the_same(sample: Everything) -> None:
    assert sample.to_bytes() == cbor.encode(sample.to_map())


@settings(max_examples=400)
@given(RECORDS, EDITS)
def test_both_ways_read_the_same(sample: Everything, edits: list[tuple[float, str, int]]) -> None:
    data = edited(sample.to_bytes(), edits)
    try:
        found = Everything.from_bytes(data)
    except DecodeError:
        found = None
    assert found == general(data)


@given(RECORDS, st.integers(0, 400), st.sampled_from([0x18, 0x19, 0x1A, 0x1B]))
@example(
    Everything(
        key=b"kkk",
        data=b"",
        note="",
        flag=True,
        answer=Word.YES,
        inner=Inner(number=5),
        rows=(),
        extra=None,
        names={},
    ),
    0,
    0x18,
)
def test_a_longer_form_of_any_head_is_refused_by_both(
    sample: Everything, place: int, longer: int
) -> None:
    """Put the argument of one short head into the 1, 2, 4 or 8 bytes behind it."""
    data = sample.to_bytes()
    at = place % len(data)
    if data[at] & 31 >= 24 or data[at] >> 5 > 5:
        return
    size = 1 << (longer - 0x18)
    grown = data[:at] + bytes([data[at] & 0xE0 | longer]) + (data[at] & 31).to_bytes(size, "big")
    changed = grown + data[at + 1 :]
    try:
        found = Everything.from_bytes(changed)
    except DecodeError:
        found = None
    assert found == general(changed)
