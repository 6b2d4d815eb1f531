"""Whose word an NRAS token has: a key of NVIDIA's key set, certified by a pinned intermediate.

The key set (RFC 7517) is collateral and may come from anywhere, so a key in it counts by its own
certificates: a leaf, which lives two days, then an intermediate that is shipped here. NVIDIA's root
is in no key set and published nowhere we know of; a new intermediate has to be added here, or a key
pinned. Keys rotate daily: keep the key set with the token, or nobody can check it a week later.
"""

import base64
import binascii
import hashlib
from collections.abc import Collection, Sequence
from datetime import datetime
from functools import lru_cache
from itertools import pairwise
from typing import Any, Final

from attrs import field, frozen
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from attestation import limits
from attestation.endorsements.chains import (
    ChainInvalidError,
    ChainNotAnchoredError,
    check_issued,
    check_window,
    parse_certificate,
)
from attestation.endorsements.nvidia_chains import check_issuer, p384_key
from attestation.endorsements.shipped import shipped
from attestation.errors import DecodeError, MissingError
from attestation.evidence.nvidia_eat import read_json

_COORDINATE_BYTES: Final = 48
_KEYS: Final = 256


class TokenKeyUnknownError(MissingError):
    """The key set lacks the key that signed the token. Get the one of the day it was made on."""

    code = "token-key-unknown"


@frozen(kw_only=True)
class ServiceKey:
    """One key of a key set; `certificates` are DER, its own first."""

    kid: str
    key: ec.EllipticCurvePublicKey = field(repr=False)
    certificates: tuple[bytes, ...] = field(repr=False)

    def pin(self) -> bytes:
        """Return the SHA-256 of the DER SubjectPublicKeyInfo."""
        spki = self.key.public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return hashlib.sha256(spki).digest()


@lru_cache(maxsize=16)
def parse_key_set(data: bytes) -> tuple[ServiceKey, ...]:
    """Return the P-384 keys of a JSON Web Key Set, or raise `DecodeError`."""
    if len(data) > limits.JWKS_BYTES:
        raise DecodeError(f"a key set of {len(data)} bytes")
    match read_json(data):
        case {"keys": [*keys]} if len(keys) <= _KEYS:
            return tuple(_key(entry) for entry in keys if _is_p384(entry))
        case _:
            raise DecodeError("not a key set")


def service_key(
    kid: str, *, jwks: Sequence[bytes], pinned: Collection[bytes], now: datetime
) -> ec.EllipticCurvePublicKey:
    """Return the key of that name which NVIDIA vouches for, or which is pinned.

    Raises `TokenKeyUnknownError`, `ChainNotAnchoredError`, `ChainInvalidError` or `DecodeError`.
    """
    found = [key for data in jwks for key in parse_key_set(data) if key.kid == kid]
    if not found:
        raise TokenKeyUnknownError(f"no key {kid!r}")
    if len({key.pin() for key in found}) > 1:
        raise ChainInvalidError(f"two keys of the name {kid!r}")
    key = found[0]
    if key.certificates:
        _check_certificates(key, pinned, now)
    elif key.pin() not in pinned:
        raise ChainNotAnchoredError("a key without certificates that nobody has pinned")
    return key.key


def verify_certificates(certificates: Sequence[bytes], *, now: datetime) -> x509.Certificate:
    """Return the leaf of a chain to a pinned intermediate; raises like `verify_chain`."""
    line = _line(certificates)
    pinned = intermediates()
    if line[-1] not in pinned:
        line += [anchor for anchor in pinned if _issued(line[-1], anchor)][:1]
    if line[-1] not in pinned or len(line) < 2:
        raise ChainNotAnchoredError("no intermediate of NVIDIA's service that is shipped here")
    _check_line(line, now)
    return line[0]


def intermediates() -> tuple[x509.Certificate, ...]:
    """Return the pinned intermediates of NVIDIA's attestation service."""
    return shipped("nvidia", *(f"nras-gpu-intermediate-{number}" for number in _INTERMEDIATES))


_INTERMEDIATES: Final = ("002", "003", "004", "005")


def _check_certificates(key: ServiceKey, pinned: Collection[bytes], now: datetime) -> None:
    if key.pin() in pinned:
        # The pin says whose key it is; the certificates still say until when.
        line = _line(key.certificates)
        _check_line(line, now)
        leaf = line[0]
    else:
        leaf = verify_certificates(key.certificates, now=now)
    if p384_key(leaf).public_numbers() != key.key.public_numbers():
        raise ChainInvalidError("a key whose certificate is for another")


def _line(certificates: Sequence[bytes]) -> list[x509.Certificate]:
    if not 1 <= len(certificates) <= limits.CERTIFICATES:
        raise DecodeError(f"{len(certificates)} certificates")
    return [parse_certificate(der) for der in certificates]


def _check_line(line: Sequence[x509.Certificate], now: datetime) -> None:
    for below, (certificate, issuer) in enumerate(pairwise(line)):
        check_issued(certificate, issuer)
        check_issuer(issuer, below)
    for certificate in line:
        check_window(certificate, now=now)


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        check_issued(certificate, issuer)
    except ChainInvalidError:
        return False
    return True


def _is_p384(entry: Any) -> bool:
    return isinstance(entry, dict) and (entry.get("kty"), entry.get("crv")) == ("EC", "P-384")


def _key(entry: dict[str, Any]) -> ServiceKey:
    kid = entry.get("kid")
    x, y = (_decoded(entry.get(name), urlsafe=True) for name in ("x", "y"))
    if not isinstance(kid, str) or {len(x), len(y)} != {_COORDINATE_BYTES}:
        raise DecodeError("a key without name or coordinates")
    certificates = entry.get("x5c", [])
    if not isinstance(certificates, list) or len(certificates) > limits.CERTIFICATES:
        raise DecodeError("a key with other certificates")
    try:
        key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), b"\x04" + x + y)
    except ValueError as error:
        raise DecodeError("a key that is not on its curve") from error
    return ServiceKey(
        kid=kid, key=key, certificates=tuple(_decoded(text, urlsafe=False) for text in certificates)
    )


def _decoded(text: Any, *, urlsafe: bool) -> bytes:
    if not isinstance(text, str):
        raise DecodeError("a key with something other than text")
    try:
        padded = text + "=" * (-len(text) % 4)
        return base64.b64decode(padded, altchars="-_" if urlsafe else None, validate=True)
    except (binascii.Error, ValueError) as error:
        raise DecodeError("a key with something other than base64") from error
