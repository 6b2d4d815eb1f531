"""Bytes from outside: any input parses or raises `DecodeError`, and what parses is canonical."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.encoding import cbor
from attestation.encoding.record import Record
from attestation.errors import DecodeError
from attestation.wire import control, messages
from attestation.wire.frames import Header

SCALARS = (
    st.integers(-(1 << 64), (1 << 64) - 1)
    | st.binary(max_size=40)
    | st.text(max_size=40)
    | st.booleans()
    | st.none()
    | st.floats()
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.text(max_size=8), inner, max_size=5)
        | st.dictionaries(st.integers(-1000, 1000), inner, max_size=5)
    ),
    max_leaves=12,
)

RECORDS = sorted(
    {
        kind
        for module in (control, messages)
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, Record) and kind is not Record
    },
    key=lambda kind: kind.__name__,
)


def depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max((depth(entry) for entry in inner), default=0)


def same(left: Any, right: Any) -> bool:
    if isinstance(left, float) and math.isnan(left):
        return isinstance(right, float) and math.isnan(right)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    return bool(left == right) and type(left) is type(right)


@given(VALUES.filter(lambda value: depth(value) <= 8))
def test_every_value_of_the_subset_survives_and_has_one_encoding(value: Any) -> None:
    data = cbor.encode(value)
    decoded = cbor.decode(data, limit=len(data))
    assert same(value, decoded)
    assert cbor.encode(decoded) == data


@given(st.binary(max_size=200))
def test_any_bytes_decode_canonically_or_are_refused(data: bytes) -> None:
    try:
        value = cbor.decode(data, limit=200)
    except DecodeError:
        return
    assert cbor.encode(value) == data


@pytest.mark.parametrize("kind", RECORDS)
@given(data=st.binary(max_size=300) | VALUES.map(lambda v: cbor.encode(v) if depth(v) < 9 else b""))
def test_any_bytes_make_a_record_or_are_refused(kind: type[Record], data: bytes) -> None:
    try:
        parsed = kind.from_bytes(data)
    except DecodeError:
        return
    assert parsed.to_bytes() == data


@given(
    st.binary(max_size=60) | st.binary(min_size=48, max_size=48).map(lambda b: b"EW\x01" + b[3:])
)
def test_any_bytes_make_a_routing_header_or_are_refused(data: bytes) -> None:
    try:
        header = Header.from_bytes(data)
    except DecodeError:
        return
    assert header.to_bytes() == data


@given(st.binary(max_size=300))
def test_any_bytes_make_a_session_message_or_are_refused(data: bytes) -> None:
    try:
        message = messages.parse(data)
    except DecodeError:
        return
    assert message.to_bytes() == data
