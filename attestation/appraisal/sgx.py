"""Appraise Evidence of kind `sgx`: steps 8 to 25 of docs/appraisal.md."""

import hmac
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Final

from cryptography import x509

from attestation.appraisal.checklist import Checklist, Step, Weakness
from attestation.appraisal.claims import Case, Claims
from attestation.appraisal.intel import (
    Given,
    check_binding,
    parse_quote,
    run_platform_steps,
    run_signature_steps,
    run_tcb_steps,
)
from attestation.appraisal.intel_refusals import (
    DebugError,
    EnclaveAttributesError,
    EnclaveNotAcceptedError,
)
from attestation.appraisal.intel_tcb import appraise_tcb
from attestation.appraisal.refusals import KindNotAcceptedError
from attestation.endorsements.collateral import Collateral
from attestation.endorsements.intel_chain import intel_root
from attestation.evidence.intel_quote import Quote, Tee
from attestation.evidence.intel_quote_bodies import EnclaveAttributes, EnclaveReport
from attestation.evidence.sgx import SgxEvidence
from attestation.policy.sgx import WEAK_FLAGS, EnclaveWeakness, SgxPolicy

REPORT_STEPS: Final = (
    Step.authentic("format"),
    Step.authentic("quote signature"),
    Step.authentic("attestation key"),
    Step.acceptable("debug"),
    Step.acceptable("enclave attributes"),
    Step.acceptable("enclave"),
    Step.authentic("PCK certificate"),
    Step.authentic("QE report"),
    Step.acceptable("platform"),
    Step.authentic("collateral"),
    Step.authentic("TCB info"),
    Step.authentic("QE identity"),
    Step.authentic("revocation"),
    Step.authentic("quoting enclave"),
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
    # (9...24) The quote, by itself.
    claims = examine(
        evidence,
        policy=policy,
        collateral=case.collateral,
        now=case.now,
        checks=checks,
        root=root,
    )
    # (25) It is about these keys and Challenges.
    checks.run(lambda: check_binding(Quote.from_bytes(evidence.quote), case))
    return claims


def examine(
    evidence: SgxEvidence,
    *,
    policy: SgxPolicy,
    collateral: Collateral,
    now: datetime,
    checks: Checklist,
    root: Callable[[], x509.Certificate] = intel_root,
) -> Claims:
    """Judge a quote by itself, in the steps of `REPORT_STEPS`, whatever it is about."""
    # (9) The quote parses to its last byte, and is of an enclave.
    quote, report = checks.need(
        "a quote of an enclave", parse_quote, evidence.quote, Tee.SGX, EnclaveReport
    )
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
    # (12...14) It is the enclave that the policy wants, started as it wants.
    checks.run(_debug, policy, report)
    checks.run(_attributes, policy, report)
    checks.run(_enclave, policy, report)
    # (15...22) Intel vouches for the platform and for its quoting enclave.
    vouched = run_platform_steps(given, checks)
    # (23, 24) The policy wants platforms with such a TCB.
    tcb = partial(
        appraise_tcb,
        vouched.collateral.tcb_info,
        vouched.collateral.qe_identity,
        vouched.chain.pck,
        given.quote,
    )
    return {**run_tcb_steps(given, vouched, tcb, checks), **_describe(report)}


def _body(case: Case) -> tuple[SgxEvidence, SgxPolicy]:
    if case.policy.sgx is None:
        raise KindNotAcceptedError("the policy has no table sgx")
    return SgxEvidence.from_bytes(case.bundle.body), case.policy.sgx


def _debug(policy: SgxPolicy, report: EnclaveReport) -> str | Weakness:
    if not report.flags & EnclaveAttributes.DEBUG:
        return "not in debug mode"
    if EnclaveWeakness.DEBUG not in policy.allow:
        raise DebugError("attribute DEBUG is set")
    return Weakness(code=DebugError.code, detail="attribute DEBUG is set")


def _attributes(policy: SgxPolicy, report: EnclaveReport) -> str | Weakness:
    if not report.flags & EnclaveAttributes.INIT:
        raise EnclaveAttributesError("INIT is not set")
    weak = {name for name, flag in WEAK_FLAGS.items() if report.flags & flag}
    weak.discard(EnclaveWeakness.DEBUG)  # judged by the step before
    if refused := weak - set(policy.allow):
        raise EnclaveAttributesError(", ".join(sorted(refused)))
    if weak:
        return Weakness(code=EnclaveAttributesError.code, detail=", ".join(sorted(weak)))
    return "none that gives the enclave keys of the platform"


def _enclave(policy: SgxPolicy, report: EnclaveReport) -> str | Weakness:
    if not policy.accept_any_enclave and not _among(report.mr_enclave, policy.enclaves):
        raise EnclaveNotAcceptedError(f"MRENCLAVE {report.mr_enclave.hex()} is not named")
    if not policy.accept_any_signer and not _among(report.mr_signer, policy.signers):
        raise EnclaveNotAcceptedError(f"MRSIGNER {report.mr_signer.hex()} is not named")
    if policy.isv_prod_id not in (None, report.isv_prod_id):
        raise EnclaveNotAcceptedError(f"product {report.isv_prod_id} of its signer")
    if report.isv_svn < policy.minimum_isv_svn:
        raise EnclaveNotAcceptedError(f"SVN {report.isv_svn} is below the minimum")
    if not policy.accept_any_config_id and not _among(report.config_id, policy.config_ids):
        raise EnclaveNotAcceptedError("a CONFIGID that is not named")
    if policy.accept_any_enclave and policy.accept_any_signer:
        return Weakness(code="sgx-enclave-any", detail="the policy permits any enclave")
    return "accepted by the policy"


def _among(value: bytes, accepted: tuple[bytes, ...]) -> bool:
    return any(hmac.compare_digest(value, entry) for entry in accepted)


def _describe(report: EnclaveReport) -> Claims:
    return {
        "MRENCLAVE": report.mr_enclave.hex(),
        "MRSIGNER": report.mr_signer.hex(),
        "ISVPRODID": str(report.isv_prod_id),
        "ISVSVN": str(report.isv_svn),
        "attributes": report.attributes.hex(),
    }
