"""What a PCK certificate says about its platform: Intel's SGX extension.

Intel SGX PCK Certificate and Certificate Revocation List Profile Specification, section 1.3.5. The
TCB that the platform's key was derived for is taken from here, never from the quote: the
certificate is what Intel signed.
"""

from collections.abc import Iterator, Mapping
from enum import IntEnum, StrEnum
from typing import Final

from attrs import frozen
from cryptography import x509
from cryptography.x509.oid import NameOID

from attestation.errors import DecodeError
from attestation.evidence.intel_quote_bodies import SVN_COMPONENTS

SGX_EXTENSION: Final = x509.ObjectIdentifier("1.2.840.113741.1.13.1")

_PREFIX: Final = bytes.fromhex("2a864886f84d010d01")  # the same, as DER has it
_PPID, _TCB, _PCE_ID, _FMSPC, _SGX_TYPE, _INSTANCE, _CONFIGURATION = range(1, 8)
_PCE_SVN, _CPU_SVN = 17, 18

_BOOLEAN, _INTEGER, _OCTETS, _OID, _ENUMERATED, _SEQUENCE = 0x01, 0x02, 0x04, 0x06, 0x0A, 0x30

PPID_BYTES: Final = 16
FMSPC_BYTES: Final = 6
PCE_ID_BYTES: Final = 2


class PckCa(StrEnum):
    """Which of Intel's two CAs issued a PCK certificate: each has a revocation list of its own."""

    PROCESSOR = "processor"
    PLATFORM = "platform"


PCK_CAS: Final[Mapping[str, PckCa]] = {
    "Intel SGX PCK Processor CA": PckCa.PROCESSOR,
    "Intel SGX PCK Platform CA": PckCa.PLATFORM,
}


class SgxType(IntEnum):
    """How memory is protected."""

    STANDARD = 0
    SCALABLE = 1
    """No integrity or replay protection in hardware against someone who probes the memory bus."""
    SCALABLE_WITH_INTEGRITY = 2


@frozen(kw_only=True)
class Pck:
    """A platform, as Intel certified it."""

    ppid: bytes
    components: bytes
    """SVN of each of the 16 SGX TCB components."""
    pce_svn: int
    cpu_svn: bytes
    pce_id: bytes
    fmspc: bytes
    sgx_type: SgxType
    platform_instance: bytes | None
    flags: Mapping[str, bool]
    """Configuration of a multi-package platform, as far as the certificate states it."""


_FLAGS: Final = {1: "dynamic platform", 2: "cached keys", 3: "SMT enabled"}


def read_pck(certificate: x509.Certificate) -> Pck:
    """Read the SGX extension, or raise `DecodeError`."""
    try:
        extension = certificate.extensions.get_extension_for_oid(SGX_EXTENSION).value
    except x509.ExtensionNotFound as error:
        raise DecodeError("a PCK certificate without the SGX extension") from error
    if not isinstance(extension, x509.UnrecognizedExtension):
        raise DecodeError("an SGX extension of another form")
    fields = _members(extension.value, prefix=_PREFIX)
    tcb = _members(_take(fields, _TCB, _SEQUENCE), prefix=_PREFIX + bytes([_TCB]), wrapped=False)
    optional = fields.get(_CONFIGURATION)
    return Pck(
        ppid=_octets(fields, _PPID, PPID_BYTES),
        components=bytes(_uint(tcb, index, 0xFF) for index in range(1, SVN_COMPONENTS + 1)),
        pce_svn=_uint(tcb, _PCE_SVN, 0xFFFF),
        cpu_svn=_octets(tcb, _CPU_SVN, SVN_COMPONENTS),
        pce_id=_octets(fields, _PCE_ID, PCE_ID_BYTES),
        fmspc=_octets(fields, _FMSPC, FMSPC_BYTES),
        sgx_type=_sgx_type(fields),
        platform_instance=_octets(fields, _INSTANCE, 16) if _INSTANCE in fields else None,
        flags={} if optional is None else _flags(_take(fields, _CONFIGURATION, _SEQUENCE)),
    )


def read_pck_ca(name: x509.Name) -> PckCa | None:
    """Return which PCK CA `name` is of, None when it is of none."""
    try:
        names = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    except ValueError:
        return None
    return PCK_CAS.get(str(names[0].value)) if len(names) == 1 else None


_Fields = dict[int, tuple[int, bytes]]


def _members(data: bytes, *, prefix: bytes, wrapped: bool = True) -> _Fields:
    """Read SEQUENCE OF SEQUENCE { id, value }; ids are the last byte after `prefix`."""
    if wrapped:
        data = _only(data, _SEQUENCE)
    fields: _Fields = {}
    for tag, pair in _elements(data):
        parts = list(_elements(pair)) if tag == _SEQUENCE else []
        if len(parts) != 2 or parts[0][0] != _OID:
            raise DecodeError("an SGX extension with another structure")
        name = parts[0][1]
        if len(name) != len(prefix) + 1 or not name.startswith(prefix) or name[-1] in fields:
            raise DecodeError("an SGX extension with a foreign or a repeated member")
        fields[name[-1]] = parts[1]
    return fields


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield tag and contents of each DER element; lengths of up to two bytes are enough here."""
    offset = 0
    while offset < len(data):
        head = data[offset : offset + 4]
        if len(head) < 2:
            raise DecodeError("a DER element that is cut")
        length, start = head[1], offset + 2
        if length == 0x81:
            length, start = int.from_bytes(head[2:3], "big"), offset + 3
        elif length == 0x82:
            length, start = int.from_bytes(head[2:4], "big"), offset + 4
        elif length >= 0x80:
            raise DecodeError("a DER length of another form")
        if start + length > len(data):
            raise DecodeError("a DER element that is cut")
        yield head[0], data[start : start + length]
        offset = start + length


def _only(data: bytes, tag: int) -> bytes:
    elements = list(_elements(data))
    if len(elements) != 1 or elements[0][0] != tag:
        raise DecodeError("an SGX extension with another structure")
    return elements[0][1]


def _take(fields: _Fields, name: int, tag: int) -> bytes:
    found, value = fields.get(name, (None, b""))
    if found != tag:
        raise DecodeError(f"member {name} of an SGX extension is missing or of another type")
    return value


def _octets(fields: _Fields, name: int, size: int) -> bytes:
    value = _take(fields, name, _OCTETS)
    if len(value) != size:
        raise DecodeError(f"member {name} of an SGX extension has {len(value)} bytes")
    return value


def _uint(fields: _Fields, name: int, maximum: int, tag: int = _INTEGER) -> int:
    value = _take(fields, name, tag)
    if not 1 <= len(value) <= 4 or value[0] & 0x80 or int.from_bytes(value, "big") > maximum:
        raise DecodeError(f"member {name} of an SGX extension is no integer up to {maximum}")
    return int.from_bytes(value, "big")


def _sgx_type(fields: _Fields) -> SgxType:
    return SgxType(_uint(fields, _SGX_TYPE, max(SgxType), _ENUMERATED))


def _flags(data: bytes) -> Mapping[str, bool]:
    prefix = _PREFIX + bytes([_CONFIGURATION])
    fields = _members(data, prefix=prefix, wrapped=False)
    return {
        words: _take(fields, name, _BOOLEAN) != b"\0"
        for name, words in _FLAGS.items()
        if name in fields
    }
