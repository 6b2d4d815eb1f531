"""Appraise Evidence of kind `insecure`: never affirming, whatever it says."""

from typing import Final

from attestation.appraisal.checklist import Checklist, Step, Weakness
from attestation.appraisal.claims import Case, Claims
from attestation.appraisal.refusals import BindingMismatchError, InsecureRefusedError
from attestation.evidence.insecure import InsecureEvidence

STEPS: Final = (
    Step.authentic("format"),
    Step.authentic("binding"),
    Step.authentic("hardware"),
)


def appraise(case: Case, checks: Checklist) -> Claims:
    """Run steps 8 to 10 of docs/appraisal.md for this kind."""
    # (8) The body parses.
    body = checks.need("report data in clear", InsecureEvidence.from_bytes, case.bundle.body)
    # (9) It is about these keys and Challenges.
    checks.run(_binding, case, body)
    # (10) Hardware signed it. Nothing did; only the policy's own word lets that pass.
    checks.run(_hardware, case)
    return {"hardware": "none: INSECURE"}


def _binding(case: Case, body: InsecureEvidence) -> str:
    if body.report_data != case.report_data():
        raise BindingMismatchError("the report data is about other keys or Challenges")
    return "the report data names this key set and these Challenges"


def _hardware(case: Case) -> Weakness:
    if not case.policy.evidence.allow_insecure_evidence:
        raise InsecureRefusedError("no hardware signed this")
    return Weakness(
        code="insecure",
        detail="INSECURE: no hardware signed this; the policy says allow_insecure_evidence = true",
    )
