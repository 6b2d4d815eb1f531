"""Whose word AMD's hardware has: a line of three certificates to a root that is shipped here.

ARK signs ASK and ASVK; an ASK signs the VCEKs of chips, an ASVK the VLEKs of cloud providers (AMD
57230, "Versioned Chip Endorsement Key Certificate and KDS Interface Specification"). All are
RSA-4096 PSS; the last ones certify a P-384 key. There is no path to search for, so each link is
checked by itself: the last certificates have serial number 0 and no key identifiers, which
OpenSSL's strict reading refuses.

The ARKs count by their public key. Whatever else comes with the Evidence is a certificate among
others: an ASK of its own must be signed by the shipped ARK, and a root of its own must be that ARK.
A chain that was handed in has to hold even where the shipped one would have done, so that nobody
learns to hand in anything.
"""

import warnings
from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import cache, lru_cache
from typing import Final

from attrs import field, frozen
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.utils import CryptographyDeprecationWarning

from attestation import limits
from attestation.endorsements.amd_signing_key import SigningCertificate
from attestation.endorsements.chains import (
    ChainInvalidError,
    ChainNotAnchoredError,
    check_issued,
    check_window,
    parse_certificate,
)
from attestation.endorsements.shipped import shipped
from attestation.errors import DecodeError, MissingError
from attestation.evidence.sev_snp import Signer, SigningKey
from attestation.evidence.sev_snp_tcb import Product

# AMD gives every VCEK the serial number 0, which RFC 5280 forbids and `cryptography` warns of. The
# number is used for nothing here; a test says so loudly when a version stops reading it.
warnings.filterwarnings(
    "ignore", message="Parsed a serial number", category=CryptographyDeprecationWarning
)

_PEM_MARK: Final = b"-----BEGIN"


class SigningKeyMissingError(MissingError):
    """No certificate of the key that signed the report. Get the VCEK of this chip and TCB from AMD.

    Workers can send it along; `enclave collateral fetch` asks AMD's key server for it.
    """

    code = "vcek-missing"


class SigningKeyNotIssuedError(ChainInvalidError):
    """AMD's intermediate did not sign the VCEK or VLEK. Treat the Evidence as forged.

    Also what a genuine key shows that came with the intermediate of another product.
    """

    code = "vcek-not-issued"


@frozen(kw_only=True)
class Hierarchy:
    """The shipped certificates of one product."""

    product: Product
    root: x509.Certificate
    intermediates: tuple[x509.Certificate, ...]


@frozen(kw_only=True)
class Chain:
    """Certificates that claim to lead from a report to AMD. `verify` says whether they do."""

    signing: SigningCertificate
    intermediate: x509.Certificate
    hierarchy: Hierarchy
    presented_roots: tuple[x509.Certificate, ...] = field(default=())

    @property
    def product(self) -> Product:
        """The product whose root the chain claims."""
        return self.hierarchy.product

    def verify(self, *, now: datetime) -> str:
        """Return what was found, or raise `ChainInvalidError` or `ChainNotAnchoredError`."""
        pinned = spki(self.hierarchy.root)
        if any(spki(root) != pinned for root in self.presented_roots):
            raise ChainNotAnchoredError("the root that came with the Evidence is not AMD's")
        try:
            check_issued(self.intermediate, self.hierarchy.root)
        except ChainInvalidError as error:
            raise ChainNotAnchoredError("AMD's root did not sign the intermediate") from error
        try:
            check_issued(self.signing.certificate, self.intermediate)
        except ChainInvalidError as error:
            raise SigningKeyNotIssuedError("the intermediate did not sign this key") from error
        for certificate in (self.signing.certificate, self.intermediate, self.hierarchy.root):
            check_window(certificate, now=now)
        ends = self.signing.certificate.not_valid_after_utc
        return f"{self.signing.signer.value.upper()} valid until {ends.isoformat()}"


@cache
def pinned() -> tuple[Hierarchy, ...]:
    """Return what is shipped, read once (roots/PROVENANCE.md says where each came from)."""
    return tuple(
        Hierarchy(product=product, root=root, intermediates=tuple(intermediates))
        for product in Product
        for root, *intermediates in [
            shipped("amd", *(f"{product.value}-{part}" for part in ("ark", "ask", "asvk")))
        ]
    )


