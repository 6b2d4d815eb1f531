"""Certificates of Intel's SGX and TDX hierarchy, to the one root whose key is pinned here.

The hierarchy has no choice of path: the root issued the two PCK CAs and the TCB signing
certificate, a PCK CA issues PCK certificates. So each chain is checked link by link, top first, and
each certificate for its part. A root that comes with a chain counts if its key is the pinned one:
Intel has issued its root certificate more than once, always for the same key.

What is remembered is what `chains` says: that signatures over exact bytes held, never a time.
"""

import hashlib
import re
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Sequence
from datetime import datetime
from functools import cache, lru_cache
from itertools import pairwise
from typing import Final

from attrs import field, frozen
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.x509.oid import NameOID

from attestation import limits
from attestation.endorsements.chains import (
    ChainInvalidError,
    ChainNotAnchoredError,
    check_issued,
    check_window,
    parse_certificate,
)
from attestation.endorsements.intel_pck import Pck, PckCa, read_pck, read_pck_ca
from attestation.endorsements.shipped import shipped
from attestation.errors import DecodeError, LocalProtocolError, SignatureInvalidError

ROOT_SPKI_SHA256: Final = "a0af031289f5d5d4132f9186068a7fc13628633ba235777472e29b6b6c67a49e"
"""SHA-256 of the SubjectPublicKeyInfo of the Intel SGX Root CA: the pin."""

_TCB_SIGNING: Final = "Intel SGX TCB Signing"
_PEM: Final = re.compile(
    rb"[\r\n]*-----BEGIN CERTIFICATE-----\r?\n([A-Za-z0-9+/=\r\n]+?)\r?\n-----END CERTIFICATE-----"
)
_ECDSA: Final = ec.ECDSA(hashes.SHA256())


@cache
def intel_root() -> x509.Certificate:
    """Return Intel's root certificate as it is shipped, after a look at the pin."""
    (root,) = shipped("intel", "sgx-root-ca")
    if hashlib.sha256(_spki(root)).hexdigest() != ROOT_SPKI_SHA256:
        raise LocalProtocolError("the shipped root certificate does not hold the pinned key")
    return root


