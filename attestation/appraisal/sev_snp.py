"""Appraise Evidence of kind `sev-snp`: steps 8 to 27 of docs/appraisal.md.

A report is authentic when a key that AMD certified for some chip, or for some provider, signed it.
Everything else that it says is judged by the policy, and judged even where the signature is wrong,
so that one run shows what there is to correct.
"""

import hmac
from datetime import datetime
from typing import Final

from attrs import frozen
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from attestation.appraisal import sev_snp_launch as launch
from attestation.appraisal import sev_snp_platform as platform
from attestation.appraisal.checklist import Checklist, Step, Weakness
from attestation.appraisal.claims import Case, Claims
from attestation.appraisal.refusals import BindingMismatchError, KindNotAcceptedError
from attestation.appraisal.sev_snp_refusals import ReportSignatureError, ReportUnsignedError
from attestation.endorsements.amd import Chain, find_chain
from attestation.endorsements.collateral import Collateral, CollateralKind
from attestation.endorsements.revocation import (
    RevocationMissingError,
    RevocationStaleError,
    check_not_revoked,
)
from attestation.evidence.sev_snp import Report, SevSnpEvidence
from attestation.evidence.sev_snp_table import CertificateTable
from attestation.policy.revocation import Revocation
from attestation.policy.sev_snp import SevSnpPolicy

REPORT_STEPS: Final = (
    Step.authentic("format"),
    Step.authentic("signer"),
    Step.authentic("certificates"),
    Step.authentic("chain"),
    Step.authentic("revocation"),
    Step.authentic("signature"),
    Step.acceptable("signing key"),
    Step.acceptable("certified TCB"),
    Step.acceptable("product"),
    Step.acceptable("minimum TCB"),
    Step.acceptable("chip"),
    Step.acceptable("debug"),
    Step.acceptable("migration"),
    Step.acceptable("guest policy"),
    Step.acceptable("host features"),
    Step.acceptable("VMPL"),
    Step.acceptable("measurement"),
    Step.acceptable("launch identity"),
)
STEPS: Final = (Step.authentic("body"), *REPORT_STEPS, Step.authentic("binding"))

_CRL: Final = CollateralKind.AMD_CRL


@frozen(kw_only=True)
class _Parsed:
    report: Report
    presented: tuple[bytes, ...]
    crls: tuple[bytes, ...]


def appraise(case: Case, checks: Checklist) -> Claims:
    """Run the steps; the claims are worth what their verdict is worth."""
    # (8) The body parses, and there is a policy for it.
    evidence, policy = checks.need("a report and what came with it", _body, case)
    # (9...26) The report, by itself.
    claims = examine(
        evidence, policy=policy, collateral=case.collateral, now=case.now, checks=checks
    )
    # (27) It is about these keys and Challenges.
    checks.run(_binding, case, evidence)
    return claims


def examine(
    evidence: SevSnpEvidence,
    *,
    policy: SevSnpPolicy,
    collateral: Collateral,
    now: datetime,
    checks: Checklist,
) -> Claims:
    """Judge a report by itself, in the steps of `REPORT_STEPS`, whatever it is about."""
    # (9) Report and certificate table parse.
    parsed = checks.need("a report of a version known here", _parse, evidence)
    report = parsed.report
    # (10) It says that it is signed, and by what kind of key.
    checks.run(_signer, report)
    # (11) There is a certificate for that key.
    chain = checks.need("a certificate of the signing key", _find_chain, parsed, collateral)
    # (12) It leads to a pinned root at `now`, (13) through nothing that was revoked.
    checks.run(chain.verify, now=now)
    checks.run(_revocation, chain, policy, (*parsed.crls, *collateral.of(_CRL)), now)
    # (14) The certified key signed the report.
    checks.run(verify_signature, report, chain)
    # (15...18) The policy wants reports by such a key, on such a platform.
    checks.run(platform.check_signing_key, policy, chain)
    checks.run(platform.check_certified_tcb, report, chain)
    checks.run(platform.check_product, policy, report, chain)
    checks.run(platform.check_minimum_tcb, policy, chain)
    # (19) It is a chip that the policy accepts.
    checks.run(platform.check_chip, policy, report, chain)
    # (20...26) The guest was launched as the policy wants it.
    checks.run(launch.check_debug, policy, report)
    checks.run(launch.check_migration, policy, report)
    checks.run(launch.check_guest_policy, policy, report)
    checks.run(platform.check_features, policy, report)
    checks.run(launch.check_vmpl, policy, report)
    checks.run(launch.check_measurement, policy, report)
    checks.run(launch.check_identity, policy, report)
    return platform.describe(report, chain)


def verify_signature(report: Report, chain: Chain) -> str:
    """Check that the key of `chain` signed `report`; whether AMD signed the key is another step."""
    if chain.signing.signer is not report.signer:
        raise ReportSignatureError("the certificate is for another kind of key than signed")
    r, s = report.signature
    try:
        chain.signing.key.verify(
            encode_dss_signature(r, s), report.signed, ec.ECDSA(hashes.SHA384())
        )
    except InvalidSignature as error:
        raise ReportSignatureError("the certified key did not sign this report") from error
    return "signed by the certified key"


def _body(case: Case) -> tuple[SevSnpEvidence, SevSnpPolicy]:
    if case.policy.sev_snp is None:
        raise KindNotAcceptedError("the policy has no table sev_snp")
    return SevSnpEvidence.from_bytes(case.bundle.body), case.policy.sev_snp


def _parse(evidence: SevSnpEvidence) -> _Parsed:
    table = CertificateTable.from_bytes(evidence.certificate_table)
    return _Parsed(
        report=Report.from_bytes(evidence.report),
        presented=(*evidence.certificates, *table.certificates),
        crls=table.crls,
    )


def _signer(report: Report) -> str:
    if report.mask_chip_key:
        # AMD 56860, "Attestation": the firmware then writes zeros where the signature would be.
        raise ReportUnsignedError("MASK_CHIP_KEY is set")
    if report.signer is None:
        raise ReportUnsignedError(f"signed by a key of kind {report.signing_key}")
    return f"says that a {report.signer.value.upper()} signed it"


def _find_chain(parsed: _Parsed, collateral: Collateral) -> Chain:
    return find_chain(
        parsed.report.key,
        presented=parsed.presented,
        collateral=collateral.of(CollateralKind.AMD_CERTIFICATE),
    )


def _revocation(
    chain: Chain, policy: SevSnpPolicy, crls: tuple[bytes, ...], now: datetime
) -> str | Weakness:
    # Every VCEK and VLEK has the same serial number, so the list can only speak of intermediates.
    try:
        check_not_revoked(chain.intermediate, issuer=chain.hierarchy.root, crls=crls, now=now)
    except (RevocationMissingError, RevocationStaleError) as error:
        if policy.revocation is Revocation.OPTIONAL:
            return Weakness(code="revocation-unknown", detail=f"{error}: the policy permits that")
        raise
    return "AMD has not revoked the intermediate"


def _binding(case: Case, evidence: SevSnpEvidence) -> str:
    report = Report.from_bytes(evidence.report)
    if not hmac.compare_digest(report.report_data, case.report_data()):
        raise BindingMismatchError("the report is about other keys or Challenges")
    return "the report names this key set and these Challenges"
