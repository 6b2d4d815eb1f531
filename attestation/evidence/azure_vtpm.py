"""Evidence of kinds `azure-snp-vtpm` and `azure-tdx-vtpm`, parsed and not yet believed.

In a confidential VM of Azure a paravisor (HCL, OpenHCL) stands between the hypervisor and the guest
and is its TPM. At boot it has the processor sign the hash of a JSON text that names the vTPM's
attestation key, and keeps text and report in NV index 0x01400001 ("Guest attestation for
confidential VMs", Microsoft). From then on quotes of that key are what is fresh:

    HCL header (32 bytes) ‖ hardware report (1184 bytes) ‖ IGVM_REQUEST_DATA ‖ JSON ‖ zeros

All integers are little-endian. For SEV-SNP the hardware report is the signed report. For TDX it is
a TDREPORT, which means something on its own machine only: a TD quote comes beside it.
"""

import base64
import binascii
import hashlib
import json
from enum import IntEnum
from typing import Any, Final, Self

from attrs import field, frozen
from cryptography.hazmat.primitives.asymmetric import rsa

from attestation import limits
from attestation.encoding.reader import Reader
from attestation.encoding.record import array, item, octets
from attestation.errors import DecodeError
from attestation.evidence.tpm import PcrQuote, Public
from attestation.evidence.tpm_forms import from_key

SNP_KIND: Final = "azure-snp-vtpm"
TDX_KIND: Final = "azure-tdx-vtpm"

_MAGIC: Final = b"HCLA"
_HARDWARE_REPORT_BYTES: Final = 1184
_REQUEST_HEADER_BYTES: Final = 20
_REQUEST_VERSION: Final = 1
_KEY_ID: Final = "HCLAkPub"
_OPERATIONS: Final = (["sign"], ["encrypt"])
"""`key_ops` of the attestation key: paravisors of 2022 and 2023 wrote the second of all keys."""
_KEYS: Final = 16
_RSA_BYTES: Final = 512
_SHOWN_CHARACTERS: Final = 80
_HASHES: Final = {1: "sha256", 2: "sha384", 3: "sha512"}


class ReportType(IntEnum):
    """Whose hardware report the runtime data is bound to."""

    SNP = 2
    TDX = 4


@frozen(kw_only=True)
class AzureSnpVtpmEvidence(PcrQuote):
    """The body of a bundle: a vTPM's quote, and the paravisor's report with its SNP report.

    `snp_certificates` are DER, as the SNP kind takes them; `ak_certificates` leaf first.
    """

    VERSION = 1
    LIMIT = limits.EVIDENCE_BYTES

    hcl_report: bytes = item(octets(limit=limits.HCL_REPORT_BYTES), secret=True)
    snp_certificates: tuple[bytes, ...] = item(
        array(octets(limit=limits.CERTIFICATE_BYTES), limit=limits.CERTIFICATES), secret=True
    )
    ak_certificates: tuple[bytes, ...] = item(
        array(octets(limit=limits.CERTIFICATE_BYTES), limit=limits.CERTIFICATES), secret=True
    )


@frozen(kw_only=True)
class AzureTdxVtpmEvidence(PcrQuote):
    """The body of a bundle: a vTPM's quote, the paravisor's runtime data, and the TD's quote.

    `hcl_report` may be the whole report or its IGVM_REQUEST_DATA alone: nothing else in it counts.
    """

    VERSION = 1
    LIMIT = limits.EVIDENCE_BYTES

    hcl_report: bytes = item(octets(limit=limits.HCL_REPORT_BYTES), secret=True)
    td_quote: bytes = item(octets(limit=limits.INTEL_QUOTE_BYTES), secret=True)
    ak_certificates: tuple[bytes, ...] = item(
        array(octets(limit=limits.CERTIFICATE_BYTES), limit=limits.CERTIFICATES), secret=True
    )


@frozen(kw_only=True)
class RuntimeData:
    """IGVM_REQUEST_DATA: the JSON text that the hardware report binds, exactly as it was stored."""

    report_type: ReportType
    hash: str
    text: bytes = field(repr=False)

    @classmethod
    def read_from(cls, reader: Reader) -> Self:
        """Take the header and the text, or raise `DecodeError`."""
        size, version, kind, hash_type, length = (_uint32(reader) for _ in range(5))
        if version != _REQUEST_VERSION or size != _REQUEST_HEADER_BYTES + length:
            raise DecodeError("request data of another version or size")
        if kind not in set(ReportType) or hash_type not in _HASHES:
            raise DecodeError("request data of an unknown report or hash")
        return cls(report_type=ReportType(kind), hash=_HASHES[hash_type], text=reader.take(length))

    def report_data(self) -> bytes:
        """Return the 64 bytes that the hardware must have signed."""
        return hashlib.new(self.hash, self.text).digest().ljust(64, b"\0")

    def claims(self) -> "RuntimeClaims":
        """Parse the text, or raise `DecodeError`."""
        return RuntimeClaims.from_text(self.text)