def _spki(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


@frozen(kw_only=True)
class PckChain:
    """A platform's certificate and those above it; its signatures hold, its windows are open."""

    certificates: tuple[x509.Certificate, ...] = field(repr=False)
    """Leaf, PCK CA, root."""
    key: ec.EllipticCurvePublicKey = field(repr=False)
    pck: Pck
    ca: PckCa


@lru_cache(maxsize=256)
def split_certificates(data: bytes) -> tuple[bytes, ...]:
    """Return the DER certificates in `data`, PEM or DER one after the other.

    PEM may be followed by white space and NULs, which Intel's libraries append, and by nothing
    else. Raises `DecodeError`.
    """
    if len(data) > limits.CERTIFICATE_BYTES * limits.CERTIFICATES:
        raise DecodeError(f"{len(data)} bytes of certificates")
    certificates = _split_der(data) if data[:1] == b"\x30" else _split_pem(data)
    if not 1 <= len(certificates) <= limits.CERTIFICATES:
        raise DecodeError(f"{len(certificates)} certificates")
    return tuple(certificates)


def verify_pck_chain(
    certificates: tuple[bytes, ...], *, root: x509.Certificate, now: datetime
) -> PckChain:
    """Check that DER `certificates` lead from a PCK certificate to `root` at `now`.

    Raises `ChainNotAnchoredError`, `ChainInvalidError` or, where one cannot be read, `DecodeError`.
    """
    chain = _pck_chain(certificates, root)
    for certificate in chain.certificates:
        check_window(certificate, now=now)
    return chain


def verify_tcb_signer(
    certificates: tuple[bytes, ...], *, root: x509.Certificate, now: datetime
) -> x509.Certificate:
    """Return the certificate that signs TCB info and QE identities; raises like the above."""
    line = _tcb_signer_line(certificates, root)
    for certificate in line:
        check_window(certificate, now=now)
    return line[0]


def verify_p256(key: ec.EllipticCurvePublicKey, signature: bytes, signed: bytes) -> None:
    """Check an ECDSA signature over SHA-256, r ‖ s big-endian; raises `SignatureInvalidError`."""
    if len(signature) != 64:
        raise SignatureInvalidError(f"a signature of {len(signature)} bytes")
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    try:
        key.verify(encode_dss_signature(r, s), signed, _ECDSA)
    except InvalidSignature as error:
        raise SignatureInvalidError("the signature is of another key or of other bytes") from error


def public_key(certificate: x509.Certificate) -> ec.EllipticCurvePublicKey:
    """Return the P-256 key in `certificate`; all of this hierarchy have one."""
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ChainInvalidError("a certificate for another key than P-256")
    return key


@lru_cache(maxsize=256)
def _pck_chain(certificates: tuple[bytes, ...], root: x509.Certificate) -> PckChain:
    line = _verified_line(certificates, root, length=3)
    leaf, issuer, _ = line
    ca = read_pck_ca(issuer.subject)
    if ca is None:
        raise ChainInvalidError("a PCK certificate that no PCK CA issued")
    return PckChain(certificates=line, key=public_key(leaf), pck=read_pck(leaf), ca=ca)


@lru_cache(maxsize=64)
def _tcb_signer_line(
    certificates: tuple[bytes, ...], root: x509.Certificate
) -> tuple[x509.Certificate, ...]:
    line = _verified_line(certificates, root, length=2)
    names = line[0].subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if [name.value for name in names] != [_TCB_SIGNING]:
        # The root also issues the PCK CAs; what they sign says nothing about a TCB.
        raise ChainInvalidError("a certificate that is not for signing TCB info")
    return line


def _verified_line(
    certificates: Sequence[bytes], root: x509.Certificate, *, length: int
) -> tuple[x509.Certificate, ...]:
    """Return leaf to root, after checking every signature and part, top first."""
    line = [parse_certificate(der) for der in certificates]
    if len(line) > 1 and _self_issued(line[0]):
        line.reverse()  # some tools write a chain from the root down
    if _self_issued(line[-1]):
        if _spki(line[-1]) != _spki(root):
            raise ChainNotAnchoredError("the chain leads to a root that only has Intel's name")
    else:
        line.append(root)
    if len(line) != length:
        raise ChainInvalidError(f"{len(line)} certificates where {length} are needed")
    try:
        check_issued(line[-1], root)
        check_issued(line[-2], line[-1])
    except ChainInvalidError as error:
        raise ChainNotAnchoredError("the pinned root did not issue this chain") from error
    for certificate, issuer in pairwise(line):
        check_issued(certificate, issuer)
    for index, certificate in enumerate(line):
        _check_part(certificate, is_ca=index > 0)
    return tuple(line)


def _self_issued(certificate: x509.Certificate) -> bool:
    try:
        return certificate.issuer == certificate.subject
    except ValueError as error:
        raise DecodeError("a certificate with a name that cannot be read") from error


def _check_part(certificate: x509.Certificate, *, is_ca: bool) -> None:
    public_key(certificate)
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound as error:
        raise ChainInvalidError("a certificate that does not say what it is for") from error
    if constraints.ca is not is_ca or usage.key_cert_sign is not is_ca:
        raise ChainInvalidError("a CA where a leaf is needed, or a leaf where a CA is")
    if not is_ca and not usage.digital_signature:
        raise ChainInvalidError("a leaf that may not sign")
    for extension in certificate.extensions:
        known = isinstance(extension.value, x509.BasicConstraints | x509.KeyUsage)
        if extension.critical and not known:
            raise ChainInvalidError("a critical extension that nothing here looks at")


def _split_pem(data: bytes) -> list[bytes]:
    certificates: list[bytes] = []
    offset = 0
    rest = data.rstrip(b"\0 \t\r\n")
    while offset < len(rest):
        found = _PEM.match(rest, offset)
        if found is None:
            raise DecodeError("something that is no PEM certificate")
        text = found[1].translate(None, b"\r\n")
        try:
            der = b64decode(text, validate=True)
        except Base64Error as error:
            raise DecodeError("a PEM certificate that is not base64") from error
        if b64encode(der) != text:
            raise DecodeError("base64 with another encoding of the same bytes")
        certificates.append(der)
        offset = found.end()
    return certificates


def _split_der(data: bytes) -> list[bytes]:
    certificates: list[bytes] = []
    offset = 0
    while offset < len(data):
        if data[offset : offset + 2] != b"\x30\x82":
            # Intel's chains end in NULs in DER too; a certificate is longer than 255 bytes.
            if data.count(0, offset) == len(data) - offset:
                break
            raise DecodeError("something that is no DER certificate")
        end = offset + 4 + int.from_bytes(data[offset + 2 : offset + 4], "big")
        certificates.append(data[offset:end])
        offset = end
    return certificates
