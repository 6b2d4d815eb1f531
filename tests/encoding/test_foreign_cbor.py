"""CBOR as others write it: every well-formed encoding of a few types, within bounds."""

import cbor2
import pytest

from attestation import limits
from attestation.encoding.foreign_cbor import Tagged, decode
from attestation.errors import DecodeError


@pytest.mark.parametrize(
    ("data", "value"),
    [
        ("00", 0),
        ("1800", 0),
        ("1b0000000000000001", 1),
        ("20", -1),
        ("3bffffffffffffffff", -(1 << 64)),
        ("40", b""),
        ("5f41614162ff", b"ab"),
        ("5fff", b""),
        ("7f616161620aff"[:-4] + "ff", "ab"),
        ("80", []),
        ("9f0120ff", [1, -1]),
        ("a2616201616102", {"b": 1, "a": 2}),
        ("bf0102ff", {1: 2}),
        ("d2f6", Tagged(18, None)),
        ("f4", False),
        ("f5", True),
    ],
)
def test_each_form_is_read(data: str, value: object) -> None:
    assert decode(bytes.fromhex(data), limit=64) == value


@pytest.mark.parametrize(
    "data",
    [
        pytest.param("", id="nothing"),
        pytest.param("0000", id="two items"),
        pytest.param("ff", id="a break alone"),
        pytest.param("81ff", id="a break in an array of one"),
        pytest.param("a1ff", id="a break for a key"),
        pytest.param("a101ff", id="a break for a value"),
        pytest.param("bf01ff", id="a key without a value"),
        pytest.param("d2ff", id="a tag on nothing"),
        pytest.param("1f", id="an integer of indefinite length"),
        pytest.param("df00", id="a tag of indefinite length"),
        pytest.param("1c", id="a reserved length"),
        pytest.param("5f6161ff", id="a text among bytes"),
        pytest.param("5f5f4161ffff", id="chunks of chunks"),
        pytest.param("7f61c361a9ff", id="a character cut in two"),
        pytest.param("61ff", id="not UTF-8"),
        pytest.param("f97e00", id="a float"),
        pytest.param("f7", id="undefined"),
        pytest.param("f8ff", id="a simple value"),
        pytest.param("a2010201" + "03", id="a key twice"),
        pytest.param("a2010218" + "0103", id="a key twice, once in long"),
        pytest.param("a1f501", id="a key that is true"),
        pytest.param("a1400" + "1", id="a key of bytes"),
        pytest.param("9b7fffffffffffffff", id="more items than bytes"),
        pytest.param("bb7fffffffffffffff", id="more pairs than bytes"),
        pytest.param("5b7fffffffffffffff", id="more bytes than there are"),
        pytest.param("81" * 20 + "00", id="nested deeply"),
        pytest.param("9f" * 20 + "00", id="nested deeply without end"),
        pytest.param("c1" * 20 + "00", id="tags upon tags"),
    ],
)
def test_the_rest_is_malformed(data: str) -> None:
    with pytest.raises(DecodeError):
        decode(bytes.fromhex(data), limit=64)


def test_more_items_than_allowed_are_malformed() -> None:
    many = b"\x9f" + b"\0" * limits.CBOR_ITEMS + b"\xff"
    with pytest.raises(DecodeError):
        decode(many, limit=len(many))
    chunks = b"\x5f" + b"\x40" * (limits.CBOR_ITEMS + 1) + b"\xff"
    with pytest.raises(DecodeError):
        decode(chunks, limit=len(chunks))


def test_more_bytes_than_allowed_are_malformed() -> None:
    with pytest.raises(DecodeError):
        decode(cbor2.dumps(bytes(100)), limit=64)
