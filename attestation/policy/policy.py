"""The values of an Appraisal Policy for Evidence. Whatever is not in one is refused.

Make one with `loading.load_policy`: it checks the file strictly. Each value here also denies by
itself: an empty collection contains nothing that could be accepted.
"""

from attrs import frozen

from attestation import limits
from attestation.encoding.digests import Label, digest
from attestation.encoding.record import (
    Record,
    array,
    boolean,
    item,
    octets,
    optional,
    record,
    text,
    uint,
)
from attestation.identifiers import DIGEST_BYTES, Digest
from attestation.policy.azure_vtpm import AzureSnpVtpmPolicy, AzureTdxVtpmPolicy
from attestation.policy.nitro import NitroPolicy
from attestation.policy.nvidia import GpuPolicy
from attestation.policy.sev_snp import SevSnpPolicy
from attestation.policy.sgx import SgxPolicy
from attestation.policy.tdx import TdxPolicy
from attestation.policy.tpm import TpmPolicy


@frozen(kw_only=True)
class EvidencePolicy(Record):
    """Which kinds of Evidence count, and how old it may be without a Challenge of one's own.

    `max_age_seconds` 0 means that only Evidence which answers the caller's Challenge is accepted.
    """

    kinds: tuple[str, ...] = item(array(text(), limit=16))
    allow_insecure_evidence: bool = item(boolean())
    max_age_seconds: int = item(uint())


@frozen(kw_only=True)
class KeyPolicy(Record):
    """How long a key set may live: a stolen key is worth that much time."""

    max_lifetime_seconds: int = item(uint(limits.KEYSET_SECONDS))


@frozen(kw_only=True)
class CataloguePolicy(Record):
    """Which kernel catalogues a worker may run. `accept_any` is written `digests = "any"`."""

    accept_any: bool = item(boolean())
    digests: tuple[Digest, ...] = item(
        array(octets(exactly=DIGEST_BYTES), limit=limits.POLICY_ENTRIES)
    )

    def accepts(self, catalogue_digest: Digest) -> bool:
        """Whether this catalogue is named."""
        return self.accept_any or catalogue_digest in self.digests


@frozen(kw_only=True)
class Policy(Record):
    """One Appraisal Policy. A kind that it does not accept has None where its values would be."""

    VERSION = 1
    LIMIT = 4 * limits.POLICY_BYTES

    evidence: EvidencePolicy = item(record(EvidencePolicy))
    keys: KeyPolicy = item(record(KeyPolicy))
    catalogue: CataloguePolicy = item(record(CataloguePolicy))
    tpm: TpmPolicy | None = item(optional(record(TpmPolicy)), default=None)
    sev_snp: SevSnpPolicy | None = item(optional(record(SevSnpPolicy)), default=None)
    tdx: TdxPolicy | None = item(optional(record(TdxPolicy)), default=None)
    sgx: SgxPolicy | None = item(optional(record(SgxPolicy)), default=None)
    azure_snp_vtpm: AzureSnpVtpmPolicy | None = item(
        optional(record(AzureSnpVtpmPolicy)), default=None
    )
    azure_tdx_vtpm: AzureTdxVtpmPolicy | None = item(
        optional(record(AzureTdxVtpmPolicy)), default=None
    )
    nitro: NitroPolicy | None = item(optional(record(NitroPolicy)), default=None)

    gpu: GpuPolicy | None = item(optional(record(GpuPolicy)), default=None)
    """Beside every kind: None where GPU evidence is refused."""

    def digest(self) -> Digest:
        """Return the digest of the values, whatever the file that they came from looks like."""
        return digest(Label.POLICY, self.to_bytes())
