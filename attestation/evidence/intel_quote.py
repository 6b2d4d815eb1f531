"""An Intel quote, versions 3, 4 and 5, with an ECDSA P-256 signature, parsed and not believed.

Layouts are those of the Intel SGX ECDSA QuoteLibReference, appendix A (version 3), and of the
Intel TDX DCAP Quoting Library API, appendix 3 (versions 4 and 5), little-endian. Version 3 is of
SGX only; 4 says in its header whether it is of SGX or of TDX; 5 has a descriptor with type and size
before the body. Versions 4 and 5 wrap the quoting enclave's report in certification data of type 6.

The signature data says how long it is. What follows it is no part of the quote and must be zeros:
clouds hand out quotes in buffers of a fixed size.
"""

import struct
from enum import IntEnum, StrEnum
from typing import Any, Final, Self

from attrs import field, frozen

from attestation import limits
from attestation.errors import DecodeError
from attestation.evidence.intel_quote_bodies import (
    ENCLAVE_REPORT_BYTES,
    TD10_BYTES,
    TD15_BYTES,
    TD15EX_BYTES,
    EnclaveReport,
    TdReport,
)

INTEL_QE_VENDOR: Final = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")

HEADER_BYTES: Final = 48
SIGNATURE_BYTES: Final = 64
KEY_BYTES: Final = 64

_ECDSA_P256: Final = 2
_QE_REPORT_CERTIFICATION: Final = 6
_HEADER: Final = struct.Struct("<HHI4x16s20s")
_DESCRIPTOR: Final = struct.Struct("<HI")
_BODIES: Final = {1: ENCLAVE_REPORT_BYTES, 2: TD10_BYTES, 3: TD15_BYTES, 4: TD15EX_BYTES}
_ENCLAVE_BODY: Final = 1


class Tee(StrEnum):
    """What made the quote; the `id` of the TCB info that belongs to it."""

    SGX = "SGX"
    TDX = "TDX"


_TEES: Final = {0x00: Tee.SGX, 0x81: Tee.TDX}


class CertificationType(IntEnum):
    """What a quote says about the certificate of its platform ("QE Certification Data")."""

    PPID_CLEAR = 1
    PPID_RSA2048 = 2
    PPID_RSA3072 = 3
    PCK_LEAF = 4
    PCK_CHAIN = 5


@frozen(kw_only=True)
class CertificationData:
    """How to find the PCK certificate, or the certificate itself."""

    kind: CertificationType
    data: bytes = field(repr=False)

    @property
    def has_certificates(self) -> bool:
        """Whether `data` holds certificates; otherwise it only says which one to look for."""
        return self.kind in (CertificationType.PCK_LEAF, CertificationType.PCK_CHAIN)


