"""Logs of a measured boot, written as firmware writes them, and the PCR values they lead to.

Structures are marshalled here from the TCG PC Client Platform Firmware Profile, section 10, and not
with the code under test.
"""

import hashlib
import struct
from collections.abc import Sequence

import attrs

NO_ACTION, SEPARATOR, BOOT_SERVICES = 3, 4, 0x80000003
ALGORITHMS = {"sha1": 4, "sha256": 0x0B, "sha384": 0x0C, "sm3_256": 0x12}
_SM3_BYTES = 32

AGILE_MARK, OLD_MARK = b"Spec ID Event03\0", b"Spec ID Event02\0"


@attrs.frozen
class Measured:
    """One event: what was measured into which PCR. `digest` is its SHA-256 unless it is a lie."""

    pcr: int
    data: bytes
    kind: int = BOOT_SERVICES

    def digest(self, bank: str) -> bytes:
        if self.kind == NO_ACTION:
            return bytes(_size(bank))
        if bank == "sm3_256":
            return b"m" * _SM3_BYTES
        return hashlib.new(bank, self.data).digest()


BOOT: Sequence[Measured] = (
    Measured(0, b"firmware"),
    Measured(4, b"boot loader"),
    Measured(4, b"kernel"),
    Measured(7, b"secure boot is on"),
    *(Measured(pcr, bytes(4), SEPARATOR) for pcr in (0, 4, 7)),
)


def agile_log(events: Sequence[Measured], banks: Sequence[str] = ("sha1", "sha256")) -> bytes:
    """Return a crypto-agile log."""
    sizes = b"".join(struct.pack("<HH", ALGORITHMS[bank], _size(bank)) for bank in banks)
    header = AGILE_MARK + struct.pack("<IBBBBI", 0, 0, 2, 0, 2, len(banks)) + sizes + b"\0"
    return old_event(Measured(0, header, NO_ACTION)) + b"".join(
        agile_event(event, banks) for event in events
    )


def agile_event(event: Measured, banks: Sequence[str] = ("sha1", "sha256")) -> bytes:
    digests = b"".join(struct.pack("<H", ALGORITHMS[bank]) + event.digest(bank) for bank in banks)
    head = struct.pack("<III", event.pcr, event.kind, len(banks))
    return head + digests + struct.pack("<I", len(event.data)) + event.data


def old_log(events: Sequence[Measured]) -> bytes:
    """Return a log of TCG 1.2, with SHA-1 only."""
    first = Measured(0, OLD_MARK + struct.pack("<IBBBB", 0, 2, 1, 0, 2) + b"\0", NO_ACTION)
    return b"".join(old_event(event) for event in [first, *events])


def old_event(event: Measured) -> bytes:
    head = struct.pack("<II", event.pcr, event.kind) + event.digest("sha1")
    return head + struct.pack("<I", len(event.data)) + event.data


def values(events: Sequence[Measured], bank: str = "sha256", locality: int = 0) -> dict[int, bytes]:
    """Return what a TPM holds after `events`."""
    size = _size(bank)
    pcrs = {event.pcr: bytes(size) for event in events}
    if 0 in pcrs:
        pcrs[0] = locality.to_bytes(size, "big")
    for event in events:
        if event.kind != NO_ACTION:
            extended = pcrs[event.pcr] + event.digest(bank)
            pcrs[event.pcr] = hashlib.new(bank, extended).digest()
    return pcrs


def _size(bank: str) -> int:
    return _SM3_BYTES if bank == "sm3_256" else hashlib.new(bank).digest_size
