"""Reference integrity manifests (RIM): which measurements NVIDIA says good firmware has.

SWID tags (TCG PC Client RIM, NVIDIA "RIM Guide") of a driver, a VBIOS or a switch BIOS. A manifest
counts when the first certificate in it signed it, that one leads to the CoRIM root which is shipped
here, and all of them live at the time of the appraisal: signers live two years. Everything in a
`Rim` comes out of the bytes that were signed.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Self

from attrs import field, frozen
from cryptography import x509

from attestation import limits
from attestation.endorsements.chains import parse_certificate
from attestation.endorsements.nvidia_chains import p384_key, verify_line
from attestation.endorsements.shipped import shipped
from attestation.endorsements.xml_signatures import SignedXml, parse_xml
from attestation.errors import DecodeError, MissingError

if TYPE_CHECKING:
    from lxml.etree import _Element

_SWID: Final = "{http://standards.iso.org/iso/19770/-2/2015/schema.xsd}"
_RESOURCE: Final = f"{_SWID}Resource"
_SHA384: Final = "{http://www.w3.org/2001/04/xmlenc#sha384}"
_HASH_BYTES: Final = 48
_VERSION_CHARACTERS: Final = 64
_FIRMWARE_VERSION: Final = re.compile(r"[0-9A-Fa-f]{2}(\.[0-9A-Fa-f]{2}){4}")
_INDEX: Final = re.compile(r"[0-9]{1,3}")


class RimUnsupportedError(MissingError):
    """A manifest sets a kind of reference value that is not known here. Update this program."""

    code = "rim-unsupported"


class RimKind(StrEnum):
    """What a manifest describes."""

    DRIVER = "driver"
    VBIOS = "VBIOS"
    SWITCH_BIOS = "switch BIOS"


@frozen(kw_only=True)
class RimHead:
    """What a manifest is about. Before `Rim.verify` it is only what a stranger says it is about."""

    kind: RimKind
    product: str
    version: str

    @classmethod
    @lru_cache(maxsize=256)
    def peek(cls, data: bytes) -> "RimHead":
        """Read it from a manifest that nobody has verified, or raise `DecodeError`."""
        return cls.from_root(parse_xml(data))

    @classmethod
    def from_root(cls, root: "_Element") -> "RimHead":
        """Read it from a manifest's root, or raise `DecodeError`."""
        metas = root.findall(f"{_SWID}Meta")
        if root.tag != f"{_SWID}SoftwareIdentity" or len(metas) != 1:
            raise DecodeError("XML that is no manifest")
        version, product = (
            _short(metas[0], "colloquialVersion"),
            _short(metas[0], "product"),
        )
        if metas[0].get("edition") == "SWITCH":
            kind = RimKind.SWITCH_BIOS
        else:
            # Driver and VBIOS manifests have the same edition; only their versions look different.
            kind = RimKind.VBIOS if _FIRMWARE_VERSION.fullmatch(version) else RimKind.DRIVER
        return cls(kind=kind, product=product, version=version)

    def is_for(self, kind: RimKind, chip: str) -> bool:
        """Whether it is about such a part of this chip, or of another of its family."""
        return self.kind is kind and self.product[:2].upper() == chip[:2].upper()

    def is_of(self, version: str) -> bool:
        """Whether it is about this version, which is written in either case."""
        return self.version.upper() == version.upper()


@frozen(kw_only=True)
class Rim:
    """A manifest that NVIDIA signed. `active` lists the values that each index may have."""

    head: RimHead
    active: Mapping[int, frozenset[bytes]] = field(repr=False)
    line: tuple[x509.Certificate, ...] = field(repr=False)

    @classmethod
    def verify(cls, data: bytes, *, now: datetime) -> Self:
        """Check chain, signature and digest of a manifest, then read it.

        Raises like `verify_line` and `SignedXml.verify`, `DecodeError`, or `RimUnsupportedError`.
        """
        line = signer_line(data, now=now)
        head, active = _verified(data, line[0])
        return cls(head=head, active=active, line=line)


def signer_line(data: bytes, *, now: datetime) -> tuple[x509.Certificate, ...]:
    """Return the certificates of a manifest's signer up to the root; raises like `verify_line`."""
    return verify_line(_taken_apart(data).certificates, root=rim_root(), now=now)


def check_content(data: bytes) -> RimHead:
    """Check signature and digest under the first certificate, whoever's that is.

    Raises like `SignedXml.verify`, `DecodeError`, or `RimUnsupportedError`.
    """
    head, _ = _verified(data, parse_certificate(_taken_apart(data).certificates[0]))
    return head


def rim_root() -> x509.Certificate:
    """Return the NVIDIA CoRIM signing Root CA."""
    return shipped("nvidia", "rim-root")[0]


# A signature that held over exact bytes still holds; chain and windows are looked at every time.
@lru_cache(maxsize=64)
def _taken_apart(data: bytes) -> SignedXml:
    return SignedXml.from_bytes(data)


@lru_cache(maxsize=64)
def _verified(
    data: bytes, signer: x509.Certificate
) -> tuple[RimHead, Mapping[int, frozenset[bytes]]]:
    root = parse_xml(_taken_apart(data).verify(p384_key(signer)))
    return RimHead.from_root(root), _active(root)


def _active(root: "_Element") -> dict[int, frozenset[bytes]]:
    payloads = root.findall(f"{_SWID}Payload")
    if len(payloads) != 1 or len(payloads[0]) > limits.RIM_MEASUREMENTS:
        raise DecodeError("a manifest without one list of measurements")
    found: dict[int, frozenset[bytes]] = {}
    seen = set()
    for resource in payloads[0]:
        index, active, values = _resource(resource)
        if index in seen:
            raise DecodeError(f"a manifest lists measurement {index} twice")
        seen.add(index)
        if active:
            found[index] = values
    if not found:
        raise DecodeError("a manifest without an active measurement")
    return found


def _resource(resource: "_Element") -> tuple[int, bool, frozenset[bytes]]:
    attributes = dict(resource.items())
    kind, number = attributes.get("type"), attributes.get("index", "")
    if resource.tag != _RESOURCE or kind != "Measurement":
        # An opaque data record sets a floor for a security version: leaving it out would pass it.
        raise RimUnsupportedError(f"a record of type {kind!r}")
    active = attributes.get("active")
    if not (_INDEX.fullmatch(number) and active):
        raise DecodeError("a measurement without an index")
    index = int(number)
    if active not in ("True", "False"):
        raise DecodeError(f"measurement {index} is neither active nor not")
    hashes = {name: value for name, value in attributes.items() if name.startswith(_SHA384)}
    if not hashes:
        raise RimUnsupportedError(f"record {index} has no hash")
    count = len(hashes)
    if hashes.keys() != _hash_names(count) or attributes.get("alternatives") != str(count):
        raise DecodeError(f"measurement {index} has other alternatives than it says")
    return index, active == "True", frozenset(_hash(value) for value in hashes.values())


@lru_cache(maxsize=64)
def _hash_names(count: int) -> frozenset[str]:
    return frozenset(f"{_SHA384}Hash{number}" for number in range(count))


def _hash(text: str) -> bytes:
    try:
        value = bytes.fromhex(text)
    except ValueError as error:
        raise DecodeError("a reference value that is not hexadecimal") from error
    if len(value) != _HASH_BYTES:
        raise DecodeError(f"a reference value of {len(value)} bytes")
    return value


def _short(element: "_Element", name: str) -> str:
    text = str(element.get(name, ""))
    if not 1 <= len(text) <= _VERSION_CHARACTERS or not text.isprintable():
        raise DecodeError(f"a manifest without {name}")
    return text
