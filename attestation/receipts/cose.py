"""COSE_Sign1 (RFC 9052 section 4.2) with Ed25519, in the one form this project writes and reads.

    [protected: bstr .cbor {1: -8, 3: content type, 4: key id}, {}, payload: bstr, signature: bstr]

The array is untagged: our deterministic CBOR has no tags, and the place of the bytes says what they
are. A tool that wants the tag puts the byte 0xd2 in front. The unprotected header is empty, since
nothing there is signed; algorithm, content type and key id are protected, so a signature made for
one purpose does not verify for another. Signed is `["Signature1", protected, h'', payload]`.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from attestation import limits
from attestation.encoding import cbor, plain
from attestation.errors import DecodeError, SignatureInvalidError

_ALGORITHM, _CONTENT_TYPE, _KEY_ID = 1, 3, 4
_EDDSA: Final = -8
_FOUR: Final = b"\x84"
_EMPTY_MAP: Final = cbor.encode({})
_SIGNED_START: Final = _FOUR + cbor.encode("Signature1")
_NO_AAD: Final = cbor.encode(b"")
_KEPT_BYTES: Final = 256
"""Our own protected headers take 100."""


def sign1(
    payload: bytes, *, key_id: bytes, content_type: str, sign: Callable[[bytes], bytes]
) -> bytes:
    """Return a COSE_Sign1 over `payload`. `sign` makes an Ed25519 signature over what it gets."""
    protected = _write_protected(key_id, content_type)
    signature = sign(_to_be_signed(protected, payload))
    return b"".join(
        (
            _FOUR,
            plain.write_octets(protected),
            _EMPTY_MAP,
            plain.write_octets(payload),
            plain.write_octets(signature),
        )
    )


def verify1(data: bytes, public_key: bytes, *, content_type: str) -> tuple[bytes, bytes]:
    """Return the key id and payload of a COSE_Sign1 that `public_key` signed for `content_type`.

    Raises `DecodeError` when `data` has another form, and `SignatureInvalidError` otherwise.
    """
    protected, payload, signature = _split(data)
    key_id, signed_type = _read_protected(protected)
    if signed_type != content_type:
        raise SignatureInvalidError("the signature was made for another purpose")
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(
            signature, _to_be_signed(protected, payload)
        )
    except (InvalidSignature, ValueError) as error:
        raise SignatureInvalidError("the signature does not verify under that key") from error
    return key_id, payload


def _to_be_signed(protected: bytes, payload: bytes) -> bytes:
    return _SIGNED_START + plain.write_octets(protected) + _NO_AAD + plain.write_octets(payload)


_read_octets: Final = plain.read_octets(exactly=None, limit=limits.RECEIPT_BYTES)


def _split(data: bytes) -> tuple[bytes, bytes, bytes]:
    try:
        return _split_plain(data)
    except (plain.NotPlainError, IndexError):
        return _split_generally(data)


def _split_plain(data: bytes) -> tuple[bytes, bytes, bytes]:
    """Read the usual form; everything else is not plain, and read the general way."""
    protected, at = _read_octets(data, len(_FOUR))
    end = at + len(_EMPTY_MAP)
    payload, after = _read_octets(data, end)
    signature, after = _read_octets(data, after)
    usual = data.startswith(_FOUR) and data[at:end] == _EMPTY_MAP and after == len(data)
    if not usual or len(data) > limits.RECEIPT_BYTES:
        plain.not_plain()
    return protected, payload, signature


def _split_generally(data: bytes) -> tuple[bytes, bytes, bytes]:
    match cbor.decode(data, limit=limits.RECEIPT_BYTES):
        case [bytes() as protected, {**unprotected}, bytes() as payload, bytes() as signature]:
            if unprotected:
                raise DecodeError("the unprotected header is not empty")
            return protected, payload, signature
    raise DecodeError("not a COSE_Sign1")


@lru_cache(maxsize=256)
def _write_protected(key_id: bytes, content_type: str) -> bytes:
    return cbor.encode({_ALGORITHM: _EDDSA, _CONTENT_TYPE: content_type, _KEY_ID: key_id})


def _read_protected(protected: bytes) -> tuple[bytes, str]:
    # One key signs many messages. What is kept is small, and public.
    if len(protected) <= _KEPT_BYTES:
        return _read_protected_once(protected)
    return _parse_protected(protected)


@lru_cache(maxsize=256)
def _read_protected_once(protected: bytes) -> tuple[bytes, str]:
    return _parse_protected(protected)


def _parse_protected(protected: bytes) -> tuple[bytes, str]:
    header: Any = cbor.decode(protected, limit=limits.RECEIPT_BYTES)
    if not isinstance(header, dict) or set(header) != {_ALGORITHM, _CONTENT_TYPE, _KEY_ID}:
        raise DecodeError("the protected header has other fields")
    key_id, content_type = header[_KEY_ID], header[_CONTENT_TYPE]
    # The type as well: -8.0 is equal to -8 in Python, and is another encoding.
    if header[_ALGORITHM] != _EDDSA or not isinstance(header[_ALGORITHM], int):
        raise DecodeError("the signature algorithm is not EdDSA")
    if not isinstance(key_id, bytes) or not isinstance(content_type, str):
        raise DecodeError("a protected header field has another type")
    return key_id, content_type
