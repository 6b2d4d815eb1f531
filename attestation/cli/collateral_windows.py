"""What an item of collateral is, and during which time its vendor stands by it.

For people who look at a bundle, and for the cache, which must not hand out what has expired.
Nothing here is verified: appraisals do that, and read the same fields again.
"""

import base64
import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from attrs import frozen
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from attestation.endorsements.chains import parse_certificate
from attestation.endorsements.collateral import CollateralKind
from attestation.endorsements.revocation import parse_crl
from attestation.errors import DecodeError

_PEM: Final = re.compile(
    r"-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----", re.ASCII
)
_XML_CERTIFICATE: Final = re.compile(
    rb"<(?:\w+:)?X509Certificate>([A-Za-z0-9+/=\s]+)</(?:\w+:)?X509Certificate>"
)
_XML_NAME: Final = re.compile(rb'<(?:\w+:)?SoftwareIdentity[^>]{0,4096}?\bname="([^"<>&]{1,200})"')
_XML_VERSION: Final = re.compile(rb'\bcolloquialVersion="([^"<>&]{1,100})"')
_CERTIFICATES: Final = 64


@frozen(kw_only=True)
class Description:
    """What an item calls itself, and from when to when it is meant to be used."""

    title: str
    begins: datetime
    ends: datetime

    def current(self, now: datetime) -> bool:
        """Whether `now` is inside the window."""
        return self.begins <= now <= self.ends


def describe(kind: CollateralKind, data: bytes) -> Description:
    """Return the description of an item, or raise `DecodeError` when it is none of its kind."""
    return _READERS[kind](data)


def _certificate(data: bytes) -> Description:
    return _of(parse_certificate(data))


def _of(certificate: x509.Certificate) -> Description:
    return Description(
        title=f"certificate of {_name(certificate.subject)}",
        begins=certificate.not_valid_before_utc,
        ends=certificate.not_valid_after_utc,
    )


def _crl(data: bytes) -> Description:
    crl = parse_crl(data)
    if crl.next_update_utc is None:
        raise DecodeError("a revocation list without an end")
    return Description(
        title=f"revocation list of {_name(crl.issuer)}",
        begins=crl.last_update_utc,
        ends=crl.next_update_utc,
    )


def _intel(data: bytes) -> Description:
    document = _object(data)
    tcb = _object(_text(document, "tcb_info").encode())
    identity = _object(_text(document, "qe_identity").encode())
    windows = [_signed_window(tcb), _signed_window(identity)]
    windows += [
        (entry.begins, entry.ends)
        for entry in (_crl(_hex(document, name)) for name in ("root_ca_crl", "pck_crl"))
    ]
    names = ("tcb_info_issuer_chain", "qe_identity_issuer_chain", "pck_crl_issuer_chain")
    windows += [
        (entry.begins, entry.ends)
        for name in names
        for entry in map(_certificate, pem_certificates(_text(document, name)))
    ]
    begins, ends = _together(windows)
    title = f"Intel {_text(tcb, 'id')} {_text(tcb, 'fmspc')}"
    return Description(title=title, begins=begins, ends=ends)


def _rim(data: bytes) -> Description:
    found = _XML_NAME.search(data)
    if found is None:
        raise DecodeError("not a reference integrity manifest")
    certificates = [_of(certificate) for certificate in xml_certificates(data)]
    if not certificates:
        raise DecodeError("a reference integrity manifest without its signer's certificate")
    begins, ends = _together([(entry.begins, entry.ends) for entry in certificates])
    version = _XML_VERSION.search(data)
    words = [found[1], b"" if version is None else version[1]]
    title = f"reference values of {b' '.join(words).decode('utf-8', 'replace').strip()}"
    return Description(title=title, begins=begins, ends=ends)


def _ocsp(data: bytes) -> Description:
    try:
        response = ocsp.load_der_ocsp_response(data)
        single = next(iter(response.responses))
        begins, ends = single.this_update_utc, single.next_update_utc
        serial = single.serial_number
    except (ValueError, StopIteration, TypeError) as error:
        raise DecodeError("not an OCSP answer about a certificate") from error
    if ends is None:
        raise DecodeError("an OCSP answer without an end")
    return Description(title=f"status of certificate {serial:x}", begins=begins, ends=ends)


