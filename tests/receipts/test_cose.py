"""The usual form of a COSE_Sign1 is read quickly, and no other is read differently for it."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation.encoding import cbor
from attestation.errors import DecodeError, SignatureInvalidError
from attestation.receipts import cose

_KEY = Ed25519PrivateKey.from_private_bytes(b"5" * 32)
_PUBLIC = _KEY.public_key().public_bytes_raw()
_TYPE = "application/x-test"


def sign(payload: bytes) -> bytes:
    return cose.sign1(payload, key_id=b"k" * 32, content_type=_TYPE, sign=_KEY.sign)


@given(st.binary(max_size=300))
def test_what_is_signed_is_written_as_cbor_writes_it(payload: bytes) -> None:
    data = sign(payload)
    protected, unprotected, written, signature = cbor.decode(data, limit=10_000)
    assert (unprotected, written) == ({}, payload)
    assert cbor.encode([protected, {}, payload, signature]) == data
    _KEY.public_key().verify(signature, cbor.encode(["Signature1", protected, b"", payload]))
    assert cose.verify1(data, _PUBLIC, content_type=_TYPE) == (b"k" * 32, payload)


@settings(max_examples=300)
@given(st.binary(max_size=40), st.floats(0, 1), st.integers(0, 255), st.booleans())
def test_both_ways_read_changed_bytes_the_same(
    payload: bytes, where: float, value: int, insert: bool
) -> None:
    data = bytearray(sign(payload))
    at = int(where * (len(data) - 1))
    data[at : at if insert else at + 1] = bytes([value])
    changed = bytes(data)
    assert verdict(cose._split, changed) == verdict(cose._split_generally, changed)


def verdict(split, data: bytes):
    try:
        return split(data)
    except DecodeError:
        return None


def test_a_header_of_another_purpose_is_refused_every_time() -> None:
    data = sign(b"payload")
    for _ in range(2):
        with pytest.raises(SignatureInvalidError):
            cose.verify1(data, _PUBLIC, content_type="application/another")
