"""Who vouches that an attestation key lives in a real TPM: a certificate chain, or a pin.

A TPM's public area says of itself that its key is restricted. That is worth as much as the word of
whoever checked that the key is inside a TPM (credential activation), which is what an AK
certificate states and what an operator who pins a key has done himself. If the one who vouches did
so for a software TPM, then this Evidence is as good as that software's host.
"""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from attestation.endorsements.chains import (
    ChainNotAnchoredError,
    parse_certificate,
    verify_chain,
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


def endorse(
    ak: Public,
    certificates: Sequence[bytes],
    *,
    roots: Sequence[bytes],
    pinned: Collection[bytes],
    now: datetime,
) -> str:
    """Return who vouches for `ak`, or raise.

    `roots` are DER certificates, `pinned` SHA-256 digests of SubjectPublicKeyInfo. Raises
    `KeyNotEndorsedError` when neither applies, `CertificateMismatchError` or `ChainInvalidError`
    when a certificate is there and does not hold, `DecodeError` when it is none.
    """
    if ak.fingerprint() in pinned:
        return f"the policy pins the key sha256:{ak.fingerprint().hex()}"
    if not certificates or not roots:
        raise KeyNotEndorsedError(f"nobody vouches for sha256:{ak.fingerprint().hex()}")
    chain = [parse_certificate(der) for der in certificates]
    try:
        verify_chain(chain, roots=[parse_certificate(der) for der in roots], now=now)
    except ChainNotAnchoredError as error:
        raise KeyNotEndorsedError("the AK certificate leads to no pinned root") from error
    _check_leaf(chain[0], ak)
    return f"certificate sha256:{chain[0].fingerprint(hashes.SHA256()).hex()} to a pinned root"


def _check_leaf(leaf: x509.Certificate, ak: Public) -> None:
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
