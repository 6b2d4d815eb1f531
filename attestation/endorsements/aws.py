"""The line of certificates from AWS's pinned root to the key of one Nitro Security Module.

Root, region, zone, instance, enclave: a fixed line that the document carries whole, root first.
It is checked link by link: the certificates have no key identifiers, which OpenSSL's strict reading
asks for. AWS publishes no revocation lists for it ("Verifying the root of trust": revocation checks
have to be off); the enclave's certificate lives three hours instead, the instance's a day.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import lru_cache
from itertools import pairwise
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtensionOID

from attestation.endorsements.chains import (
    ChainInvalidError,
    ChainNotAnchoredError,
    check_issued,
    check_window,
    parse_certificate,
)
from attestation.endorsements.shipped import shipped
from attestation.errors import DecodeError

ROOT_FINGERPRINT: Final = bytes.fromhex(
    "641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b"
)
"""SHA-256 of the DER of "aws.nitro-enclaves", as AWS's documentation prints it."""

_KNOWN: Final = frozenset({ExtensionOID.BASIC_CONSTRAINTS, ExtensionOID.KEY_USAGE})


def root() -> x509.Certificate:
    """Return the pinned root."""
    return shipped("aws", "nitro-root-g1")[0]


def enclave_key(certificate: bytes) -> ec.EllipticCurvePublicKey:
    """Return the key in an enclave's certificate, whoever made that; raises `DecodeError`."""
    key = parse_certificate(certificate).public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise DecodeError("the enclave's certificate has no P-384 key")
    return key


def verify_line(
    certificate: bytes,
    cabundle: Sequence[bytes],
    *,
    now: datetime,
    root: Callable[[], x509.Certificate] = root,
) -> tuple[x509.Certificate, ...]:
    """Return the certificates from the pinned root, alive at `now`, to the enclave's.

    `cabundle` goes from the root to the issuer of `certificate`. Raises `ChainNotAnchoredError` for
    another root, `ChainInvalidError` for a line that does not hold, `DecodeError`.
    """
    anchor = root()
    if cabundle[0] != anchor.public_bytes(Encoding.DER):
        raise ChainNotAnchoredError("the first certificate of the bundle is not AWS's root")
    line = _signed_line(anchor, (*cabundle[1:], certificate))
    for one in line:
        check_window(one, now=now)
    return line


@lru_cache(maxsize=64)
def _signed_line(anchor: x509.Certificate, ders: tuple[bytes, ...]) -> tuple[x509.Certificate, ...]:
    """Return the line; nothing here depends on time (see chains.py)."""
    line = (anchor, *map(parse_certificate, ders))
    for depth, (issuer, issued) in enumerate(pairwise(line)):
        _check_authority(issuer, below=len(line) - depth - 2)
        check_issued(issued, issuer)
        if any(entry.critical and entry.oid not in _KNOWN for entry in issued.extensions):
            raise ChainInvalidError("a certificate with a critical extension that is unknown")
    return line


def _check_authority(certificate: x509.Certificate, *, below: int) -> None:
    """RFC 5280 section 6.1.4 (k) to (n); `below` is how many CAs come after this one."""
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound as error:
        raise ChainInvalidError("an issuer that does not say that it is a CA") from error
    if not constraints.ca or not usage.key_cert_sign:
        raise ChainInvalidError("an issuer that is no CA")
    if constraints.path_length is not None and constraints.path_length < below:
        raise ChainInvalidError("an issuer with more CAs below it than it may have")
