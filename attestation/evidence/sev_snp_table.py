"""The certificate table of an extended report: what a hypervisor hands out beside the signature.

SEV-ES Guest-Hypervisor Communication Block (AMD 56421), SNP Extended Guest Request: rows of a GUID
in text order, offset and length in little-endian, until a row of zeros; offsets are from the
beginning of the table. The host writes all of it. Contents are DER by the specification; clouds
also put PEM there.
"""

from collections.abc import Iterator
from typing import Final

from attrs import field, frozen

from attestation import limits
from attestation.encoding.reader import Reader
from attestation.errors import DecodeError

_ROW_BYTES: Final = 24
_ROWS: Final = 32


def _guid(text: str) -> bytes:
    return bytes.fromhex(text.replace("-", ""))


_CERTIFICATES: Final = frozenset(
    {
        _guid("c0b406a4-a803-4952-9743-3fb6014cd0ae"),  # ARK
        _guid("4ab7b379-bbac-4fe4-a02f-05aef327c782"),  # ASK, and the ASVK where a VLEK signs
        _guid("63da758d-e664-4564-adc5-f4b93be8accd"),  # VCEK
        _guid("a8074bc2-a25a-483e-aae6-39c045a0b8a1"),  # VLEK
    }
)
_CRL: Final = _guid("92f81bc3-5811-4d3d-97ff-d19f88dc67ea")


@frozen(kw_only=True)
class CertificateTable:
    """What a table holds that we know. A GUID says nothing about what its bytes really are."""

    certificates: tuple[bytes, ...] = field(default=(), repr=False)
    crls: tuple[bytes, ...] = field(default=(), repr=False)

    @classmethod
    def from_bytes(cls, data: bytes) -> "CertificateTable":
        """Parse a table, or raise `DecodeError`; no bytes at all are an empty one."""
        certificates, crls = [], []
        for guid, content in _rows(data):
            if guid in _CERTIFICATES:
                certificates.append(content)
            elif guid == _CRL:
                crls.append(content)
        return cls(certificates=tuple(certificates), crls=tuple(crls))


def _rows(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    reader = Reader(data, limit=limits.SNP_CERTIFICATE_TABLE_BYTES)
    if not data:
        return
    seen: set[bytes] = set()
    for _ in range(_ROWS):
        guid = reader.take(16)
        offset, length = (int.from_bytes(reader.take(4), "little") for _ in range(2))
        if not any(guid):
            return
        if guid in seen:
            raise DecodeError("a certificate table with two rows of one kind")
        seen.add(guid)
        if not _ROW_BYTES <= offset <= offset + length <= len(data):
            raise DecodeError(f"{length} bytes at {offset} in a table of {len(data)}")
        yield guid, data[offset : offset + length]
    raise DecodeError(f"a certificate table of more than {_ROWS} rows")