def _jwks(data: bytes) -> Description:
    keys = _object(data).get("keys")
    if not isinstance(keys, list) or not keys:
        raise DecodeError("not a set of keys")
    certificates = []
    for key in keys[:_CERTIFICATES]:
        chain = key.get("x5c") if isinstance(key, dict) else None
        if isinstance(chain, list) and chain and isinstance(chain[0], str):
            try:
                certificates.append(_certificate(base64.b64decode(chain[0])))
            except ValueError as error:
                raise DecodeError("a certificate that is not base64") from error
    if not certificates:
        raise DecodeError("a set of keys without certificates")
    # Keys overlap while they rotate: the set is of use as long as one of them is.
    return Description(
        title=f"{len(keys)} keys of an attestation service",
        begins=min(entry.begins for entry in certificates),
        ends=max(entry.ends for entry in certificates),
    )


_READERS: Final[Mapping[CollateralKind, Callable[[bytes], Description]]] = {
    CollateralKind.AMD_CERTIFICATE: _certificate,
    CollateralKind.AMD_CRL: _crl,
    CollateralKind.INTEL_QUOTE_COLLATERAL: _intel,
    CollateralKind.NVIDIA_RIM: _rim,
    CollateralKind.NVIDIA_OCSP: _ocsp,
    CollateralKind.NVIDIA_JWKS: _jwks,
    CollateralKind.TPM_CERTIFICATE: _certificate,
    CollateralKind.CRL: _crl,
}


def pem_certificates(text: str) -> list[bytes]:
    """Return the certificates of a PEM text as DER, at least one; raises `DecodeError`."""
    try:
        found = [x509.load_pem_x509_certificate(block.encode()) for block in _PEM.findall(text)]
    except (ValueError, x509.InvalidVersion) as error:
        raise DecodeError("not a PEM certificate") from error
    if not found or len(found) > _CERTIFICATES:
        raise DecodeError(f"{len(found)} PEM certificates")
    return [_der(entry) for entry in found]


def xml_certificates(data: bytes) -> list[x509.Certificate]:
    """Return the certificates in the signature of an XML document, or raise `DecodeError`."""
    found = []
    for match in _XML_CERTIFICATE.findall(data)[:_CERTIFICATES]:
        try:
            found.append(parse_certificate(base64.b64decode(match)))
        except ValueError as error:
            raise DecodeError("a certificate that is not base64") from error
    return found


def signed_text(data: bytes, member: str) -> tuple[str, str]:
    """Return the exact text of `member` and the signature over it, of an answer by Intel's PCS.

    Intel signs the bytes between `{"member":` and `,"signature":`; a document that is parsed and
    written again has others.
    """
    document = _object(data)
    signature = _text(document, "signature")
    try:
        text = data.decode()
        head = re.compile(rf'\s*\{{\s*"{member}"\s*:\s*').match(text)
        if head is None:
            raise DecodeError(f"an answer that does not begin with {member}")
        _, end = json.JSONDecoder().raw_decode(text, head.end())
    except (ValueError, RecursionError) as error:
        raise DecodeError(f"an answer without {member}") from error
    return text[head.end() : end], signature


def signed_window(text: str) -> tuple[datetime, datetime]:
    """Return the window of TCB info or of a QE identity; raises `DecodeError`."""
    return _signed_window(_object(text.encode()))


def _signed_window(document: Mapping[str, Any]) -> tuple[datetime, datetime]:
    return _time(_text(document, "issueDate")), _time(_text(document, "nextUpdate"))


def _together(windows: list[tuple[datetime, datetime]]) -> tuple[datetime, datetime]:
    return max(begins for begins, _ in windows), min(ends for _, ends in windows)


def _time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise DecodeError(f"{text!r} is not a time") from error
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)


def _object(data: bytes) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DecodeError("not JSON") from error
    if not isinstance(document, dict):
        raise DecodeError("not a JSON object")
    return document


def _text(document: Mapping[str, Any], name: str) -> str:
    value = document.get(name)
    if not isinstance(value, str):
        raise DecodeError(f"{name} is missing or not a text")
    return value


def _hex(document: Mapping[str, Any], name: str) -> bytes:
    try:
        return bytes.fromhex(_text(document, name))
    except ValueError as error:
        raise DecodeError(f"{name} is not hexadecimal") from error


def _name(name: x509.Name) -> str:
    try:
        found = name.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        return str(found[0].value) if found else name.rfc4514_string()
    except ValueError as error:
        raise DecodeError("a name that cannot be read") from error


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)