@lru_cache(maxsize=64)
def find_chain(
    key: SigningKey, *, presented: tuple[bytes, ...], collateral: tuple[bytes, ...]
) -> Chain:
    """Choose the certificates for `key`; nothing of them is believed yet.

    `presented` came with the Evidence, `collateral` is ours; both are DER or PEM. Raises
    `SigningKeyMissingError` when none is for that key, `ChainNotAnchoredError` when it leads to
    nobody known here, `DecodeError`. The choice depends on nothing else, so it is remembered.
    """
    theirs, ours = _Sorted.of(presented), _Sorted.of(collateral)
    signing = _choose_signing(key, theirs.signing, ours.signing)
    intermediate = _choose_intermediate(
        signing.certificate, theirs.intermediates, ours.intermediates
    )
    for hierarchy in pinned():
        if hierarchy.root.subject == intermediate.issuer:
            return Chain(
                signing=signing,
                intermediate=intermediate,
                hierarchy=hierarchy,
                presented_roots=theirs.roots,
            )
    raise ChainNotAnchoredError("the intermediate names an issuer that is not pinned")


@frozen(kw_only=True)
class _Sorted:
    """Certificates by the part that they could play."""

    signing: tuple[SigningCertificate, ...]
    intermediates: tuple[x509.Certificate, ...]
    roots: tuple[x509.Certificate, ...]

    @classmethod
    def of(cls, items: Iterable[bytes]) -> "_Sorted":
        certificates = [certificate for item in items for certificate in read_certificates(item)]
        authorities = [certificate for certificate in certificates if _is_authority(certificate)]
        return cls(
            signing=tuple(
                SigningCertificate.of(certificate)
                for certificate in certificates
                if not _is_authority(certificate)
            ),
            intermediates=tuple(entry for entry in authorities if entry.issuer != entry.subject),
            roots=tuple(entry for entry in authorities if entry.issuer == entry.subject),
        )


def _choose_signing(
    key: SigningKey, theirs: Sequence[SigningCertificate], ours: Sequence[SigningCertificate]
) -> SigningCertificate:
    for candidate in (*theirs, *ours):
        if candidate.is_of(key):
            return candidate
    # One that they present and that does not fit is judged all the same, and refused by name; one
    # of ours that does not fit is the certificate of another machine.
    for candidate in theirs:
        if candidate.signer is key.signer:
            return candidate
    if theirs:
        return theirs[0]
    name = "VLEK" if key.signer is Signer.VLEK else f"VCEK of chip {key.chip_id.hex()}"
    raise SigningKeyMissingError(f"no certificate of the {name} for TCB {key.tcb.hex()}")


def _choose_intermediate(
    leaf: x509.Certificate,
    theirs: Sequence[x509.Certificate],
    ours: Sequence[x509.Certificate],
) -> x509.Certificate:
    # One of theirs is used if there is any at all: see the beginning of this file.
    shipped = [entry for hierarchy in pinned() for entry in hierarchy.intermediates]
    named = [entry for entry in theirs or (*shipped, *ours) if entry.subject == leaf.issuer]
    # AMD has replaced an ASK under the same name (Genoa, 2022), so the name alone does not decide.
    for candidate in named:
        try:
            check_issued(leaf, candidate)
        except ChainInvalidError:
            continue
        return candidate
    if named or theirs:
        return (*named, *theirs)[0]
    raise ChainNotAnchoredError("the certificate names an issuer that is not pinned")


@lru_cache(maxsize=256)
def read_certificates(data: bytes) -> tuple[x509.Certificate, ...]:
    """Read one DER certificate or some in PEM, or raise `DecodeError`."""
    if not data.startswith(_PEM_MARK):
        return (parse_certificate(data),)
    if len(data) > 2 * limits.CERTIFICATE_BYTES:
        raise DecodeError(f"{len(data)} bytes of PEM")
    try:
        found = x509.load_pem_x509_certificates(data)
    except (ValueError, x509.InvalidVersion) as error:
        raise DecodeError("not a certificate in PEM") from error
    return tuple(
        parse_certificate(entry.public_bytes(serialization.Encoding.DER)) for entry in found
    )


@lru_cache(maxsize=256)
def spki(certificate: x509.Certificate) -> bytes:
    """Return the DER SubjectPublicKeyInfo, by which a root is known."""
    return certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    except x509.ExtensionNotFound:
        return False
    return constraints.value.ca
