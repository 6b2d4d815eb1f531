"""The other forms in which tools hand over a TPM's key and signature.

Inside a TPM a key is a TPMT_PUBLIC and a signature a TPMT_SIGNATURE; tpm2-tools, cloud agents and
vendors' services also write PEM, SubjectPublicKeyInfo, certificates, DER and bare numbers. A form
is told by its own marks, never by trying which one verifies.
"""

from collections.abc import Callable
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from attestation import limits
from attestation.errors import DecodeError
from attestation.evidence.tpm import PcrBank, Public, PublicKey, Scheme, Signature

_PEM_KEY: Final = b"-----BEGIN PUBLIC KEY-----"
_PEM_CERTIFICATE: Final = b"-----BEGIN CERTIFICATE-----"
_DER_SEQUENCE: Final = 0x30
_RSA_BITS: Final = range(2048, 4097)
_CURVES: Final = (ec.SECP256R1, ec.SECP384R1)
_UNREADABLE: Final = (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion)


def read_key(data: bytes) -> Public:
    """Read a TPMT_PUBLIC, TPM2B_PUBLIC, SubjectPublicKeyInfo or certificate (DER or PEM).

    Only the first two say what kind of key it is; the others leave `attributes` None. Raises
    `DecodeError`.
    """
    if len(data) > limits.CERTIFICATE_BYTES:
        raise DecodeError(f"a key of {len(data)} bytes")
    if data.startswith(_PEM_KEY):
        return _foreign(serialization.load_pem_public_key, data)
    if data.startswith(_PEM_CERTIFICATE):
        return _foreign(_pem_certificate_key, data)
    if data[:1] == bytes([_DER_SEQUENCE]):
        return _foreign(_der_key, data)
    if int.from_bytes(data[:2], "big") == len(data) - 2:  # TPM2B_PUBLIC: no algorithm is so long
        data = data[2:]
    return Public.from_bytes(data)


def read_signature(data: bytes, *, key: PublicKey, hash: PcrBank) -> Signature:  # noqa: A002
    """Read a TPMT_SIGNATURE, a DER signature, r and s, or a bare RSA signature by `key`.

    Only the first names its hash; for the others it is `hash`. Raises `DecodeError`.
    """
    if isinstance(key, rsa.RSAPublicKey):
        if len(data) == key.key_size // 8:
            return Signature(scheme=Scheme.RSASSA, hash=hash, values=(data,))
        return Signature.from_bytes(data)
    size = (key.key_size + 7) // 8
    if len(data) == 2 * size:
        return Signature(scheme=Scheme.ECDSA, hash=hash, values=(data[:size], data[size:]))
    if data[:1] == bytes([_DER_SEQUENCE]):
        return Signature(scheme=Scheme.ECDSA, hash=hash, values=_der_values(data, size))
    return Signature.from_bytes(data)


def from_key(key: object) -> Public:
    """Return `key` as one that signs; `DecodeError` when it is of no kind that TPMs sign with."""
    match key:
        case rsa.RSAPublicKey() if key.key_size in _RSA_BITS:
            return Public(attributes=None, scheme=None, key=key)
        case ec.EllipticCurvePublicKey() if isinstance(key.curve, _CURVES):
            return Public(attributes=None, scheme=None, key=key)
    raise DecodeError("not a key that a TPM signs quotes with")


def _foreign(load: Callable[[bytes], object], data: bytes) -> Public:
    try:
        key = load(data)
    except _UNREADABLE as error:
        raise DecodeError("not a public key that can be read") from error
    return from_key(key)


def _der_key(data: bytes) -> object:
    try:
        return serialization.load_der_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        return x509.load_der_x509_certificate(data).public_key()


def _pem_certificate_key(data: bytes) -> object:
    return x509.load_pem_x509_certificate(data).public_key()


def _der_values(data: bytes, size: int) -> tuple[bytes, ...]:
    try:
        values = decode_dss_signature(data)
        return tuple(value.to_bytes(size, "big") for value in values)
    except (ValueError, OverflowError) as error:  # OverflowError: negative, or longer than a key's
        raise DecodeError("not an ECDSA signature") from error
