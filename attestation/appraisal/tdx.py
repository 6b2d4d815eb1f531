"""Appraise Evidence of kind `tdx`: steps 8 to 29 of docs/appraisal.md.

From the quote outwards: what is in it, who vouches for the machine, what Intel says about machines
of its kind. So a quote for which there is no collateral yet is still judged by all that is in it.
"""

from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Final

from cryptography import x509

from attestation.appraisal.checklist import Checklist, Step
from attestation.appraisal.claims import Case, Claims
from attestation.appraisal.intel import (
    Given,
    check_binding,
    parse_quote,
    run_platform_steps,
    run_signature_steps,
    run_tcb_steps,
)
from attestation.appraisal.intel_refusals import TdxModuleError
from attestation.appraisal.intel_tcb import appraise_tcb, find_module
from attestation.appraisal.refusals import KindNotAcceptedError
from attestation.appraisal.tdx_domain import (
    check_attributes,
    check_debug,
    check_event_log,
    check_measurements,
    check_service_td,
    check_xfam,
    describe,
)
from attestation.endorsements.collateral import Collateral
from attestation.endorsements.intel_chain import intel_root
from attestation.endorsements.intel_tcb import TcbInfo
from attestation.evidence.intel_quote import Quote, Tee
from attestation.evidence.intel_quote_bodies import TdReport
from attestation.evidence.tdx import TdxEvidence
from attestation.policy.tdx import TdxPolicy

REPORT_STEPS: Final = (
    Step.authentic("format"),
    Step.authentic("quote signature"),
    Step.authentic("attestation key"),
    Step.acceptable("debug"),
    Step.acceptable("TD attributes"),
    Step.acceptable("XFAM"),
    Step.acceptable("service TD"),
    Step.acceptable("measurements"),
    Step.authentic("event log"),
    Step.authentic("PCK certificate"),
    Step.authentic("QE report"),
    Step.acceptable("platform"),
    Step.authentic("collateral"),
    Step.authentic("TCB info"),
    Step.authentic("QE identity"),
    Step.authentic("revocation"),
    Step.authentic("quoting enclave"),
    Step.authentic("TDX module"),
    Step.acceptable("TCB evaluation"),
    Step.acceptable("TCB status"),
)
STEPS: Final = (Step.authentic("body"), *REPORT_STEPS, Step.authentic("binding"))


def appraise(
    case: Case, checks: Checklist, *, root: Callable[[], x509.Certificate] = intel_root
) -> Claims:
    """Run the steps; the claims are worth what their verdict is worth."""
    # (8) The body parses, and there is a policy for it.
    evidence, policy = checks.need("a quote and what came with it", _body, case)
    # (9...28) The quote, by itself.
    claims = examine(
        evidence,
        policy=policy,
        collateral=case.collateral,
        now=case.now,
        checks=checks,
        root=root,
    )
    # (29) It is about these keys and Challenges.
    checks.run(lambda: check_binding(Quote.from_bytes(evidence.quote), case))
    return claims


def examine(
    evidence: TdxEvidence,
    *,
    policy: TdxPolicy,
    collateral: Collateral,
    now: datetime,
    checks: Checklist,
    root: Callable[[], x509.Certificate] = intel_root,
) -> Claims:
    """Judge a quote by itself, in the steps of `REPORT_STEPS`, whatever it is about."""
    # (9) The quote parses to its last byte, and is of a TD.
    quote, report = checks.need("a quote of a TD", parse_quote, evidence.quote, Tee.TDX, TdReport)
    given = Given(
        quote=quote,
        certificates=evidence.certificates,
        collateral=collateral,
        policy=policy.platform,
        root=root(),
        now=now,
    )
    # (10) The attestation key signed it, and (11) the quoting enclave vouches for that key.
    run_signature_steps(given, checks)
    # (12...16) The TD was started as the policy wants it.
    checks.run(check_debug, policy, report)
    checks.run(check_attributes, policy, report)
    checks.run(check_xfam, policy, report)
    checks.run(check_service_td, policy, report)
    checks.run(check_measurements, policy, report)
    # (17) An event log leads to the measurements, where there is one.
    checks.run(check_event_log, evidence.event_log, report)
    # (18...25) Intel vouches for the platform and for its quoting enclave,
    vouched = run_platform_steps(given, checks)
    # (26) and for its TDX module.
    info = vouched.collateral.tcb_info
    checks.run(_module, info, report)
    # (27, 28) The policy wants platforms with such a TCB.
    tcb = partial(
        appraise_tcb, info, vouched.collateral.qe_identity, vouched.chain.pck, given.quote
    )
    return {**run_tcb_steps(given, vouched, tcb, checks), **describe(report)}


def _body(case: Case) -> tuple[TdxEvidence, TdxPolicy]:
    if case.policy.tdx is None:
        raise KindNotAcceptedError("the policy has no table tdx")
    return TdxEvidence.from_bytes(case.bundle.body), case.policy.tdx


def _module(info: TcbInfo, report: TdReport) -> str:
    identity = find_module(info, report.tee_tcb_svn)
    if report.mr_signer_seam != identity.mr_signer:
        raise TdxModuleError("MRSIGNERSEAM is not that of Intel's TDX module")
    # What the mask leaves open must be zero: an attribute that nobody has judged yet.
    if report.seam_attributes != identity.attributes & identity.attributes_mask:
        raise TdxModuleError("SEAMATTRIBUTES are not those of Intel's TDX module")
    return f"Intel's, SVN {report.tee_tcb_svn[:3].hex('.')}"
