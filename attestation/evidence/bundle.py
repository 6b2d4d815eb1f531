"""Evidence as it travels, and as it is kept for an auditor."""

from attrs import frozen

from attestation import limits
from attestation.encoding.digests import Label, digest
from attestation.encoding.record import Record, array, item, octets, optional, text, uint
from attestation.evidence.binding import FreshnessProof
from attestation.identifiers import DIGEST_BYTES, Digest


@frozen(kw_only=True)
class EvidenceBundle(Record):
    """One signature of the hardware and what it covers, parsed and not yet believed.

    `keyset` is a canonical `KeySet`, kept as the bytes that were signed; `body` is what the
    Attester of this `kind` made; `nonce_root` is over all Challenges of the window.
    """

    VERSION = 1
    LIMIT = limits.EVIDENCE_BYTES

    kind: str = item(text())
    keyset: bytes = item(octets(limit=limits.KEYSET_BYTES), secret=True)
    nonce_root: bytes = item(octets(exactly=DIGEST_BYTES))
    gpu_evidence: bytes | None = item(optional(octets(limit=limits.EVIDENCE_BYTES)), secret=True)
    body: bytes = item(octets(limit=limits.EVIDENCE_BYTES), secret=True)

    def digest(self) -> Digest:
        """Return the evidence digest that sessions and receipts name."""
        return digest(Label.EVIDENCE, self.to_bytes())


@frozen(kw_only=True)
class EvidenceRecord(Record):
    """A `*.evidence` file: what `enclave verify` needs to repeat a client's appraisal.

    `bundle` is a canonical `EvidenceBundle`, `catalogue` the worker's kernel catalogue; the path
    leads from `nonce` to the bundle's `nonce_root`. `collateral` is the canonical `Collateral` that
    the client judged with: years later no vendor gives it out any more.
    """

    VERSION = 2
    LIMIT = (
        limits.EVIDENCE_BYTES + limits.CATALOGUE_BYTES + limits.COLLATERAL_BYTES + 64 * limits.KIB
    )

    bundle: bytes = item(octets(limit=limits.EVIDENCE_BYTES), secret=True)
    nonce: bytes = item(octets(exactly=limits.NONCE_BYTES))
    leaf_index: int = item(uint())
    tree_size: int = item(uint())
    path: tuple[bytes, ...] = item(
        array(octets(exactly=DIGEST_BYTES), limit=limits.MERKLE_PATH), secret=True
    )
    catalogue: bytes = item(octets(limit=limits.CATALOGUE_BYTES), secret=True)
    collateral: bytes = item(octets(limit=limits.COLLATERAL_BYTES), secret=True)

    def proof(self) -> FreshnessProof:
        """Return the path of `nonce`."""
        return FreshnessProof(leaf_index=self.leaf_index, tree_size=self.tree_size, path=self.path)
