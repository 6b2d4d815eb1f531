"""Appraise Evidence of kind `azure-snp-vtpm`: the steps of docs/appraisal.md, from 8 on."""

from datetime import datetime
from typing import Final

from attestation.appraisal import sev_snp
from attestation.appraisal.azure_vtpm import VTPM_STEPS, Vtpm, judge_vtpm
from attestation.appraisal.checklist import Checklist, Step
from attestation.appraisal.claims import Case, Claims
from attestation.appraisal.refusals import KindNotAcceptedError
from attestation.appraisal.tpm import check_binding
from attestation.endorsements.collateral import Collateral
from attestation.evidence.azure_vtpm import SNP_KIND, AzureSnpVtpmEvidence, HclReport, ReportType
from attestation.evidence.sev_snp import Report, SevSnpEvidence
from attestation.policy.azure_vtpm import AzureSnpVtpmPolicy

REPORT_STEPS: Final = (*VTPM_STEPS, *sev_snp.REPORT_STEPS)
STEPS: Final = (Step.authentic("body"), *REPORT_STEPS, Step.authentic("binding"))


def appraise(case: Case, checks: Checklist) -> Claims:
    """Run all steps; the claims are worth what their verdict is worth."""
    evidence, policy = checks.need("a quote and a paravisor's report", _body, case)
    vtpm, claims = _judge(evidence, policy, case.collateral, case.now, checks)
    # The quote, which is the fresh part, is about these keys and Challenges.
    checks.run(check_binding, case, vtpm.quote.attest)
    return claims


def examine(
    evidence: AzureSnpVtpmEvidence,
    *,
    policy: AzureSnpVtpmPolicy,
    collateral: Collateral,
    now: datetime,
    checks: Checklist,
) -> Claims:
    """Run `REPORT_STEPS`: judge quote and report by themselves, whatever they are about."""
    return _judge(evidence, policy, collateral, now, checks)[1]


def _judge(
    evidence: AzureSnpVtpmEvidence,
    policy: AzureSnpVtpmPolicy,
    collateral: Collateral,
    now: datetime,
    checks: Checklist,
) -> tuple[Vtpm, Claims]:
    vtpm, report = checks.need("a paravisor's report, its text and a quote", _parse, evidence)
    claims = judge_vtpm(
        checks,
        vtpm,
        policy=policy,
        require_ak_certificate=policy.require_ak_certificate,
        collateral=collateral,
        now=now,
        report_data=lambda: Report.from_bytes(report).report_data,
    )
    hardware = sev_snp.examine(
        SevSnpEvidence(
            report=report, certificates=evidence.snp_certificates, certificate_table=b""
        ),
        policy=policy.sev_snp,
        collateral=collateral,
        now=now,
        checks=checks,
    )
    return vtpm, {**hardware, **claims}


def _body(case: Case) -> tuple[AzureSnpVtpmEvidence, AzureSnpVtpmPolicy]:
    if case.policy.azure_snp_vtpm is None:
        raise KindNotAcceptedError(f"the policy has no table for kind {SNP_KIND!r}")
    return AzureSnpVtpmEvidence.from_bytes(case.bundle.body), case.policy.azure_snp_vtpm


def _parse(evidence: AzureSnpVtpmEvidence) -> tuple[Vtpm, bytes]:
    report = HclReport.from_bytes(evidence.hcl_report).hardware_report
    return Vtpm.of(evidence, ReportType.SNP), report
