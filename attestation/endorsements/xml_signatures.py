"""Signed XML of one shape only: NVIDIA's manifests, signed as a whole by an enveloped signature.

XML Signature lets a document say what was signed and how; whoever follows it verifies what the
attacker chose and then reads something else. So nothing is followed here. One shape is accepted:
`Signature` is the last child of the root; one reference, to the whole document; the enveloped and
one canonicalisation transform; ECDSA over SHA-384. What was signed is the canonical form that was
hashed, and only what is parsed out of those bytes again is given out.

lxml canonicalises as C14N 1.0. C14N 1.1, which NVIDIA names, differs in `xml:` attributes alone:
those are refused. So are document types, comments, processing instructions and CDATA, none of which
belongs in a manifest. signxml, which handles all of XML Signature, takes three times as long and
brings a list of web CAs along; it is what this is compared with in tests/interop.
"""

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Self

from attrs import field, frozen
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from attestation import limits
from attestation.errors import DecodeError, SignatureInvalidError, VerificationError

if TYPE_CHECKING:
    from lxml.etree import XMLParser, _Element

_DS: Final = "{http://www.w3.org/2000/09/xmldsig#}"
_C14N: Final = frozenset(
    {
        "http://www.w3.org/TR/2001/REC-xml-c14n-20010315",
        "http://www.w3.org/2006/12/xml-c14n11",
    }
)
_ENVELOPED: Final = "http://www.w3.org/2000/09/xmldsig#enveloped-signature"
_ECDSA_SHA384: Final = "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384"
_SHA384: Final = "http://www.w3.org/2001/04/xmldsig-more#sha384"
_SIGNATURE_BYTES: Final = 96

_DECLARATION: Final = re.compile(
    rb"""^<\?xml version=["']1\.0["'](?: encoding=["'][Uu][Tt][Ff]-8["'])?"""
    rb"""(?: standalone=["'](?:yes|no)["'])?\s*\?>"""
)


class DigestMismatchError(VerificationError):
    """A signed XML document was changed after it was signed. Get it again from its vendor."""

    code = "xml-digest-mismatch"


class XmlSignatureInvalidError(SignatureInvalidError):
    """A signed XML document is not signed by its first certificate. Get it from its vendor."""

    code = "xml-signature-invalid"


