"""The vendor data inside an NVIDIA measurement response: versions, names and modes of the device.

NVIDIA Opaque Data Format (docs.nvidia.com/attestation/specs): entries of type, length and value,
little-endian. Since CUDA 13.5 a header "NVDAOD" precedes them and each entry also has a value type.
Types that are not listed here occur in good evidence of newer and older firmware; they are kept.
"""

from collections.abc import Mapping
from enum import IntEnum
from typing import Final, Self

from attrs import field, frozen

from attestation import limits
from attestation.encoding.reader import Reader
from attestation.errors import DecodeError

_MAGIC: Final = b"NVDAOD"
_VERSION_MAJOR: Final = 2
"""The newest layout known. A later one may give old numbers a new meaning."""

MINIMUM_SVN: Final = 0x87
"""Value type of a security version number that a RIM sets a floor for (`minSvn`)."""


class OpaqueField(IntEnum):
    """Types of entries that appraisal or a person looks at."""

    DRIVER_VERSION = 3
    VBIOS_VERSION = 6
    NVDEC0_STATUS = 11
    CHIP_SKU = 15
    PROJECT = 17
    PROJECT_SKU = 18
    FWID = 20
    PROTECTED_PCIE_STATUS = 21
    SWITCH_PDI = 22
    POSITION_ID = 24
    LOCK_SWITCH_STATUS = 25
    GPU_PDI = 26
    OPAQUE_DATA_VERSION = 34
    CHIP_INFO = 35
    FEATURE_FLAG = 36


@frozen(kw_only=True)
class OpaqueData:
    """Entries by type; `value_types` is empty in the layout without a header."""

    version: int
    entries: Mapping[int, bytes] = field(repr=False)
    value_types: Mapping[int, int] = field(repr=False)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parse, or raise `DecodeError`; an entry that occurs twice is one."""
        reader = Reader(data, limit=limits.SPDM_BYTES)
        typed = data.startswith(_MAGIC)
        version = _header(reader) if typed else 0
        entries: dict[int, bytes] = {}
        value_types: dict[int, int] = {}
        while reader.remaining:
            kind = _little(reader)
            if kind in entries:
                raise DecodeError(f"opaque entry {kind} occurs twice")
            if typed:
                value_types[kind] = _little(reader)
            entries[kind] = reader.take(_little(reader))
        if not typed:
            version = int.from_bytes(entries.get(OpaqueField.OPAQUE_DATA_VERSION, b""), "little")
        if version > _VERSION_MAJOR:
            raise DecodeError(f"opaque data of version {version}")
        return cls(version=version, entries=entries, value_types=value_types)

    def value(self, kind: OpaqueField) -> bytes | None:
        """Return the bytes of an entry, None where there is none."""
        return self.entries.get(kind)

    def text(self, kind: OpaqueField) -> str | None:
        """Return an entry that is text, up to its first NUL; raises `DecodeError`."""
        value = self.entries.get(kind)
        if value is None:
            return None
        try:
            text = value.split(b"\0")[0].decode("ascii")
        except UnicodeDecodeError as error:
            raise DecodeError(f"opaque entry {kind.name} is no text") from error
        if not text.isprintable():
            raise DecodeError(f"opaque entry {kind.name} is no text")
        return text

    def pieces(self, kind: OpaqueField, size: int) -> tuple[bytes, ...]:
        """Return an entry that is a list of `size` bytes each; raises `DecodeError`."""
        value = self.entries.get(kind, b"")
        if len(value) % size:
            raise DecodeError(f"opaque entry {kind.name} has {len(value)} bytes")
        return tuple(value[at : at + size] for at in range(0, len(value), size))


def _header(reader: Reader) -> int:
    reader.expect(_MAGIC)
    if _little(reader) != 0:
        raise DecodeError("opaque data of another profile")
    return reader.take(4)[0]


def _little(reader: Reader) -> int:
    return int.from_bytes(reader.take(2), "little")
