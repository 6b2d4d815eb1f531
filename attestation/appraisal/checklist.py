"""Run numbered steps, turn what they raise into `Check`s, and never lose one."""

from collections.abc import Callable, Sequence
from typing import ParamSpec, Self, TypeVar

from attrs import frozen

from attestation.appraisal.result import NOT_REACHED, OK, Check, Question, Tier
from attestation.errors import DecodeError, LocalProtocolError, MissingError, VerificationError

P = ParamSpec("P")
T = TypeVar("T")


class CannotContinueError(Exception):
    """A step failed without which the later ones mean nothing. Stays inside `appraisal`."""


@frozen(kw_only=True)
class Weakness:
    """What a step returns when it passes only because the policy names this weakness."""

    code: str
    detail: str


@frozen
class Step:
    """A numbered step of docs/appraisal.md before it is run."""

    name: str
    question: Question

    @classmethod
    def authentic(cls, name: str) -> Self:
        """Name a step about whether genuine hardware signed this."""
        return cls(name, Question.AUTHENTIC)

    @classmethod
    def acceptable(cls, name: str) -> Self:
        """Name a step about whether the policy wants what was signed."""
        return cls(name, Question.ACCEPTABLE)


class Checklist:
    """The steps of one appraisal, in order; a step that is not run is `not-reached`."""

    def __init__(self) -> None:
        """Start with no steps: `announce` says which there are."""
        self._steps: list[Step] = []
        self._checks: list[Check] = []

    def announce(self, steps: Sequence[Step]) -> None:
        """Append steps to the list of those that must be run."""
        self._steps += steps

    def run(self, step: Callable[P, str | Weakness], *args: P.args, **kwargs: P.kwargs) -> None:
        """Run the next step: it returns its finding, or raises what it refuses."""
        try:
            finding = step(*args, **kwargs)
        except (DecodeError, VerificationError) as error:
            self._refuse(error)
            return
        if isinstance(finding, Weakness):
            self._record(Tier.WARNING, finding.code, finding.detail)
        else:
            self._record(Tier.AFFIRMING, OK, finding)

    def need(self, detail: str, step: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run the next step and return what it made; without it, there is no going on."""
        try:
            made = step(*args, **kwargs)
        except (DecodeError, VerificationError) as error:
            self._refuse(error)
            raise CannotContinueError from error
        self._record(Tier.AFFIRMING, OK, detail)
        return made

    def holds(self, question: Question) -> bool:
        """Whether every step so far that answers `question` has passed."""
        return all(check.tier.accepted for check in self._checks if check.question is question)

    def finish(self) -> tuple[Check, ...]:
        """Return one check for every step that was announced."""
        while len(self._checks) < len(self._steps):
            self._record(Tier.UNVERIFIABLE, NOT_REACHED, "an earlier step makes it meaningless")
        return tuple(self._checks)

    def _refuse(self, error: DecodeError | VerificationError) -> None:
        tier = Tier.UNVERIFIABLE if isinstance(error, MissingError) else Tier.CONTRAINDICATED
        self._record(tier, error.code, str(error))

    def _record(self, tier: Tier, code: str, detail: str) -> None:
        done = len(self._checks)
        if done == len(self._steps):
            raise LocalProtocolError("a step that was not announced")
        step = self._steps[done]
        self._checks.append(
            Check(
                number=done + 1,
                name=step.name,
                question=step.question,
                tier=tier,
                code=code,
                detail=detail,
            )
        )
