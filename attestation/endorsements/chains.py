"""Certificate chains to roots that the policy pins, judged at a given time.

OpenSSL builds and checks the path (through pyOpenSSL): path building is where home-made verifiers
go wrong. A pinned certificate is an anchor even when it is an intermediate one, so that an operator
can pin less than a vendor's whole hierarchy. A vendor whose certificates OpenSSL's strict reading
refuses, and whose hierarchy is a fixed line, is checked link by link (`verify_link`).

**What is remembered, and why that is safe.** Appraising a second report of one machine must not
repeat the RSA of its chain. Remembered are parsed certificates, and that signatures held: facts
about exact bytes, which stay facts. Every key is the whole DER of everything the fact is about,
roots included, compared byte by byte. Only successes are kept, so that nobody can make a good chain
fail by showing a bad one first. Nothing about time is kept: each call compares each certificate's
window with its own `now`. The caches are bounded; a flood of strangers' certificates costs time.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

from attrs import field, frozen
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
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


STRONG: Final = (hashes.SHA256, hashes.SHA384, hashes.SHA512)
"""Hashes under which a vendor's signature counts; SHA-1 can be made to collide."""


@lru_cache(maxsize=1024)
def parse_certificate(der: bytes) -> x509.Certificate:
    """Parse one DER certificate, or raise `DecodeError`."""
    if len(der) > limits.CERTIFICATE_BYTES:
        raise DecodeError(f"a certificate of {len(der)} bytes")
    try:
        certificate = x509.load_der_x509_certificate(der)
        # Parts are parsed when they are first looked at, and only then raise: look now. Names only
        # help to find an issuer; nothing is decided by what a certificate calls itself.
        _ = (certificate.extensions, certificate.public_key())
        _ = (certificate.issuer, certificate.subject)
    except _NOT_A_CERTIFICATE as error:
        raise DecodeError(f"not a certificate that can be read ({error})") from error
    if certificate.serial_number < 0:  # zero is AMD's; below it, even looking it up raises
        raise DecodeError("a certificate with a negative serial number")
    if der[-len(certificate.signature) - 1] != 0:
        # The one byte that neither signature nor parser looks at: bits unused in the last byte.
        raise DecodeError("a certificate whose signature is not whole bytes")
    return certificate


def verify_chain(
    certificates: Sequence[x509.Certificate],
    *,
    roots: Sequence[x509.Certificate],
    now: datetime,
) -> tuple[x509.Certificate, ...]:
    """Return the path by which `certificates`, leaf first, lead to one of `roots` at `now`.

    Raises `ChainNotAnchoredError` when no root is met, `ChainInvalidError` for anything else:
    a wrong signature, an expired certificate, an issuer that is no CA.
    """
    if now.tzinfo is None:
        raise LocalProtocolError("a verification time without time zone")
    if not certificates or not roots:
        raise ChainNotAnchoredError("no certificates, or no pinned roots")
    path = _found_path(tuple(certificates), tuple(roots), _Moment(now))
    # A path found at another time holds now if each of its windows does; otherwise search anew,
    # which finds another path or says what is wrong with this one.
    if not all(_alive(certificate, now) for certificate in path):
        return _find_path(certificates, roots, now)
    return path


def verify_link(certificate: x509.Certificate, *, issuer: x509.Certificate, now: datetime) -> None:
    """Check that `issuer` signed `certificate`, which is alive at `now`.

    For hierarchies without a choice of path, where the caller walks from leaf to pinned root and
    knows which certificate plays which part. Raises like `verify_chain`.
    """
    check_issued(certificate, issuer)
    check_window(certificate, now=now)


def check_window(certificate: x509.Certificate, *, now: datetime) -> None:
    """Raise unless `certificate` is alive at `now`."""
    if now.tzinfo is None:
        raise LocalProtocolError("a verification time without time zone")
    if now < certificate.not_valid_before_utc:
        begins = certificate.not_valid_before_utc.isoformat()
        raise CertificateNotYetValidError(f"a certificate begins at {begins}")
    if now > certificate.not_valid_after_utc:
        ended = certificate.not_valid_after_utc.isoformat()
        raise CertificateExpiredError(f"a certificate ended at {ended}")


@lru_cache(maxsize=1024)
def check_issued(certificate: x509.Certificate, issuer: x509.Certificate) -> None:
    """Raise `ChainInvalidError` unless `issuer` is named in, and its key signed, `certificate`."""
    try:
        if not isinstance(certificate.signature_hash_algorithm, STRONG):
            raise ChainInvalidError("a certificate is signed over a weak hash")
        certificate.verify_directly_issued_by(issuer)
    except InvalidSignature as error:
        raise ChainInvalidError("a certificate is not signed by its issuer's key") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ChainInvalidError(f"a certificate is not its issuer's ({error})") from error


@frozen
class _Moment:
    """A time that a remembered path does not depend on: all moments are equal."""

    time: datetime = field(eq=False)


@lru_cache(maxsize=256)
def _found_path(
    certificates: tuple[x509.Certificate, ...], roots: tuple[x509.Certificate, ...], at: _Moment
) -> tuple[x509.Certificate, ...]:
    return _find_path(certificates, roots, at.time)


def _find_path(
    certificates: Sequence[x509.Certificate], roots: Sequence[x509.Certificate], now: datetime
) -> tuple[x509.Certificate, ...]:
    """Return the path that OpenSSL finds, from leaf to anchor, or raise."""
    store = crypto.X509Store()
    store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN | crypto.X509StoreFlags.X509_STRICT)
    store.set_time(now.astimezone(UTC))
    try:
        for root in roots:
            store.add_cert(crypto.X509.from_cryptography(root))
        leaf, *intermediates = [crypto.X509.from_cryptography(entry) for entry in certificates]
        path = crypto.X509StoreContext(store, leaf, intermediates).get_verified_chain()
    except crypto.X509StoreContextError as error:
        raise _REFUSALS.get(error.errors[0], ChainInvalidError)(str(error)) from error
    except crypto.Error as error:  # OpenSSL reads a few certificates more strictly
        raise ChainInvalidError("a certificate that OpenSSL does not read") from error
    return tuple(entry.to_cryptography() for entry in path)


def _alive(certificate: x509.Certificate, now: datetime) -> bool:
    return certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc
