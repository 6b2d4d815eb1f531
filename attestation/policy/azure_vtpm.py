"""The tables `[azure_snp_vtpm]` and `[azure_tdx_vtpm]`: a vTPM's PCRs, the hardware below it."""

from attrs import frozen

from attestation.encoding.record import boolean, item, record
from attestation.policy.section import Section
from attestation.policy.sev_snp import SevSnpPolicy
from attestation.policy.sev_snp_reading import read_sev_snp
from attestation.policy.tdx import TdxPolicy, read_tdx
from attestation.policy.tpm import PcrPolicy, read_pcrs


@frozen(kw_only=True)
class AzureSnpVtpmPolicy(PcrPolicy):
    """What the vTPM may have measured, and which SEV-SNP guests its paravisor may be in.

    The processor vouches for the vTPM's key; `require_ak_certificate` wants Microsoft's word too.
    """

    require_ak_certificate: bool = item(boolean(), default=False)
    sev_snp: SevSnpPolicy = item(record(SevSnpPolicy))


def read_azure_snp_vtpm(section: Section) -> AzureSnpVtpmPolicy:
    """Read the table, or raise `PolicyError`."""
    policy = AzureSnpVtpmPolicy(
        **read_pcrs(section),
        require_ak_certificate=_required(section),
        sev_snp=read_sev_snp(section.take_section("sev_snp")),
    )
    section.finish()
    return policy


@frozen(kw_only=True)
class AzureTdxVtpmPolicy(PcrPolicy):
    """What the vTPM may have measured, and which trust domains its paravisor may be in.

    The processor vouches for the vTPM's key; `require_ak_certificate` wants Microsoft's word too.
    """

    require_ak_certificate: bool = item(boolean(), default=False)
    tdx: TdxPolicy = item(record(TdxPolicy))


def read_azure_tdx_vtpm(section: Section) -> AzureTdxVtpmPolicy:
    """Read the table, or raise `PolicyError`."""
    policy = AzureTdxVtpmPolicy(
        **read_pcrs(section),
        require_ak_certificate=_required(section),
        tdx=read_tdx(section.take_section("tdx")),
    )
    section.finish()
    return policy


def _required(section: Section) -> bool:
    key = "require_ak_certificate"
    return key in section.values and section.take_boolean(key)
