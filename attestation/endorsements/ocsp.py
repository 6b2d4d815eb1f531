"""OCSP responses as collateral: signed for the issuer, about this certificate, inside their window.

RFC 6960. A response counts for the certificate whose serial number, issuer name and issuer key its
CertID has, each compared; a good answer about another certificate says nothing about this one.
Which of many responses is about which certificate is found out here: their order means nothing.
"""

import hashlib
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import Final

from attrs import frozen
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from attestation import limits
from attestation.endorsements.chains import check_issued, check_window
from attestation.endorsements.revocation import RevokedError
from attestation.errors import DecodeError, LocalProtocolError, MissingError, VerificationError

_STRONG: Final = (hashes.SHA256, hashes.SHA384, hashes.SHA512)


class OcspMissingError(MissingError):
    """No OCSP response about a certificate was given. Gather collateral, then appraise again."""

    code = "ocsp-missing"


class OcspStaleError(VerificationError):
    """The OCSP response is outside its window at that time. They live a day: gather a new one."""

    code = "ocsp-stale"


class OcspMismatchError(VerificationError):
    """The OCSP response is about another certificate. Someone shows one answer for another."""

    code = "ocsp-certificate-mismatch"


class OcspInvalidError(VerificationError):
    """The OCSP response is not signed by someone whom the issuer lets answer. Discard it."""

    code = "ocsp-invalid"


class OcspUnknownError(VerificationError):
    """The issuer's responder does not know the certificate. Treat what it signed as forged."""

    code = "ocsp-unknown"


class CertificateOnHoldError(RevokedError):
    """The issuer has put a certificate on hold. It may come back: ask again later."""

    code = "certificate-on-hold"


@frozen(kw_only=True)
class _Answer:
    """One response, parsed; signatures are looked at later."""

    response: ocsp.OCSPResponse
    serial: int
    """Of the certificate that it is about, by what it says."""
    certificates: tuple[x509.Certificate, ...]


@lru_cache(maxsize=256)
def parse_ocsp(data: bytes) -> _Answer:
    """Parse one DER response with one answer, or raise `DecodeError`."""
    if len(data) > limits.OCSP_BYTES:
        raise DecodeError(f"an OCSP response of {len(data)} bytes")
    try:
        response = ocsp.load_der_ocsp_response(data)
        if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
            raise DecodeError(f"an OCSP response that says {response.response_status.name}")
        # Parts are parsed when they are first looked at, and only then raise: look now.
        _ = (response.certificate_status, response.revocation_reason)
        _ = (response.this_update_utc, response.next_update_utc, response.hash_algorithm)
        _ = (response.signature_hash_algorithm, response.extensions, response.responder_name)
        _, serial = response.single_extensions, response.serial_number
        certificates = tuple(response.certificates)
        for certificate in certificates:
            _ = (certificate.extensions, certificate.public_key())
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.DuplicateExtension) as error:
        raise DecodeError(f"not an OCSP response that can be read ({error})") from error
    return _Answer(response=response, serial=serial, certificates=certificates)


def check_ocsp(
    certificate: x509.Certificate,
    *,
    issuer: x509.Certificate,
    responses: Sequence[bytes],
    now: datetime,
) -> None:
    """Check that one of `responses` says at `now` that `issuer` has not revoked `certificate`.

    Raises `RevokedError` when any does say so, and otherwise what is wrong with the best one:
    `OcspStaleError`, `OcspInvalidError`, `OcspUnknownError`, or `OcspMissingError` without any.
    """
    serial = certificate.serial_number
    own = [
        data
        for data in responses
        if (answer := parse_ocsp(data)).serial == serial and _is_about(answer, certificate, issuer)
    ]
    refusal: VerificationError = OcspMissingError(f"serial {serial:x}")
    good = False
    for data in own:
        try:
            check_response(data, certificate=certificate, issuer=issuer, now=now)
        except RevokedError:
            raise
        except VerificationError as error:
            refusal = error
        else:
            good = True
    if not good:
        raise refusal


