"""NVIDIA's hierarchies: a line of certificates, leaf first, to one root that is pinned here.

Devices and RIMs both come with their whole line, so there is no path to search for: each link is
checked by itself, and remembered, since all devices of a product share all links but two. Whatever
stands last in the line and signed itself is left out; the pinned root takes its place.
"""

import itertools
from collections.abc import Sequence
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from attestation.endorsements.chains import (
    ChainInvalidError,
    ChainNotAnchoredError,
    check_issued,
    check_window,
    parse_certificate,
)


def verify_line(
    certificates: Sequence[bytes], *, root: x509.Certificate, now: datetime
) -> tuple[x509.Certificate, ...]:
    """Return the line from its leaf to `root`, all of which hold and live at `now`.

    `certificates` are DER. Raises `ChainNotAnchoredError` when the last one is not signed by
    `root`, `ChainInvalidError` for anything else, `DecodeError` for what is no certificate.
    """
    line = [parse_certificate(der) for der in certificates]
    if line and line[-1].subject == line[-1].issuer:
        line.pop()
    if not line:
        raise ChainNotAnchoredError("no certificates below a root")
    for certificate, issuer in itertools.pairwise(line):
        check_issued(certificate, issuer)
    try:
        check_issued(line[-1], root)
    except ChainInvalidError as error:
        raise ChainNotAnchoredError("NVIDIA's root did not sign this chain") from error
    line.append(root)
    for below, issuer in enumerate(line[1:]):
        check_issuer(issuer, below)
    for certificate in line:
        check_window(certificate, now=now)
    return tuple(line)


def p384_key(certificate: x509.Certificate) -> ec.EllipticCurvePublicKey:
    """Return the certificate's key, or raise `ChainInvalidError`: NVIDIA signs with no other."""
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise ChainInvalidError("a signing key that is not on P-384")
    return key


def check_issuer(certificate: x509.Certificate, below: int) -> None:
    """Check that a certificate may issue others, with `below` issuers between it and the leaf."""
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound as error:
        raise ChainInvalidError("an issuer that does not say that it is one") from error
    if not constraints.ca or not usage.key_cert_sign:
        raise ChainInvalidError("a certificate is issued by one that is no CA")
    if constraints.path_length is not None and below > constraints.path_length:
        raise ChainInvalidError("a chain is longer than its CA allows")
