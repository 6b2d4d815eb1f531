"""Who vouches that an attestation key lives in a real TPM: a certificate chain, or a pin.

A TPM's public area says of itself that its key is restricted. That is worth as much as the word of
whoever checked that the key is inside a TPM (credential activation), which is what an AK
certificate states and what an operator who pins a key has done himself. If the one who vouches did
so for a software TPM, then this Evidence is as good as that software's host.
"""

from collections.abc import Collection, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Final

from attrs import frozen
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from attestation.endorsements import azure, gcp
from attestation.endorsements.chains import (
    ChainNotAnchoredError,
    parse_certificate,
    verify_chain,
)
from attestation.endorsements.revocation import (
    RevocationMissingError,
    RevocationStaleError,
    check_not_revoked,
)
from attestation.errors import MissingError, VerificationError
from attestation.evidence.tpm import Public

_AK_PURPOSES: Final = frozenset(
    {
        x509.ObjectIdentifier("2.23.133.8.3"),  # tcg-kp-AIKCertificate
        x509.ObjectIdentifier("2.23.133.8.1"),  # tcg-kp-EKCertificate: Google's vTPM signs with it
    }
)


class KeyNotEndorsedError(MissingError):
    """Nobody that the policy names vouches for the attestation key. Pin its root or the key."""

    code = "ak-not-endorsed"


class CertificateMismatchError(VerificationError):
    """The AK certificate is for another key or another purpose. Treat the Evidence as forged."""

    code = "ak-certificate-mismatch"


@frozen(kw_only=True)
class Endorsement:
    """Who vouches for a key; `path` leads from its certificate to the anchor, empty for a pin."""

    finding: str
    path: tuple[x509.Certificate, ...] = ()


def endorse(
    ak: Public,
    certificates: Sequence[bytes],
    *,
    roots: Sequence[bytes],
    pinned: Collection[bytes],
    intermediates: Sequence[bytes] = (),
    now: datetime,
) -> Endorsement:
    """Return who vouches for `ak`, or raise.

    `roots` are DER certificates, `pinned` SHA-256 digests of SubjectPublicKeyInfo, `intermediates`
    what `certificates` may lack. Raises `KeyNotEndorsedError` when nobody applies,
    `CertificateMismatchError` or `ChainInvalidError` when a certificate is there and does not hold,
    `DecodeError` when it is none.
    """
    if ak.fingerprint() in pinned:
        return Endorsement(finding=f"the policy pins the key sha256:{ak.fingerprint().hex()}")
    if not certificates or not roots:
        raise KeyNotEndorsedError(f"nobody vouches for sha256:{ak.fingerprint().hex()}")
    anchors = [parse_certificate(der) for der in roots]
    try:
        path = find_path(certificates, roots=anchors, intermediates=intermediates, now=now)
    except ChainNotAnchoredError as error:
        raise KeyNotEndorsedError("the AK certificate leads to no pinned root") from error
    check_leaf(path[0], ak)
    fingerprint = path[0].fingerprint(hashes.SHA256()).hex()
    return Endorsement(finding=f"certificate sha256:{fingerprint} to a pinned root", path=path)


def find_path(
    certificates: Sequence[bytes],
    *,
    roots: Sequence[x509.Certificate],
    intermediates: Sequence[bytes] = (),
    now: datetime,
) -> tuple[x509.Certificate, ...]:
    """Return the path from the first certificate to a root. Raises like `verify_chain`.

    Clouds hand out certificates without their issuers, so those that are known here help out.
    """
    given = [parse_certificate(der) for der in [*certificates, *intermediates]]
    issuers = {certificate.issuer for certificate in given}
    known = [
        certificate
        for certificate in (*azure.intermediates(), *gcp.intermediates())
        if certificate.subject in issuers
    ]
    return verify_chain([*given, *known], roots=roots, now=now)


def check_revocation(
    path: Sequence[x509.Certificate], *, crls: Sequence[bytes], now: datetime
) -> None:
    """Check each certificate of `path` below its anchor. Raises like `check_not_revoked`.

    That one was revoked counts for more than that another's list is missing.
    """
    lacking: VerificationError | None = None
    for certificate, issuer in pairwise(path):
        try:
            check_not_revoked(certificate, issuer=issuer, crls=crls, now=now)
        except (RevocationMissingError, RevocationStaleError) as error:
            lacking = lacking or error
    if lacking is not None:
        raise lacking


def check_leaf(leaf: x509.Certificate, ak: Public) -> None:
    """Check that `leaf` is for `ak`, and for an attestation key."""
    spki = leaf.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    if spki != ak.spki():
        raise CertificateMismatchError("the AK certificate is for another key")
    # Without this, any key that the same CA certified, say for TLS, could call itself an AK.
    try:
        purposes = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound as error:
        raise CertificateMismatchError("the AK certificate states no purpose") from error
    if _AK_PURPOSES.isdisjoint(purposes):
        raise CertificateMismatchError("the certificate is not for an attestation key")
