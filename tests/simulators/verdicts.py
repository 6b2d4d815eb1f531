"""Verdicts as an appraisal would make them, with whatever words a test wants in them."""

from collections.abc import Mapping, Sequence

from attestation.appraisal.result import OK, AttestationResult, Check, Question, Tier
from attestation.endorsements.collateral import NO_COLLATERAL, Collateral
from attestation.identifiers import Digest
from tests.simulators.evidence import CATALOGUE_DIGEST, NOW, draw_keyset


def check(
    name: str = "signature",
    *,
    number: int = 1,
    question: Question = Question.AUTHENTIC,
    tier: Tier = Tier.AFFIRMING,
    code: str = OK,
    detail: str = "it holds",
) -> Check:
    return Check(number=number, name=name, question=question, tier=tier, code=code, detail=detail)


def result(
    *checks: Check,
    kind: str = "sev-snp",
    insecure: bool = False,
    nonce: bytes | None = None,
    claims: Mapping[str, str] | None = None,
    collateral: Collateral = NO_COLLATERAL,
) -> AttestationResult:
    return AttestationResult(
        checks=checks or (check(),),
        kind=kind,
        insecure=insecure,
        keyset=draw_keyset(),
        evidence_digest=Digest(b"e" * 32),
        policy_digest=Digest(b"p" * 32),
        catalogue_digest=CATALOGUE_DIGEST,
        nonce=nonce,
        appraised_at=NOW,
        claims=claims or {},
        collateral=collateral,
    )


def with_tiers(tiers: Sequence[Tier], *, kind: str = "sev-snp") -> AttestationResult:
    """One check per tier, all about the same."""
    return result(
        *(check(number=number, tier=tier) for number, tier in enumerate(tiers, start=1)), kind=kind
    )
