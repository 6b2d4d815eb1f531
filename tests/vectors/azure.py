"""Judge vectors of kinds `azure-snp-vtpm` and `azure-tdx-vtpm` under the index's default policies.

The nonce is in the vTPM's quote; the hardware report is judged as one of its own kind.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from attestation.appraisal import azure_snp_vtpm, azure_tdx_vtpm
from attestation.appraisal.azure_vtpm import VTPM_STEPS
from attestation.appraisal.checklist import CannotContinueError, Checklist, Step
from attestation.appraisal.claims import Claims
from attestation.appraisal.result import Check
from attestation.endorsements.collateral import Collateral, CollateralKind
from attestation.evidence.azure_vtpm import AzureSnpVtpmEvidence, AzureTdxVtpmEvidence
from attestation.evidence.nvidia_eat import read_json
from attestation.evidence.tpm import PcrBank
from attestation.policy.azure_vtpm import AzureSnpVtpmPolicy, AzureTdxVtpmPolicy
from attestation.policy.revocation import Revocation
from tests.vectors import intel, sev_snp, tpm
from tests.vectors.entry import binary, event_log, need, nonce_of, read_files, time_of
from tests.vectors.verdict import Judged

KINDS = ("azure-snp-vtpm", "azure-tdx-vtpm")

_NONCE = Step.authentic("nonce")
_VTPM_STEPS = frozenset(step.name for step in VTPM_STEPS) | {_NONCE.name}
_VTPM_WORDS = {**tpm.WORDS, "runtime-data-mismatch": "runtime_data_mismatch"}

Examine = Callable[[Checklist], Claims]


def judge(entry: Mapping[str, Any], check: Mapping[str, Any], folder: Path) -> Judged:
    """Return the checks on the entry's quote and report at the check's time."""
    checks, _ = appraise(entry, check, folder)
    return checks, _word(intel.words if entry["kind"] == "azure-tdx-vtpm" else _snp_word)


def appraise(
    entry: Mapping[str, Any], check: Mapping[str, Any], folder: Path
) -> tuple[tuple[Check, ...], Claims]:
    """Return the checks and, where the steps came to an end, the claims."""
    files = read_files(entry, check, folder)
    if entry["kind"] == "azure-tdx-vtpm":
        return examine_tdx(tdx_evidence(files), files, check, time_of(entry, check))
    return examine_snp(snp_evidence(files), files, check, time_of(entry, check))


def snp_evidence(files: Mapping[str, bytes]) -> AzureSnpVtpmEvidence:
    """Return the Evidence as a worker would send it."""
    return AzureSnpVtpmEvidence(
        **_quote(files),
        hcl_report=binary(need(files, "hcl_report", "runtime_claims")),
        snp_certificates=tuple(files[role] for role in ("vcek", "vlek", "chain") if role in files),
    )


def tdx_evidence(files: Mapping[str, bytes]) -> AzureTdxVtpmEvidence:
    """Return the Evidence as a worker would send it."""
    return AzureTdxVtpmEvidence(
        **_quote(files),
        hcl_report=binary(need(files, "hcl_report", "runtime_claims")),
        td_quote=binary(need(files, "td_quote", "quote")),
    )


def examine_snp(
    evidence: AzureSnpVtpmEvidence,
    files: Mapping[str, bytes],
    check: Mapping[str, Any],
    now: datetime,
) -> tuple[tuple[Check, ...], Claims]:
    """Judge one piece of Evidence at the check's time."""
    crls = [(CollateralKind.AMD_CRL, files["crl"])] if "crl" in files else []
    revocation = Revocation.REQUIRED if crls else Revocation.OPTIONAL
    policy = AzureSnpVtpmPolicy(
        pcr_bank=PcrBank.SHA256,
        pcrs=(),
        accept_any_pcrs=True,
        sev_snp=sev_snp.vector_policy(revocation),
    )

    def examine(checks: Checklist) -> Claims:
        return azure_snp_vtpm.examine(
            evidence,
            policy=policy,
            collateral=Collateral.from_items(crls),
            now=now,
            checks=checks,
        )

    return _run(azure_snp_vtpm.REPORT_STEPS, evidence.attest, check, examine)


def examine_tdx(
    evidence: AzureTdxVtpmEvidence,
    files: Mapping[str, bytes],
    check: Mapping[str, Any],
    now: datetime,
) -> tuple[tuple[Check, ...], Claims]:
    """Judge one piece of Evidence at the check's time."""
    kind = CollateralKind.INTEL_QUOTE_COLLATERAL
    collateral = [(kind, files["collateral"])] if "collateral" in files else []
    policy = AzureTdxVtpmPolicy(
        pcr_bank=PcrBank.SHA256, pcrs=(), accept_any_pcrs=True, tdx=intel.TDX
    )

    def examine(checks: Checklist) -> Claims:
        return azure_tdx_vtpm.examine(
            evidence,
            policy=policy,
            collateral=Collateral.from_items(collateral),
            now=now,
            checks=checks,
        )

    return _run(azure_tdx_vtpm.REPORT_STEPS, evidence.attest, check, examine)


def _run(
    steps: Sequence[Step], attest: bytes, check: Mapping[str, Any], examine: Examine
) -> tuple[tuple[Check, ...], Claims]:
    nonce = nonce_of(check)
    checks = Checklist()
    checks.announce(steps if nonce is None else [_NONCE, *steps])
    # First: collateral that is missing must not hide that the nonce is wrong.
    if nonce is not None:
        checks.run(tpm.check_nonce, attest, nonce)
    claims: Claims = {}
    with suppress(CannotContinueError):
        claims = examine(checks)
    return checks.finish(), claims


def _quote(files: Mapping[str, bytes]) -> dict[str, Any]:
    return {
        "attest": binary(need(files, "attest")),
        "signature": tpm.signature_of(files),
        "pcrs": tpm.rows(read_json(files.get("pcrs", b"{}"))),
        "event_log": event_log(files, "eventlog"),
        "ak_certificates": tpm.chain_of(files),
    }


def _word(hardware: Callable[[Check], str]) -> Callable[[Check], str]:
    def word(check: Check) -> str:
        if check.name in _VTPM_STEPS:
            return _VTPM_WORDS.get(check.code, check.code)
        return hardware(check)

    return word


def _snp_word(check: Check) -> str:
    if check.code == "vcek-not-issued":
        return "vcek_not_signed_by_ask"
    return sev_snp.WORDS.get(check.code, check.code)
