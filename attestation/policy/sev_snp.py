"""What a policy says of SEV-SNP: products, patch levels, guests and chips that count."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from attrs import frozen

from attestation import limits
from attestation.encoding.record import (
    Record,
    array,
    boolean,
    item,
    octets,
    row,
    text,
    uint,
    word,
)
from attestation.evidence.sev_snp import (
    CHIP_ID_BYTES,
    HOST_DATA_BYTES,
    KEY_DIGEST_BYTES,
    MEASUREMENT_BYTES,
    PlatformInfo,
    Signer,
)
from attestation.evidence.sev_snp_tcb import LAYOUTS, Product
from attestation.identifiers import DIGEST_BYTES
from attestation.policy.revocation import Revocation

EXTRACTABLE: Final = frozenset({Product.MILAN})
"""Products whose signing keys software on the host can extract (arXiv 2605.12990)."""

VMPLS: Final = 4
CSP_CHARACTERS: Final = 256
TCB_PARTS: Final = ("fmc", "bootloader", "tee", "snp", "microcode")


class HostFeature(StrEnum):
    """What a host may be required to have switched on (PLATFORM_INFO)."""

    MEMORY_ENCRYPTION = "tsme"
    ECC = "ecc"
    RAPL_DISABLED = "rapl-disabled"
    CIPHERTEXT_HIDING = "ciphertext-hiding"
    ALIAS_CHECK = "alias-check"

    @property
    def bit(self) -> PlatformInfo:
        """The bit that says so."""
        return _BITS[self]


_BITS: Final = {
    HostFeature.MEMORY_ENCRYPTION: PlatformInfo.TSME_EN,
    HostFeature.ECC: PlatformInfo.ECC_EN,
    HostFeature.RAPL_DISABLED: PlatformInfo.RAPL_DIS,
    HostFeature.CIPHERTEXT_HIDING: PlatformInfo.CIPHERTEXT_HIDING_DRAM_EN,
    HostFeature.ALIAS_CHECK: PlatformInfo.ALIAS_CHECK_COMPLETE,
}

_part = uint(255)


@frozen(kw_only=True)
class SevSnpPolicy(Record):
    """Which SEV-SNP guests count. Lists that may be empty compare nothing; the others deny.

    `minimum_tcb` has the parts in the order fmc, bootloader, tee, snp, microcode. `chips` are chip
    ids as reports have them, each with the digest of a proof of who holds it, or nothing.
    """

    products: tuple[Product, ...] = item(array(word(Product), limit=8))
    products_with_extractable_keys: tuple[Product, ...] = item(array(word(Product), limit=8))
    signing_keys: tuple[Signer, ...] = item(array(word(Signer), limit=2))
    accept_any_csp: bool = item(boolean())
    csps: tuple[str, ...] = item(array(text(CSP_CHARACTERS), limit=limits.POLICY_ENTRIES))
    revocation: Revocation = item(word(Revocation))
    minimum_tcb: tuple[tuple[Product, int, int, int, int, int], ...] = item(
        array(row(word(Product), _part, _part, _part, _part, _part), limit=8)
    )
    minimum_abi: tuple[int, int] = item(row(_part, _part))
    minimum_guest_svn: int = item(uint(0xFFFFFFFF), default=0)
    allow_debug: bool = item(boolean(), default=False)
    allow_migration_agent: bool = item(boolean(), default=False)
    allow_smt: bool = item(boolean(), default=False)
    allow_multiple_sockets: bool = item(boolean(), default=False)
    allow_cxl: bool = item(boolean(), default=False)
    required_features: tuple[HostFeature, ...] = item(
        array(word(HostFeature), limit=16), default=()
    )
    vmpls: tuple[int, ...] = item(array(uint(VMPLS - 1), limit=VMPLS))
    accept_any_measurement: bool = item(boolean())
    measurements: tuple[bytes, ...] = item(
        array(octets(exactly=MEASUREMENT_BYTES), limit=limits.POLICY_ENTRIES)
    )
    host_data: tuple[bytes, ...] = item(
        array(octets(exactly=HOST_DATA_BYTES), limit=limits.POLICY_ENTRIES), default=()
    )
    id_keys: tuple[bytes, ...] = item(
        array(octets(exactly=KEY_DIGEST_BYTES), limit=limits.POLICY_ENTRIES), default=()
    )
    author_keys: tuple[bytes, ...] = item(
        array(octets(exactly=KEY_DIGEST_BYTES), limit=limits.POLICY_ENTRIES), default=()
    )
    accept_any_chip: bool = item(boolean())
    chips: tuple[tuple[bytes, bytes], ...] = item(
        array(
            row(octets(exactly=CHIP_ID_BYTES), octets(limit=DIGEST_BYTES)),
            limit=limits.POLICY_ENTRIES,
        )
    )

    def least_tcb(self, product: Product) -> Mapping[str, int] | None:
        """Return the parts that a TCB of `product` must reach, None when the policy names none."""
        for known, *parts in self.minimum_tcb:
            if known is product:
                named = dict(zip(TCB_PARTS, parts, strict=True))
                return {part: named[part] for part in LAYOUTS[product]}
        return None
