"""Run numbered steps, turn what they raise into `Check`s, and never lose one."""

from collections.abc import Callable, Sequence
from typing import Final, ParamSpec, TypeVar

from attrs import frozen

from attestation.appraisal.refusals import ReferenceValuesMissingError
from attestation.appraisal.result import NOT_REACHED, OK, Check, Tier
from attestation.endorsements.tpm import KeyNotEndorsedError
from attestation.errors import DecodeError, LocalProtocolError, VerificationError

P = ParamSpec("P")
T = TypeVar("T")

_UNVERIFIABLE: Final = (KeyNotEndorsedError, ReferenceValuesMissingError)
"""Something that this side would have to supply is missing: no word about the Evidence itself."""


class CannotContinueError(Exception):
    """A step failed without which the later ones mean nothing. Stays inside `appraisal`."""


@frozen(kw_only=True)
class Weakness:
    """What a step returns when it passes only because the policy names this weakness."""

    code: str
    detail: str


class Checklist:
    """The steps of one appraisal, in order; a step that is not run is `not-reached`."""

    def __init__(self) -> None:
        """Start with no steps: `announce` says which there are."""
        self._names: list[str] = []
        self._checks: list[Check] = []

    def announce(self, names: Sequence[str]) -> None:
        """Append steps to the list of those that must be run."""
        self._names += names

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

    def finish(self) -> tuple[Check, ...]:
        """Return one check for every step that was announced."""
        while len(self._checks) < len(self._names):
            self._record(Tier.UNVERIFIABLE, NOT_REACHED, "an earlier step makes it meaningless")
        return tuple(self._checks)

    def _refuse(self, error: DecodeError | VerificationError) -> None:
        tier = Tier.UNVERIFIABLE if isinstance(error, _UNVERIFIABLE) else Tier.CONTRAINDICATED
        self._record(tier, error.code, str(error))

    def _record(self, tier: Tier, code: str, detail: str) -> None:
        number = len(self._checks) + 1
        if number > len(self._names):
            raise LocalProtocolError("a step that was not announced")
        self._checks.append(
            Check(number=number, name=self._names[number - 1], tier=tier, code=code, detail=detail)
        )
