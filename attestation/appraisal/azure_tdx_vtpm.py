"""Appraise Evidence of kind `azure-tdx-vtpm`: the steps of docs/appraisal.md, from 8 on."""

from datetime import datetime
from typing import Final

from attestation.appraisal import tdx
from attestation.appraisal.azure_vtpm import VTPM_STEPS, Vtpm, judge_vtpm
from attestation.appraisal.checklist import Checklist, Step
from attestation.appraisal.claims import Case, Claims
from attestation.appraisal.refusals import KindNotAcceptedError
from attestation.appraisal.tpm import check_binding
from attestation.endorsements.collateral import Collateral
from attestation.evidence.azure_vtpm import TDX_KIND, AzureTdxVtpmEvidence, ReportType
from attestation.evidence.intel_quote import Quote
from attestation.evidence.tdx import TdxEvidence
from attestation.policy.azure_vtpm import AzureTdxVtpmPolicy

REPORT_STEPS: Final = (*VTPM_STEPS, *tdx.REPORT_STEPS)
STEPS: Final = (Step.authentic("body"), *REPORT_STEPS, Step.authentic("binding"))


def appraise(case: Case, checks: Checklist) -> Claims:
    """Run all steps; the claims are worth what their verdict is worth."""
    evidence, policy = checks.need("a quote, a paravisor's text and a TD's quote", _body, case)
    vtpm, claims = _judge(evidence, policy, case.collateral, case.now, checks)
    # The quote, which is the fresh part, is about these keys and Challenges.
    checks.run(check_binding, case, vtpm.quote.attest)
    return claims


def examine(
    evidence: AzureTdxVtpmEvidence,
    *,
    policy: AzureTdxVtpmPolicy,
    collateral: Collateral,
    now: datetime,
    checks: Checklist,
) -> Claims:
    """Run `REPORT_STEPS`: judge both quotes by themselves, whatever they are about."""
    return _judge(evidence, policy, collateral, now, checks)[1]


def _judge(
    evidence: AzureTdxVtpmEvidence,
    policy: AzureTdxVtpmPolicy,
    collateral: Collateral,
    now: datetime,
    checks: Checklist,
) -> tuple[Vtpm, Claims]:
    vtpm = checks.need("a paravisor's text and a quote", Vtpm.of, evidence, ReportType.TDX)
    claims = judge_vtpm(
        checks,
        vtpm,
        policy=policy,
        require_ak_certificate=policy.require_ak_certificate,
        collateral=collateral,
        now=now,
        report_data=lambda: Quote.from_bytes(evidence.td_quote).body.report_data,
    )
    hardware = tdx.examine(
        TdxEvidence(quote=evidence.td_quote),
        policy=policy.tdx,
        collateral=collateral,
        now=now,
        checks=checks,
    )
    return vtpm, {**hardware, **claims}


def _body(case: Case) -> tuple[AzureTdxVtpmEvidence, AzureTdxVtpmPolicy]:
    if case.policy.azure_tdx_vtpm is None:
        raise KindNotAcceptedError(f"the policy has no table for kind {TDX_KIND!r}")
    return AzureTdxVtpmEvidence.from_bytes(case.bundle.body), case.policy.azure_tdx_vtpm
