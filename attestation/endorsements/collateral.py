"""What a verifier needs beside the Evidence, gathered beforehand: it fetches nothing itself.

All of it is signed by a vendor and is believed only after its signature has been checked, so it may
come from anywhere, even from the worker.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Final, Self

from attrs import frozen

from attestation import limits
from attestation.encoding.record import Record, array, item, octets, row, word


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

    @classmethod
    def from_items(cls, items: Sequence[tuple[CollateralKind, bytes]]) -> Self:
        """Collect `items`, each once, in an order that does not depend on theirs."""
        return cls(items=tuple(sorted(set(items))))


NO_COLLATERAL: Final = Collateral(items=())
"""For kinds that need none. Whatever needs some is then unverifiable."""