def check_response(
    data: bytes, *, certificate: x509.Certificate, issuer: x509.Certificate, now: datetime
) -> None:
    """Check that this response says so. Raises `OcspMismatchError` when it is about another."""
    if now.tzinfo is None:
        raise LocalProtocolError("a verification time without time zone")
    answer = parse_ocsp(data)
    if not _is_about(answer, certificate, issuer):
        raise OcspMismatchError(f"about serial {answer.serial:x}")
    status = answer.response.certificate_status
    if status is not ocsp.OCSPCertStatus.REVOKED:
        # Before its signature: an old response is worth nothing, whoever made it.
        _check_current(answer.response, now)
    responder = _responder(answer, issuer)
    if status is ocsp.OCSPCertStatus.REVOKED:
        # A revocation stays one when the response that says so has become old.
        if answer.response.revocation_reason is x509.ReasonFlags.certificate_hold:
            raise CertificateOnHoldError(f"serial {certificate.serial_number:x}")
        raise RevokedError(f"serial {certificate.serial_number:x}")
    check_window(responder, now=now)
    if status is not ocsp.OCSPCertStatus.GOOD:
        raise OcspUnknownError(f"serial {certificate.serial_number:x}")


def _check_current(response: ocsp.OCSPResponse, now: datetime) -> None:
    begins, ends = response.this_update_utc, response.next_update_utc
    # Without nextUpdate newer information is always available (RFC 6960 4.2.2.1): it has no window.
    if ends is None or not begins <= now <= ends:
        raise OcspStaleError(f"from {begins.isoformat()} to {ends and ends.isoformat()}")


def _is_about(answer: _Answer, certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    response = answer.response
    algorithm = response.hash_algorithm
    if not isinstance(algorithm, _STRONG) or answer.serial != certificate.serial_number:
        return False
    name, key = _issuer_hashes(issuer, type(algorithm))
    return (response.issuer_name_hash, response.issuer_key_hash) == (name, key)


@lru_cache(maxsize=256)
def _issuer_hashes(
    issuer: x509.Certificate, algorithm: type[hashes.SHA256 | hashes.SHA384 | hashes.SHA512]
) -> tuple[bytes, bytes]:
    """Return the hashes of a CertID: of the issuer's name, and of its key without its type."""
    return (
        _digest(issuer.subject.public_bytes(), algorithm()),
        _digest(_key_bits(issuer), algorithm()),
    )


def _key_bits(certificate: x509.Certificate) -> bytes:
    key = certificate.public_key()
    if isinstance(key, ec.EllipticCurvePublicKey):
        return key.public_bytes(
            serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
        )
    if isinstance(key, rsa.RSAPublicKey):
        return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.PKCS1)
    return b""


def _digest(data: bytes, algorithm: hashes.HashAlgorithm) -> bytes:
    digest = hashes.Hash(algorithm)
    digest.update(data)
    return digest.finalize()


def _responder(answer: _Answer, issuer: x509.Certificate) -> x509.Certificate:
    """Return who signed the response: the issuer, or someone whom it certified to answer."""
    for candidate in (issuer, *answer.certificates):
        if not _is_named(answer.response, candidate):
            continue
        if candidate is not issuer and not _may_answer(candidate, issuer):
            continue
        if _signed(answer.response, candidate):
            return candidate
    raise OcspInvalidError("signed by nobody whom the issuer lets answer")


def _is_named(response: ocsp.OCSPResponse, candidate: x509.Certificate) -> bool:
    """Whether the response says that this one made it. RFC 6960 names keys by their SHA-1."""
    if response.responder_key_hash is None:
        return response.responder_name == candidate.subject
    key = hashlib.sha1(_key_bits(candidate), usedforsecurity=False)
    return response.responder_key_hash == key.digest()


@lru_cache(maxsize=256)
def _may_answer(candidate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        check_issued(candidate, issuer)
        usage = candidate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except (VerificationError, x509.ExtensionNotFound):
        return False
    return ExtendedKeyUsageOID.OCSP_SIGNING in usage


@lru_cache(maxsize=256)
def _signed(response: ocsp.OCSPResponse, signer: x509.Certificate) -> bool:
    key, algorithm = signer.public_key(), response.signature_hash_algorithm
    if not isinstance(algorithm, _STRONG):
        return False
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(response.signature, response.tbs_response_bytes, ec.ECDSA(algorithm))
        elif isinstance(key, rsa.RSAPublicKey):
            signed = response.tbs_response_bytes
            key.verify(response.signature, signed, padding.PKCS1v15(), algorithm)
        else:
            return False
    except (InvalidSignature, UnsupportedAlgorithm):
        return False
    return True
