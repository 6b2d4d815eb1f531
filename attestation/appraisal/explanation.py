"""Say in words what an appraisal found, and what to do about each refusal."""

from collections.abc import Iterator, Mapping
from inspect import cleandoc
from typing import Final

import attestation.appraisal.verifier  # noqa: F401 - loads every refusal that is explained
from attestation.appraisal.result import (
    NOT_REACHED,
    OK,
    AttestationResult,
    Check,
    Question,
    Tier,
)
from attestation.errors import DecodeError, EnclaveError, SignatureInvalidError, VerificationError

_PACKAGES: Final = ("attestation.appraisal.", "attestation.endorsements.")


def _refusals(kind: type[EnclaveError]) -> Iterator[type[EnclaveError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from _refusals(below)


def _advice() -> dict[str, str]:
    kinds: list[type[EnclaveError]] = [DecodeError, SignatureInvalidError]
    kinds += [
        kind for kind in _refusals(VerificationError) if kind.__module__.startswith(_PACKAGES)
    ]
    return {kind.code: _first_paragraph(kind) for kind in kinds}


def _first_paragraph(kind: type[EnclaveError]) -> str:
    return " ".join(cleandoc(kind.__doc__ or "").split("\n\n")[0].split())


ADVICE: Final[Mapping[str, str]] = {
    **_advice(),
    "not-reached": "Correct the refused step before it; this one then says more.",
    "insecure": "For development only: nothing is proven about the machine.",
}
"""What to do, by the code of a check."""

QUESTIONS: Final[Mapping[Question, str]] = {
    Question.AUTHENTIC: "did genuine hardware sign exactly this?",
    Question.ACCEPTABLE: "does the policy want what was signed?",
}

_ANSWERS: Final[Mapping[Tier, str]] = {
    Tier.AFFIRMING: "yes",
    Tier.WARNING: "yes, with a weakness that the policy names",
    Tier.UNVERIFIABLE: "cannot be told: something is missing on our side",
    Tier.CONTRAINDICATED: "NO",
}


def verdict(result: AttestationResult) -> str:
    """Return the one line that everything else explains."""
    label = "INSECURE " if result.insecure else ""
    return (
        f"{'accepted' if result.accepted else 'REFUSED'}: {label}evidence of kind {result.kind!r}"
    )


def answer(result: AttestationResult, question: Question) -> str:
    """Return the answer to one of the two questions, from the checks that belong to it."""
    checks = [check for check in result.checks if check.question is question]
    reached = [check.tier for check in checks if check.code != NOT_REACHED]
    worst = max(reached, key=list(Tier).index, default=None)
    if worst is None or (worst.accepted and len(reached) < len(checks)):
        return "not answered: an earlier step was refused"
    return _ANSWERS[worst]


def about(result: AttestationResult) -> Iterator[tuple[str, str]]:
    """Yield what a verdict belongs to, by name: change one of these and it is another verdict."""
    yield "evidence", f"sha256:{result.evidence_digest.hex()}"
    yield "policy", f"sha256:{result.policy_digest.hex()}"
    count = len(result.collateral.items)
    yield (
        "collateral",
        f"{count} items, sha256:{result.collateral.digest().hex()}" if count else "none was given",
    )
    yield "judged as of", result.appraised_at.isoformat()
    challenge = "none of the caller's own; judged by age"
    yield "Challenge", challenge if result.nonce is None else result.nonce.hex()


def explain(result: AttestationResult) -> Iterator[str]:
    """Yield lines for a terminal: the verdict, its two halves, then every step of the reasoning."""
    yield verdict(result)
    yield f"tier: {result.tier.value}"
    for question, words in QUESTIONS.items():
        yield f"{question.value}: {words} {answer(result, question)}"
    for name, value in about(result):
        yield f"{name}: {value}"
    for name, value in result.claims.items():
        yield f"claim: {name}: {value}"
    for check in result.checks:
        yield from _explain(check)


def advice(check: Check) -> str:
    """Return what to do about a check; nothing where there is nothing to do."""
    return "" if check.code == OK else ADVICE.get(check.code, "")


def _explain(check: Check) -> Iterator[str]:
    yield (
        f"({check.number}) {check.name}: {check.tier.value} [{check.code}] {check.detail}"
        f" ({check.question.value})"
    )
    if found := advice(check):
        yield f"      {found}"
