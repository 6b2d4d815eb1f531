"""Judge vectors of kind `sev-snp` under the index's default policy.

That policy asks only that DEBUG and MIGRATE_MA are clear and that TCB and chip id are the certified
ones, so everything else is opened here. Revocation is required where the check has a list.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attestation.appraisal.checklist import CannotContinueError, Checklist, Step
from attestation.appraisal.claims import Claims
from attestation.appraisal.refusals import NonceMismatchError
from attestation.appraisal.result import Check
from attestation.appraisal.sev_snp import REPORT_STEPS, examine
from attestation.endorsements.collateral import Collateral, CollateralKind
from attestation.evidence.sev_snp import REPORT_BYTES, Report, SevSnpEvidence, Signer
from attestation.evidence.sev_snp_tcb import Product
from attestation.policy.revocation import Revocation
from attestation.policy.sev_snp import SevSnpPolicy
from tests.vectors.entry import binary, need, nonce_of, read_files, time_of
from tests.vectors.verdict import Judged

KINDS = ("sev-snp",)

_PRESENTED = ("vcek", "vlek", "chain")
_NONCE = Step.authentic("nonce")
WORDS = {
    "binding-mismatch": "nonce_mismatch",
    "certificate-expired": "leaf_certificate_expired",
    "certificate-not-yet-valid": "leaf_certificate_not_yet_valid",
    "certificate-revoked": "ask_revoked",
    "certified-tcb-mismatch": "tcb_mismatch",
    "chain-not-anchored": "untrusted_root",
    "chip-id-mismatch": "chip_id_mismatch",
    "chip-id-hidden": "chip_id_mismatch",
    "guest-debug": "policy_debug",
    "guest-migratable": "policy_migrate_ma",
    "malformed": "malformed",
    "nonce-mismatch": "nonce_mismatch",
    "product-mismatch": "product_mismatch",
    "report-signature-invalid": "report_signature_invalid",
    "report-unsigned": "report_signature_invalid",
    "revocation-invalid": "crl_signature_invalid",
    "revocation-missing": "crl_missing",
    "revocation-stale": "crl_stale",
    "vcek-missing": "endorsement_missing",
}


def judge(entry: Mapping[str, Any], check: Mapping[str, Any], folder: Path) -> Judged:
    """Return the checks on the entry's report at the check's time."""
    checks, _ = appraise(entry, check, folder)
    vlek = "vlek" in (entry.get("files") or {})

    def word(check: Check) -> str:
        if check.code == "vcek-not-issued":
            return "vlek_not_signed_by_asvk" if vlek else "vcek_not_signed_by_ask"
        return WORDS.get(check.code, check.code)

    return checks, word


def appraise(
    entry: Mapping[str, Any], check: Mapping[str, Any], folder: Path
) -> tuple[tuple[Check, ...], Claims]:
    """Return the checks and the claims."""
    files = read_files(entry, check, folder)
    crls = [(CollateralKind.AMD_CRL, files["crl"])] if "crl" in files else []
    evidence = evidence_of(files)
    checks = Checklist()
    checks.announce(REPORT_STEPS)
    nonce = nonce_of(check)
    if nonce is not None:
        checks.announce([_NONCE])
    claims: Claims = {}
    try:
        claims = examine(
            evidence,
            policy=vector_policy(Revocation.REQUIRED if crls else Revocation.OPTIONAL),
            collateral=Collateral.from_items(crls),
            now=time_of(entry, check),
            checks=checks,
        )
        if nonce is not None:
            checks.run(_check_nonce, evidence, nonce)
    except CannotContinueError:
        pass
    return checks.finish(), claims


def evidence_of(files: Mapping[str, bytes]) -> SevSnpEvidence:
    """Return the Evidence as a worker would send it; tools store reports with a tail of padding."""
    return SevSnpEvidence(
        report=binary(need(files, "report"))[:REPORT_BYTES],
        certificates=tuple(files[role] for role in _PRESENTED if role in files),
        certificate_table=files.get("cert_table", b""),
    )


def vector_policy(revocation: Revocation) -> SevSnpPolicy:
    """Return the index's default policy: what it does not name, it accepts."""
    return SevSnpPolicy(
        products=(Product.GENOA, Product.TURIN),
        products_with_extractable_keys=(Product.MILAN,),
        signing_keys=tuple(Signer),
        accept_any_csp=True,
        csps=(),
        revocation=revocation,
        minimum_tcb=tuple((product, 0, 0, 0, 0, 0) for product in Product),
        minimum_abi=(0, 0),
        allow_smt=True,
        allow_multiple_sockets=True,
        allow_cxl=True,
        vmpls=(0, 1, 2, 3),
        accept_any_measurement=True,
        measurements=(),
        accept_any_chip=True,
        chips=(),
    )


def _check_nonce(evidence: SevSnpEvidence, nonce: bytes) -> str:
    data = Report.from_bytes(evidence.report).report_data
    if data != nonce.ljust(len(data), b"\0"):
        raise NonceMismatchError("REPORT_DATA is another")
    return "REPORT_DATA is the nonce"
