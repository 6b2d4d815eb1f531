"""AMD's products, and how each packs its TCB_VERSION.

The layout goes with the product and not with the version of the report: a version 5 report of a
Genoa has the old one (AMD 56860, TCB_VERSION; AMD 57230 for the names of the parts).
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final, Self

from attrs import field, frozen

from attestation.errors import DecodeError

TCB_BYTES: Final = 8


class Product(StrEnum):
    """Families with a root of their own. Bergamo and Siena are Genoas in all that counts here."""

    MILAN = "milan"
    GENOA = "genoa"
    TURIN = "turin"


_OLD_LAYOUT: Final = {"bootloader": 0, "tee": 1, "snp": 6, "microcode": 7}
_NEW_LAYOUT: Final = {"fmc": 0, "bootloader": 1, "tee": 2, "snp": 3, "microcode": 7}

LAYOUTS: Final[Mapping[Product, Mapping[str, int]]] = {
    Product.MILAN: _OLD_LAYOUT,
    Product.GENOA: _OLD_LAYOUT,
    Product.TURIN: _NEW_LAYOUT,
}
"""Which byte of a TCB_VERSION each part is in. Parts that are not named are zero."""

_CPUIDS: Final = (
    # Family, first and last model (AMD 56860, CPUID_FAM_ID and CPUID_MOD_ID; AMD 57230).
    (0x19, 0x00, 0x0F, Product.MILAN),
    (0x19, 0x10, 0x1F, Product.GENOA),
    (0x19, 0xA0, 0xAF, Product.GENOA),  # Bergamo and Siena
    (0x1A, 0x00, 0x1F, Product.TURIN),
)


def product_of_cpuid(family: int, model: int) -> Product | None:
    """Return the product that a report's CPUID bytes name, None for one that is unknown here."""
    for known, first, last, product in _CPUIDS:
        if family == known and first <= model <= last:
            return product
    return None


@frozen(kw_only=True)
class Tcb:
    """A TCB_VERSION, part by part: security patch levels of what the guest has to trust."""

    product: Product
    raw: bytes = field(repr=False)
    parts: Mapping[str, int]

    @classmethod
    def from_bytes(cls, raw: bytes, product: Product) -> Self:
        """Read `raw` as `product` packs it, or raise `DecodeError`."""
        if len(raw) != TCB_BYTES:
            raise DecodeError(f"a TCB version of {len(raw)} bytes")
        parts = {name: raw[index] for name, index in LAYOUTS[product].items()}
        return cls(product=product, raw=raw, parts=parts)

    def lacking(self, minimum: Mapping[str, int]) -> list[str]:
        """Return the parts that are below `minimum`; a part that is not there is below any."""
        return [name for name, least in minimum.items() if self.parts.get(name, -1) < least]

    def __str__(self) -> str:
        return ", ".join(f"{name} {level}" for name, level in self.parts.items())