@frozen(kw_only=True)
class SignedXml:
    """A document taken apart and not yet believed. `certificates` are DER, the signer's first."""

    certificates: tuple[bytes, ...] = field(repr=False)
    _signed_info: bytes = field(repr=False)
    _signature: bytes = field(repr=False)
    _digest: bytes = field(repr=False)
    _content: bytes = field(repr=False)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Take apart a document of the one shape, or raise `DecodeError`."""
        root = parse_xml(data)
        signature = _signature_of(root)
        info, value, key_info = _children(signature, "SignedInfo", "SignatureValue", "KeyInfo")
        digest = _reference_digest(info)
        (x509_data,) = _children(key_info, "X509Data")
        certificates = _certificates(x509_data)
        signed_info = _canonical(info)
        _remove(root, signature)
        return cls(
            certificates=certificates,
            signed_info=signed_info,
            signature=_base64(value),
            digest=digest,
            content=_canonical(root),
        )

    def verify(self, key: ec.EllipticCurvePublicKey) -> bytes:
        """Return the canonical document that `key` signed, without its signature.

        Raises `XmlSignatureInvalidError` or `DigestMismatchError`.
        """
        if len(self._signature) != _SIGNATURE_BYTES:
            raise XmlSignatureInvalidError(f"a signature of {len(self._signature)} bytes")
        half = _SIGNATURE_BYTES // 2
        r, s = (
            int.from_bytes(part, "big") for part in (self._signature[:half], self._signature[half:])
        )
        try:
            key.verify(encode_dss_signature(r, s), self._signed_info, ec.ECDSA(hashes.SHA384()))
        except InvalidSignature as error:
            raise XmlSignatureInvalidError("not signed by the first certificate's key") from error
        if not hmac.compare_digest(hashlib.sha384(self._content).digest(), self._digest):
            raise DigestMismatchError("the document is not the one that was signed")
        return self._content


def parse_xml(data: bytes) -> "_Element":
    """Parse plain XML: elements, attributes and text in UTF-8. Raises `DecodeError`."""
    from lxml import etree  # noqa: PLC0415 - 20 ms that only NVIDIA's manifests are worth

    if len(data) > limits.RIM_BYTES:
        raise DecodeError(f"an XML document of {len(data)} bytes")
    body = _DECLARATION.sub(b"", data, count=1)
    if b"<!" in body or b"<?" in body:
        raise DecodeError("XML with more than elements, attributes and text")
    try:
        body.decode()
        root = etree.fromstring(body, _parser())
    except (UnicodeDecodeError, etree.XMLSyntaxError, ValueError) as error:
        raise DecodeError(f"not XML that can be read ({error})") from error
    # The prefix is bound to that namespace by definition (Namespaces in XML 1.0, section 3).
    if root.xpath("//@xml:*"):
        raise DecodeError("XML with an attribute of the xml namespace")
    return root


def _parser() -> "XMLParser":
    from lxml import etree  # noqa: PLC0415

    return etree.XMLParser(
        encoding="utf-8",
        resolve_entities=False,
        load_dtd=False,
        dtd_validation=False,
        no_network=True,
        huge_tree=False,
        recover=False,
    )


def _signature_of(root: "_Element") -> "_Element":
    signatures = list(root.iter(f"{_DS}Signature"))
    # More than one, or one elsewhere, is how a good signature is made to cover something else.
    if len(signatures) != 1 or len(root) == 0 or root[-1] is not signatures[0]:
        raise DecodeError("XML without one signature at its end")
    return signatures[0]


def _reference_digest(info: "_Element") -> bytes:
    method, signature_method, reference = _children(
        info, "CanonicalizationMethod", "SignatureMethod", "Reference"
    )
    if _algorithm(method) not in _C14N or _algorithm(signature_method) != _ECDSA_SHA384:
        raise DecodeError("XML signed in another way")
    if dict(reference.attrib) != {"URI": ""}:
        raise DecodeError("an XML signature over something other than the document")
    transforms, digest_method, digest = _children(
        reference, "Transforms", "DigestMethod", "DigestValue"
    )
    if _algorithm(digest_method) != _SHA384:
        raise DecodeError("XML signed over another hash")
    # Without a canonicalisation among them, C14N 1.0 is implied (XML Signature 4.4.3.2).
    names = [_algorithm(transform) for transform in transforms]
    if any(transform.tag != f"{_DS}Transform" for transform in transforms):
        raise DecodeError("XML signed in another way")
    if names[:1] != [_ENVELOPED] or len(names) > 2 or not set(names[1:]) <= _C14N:
        raise DecodeError("an XML signature with other transforms")
    return _base64(digest)


def _certificates(x509_data: "_Element") -> tuple[bytes, ...]:
    if not 1 <= len(x509_data) <= limits.CERTIFICATES:
        raise DecodeError(f"an XML signature with {len(x509_data)} certificates")
    _children(x509_data, *["X509Certificate"] * len(x509_data))
    return tuple(_base64(entry) for entry in x509_data)


def _children(element: "_Element", *names: str) -> Sequence["_Element"]:
    """Return the children, which must be these elements of XML Signature and no others."""
    if [child.tag for child in element] != [f"{_DS}{name}" for name in names]:
        raise DecodeError(f"an XML signature of another shape, in {element.tag}")
    return list(element)


def _algorithm(element: "_Element") -> str:
    if len(element) or set(element.attrib) != {"Algorithm"}:
        raise DecodeError("an XML signature with parameters")
    return str(element.attrib["Algorithm"])


def _base64(element: "_Element") -> bytes:
    text = "".join((element.text or "").split())
    if len(element):
        raise DecodeError("an XML signature of another shape")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise DecodeError("an XML signature with something other than base64") from error


def _canonical(element: "_Element") -> bytes:
    from lxml import etree  # noqa: PLC0415

    try:
        return bytes(etree.tostring(element, method="c14n", exclusive=False, with_comments=False))
    except etree.C14NError as error:  # such as a namespace that is a relative URI
        raise DecodeError(f"XML without a canonical form ({error})") from error


def _remove(root: "_Element", signature: "_Element") -> None:
    """Take out the signature and leave the text after it, which is signed."""
    if signature.tail:
        before = signature.getprevious()
        if before is None:
            root.text = (root.text or "") + signature.tail
        else:
            before.tail = (before.tail or "") + signature.tail
    root.remove(signature)
