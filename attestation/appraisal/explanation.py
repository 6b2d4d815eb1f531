"""Say in words what an appraisal found, and what to do about each refusal."""

from collections.abc import Iterator, Mapping
from inspect import cleandoc
from typing import Final

import attestation.appraisal.verifier  # noqa: F401 - loads every refusal that is explained
from attestation.appraisal.result import AttestationResult, Check
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


def explain(result: AttestationResult) -> Iterator[str]:
    """Yield lines for a terminal: the verdict, then every check with advice where it matters."""
    yield f"{'accepted' if result.accepted else 'REFUSED'}: evidence of kind {result.kind!r}"
    yield f"tier: {result.tier.value}"
    for name, value in result.claims.items():
        yield f"claim: {name}: {value}"
    for check in result.checks:
        yield from _explain(check)


def _explain(check: Check) -> Iterator[str]:
    yield f"({check.number}) {check.name}: {check.tier.value} [{check.code}] {check.detail}"
    if check.code in ADVICE:
        yield f"      {ADVICE[check.code]}"
