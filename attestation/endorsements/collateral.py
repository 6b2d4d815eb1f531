"""What a verifier needs beside the Evidence, gathered beforehand: it fetches nothing itself.

All of it is signed by a vendor and is believed only after its signature has been checked, so it may
come from anywhere, even from the worker.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Final, Self

from attrs import frozen

from attestation import limits
from attestation.encoding.digests import Label, digest
from attestation.encoding.record import Record, array, item, octets, row, word
from attestation.identifiers import Digest


class CollateralKind(StrEnum):
    """What one item is. Formats are the vendors' own, byte for byte as they were signed."""

    AMD_CERTIFICATE = "amd-certificate"
    """DER: a VCEK, VLEK, or an intermediate newer than those shipped (AMD KDS)."""
    AMD_CRL = "amd-crl"
    """DER or PEM (AMD KDS)."""
    INTEL_QUOTE_COLLATERAL = "intel-quote-collateral"
    """JSON with the members of `sgx_ql_qve_collateral_t` (Intel PCS, as dcap-qvl writes it)."""
    NVIDIA_RIM = "nvidia-rim"
    """XML: a signed reference integrity manifest of a driver, VBIOS or switch BIOS."""
    NVIDIA_OCSP = "nvidia-ocsp"
    """DER OCSP response."""
    NVIDIA_JWKS = "nvidia-jwks"
    """JSON Web Key Set of NVIDIA's attestation service, as it was when a token was made."""
    TPM_CERTIFICATE = "tpm-certificate"
    """DER: intermediates of an attestation key's chain that the Evidence lacks."""
    CRL = "crl"
    """DER or PEM: a revocation list of any other issuer."""


@frozen(kw_only=True)
class Collateral(Record):
    """Collateral for one appraisal or for many: kinds and items, in any order."""

    VERSION = 1
    LIMIT = limits.COLLATERAL_BYTES

    items: tuple[tuple[CollateralKind, bytes], ...] = item(
        array(
            row(word(CollateralKind), octets(limit=limits.COLLATERAL_ITEM_BYTES)),
            limit=limits.COLLATERAL_ITEMS,
        )
    )

    def of(self, kind: CollateralKind) -> tuple[bytes, ...]:
        """Return the items of one kind."""
        return tuple(data for known, data in self.items if known is kind)

    def over(self, other: "Collateral") -> "Collateral":
        """Return this, with `other` only for the kinds of which there is nothing here.

        Whole kinds, not items: somebody who keeps an older list beside a newer one, both inside
        their windows, must not get to choose.
        """
        own = {kind for kind, _ in self.items}
        return Collateral.from_items(
            [*self.items, *(entry for entry in other.items if entry[0] not in own)]
        )

    def digest(self) -> Digest:
        """Return the digest that a verdict names: it belongs to Evidence, collateral and time."""
        return digest(Label.COLLATERAL_SET, self.to_bytes())

    @classmethod
    def from_items(cls, items: Sequence[tuple[CollateralKind, bytes]]) -> Self:
        """Collect `items`, each once, in an order that does not depend on theirs."""
        return cls(items=tuple(sorted(set(items))))


NO_COLLATERAL: Final = Collateral(items=())
"""For kinds that need none. Whatever needs some is then unverifiable."""
