"""Whose word an NVIDIA device has: the Device Identity CA, and what the leaf says about firmware.

The line is leaf (attestation key of the running firmware), boot ROM, provisioner, identity CA of
the chip, root. Every device of NVIDIA's leads to that root, network cards too: which chip it is has
to be read from the line and accepted by someone.
"""

from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import Final, Self

from attrs import field, frozen
from cryptography import x509
from cryptography.x509.oid import NameOID

from attestation.endorsements.chains import ChainInvalidError
from attestation.endorsements.nvidia_chains import p384_key, verify_line
from attestation.endorsements.shipped import shipped
from attestation.evidence.dice import TCB_INFO_OIDS, firmware_ids
from attestation.evidence.nvidia_gpu import DeviceKind

_FAMILIES: Final = {"GH": "hopper", "GB": "blackwell", "LS": "nvswitch"}
"""Families by the letters that a chip's name begins with."""


@frozen(kw_only=True)
class DeviceIdentity:
    """What the certificates say. `chip` and `serial` are the device's for its whole life."""

    line: tuple[x509.Certificate, ...] = field(repr=False)
    chip: str
    family: str | None
    """None for a chip of a family that is not known here."""
    serial: str
    """Serial number of the device in its boot ROM's certificate, hexadecimal."""
    fwid: bytes | None = field(repr=False)
    """Digest of the firmware that holds the leaf's key."""

    @classmethod
    def verify(cls, certificates: Sequence[bytes], *, now: datetime) -> Self:
        """Check the line to NVIDIA's root and read it; raises like `verify_line`."""
        line = verify_line(certificates, root=device_root(), now=now)
        if len(line) < 3:
            raise ChainInvalidError("a chain without the device's boot ROM")
        chip, serial = _names(line[0], line[1])
        p384_key(line[0])
        return cls(
            line=line,
            chip=chip,
            family=_FAMILIES.get(chip[:2]),
            serial=serial,
            fwid=_fwid(line[0]),
        )

    @property
    def kind(self) -> DeviceKind:
        """What NVIDIA says that the device is, whatever came with the evidence."""
        return DeviceKind.SWITCH if self.family == "nvswitch" else DeviceKind.GPU


def device_root() -> x509.Certificate:
    """Return the NVIDIA Device Identity CA."""
    return shipped("nvidia", "device-identity-root")[0]


@lru_cache(maxsize=512)
def _names(leaf: x509.Certificate, boot_rom: x509.Certificate) -> tuple[str, str]:
    # "GH100 A01 GSP FMC LF": the chip, its stepping, the processor. Switches write LS_10.
    try:
        [name] = leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        [serial] = boot_rom.subject.get_attributes_for_oid(NameOID.SERIAL_NUMBER)
    except ValueError as error:
        raise ChainInvalidError("certificates that name no device") from error
    return str(name.value).split(" ")[0].replace("_", ""), str(serial.value).lower()


@lru_cache(maxsize=512)
def _fwid(leaf: x509.Certificate) -> bytes | None:
    for extension in leaf.extensions:
        if extension.oid.dotted_string in TCB_INFO_OIDS and isinstance(
            extension.value, x509.UnrecognizedExtension
        ):
            found = firmware_ids(extension.value.value)
            return found[0] if found else None
    return None
