"""Deterministic CBOR: one encoding per value, and every other byte string is refused."""

import math

import cbor2
import pytest

from attestation import limits
from attestation.encoding import cbor
from attestation.errors import DecodeError, LocalProtocolError

# RFC 8949 appendix A, the rows that fall inside the subset.
RFC_8949_EXAMPLES = [
    ("00", 0),
    ("17", 23),
    ("1818", 24),
    ("1903e8", 1000),
    ("1a000f4240", 1_000_000),
    ("1bffffffffffffffff", 18446744073709551615),
    ("20", -1),
    ("3903e7", -1000),
    ("3bffffffffffffffff", -18446744073709551616),
    ("f90000", 0.0),
    ("f98000", -0.0),
    ("f93c00", 1.0),
    ("fb3ff199999999999a", 1.1),
    ("fa47c35000", 100000.0),
    ("f90001", 5.960464477539063e-8),
    ("f97c00", math.inf),
    ("f9fc00", -math.inf),
    ("f4", False),
    ("f5", True),
    ("f6", None),
    ("40", b""),
    ("4401020304", bytes([1, 2, 3, 4])),
    ("60", ""),
    ("62c3bc", "\u00fc"),
    ("80", []),
    ("8301820203820405", [1, [2, 3], [4, 5]]),
    ("a0", {}),
    ("a201020304", {1: 2, 3: 4}),
    ("a26161016162820203", {"a": 1, "b": [2, 3]}),
]


@pytest.mark.parametrize(("encoded", "value"), RFC_8949_EXAMPLES)
def test_the_examples_of_the_standard_encode_and_decode(encoded: str, value: cbor.Value) -> None:
    assert cbor.encode(value).hex() == encoded
    decoded = cbor.decode(bytes.fromhex(encoded), limit=100)
    assert decoded == value
    assert type(decoded) is type(value)


def test_an_unrelated_library_reads_what_we_write() -> None:
    value = {"b": [1, -2, 3.5, None, True], "aa": b"\x00\xff", "c": {"deep": "text"}}
    assert cbor2.loads(cbor.encode(value)) == value


def test_not_a_number_has_one_encoding() -> None:
    assert cbor.encode(math.nan).hex() == "f97e00"
    with pytest.raises(DecodeError):
        cbor.decode(bytes.fromhex("f97e01"), limit=10)


@pytest.mark.parametrize(
    ("encoded", "attack"),
    [
        ("1800", "an integer in a longer form than it needs"),
        ("190017", "an integer in a longer form than it needs"),
        ("1b00000000ffffffff", "an integer in a longer form than it needs"),
        ("fb3ff0000000000000", "a float in a longer form than it needs"),
        ("fa3f800000", "a float in a longer form than it needs"),
        ("9fff", "an array of indefinite length"),
        ("5f4101ff", "a byte string of indefinite length"),
        ("c000", "a tag"),
        ("d81c00", "a tag"),
        ("f7", "undefined"),
        ("f820", "an unassigned simple value"),
        ("a2616202616101", "map keys out of order"),
        ("a2616101616102", "a map key twice"),
        ("a1f501", "a map key that is a boolean"),
        ("a1410101", "a map key that is a byte string"),
        ("61ff", "text that is not UTF-8"),
        ("6161" + "00", "a byte too many"),
        ("", "nothing at all"),
        ("42ff", "a string shorter than announced"),
        ("9affffffff", "an array announced far beyond the input"),
        ("bb7fffffffffffffff", "a map announced far beyond the input"),
        ("5b7fffffffffffffff", "a string announced far beyond the input"),
        ("1c", "a reserved length"),
    ],
)
def test_a_second_encoding_or_a_lie_about_length_is_refused(encoded: str, attack: str) -> None:
    with pytest.raises(DecodeError):
        cbor.decode(bytes.fromhex(encoded), limit=100)


def test_nesting_deeper_than_the_limit_is_refused_before_the_stack_is() -> None:
    with pytest.raises(DecodeError):
        cbor.decode(b"\x81" * 100_000 + b"\x00", limit=200_000)


def test_a_document_of_too_many_items_is_refused() -> None:
    inner = cbor.encode([0] * 1000)
    rows = limits.CBOR_ITEMS // 1000 + 1
    document = b"\x99" + rows.to_bytes(2, "big") + inner * rows
    with pytest.raises(DecodeError):
        cbor.decode(document, limit=len(document))


def test_input_over_the_limit_is_refused_unread() -> None:
    with pytest.raises(DecodeError):
        cbor.decode(cbor.encode(b"x" * 100), limit=100)


@pytest.mark.parametrize("value", [1 << 64, -(1 << 64) - 1, object(), {1.5: 0}, {b"k": 0}, {1, 2}])
def test_our_own_code_cannot_encode_what_the_subset_lacks(value: object) -> None:
    with pytest.raises(LocalProtocolError):
        cbor.encode(value)  # type: ignore[arg-type]
