"""From the checks of an appraisal to the three words that an index of vectors knows, and back."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from attrs import frozen

from attestation.appraisal.result import NOT_REACHED, Check, Question, Tier

AUTHENTIC: Final = "authentic"
REJECT: Final = "reject"
UNVERIFIABLE: Final = "unverifiable"
PASS: Final = "pass"
FAIL: Final = "fail"

Words: TypeAlias = Mapping[str, str] | Callable[[Check], str]
"""The index's word for a check that failed: by our code, or by all that is known of the check."""

Judged: TypeAlias = tuple[tuple[Check, ...], Words]


@frozen(kw_only=True)
class Got:
    """What was found, in the index's words. `appraisal` is None unless the verdict is authentic."""

    verdict: str
    appraisal: str | None
    reasons: tuple[str, ...]

    def to_map(self) -> dict[str, Any]:
        """Return the member `got` of a line."""
        appraisal = {} if self.appraisal is None else {"appraisal": self.appraisal}
        return {"verdict": self.verdict, **appraisal, "reasons": list(self.reasons)}


def conclude(checks: Sequence[Check], words: Words) -> Got:
    """Sum up `checks`: authenticity first, and only what is authentic passes or fails a policy.

    An appraisal without a check of authenticity has shown none.
    """
    authentic = [check for check in checks if check.question is Question.AUTHENTIC]
    acceptable = [check for check in checks if check.question is Question.ACCEPTABLE]
    if any(check.tier is Tier.CONTRAINDICATED for check in authentic):
        refused = [check for check in authentic if check.tier is Tier.CONTRAINDICATED]
        return Got(verdict=REJECT, appraisal=None, reasons=_reasons(refused, words))
    if not authentic or any(not check.tier.accepted for check in authentic):
        return Got(verdict=UNVERIFIABLE, appraisal=None, reasons=_reasons(authentic, words))
    appraisal = None
    if acceptable:
        appraisal = PASS if all(check.tier.accepted for check in acceptable) else FAIL
    return Got(verdict=AUTHENTIC, appraisal=appraisal, reasons=_reasons(acceptable, words))


def agrees(expected: Mapping[str, Any], got: Got) -> bool:
    """Whether `got` is what the index expects: the verdict, the appraisal, one of the reasons."""
    if got.verdict != expected.get("verdict"):
        return False
    if expected.get("appraisal") not in (None, got.appraisal):
        return False
    reasons = expected.get("reasons")
    return not reasons or not set(reasons).isdisjoint(got.reasons)


def _reasons(checks: Sequence[Check], words: Words) -> tuple[str, ...]:
    refused = [check for check in checks if not check.tier.accepted and check.code != NOT_REACHED]
    return tuple(dict.fromkeys(_word(check, words) for check in refused))


def _word(check: Check, words: Words) -> str:
    word = words.get(check.code, check.code) if isinstance(words, Mapping) else words(check)
    # The index writes its words with underscores; a code that it has no other word for as well.
    return word.replace("-", "_") if word == check.code else word