@frozen(kw_only=True)
class HclReport:
    """What the paravisor keeps in NV memory. Header fields are signed by nothing and unused."""

    version: int
    hardware_report: bytes = field(repr=False)
    runtime: RuntimeData

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parse, or raise `DecodeError`. NV memory behind the text is zero."""
        reader = Reader(data, limit=limits.HCL_REPORT_BYTES).expect(_MAGIC)
        version = _uint32(reader)
        reader.take(6 * 4)  # report size, request type, status, reserved
        hardware_report = reader.take(_HARDWARE_REPORT_BYTES)
        runtime = RuntimeData.read_from(reader)
        _require_zeros(reader)
        return cls(version=version, hardware_report=hardware_report, runtime=runtime)


def read_runtime_data(data: bytes) -> RuntimeData:
    """Read the runtime data of a whole report, or of its IGVM_REQUEST_DATA alone."""
    if data.startswith(_MAGIC):
        return HclReport.from_bytes(data).runtime
    reader = Reader(data, limit=limits.HCL_REPORT_BYTES)
    runtime = RuntimeData.read_from(reader)
    _require_zeros(reader)
    return runtime


@frozen(kw_only=True)
class RuntimeClaims:
    """What the JSON text says; the attestation key is the one thing that decides anything."""

    ak: Public
    document: dict[str, Any] = field(repr=False)

    @classmethod
    def from_text(cls, text: bytes) -> Self:
        """Parse, or raise `DecodeError`; a name that occurs twice is one."""
        try:
            document = json.loads(
                text, object_pairs_hook=_once, parse_constant=_refuse, parse_float=_refuse
            )
        except (ValueError, RecursionError) as error:
            raise DecodeError("runtime data that are not JSON") from error
        if not isinstance(document, dict):
            raise DecodeError("runtime data that are no object")
        return cls(ak=_attestation_key(document.get("keys")), document=document)

    def configuration(self) -> dict[str, str]:
        """Return the members of `vm-configuration` that are plain values, for people to read."""
        values = self.document.get("vm-configuration")
        if not isinstance(values, dict):
            return {}
        return {
            _printable(name): _printable(str(value))
            for name, value in values.items()
            if not isinstance(value, dict | list)
        }


def _printable(text: str) -> str:
    """Whoever made the text may not have meant well by the terminal that it is shown on."""
    shown = text[:_SHOWN_CHARACTERS]
    if shown.isprintable():
        return shown
    return "".join(char if char.isprintable() else "?" for char in shown)


def _attestation_key(keys: object) -> Public:
    if not isinstance(keys, list) or len(keys) > _KEYS:
        raise DecodeError("runtime data without a list of keys")
    named = [key for key in keys if isinstance(key, dict) and key.get("kid") == _KEY_ID]
    if len(named) != 1:
        raise DecodeError(f"{len(named)} keys of the name {_KEY_ID}")
    [key] = named
    if key.get("kty") != "RSA" or key.get("key_ops") not in _OPERATIONS:
        raise DecodeError("an attestation key that is not an RSA key of a known use")
    exponent, modulus = _number(key.get("e")), _number(key.get("n"))
    try:
        return from_key(rsa.RSAPublicNumbers(e=exponent, n=modulus).public_key())
    except ValueError as error:
        raise DecodeError("not an RSA public key") from error


def _number(value: object) -> int:
    """RFC 7518 section 2: base64url without padding, big-endian."""
    if not isinstance(value, str) or len(value) > 2 * _RSA_BYTES:
        raise DecodeError("a key without its numbers")
    try:
        padded = value.encode("ascii") + b"=" * (-len(value) % 4)
        return int.from_bytes(base64.b64decode(padded, b"-_", validate=True), "big")
    except (binascii.Error, UnicodeEncodeError) as error:
        raise DecodeError("a number that is not base64url") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a name occurs twice")
    return members


def _refuse(text: str) -> Any:
    raise ValueError(f"{text} has no place in runtime data")


def _require_zeros(reader: Reader) -> None:
    if any(reader.take_rest()):
        raise DecodeError("something behind the runtime data")


def _uint32(reader: Reader) -> int:
    return int.from_bytes(reader.take(4), "little")
