"""Certificate chains to roots that the policy pins, judged at a given time.

OpenSSL builds and checks the path (through pyOpenSSL): path building is where home-made verifiers
go wrong. A pinned certificate is an anchor even when it is an intermediate one, so that an operator
can pin less than a vendor's whole hierarchy.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from OpenSSL import crypto

from attestation import limits
from attestation.errors import DecodeError, LocalProtocolError, VerificationError


class ChainInvalidError(VerificationError):
    """A certificate does not lead to a pinned root at that time. Pin its root, or renew it."""

    code = "chain-invalid"


class ChainNotAnchoredError(VerificationError):
    """No pinned root issued this chain. Pin the issuer's root if you trust it."""

    code = "chain-not-anchored"


class CertificateExpiredError(ChainInvalidError):
    """A certificate of the chain has expired at that time. Appraise as of when it was used."""

    code = "certificate-expired"


class CertificateNotYetValidError(ChainInvalidError):
    """A certificate of the chain begins in the future. Compare the time given with the record's."""

    code = "certificate-not-yet-valid"


# X509_V_ERR_*: the path ends without having met an anchor, and nothing in it is wrong.
_NO_ANCHOR = frozenset({2, 18, 19, 20, 21})
_REFUSALS: Final[Mapping[int, type[VerificationError]]] = {
    **dict.fromkeys(_NO_ANCHOR, ChainNotAnchoredError),
    9: CertificateNotYetValidError,
    10: CertificateExpiredError,
}


_NOT_A_CERTIFICATE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)


def parse_certificate(der: bytes) -> x509.Certificate:
    """Parse one DER certificate, or raise `DecodeError`."""
    if len(der) > limits.CERTIFICATE_BYTES:
        raise DecodeError(f"a certificate of {len(der)} bytes")
    try:
        certificate = x509.load_der_x509_certificate(der)
        # Parts are parsed when they are first looked at, and only then raise: look now. Names are
        # not looked at, here or later: nothing is decided by what a certificate calls itself.
        _ = (certificate.extensions, certificate.public_key())
    except _NOT_A_CERTIFICATE as error:
        raise DecodeError(f"not a certificate that can be read ({error})") from error
    return certificate


def verify_chain(
    certificates: Sequence[x509.Certificate],
    *,
    roots: Sequence[x509.Certificate],
    now: datetime,
) -> None:
    """Check that `certificates`, leaf first, lead to one of `roots` at `now`.

    Raises `ChainNotAnchoredError` when no root is met, `ChainInvalidError` for anything else:
    a wrong signature, an expired certificate, an issuer that is no CA.
    """
    if now.tzinfo is None:
        raise LocalProtocolError("a verification time without time zone")
    if not certificates or not roots:
        raise ChainNotAnchoredError("no certificates, or no pinned roots")
    store = crypto.X509Store()
    store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN | crypto.X509StoreFlags.X509_STRICT)
    store.set_time(now.astimezone(UTC))
    try:
        for root in roots:
            store.add_cert(crypto.X509.from_cryptography(root))
        leaf, *intermediates = [crypto.X509.from_cryptography(entry) for entry in certificates]
        crypto.X509StoreContext(store, leaf, intermediates).verify_certificate()
    except crypto.X509StoreContextError as error:
        raise _REFUSALS.get(error.errors[0], ChainInvalidError)(str(error)) from error
    except crypto.Error as error:  # OpenSSL reads a few certificates more strictly
        raise ChainInvalidError("a certificate that OpenSSL does not read") from error
