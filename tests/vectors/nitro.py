"""Judge vectors of kind `aws-nitro` under the index's default policy: PCR0 is not zero."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from attestation.appraisal.checklist import CannotContinueError, Checklist, Step
from attestation.appraisal.nitro import REPORT_STEPS, examine
from attestation.appraisal.refusals import NonceMismatchError
from attestation.endorsements.collateral import NO_COLLATERAL
from attestation.evidence.nitro import NitroDocument, NitroEvidence
from attestation.policy.nitro import NitroPolicy
from tests.vectors.entry import binary, need, nonce_of, read_files, time_of
from tests.vectors.verdict import Judged

KINDS = ("aws-nitro",)
POLICY = NitroPolicy(pcrs=(), accept_any_pcrs=True, max_age_seconds=3 * 3600)

_NONCE = Step.authentic("nonce")
_WORDS = {
    "certificate-expired": "leaf_certificate_expired",
    "certificate-not-yet-valid": "leaf_certificate_not_yet_valid",
    "chain-invalid": "chain_invalid",
    "chain-not-anchored": "untrusted_root",
    "debug-enclave": "debug_pcr0_zero",
    "nonce-mismatch": "nonce_mismatch",
    "signature-invalid": "cose_signature_invalid",
}


def judge(entry: Mapping[str, Any], check: Mapping[str, Any], folder: Path) -> Judged:
    """Return the checks on the entry's document at the check's time."""
    evidence = NitroEvidence(document=binary(need(read_files(entry, check, folder), "document")))
    nonce = nonce_of(check)
    checks = Checklist()
    checks.announce(REPORT_STEPS if nonce is None else [_NONCE, *REPORT_STEPS])
    # First: a line of certificates that has ended must not hide that the nonce is wrong.
    if nonce is not None:
        checks.run(_check_nonce, evidence, nonce)
    with suppress(CannotContinueError):
        examine(
            evidence,
            policy=POLICY,
            collateral=NO_COLLATERAL,
            now=time_of(entry, check),
            checks=checks,
        )
    return checks.finish(), _WORDS


def _check_nonce(evidence: NitroEvidence, nonce: bytes) -> str:
    if (NitroDocument.from_bytes(evidence.document).nonce or b"") != nonce:
        raise NonceMismatchError("the nonce is another")
    return "it has the nonce"