@frozen(kw_only=True)
class Quote:
    """One quote. `signed` is what the attestation key signs: header, descriptor and body."""

    version: int
    tee: Tee
    user_data: bytes
    body: EnclaveReport | TdReport
    signed: bytes = field(repr=False)
    signature: bytes = field(repr=False)
    attestation_key: bytes
    """x and y of a P-256 key, big-endian."""
    qe_report_bytes: bytes = field(repr=False)
    qe_report: EnclaveReport
    qe_report_signature: bytes = field(repr=False)
    qe_authentication_data: bytes
    certification: CertificationData

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parse to the last byte, or raise `DecodeError`."""
        cursor = _Cursor(data)
        version, tee, user_data = _take_header(cursor)
        body = _take_body(cursor, version, tee)
        signed = data[: cursor.offset]
        end = cursor.take_length(4) + cursor.offset
        signature, key = cursor.take(SIGNATURE_BYTES), cursor.take(KEY_BYTES)
        if version > 3:
            kind, size = cursor.unpack(_DESCRIPTOR)
            if kind != _QE_REPORT_CERTIFICATION or cursor.offset + size != end:
                raise DecodeError("certification data that is not one QE report")
        qe_report, qe_signature = cursor.take(ENCLAVE_REPORT_BYTES), cursor.take(SIGNATURE_BYTES)
        authentication = cursor.take(cursor.take_length(2))
        certification = _take_certification(cursor)
        if cursor.offset != end:
            raise DecodeError("signature data of another length than it says")
        cursor.finish()
        return cls(
            version=version,
            tee=tee,
            user_data=user_data,
            body=body,
            signed=signed,
            signature=signature,
            attestation_key=key,
            qe_report_bytes=qe_report,
            qe_report=EnclaveReport.from_bytes(qe_report),
            qe_report_signature=qe_signature,
            qe_authentication_data=authentication,
            certification=certification,
        )


class _Cursor:
    """Takes little-endian fields off the front; a short read is a `DecodeError`."""

    __slots__ = ("_data", "offset")

    def __init__(self, data: bytes) -> None:
        if len(data) > limits.INTEL_QUOTE_BYTES:
            raise DecodeError(f"a quote of {len(data)} bytes")
        self._data = data
        self.offset = 0

    def take(self, count: int) -> bytes:
        end = self.offset + count
        if end > len(self._data):
            raise DecodeError(f"needs {count} bytes at offset {self.offset} of {len(self._data)}")
        piece = self._data[self.offset : end]
        self.offset = end
        return piece

    def unpack(self, layout: struct.Struct) -> tuple[Any, ...]:
        return layout.unpack(self.take(layout.size))

    def take_length(self, count: int) -> int:
        """Take the length of something that must follow."""
        length = int.from_bytes(self.take(count), "little")
        if length > len(self._data) - self.offset:
            raise DecodeError(f"{length} bytes are said to follow where fewer do")
        return length

    def finish(self) -> None:
        if self._data.count(0, self.offset) != len(self._data) - self.offset:
            raise DecodeError("bytes other than zeros behind the signature data")


def _take_header(cursor: _Cursor) -> tuple[int, Tee, bytes]:
    version, key_type, tee_type, vendor, user_data = cursor.unpack(_HEADER)
    if version not in (3, 4, 5):
        raise DecodeError(f"a quote of version {version}")
    if key_type != _ECDSA_P256:
        raise DecodeError(f"a quote signed with a key of type {key_type}, not ECDSA P-256")
    if vendor != INTEL_QE_VENDOR:
        raise DecodeError("a quote of another vendor's quoting enclave")
    tee = _TEES.get(tee_type)
    if tee is None or (version == 3 and tee is not Tee.SGX):
        raise DecodeError(f"a quote of version {version} and TEE type {tee_type:#x}")
    return version, tee, user_data


def _take_body(cursor: _Cursor, version: int, tee: Tee) -> EnclaveReport | TdReport:
    if version < 5:
        if tee is Tee.SGX:
            return EnclaveReport.from_bytes(cursor.take(ENCLAVE_REPORT_BYTES))
        return TdReport.from_bytes(cursor.take(TD10_BYTES))
    kind, size = cursor.unpack(_DESCRIPTOR)
    if _BODIES.get(kind) != size:
        raise DecodeError(f"a body of type {kind} and {size} bytes")
    if (kind == _ENCLAVE_BODY) != (tee is Tee.SGX):
        raise DecodeError("a body of another TEE than the header says")
    if tee is Tee.SGX:
        return EnclaveReport.from_bytes(cursor.take(ENCLAVE_REPORT_BYTES))
    return TdReport.from_bytes(cursor.take(_BODIES[kind]))


def _take_certification(cursor: _Cursor) -> CertificationData:
    kind = int.from_bytes(cursor.take(2), "little")
    data = cursor.take(cursor.take_length(4))
    try:
        return CertificationData(kind=CertificationType(kind), data=data)
    except ValueError as error:
        raise DecodeError(f"certification data of type {kind}") from error
