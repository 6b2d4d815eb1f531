"""Certificate revocation lists: signed by the issuer, inside their window, and naming serials.

A list that is missing is not a list that is empty: both `RevocationMissingError` and
`RevocationStaleError` refuse unless the policy says that revocation data may be absent.
"""

from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from attestation import limits
from attestation.endorsements.chains import STRONG
from attestation.errors import DecodeError, LocalProtocolError, MissingError, VerificationError

_PEM_MARK = b"-----BEGIN"


_NOT_A_LIST = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)


class RevocationMissingError(MissingError):
    """No revocation list of the issuer was given. Gather collateral, then appraise again."""

    code = "revocation-missing"


class RevocationStaleError(VerificationError):
    """The issuer's revocation list is outside its window at that time. Gather a current one."""

    code = "revocation-stale"


class RevocationInvalidError(VerificationError):
    """A revocation list names the issuer's key, which did not sign it. Discard it, gather anew."""

    code = "revocation-invalid"


class RevokedError(VerificationError):
    """The issuer has revoked a certificate. Do not trust what it signed."""

    code = "certificate-revoked"


@lru_cache(maxsize=256)
def parse_crl(data: bytes) -> x509.CertificateRevocationList:
    """Parse a DER or PEM list, or raise `DecodeError`."""
    if len(data) > limits.CRL_BYTES:
        raise DecodeError(f"a revocation list of {len(data)} bytes")
    load = x509.load_pem_x509_crl if data.startswith(_PEM_MARK) else x509.load_der_x509_crl
    try:
        crl = load(data)
        # Parsed when first looked at, and only then do they raise: look now.
        _ = (crl.issuer, crl.extensions, crl.next_update_utc, crl.signature_hash_algorithm)
    except _NOT_A_LIST as error:
        raise DecodeError(f"not a revocation list that can be read ({error})") from error
    return crl


def check_not_revoked(
    certificate: x509.Certificate,
    *,
    issuer: x509.Certificate,
    crls: Sequence[bytes],
    now: datetime,
) -> None:
    """Check `certificate` against the lists that `issuer` signed; at least one must be current.

    Lists of other issuers are passed over: a bundle holds those of several vendors. Raises
    `RevokedError`, `RevocationStaleError`, `RevocationMissingError` or, where the only list is one
    that somebody changed, `RevocationInvalidError`.
    """
    if now.tzinfo is None:
        raise LocalProtocolError("a verification time without time zone")
    own = [parse_crl(data) for data in crls if _signed_by(data, issuer)]
    if not own:
        if any(_claims(parse_crl(data), issuer) for data in crls):
            raise RevocationInvalidError("the only list of the issuer's is not signed by it")
        raise RevocationMissingError("no revocation list of the certificate's issuer")
    for crl in own:
        # A revocation stays one when the list that says so has become old.
        if crl.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None:
            raise RevokedError(f"serial {certificate.serial_number:x}")
    if not any(_complete(crl) and _current(crl, now) for crl in own):
        raise RevocationStaleError("no complete revocation list of the issuer holds at that time")


@lru_cache(maxsize=256)
def _signed_by(data: bytes, issuer: x509.Certificate) -> bool:
    """Whether `issuer` signed the list: a fact about bytes, so it may be remembered."""
    crl = parse_crl(data)
    if crl.issuer != issuer.subject or not isinstance(crl.signature_hash_algorithm, STRONG):
        return False
    try:
        return crl.is_signature_valid(issuer.public_key())  # type: ignore[arg-type]
    except (InvalidSignature, UnsupportedAlgorithm, TypeError, ValueError):
        return False


def _claims(crl: x509.CertificateRevocationList, issuer: x509.Certificate) -> bool:
    """Whether a list says that it is of `issuer`'s key: not of another one of the same name."""
    if crl.issuer != issuer.subject:
        return False
    try:
        named = crl.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
        own = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        return True
    return named.key_identifier in (None, own.key_identifier)


def _complete(crl: x509.CertificateRevocationList) -> bool:
    # A critical extension narrows what a list speaks of: a delta, one reason, some certificates
    # (RFC 5280 section 5.2). What such a list leaves out is not thereby alive.
    return not any(extension.critical for extension in crl.extensions)


def _current(crl: x509.CertificateRevocationList, now: datetime) -> bool:
    return crl.next_update_utc is not None and (crl.last_update_utc <= now <= crl.next_update_utc)
