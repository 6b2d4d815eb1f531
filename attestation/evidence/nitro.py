"""Evidence of kind `nitro`: an attestation document of AWS Nitro Enclaves, parsed, not believed.

AWS Nitro Enclaves, "Verifying the root of trust", and aws-nitro-enclaves-nsm-api,
docs/attestation_process.md. The document is a COSE_Sign1 (RFC 9052 section 4.2), untagged as the
NSM writes it, tagged by some who pass it on, with ES384 over a CBOR map.
"""

from collections.abc import Mapping
from typing import Any, Final, Self

from attrs import field, frozen

from attestation import limits
from attestation.encoding import cbor, foreign_cbor
from attestation.encoding.foreign_cbor import Tagged
from attestation.encoding.record import Record, item, octets
from attestation.errors import DecodeError

KIND: Final = "nitro"

PCR_BYTES: Final = 48
"""A document's digest is always SHA384."""

_COSE_SIGN1_TAG: Final = 18
_ES384_HEADER: Final = {1: -35}
_SIGNATURE_BYTES: Final = 96
_CONTEXT: Final = "Signature1"
_PCRS: Final = 32
_TIMESTAMP_MS: Final = 1 << 45  # in the year 3084; a date is computed from it
_NAME_CHARACTERS: Final = 256


@frozen(kw_only=True)
class NitroEvidence(Record):
    """The body of a bundle: one document. It carries its own certificates.

    The 64 bytes of report data are its `user_data`; `nonce` and `public_key` stay empty.
    """

    VERSION = 1
    LIMIT = limits.NITRO_DOCUMENT_BYTES + limits.KIB

    document: bytes = item(octets(limit=limits.NITRO_DOCUMENT_BYTES), secret=True)


@frozen(kw_only=True)
class NitroDocument:
    """What the NSM signed, and its signature (r and s). Certificates are DER.

    `cabundle` goes from the root to the issuer of `certificate`.
    """

    module_id: str
    timestamp_ms: int
    pcrs: Mapping[int, bytes]
    certificate: bytes = field(repr=False)
    cabundle: tuple[bytes, ...] = field(repr=False)
    public_key: bytes | None
    user_data: bytes | None
    nonce: bytes | None
    signed: bytes = field(repr=False)
    """The Sig_structure (RFC 9052 section 4.4) that the signature is over."""
    signature: bytes = field(repr=False)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parse, or raise `DecodeError`."""
        protected, payload, signature = _split(data)
        values = foreign_cbor.decode(payload, limit=limits.NITRO_DOCUMENT_BYTES)
        if not isinstance(values, dict) or values.get("digest") != "SHA384":
            raise DecodeError("the payload is not an attestation document")
        bundle = values.get("cabundle")
        if not isinstance(bundle, list) or not 1 <= len(bundle) <= limits.CERTIFICATES:
            raise DecodeError("no list of certificates")
        return cls(
            module_id=_name(values.get("module_id")),
            timestamp_ms=_timestamp(values.get("timestamp")),
            pcrs=_pcrs(values.get("pcrs")),
            certificate=_octets(values.get("certificate"), limits.CERTIFICATE_BYTES),
            cabundle=tuple(_octets(entry, limits.CERTIFICATE_BYTES) for entry in bundle),
            public_key=_optional(values, "public_key"),
            user_data=_optional(values, "user_data"),
            nonce=_optional(values, "nonce"),
            signed=cbor.encode([_CONTEXT, protected, b"", payload]),
            signature=signature,
        )


def _split(data: bytes) -> tuple[bytes, bytes, bytes]:
    value = foreign_cbor.decode(data, limit=limits.NITRO_DOCUMENT_BYTES)
    if isinstance(value, Tagged) and value.tag == _COSE_SIGN1_TAG:
        value = value.value
    match value:
        case [
            bytes() as protected,
            dict() as unprotected,
            bytes() as payload,
            bytes() as signature,
        ]:
            pass
        case _:
            raise DecodeError("not a COSE_Sign1")
    # Nothing signs the unprotected header, and the NSM leaves it empty.
    if unprotected or len(signature) != _SIGNATURE_BYTES:
        raise DecodeError("an unprotected header, or a signature of another length")
    header = foreign_cbor.decode(protected, limit=limits.NITRO_DOCUMENT_BYTES)
    if header != _ES384_HEADER:
        raise DecodeError("the signature algorithm is not ES384")
    return protected, payload, signature


def _pcrs(value: Any) -> Mapping[int, bytes]:
    if not isinstance(value, dict) or not 1 <= len(value) <= _PCRS:
        raise DecodeError("no map of PCRs")
    for index, digest in value.items():
        if not isinstance(index, int) or not 0 <= index < _PCRS:
            raise DecodeError("a PCR that does not exist")
        if not isinstance(digest, bytes) or len(digest) != PCR_BYTES:
            raise DecodeError(f"PCR {index} is no SHA-384 digest")
    return value


def _name(value: Any) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= _NAME_CHARACTERS:
        raise DecodeError("no module id")
    if not value.isprintable():
        raise DecodeError("a module id that cannot be shown")
    return value


def _timestamp(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < _TIMESTAMP_MS:
        raise DecodeError("no timestamp")
    return value


def _octets(value: Any, limit: int) -> bytes:
    if not isinstance(value, bytes) or not 1 <= len(value) <= limit:
        raise DecodeError(f"not a byte string of at most {limit} bytes")
    return value


def _optional(values: Mapping[Any, Any], name: str) -> bytes | None:
    value = values.get(name)
    # The NSM writes null for what was not asked for; the specification lets it be absent as well.
    if value is None:
        return None
    if not isinstance(value, bytes) or len(value) > limits.NITRO_FIELD_BYTES:
        raise DecodeError(f"{name} is not a short byte string")
    return value
