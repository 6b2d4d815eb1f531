"""Judge vectors of kinds `tdx` and `sgx` with the index's default policy for Intel."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from attestation.appraisal import sgx, tdx
from attestation.appraisal.checklist import CannotContinueError, Checklist, Step
from attestation.appraisal.claims import Claims
from attestation.appraisal.refusals import NonceMismatchError
from attestation.appraisal.result import Check
from attestation.endorsements.collateral import Collateral, CollateralKind
from attestation.endorsements.intel_chain import split_certificates
from attestation.endorsements.intel_tcb import TcbStatus
from attestation.evidence.intel_quote import Quote
from attestation.evidence.sgx import SgxEvidence
from attestation.evidence.tdx import TdxEvidence
from attestation.policy.intel import IntelPolicy
from attestation.policy.revocation import Revocation
from attestation.policy.sgx import EnclaveWeakness, SgxPolicy
from attestation.policy.tdx import Register, TdxPolicy
from tests.vectors.entry import binary, event_log, need, nonce_of, read_files, time_of
from tests.vectors.verdict import Judged

KINDS: Final = ("tdx", "sgx")

_NONCE: Final = Step.authentic("nonce")

PLATFORM: Final = IntelPolicy(
    tcb_statuses=(TcbStatus.UP_TO_DATE,),
    minimum_evaluation_number=0,
    revocation=Revocation.REQUIRED,
    accept_any_platform=True,
    platforms=(),
)
TDX: Final = TdxPolicy(
    platform=PLATFORM,
    registers=tuple(
        (register, register is not Register.MR_SERVICE_TD, (bytes(48),))
        for register in sorted(Register)
    ),
)
SGX: Final = SgxPolicy(
    platform=PLATFORM,
    allow=(EnclaveWeakness.PROVISION_KEY, EnclaveWeakness.EINITTOKEN_KEY),
    accept_any_enclave=True,
    enclaves=(),
    accept_any_signer=True,
    signers=(),
    isv_prod_id=None,
    minimum_isv_svn=0,
    accept_any_config_id=True,
    config_ids=(),
)

_TCB: Final = {
    "tcb-sw-hardening-needed": TcbStatus.SW_HARDENING_NEEDED,
    "tcb-configuration-needed": TcbStatus.CONFIGURATION_NEEDED,
    "tcb-configuration-and-sw-hardening-needed": TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED,
    "tcb-out-of-date": TcbStatus.OUT_OF_DATE,
    "tcb-out-of-date-configuration-needed": TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED,
    "tcb-relaunch-advised": TcbStatus.TD_RELAUNCH_ADVISED,
    "tcb-relaunch-advised-configuration-needed": (
        TcbStatus.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED
    ),
    "tcb-revoked": TcbStatus.REVOKED,
    "tcb-not-supported": TcbStatus.NOT_SUPPORTED,
}

WORDS: Final[Mapping[str, str]] = {
    **{code: f"tcb:{status}" for code, status in _TCB.items()},
    "attestation-key-not-bound": "attestation_key_not_bound_by_qe",
    "chain-not-anchored": "untrusted_root",
    "certificate-revoked": "certificate_revoked",
    "revocation-stale": "crl_stale",
    "revocation-invalid": "crl_signature_invalid",
    "revocation-missing": "crl_missing",
    "nonce-mismatch": "nonce_mismatch",
    "intel-collateral-missing": "collateral_missing",
    "pck-certificate-missing": "endorsement_missing",
    "fmspc-mismatch": "fmspc_mismatch",
    "intel-collateral-mismatch": "collateral_mismatch",
    "quoting-enclave-mismatch": "qe_identity_mismatch",
    "tdx-module-mismatch": "tdx_module_mismatch",
    "tee-mismatch": "tee_type_mismatch",
    "intel-debug": "debug",
    "td-sept-ve": "sept_ve_disable_not_set",
    "td-service-td": "mrservicetd_nonzero",
    "event-log-rtmr-mismatch": "rtmr_mismatch",
}
"""The index's words for codes that mean one thing wherever they are found."""

AT_STEP: Final[Mapping[tuple[str, str], str]] = {
    ("quote signature", "signature-invalid"): "quote_signature_invalid",
    ("QE report", "signature-invalid"): "qe_report_signature_invalid",
    ("TCB info", "signature-invalid"): "tcb_info_signature_invalid",
    ("TCB info", "intel-text-expired"): "tcb_info_expired",
    ("TCB info", "intel-text-not-yet-valid"): "tcb_info_not_yet_valid",
    ("TCB info", "certificate-expired"): "tcb_signing_certificate_expired",
    ("QE identity", "signature-invalid"): "qe_identity_signature_invalid",
    ("QE identity", "intel-text-expired"): "qe_identity_expired",
    ("QE identity", "intel-text-not-yet-valid"): "qe_identity_not_yet_valid",
    ("PCK certificate", "chain-invalid"): "pck_chain_invalid",
    ("PCK certificate", "certificate-expired"): "pck_certificate_expired",
    ("PCK certificate", "certificate-not-yet-valid"): "pck_certificate_not_yet_valid",
}
"""The index's words for codes that say something else at another step."""

ATTRIBUTE_WORDS: Final = {
    "migratable": "migratable",
    "pks": "pks",
    "key-locker": "kl",
    "perfmon": "perfmon",
}


def words(check: Check) -> str:
    """Return the index's word for a check that failed."""
    if check.code == "td-attributes":
        return ATTRIBUTE_WORDS.get(check.detail.split(", ")[0], check.code)
    return AT_STEP.get((check.name, check.code)) or WORDS.get(check.code, check.code)


def judge(entry: Mapping[str, Any], check: Mapping[str, Any], folder: Path) -> Judged:
    """Appraise one check of one entry."""
    checks, _ = examine(entry, check, folder)
    return checks, words


def examine(
    entry: Mapping[str, Any], check: Mapping[str, Any], folder: Path
) -> tuple[tuple[Check, ...], Claims]:
    """Return the checks and, where the steps came to an end, the claims."""
    files = read_files(entry, check, folder)
    collateral = Collateral.from_items(
        [(CollateralKind.INTEL_QUOTE_COLLATERAL, data)] if (data := files.get("collateral")) else []
    )
    chain = files.get("pck_chain")
    certificates = split_certificates(chain) if chain else ()
    now, nonce = time_of(entry, check), nonce_of(check)
    quote = binary(need(files, "quote"))
    checks = Checklist()
    if nonce is not None:
        checks.announce([_NONCE])
        checks.run(_check_nonce, quote, nonce)
    claims: Claims = {}
    try:
        if entry["kind"] == "tdx":
            checks.announce(tdx.REPORT_STEPS)
            claims = tdx.examine(
                TdxEvidence(
                    quote=quote, certificates=certificates, event_log=event_log(files, "ccel")
                ),
                policy=TDX,
                collateral=collateral,
                now=now,
                checks=checks,
            )
        else:
            checks.announce(sgx.REPORT_STEPS)
            claims = sgx.examine(
                SgxEvidence(quote=quote, certificates=certificates),
                policy=SGX,
                collateral=collateral,
                now=now,
                checks=checks,
            )
    except CannotContinueError:
        pass  # the checks say which step it was
    return checks.finish(), claims


def _check_nonce(quote: bytes, nonce: bytes) -> str:
    data = Quote.from_bytes(quote).body.report_data
    if data != nonce.ljust(len(data), b"\0"):
        raise NonceMismatchError("REPORTDATA is another")
    return "REPORTDATA is the nonce"
