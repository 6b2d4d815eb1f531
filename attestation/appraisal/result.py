"""What an appraisal found, and the only door from there to a key that data is sealed to."""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from attrs import Attribute, field, frozen

from attestation.endorsements.collateral import NO_COLLATERAL, Collateral
from attestation.errors import EvidenceRefusedError, LocalProtocolError
from attestation.evidence.keyset import Kem, KeySet
from attestation.identifiers import Digest, KeySetId

OK: Final = "ok"
"""Code of a check that passed."""

NOT_REACHED: Final = "not-reached"
"""Code of a check that an earlier one made meaningless."""

_ACCEPTED: Final = object()


class Tier(StrEnum):
    """How far the Evidence can be trusted, best first (draft-ietf-rats-ar4si section 2.3.2)."""

    AFFIRMING = "affirming"
    WARNING = "warning"
    """Accepted only because the policy names this weakness."""
    UNVERIFIABLE = "unverifiable"
    """An Endorsement or a Reference Value is missing. Not a forgery, and not accepted."""
    CONTRAINDICATED = "contraindicated"

    @property
    def accepted(self) -> bool:
        """Whether a Relying Party may act on it."""
        return self in (Tier.AFFIRMING, Tier.WARNING)


class Question(StrEnum):
    """What a check helps to answer: an auditor wants the first even where the second is no."""

    AUTHENTIC = "authentic"
    """Did genuine hardware sign exactly this? Signatures, chains, revocation, windows, binding."""
    ACCEPTABLE = "acceptable"
    """Does the Appraisal Policy want what it says? Measurements, versions, TCB, debug, products."""


_SEVERITY: Final = {tier: rank for rank, tier in enumerate(Tier)}


@frozen(kw_only=True)
class Check:
    """One numbered step of docs/appraisal.md and what it found; `code` is stable."""

    number: int
    name: str
    question: Question
    tier: Tier
    code: str
    detail: str

    def to_map(self) -> dict[str, Any]:
        """Return the check for `--json`."""
        return {
            "number": self.number,
            "name": self.name,
            "question": self.question.value,
            "tier": self.tier.value,
            "code": self.code,
            "detail": self.detail,
        }


def _from_an_accepted_result(_: object, __: "Attribute[object]", value: object) -> None:
    if value is not _ACCEPTED:
        raise LocalProtocolError("only an accepted AttestationResult gives out a RecipientKey")


@frozen(kw_only=True)
class RecipientKey:
    """A worker's HPKE public key. Only an accepted `AttestationResult` gives one out."""

    keyset_id: KeySetId
    kem: Kem
    public_bytes: bytes = field(repr=False)
    origin: object = field(repr=False, eq=False, validator=_from_an_accepted_result)


@frozen(kw_only=True)
class AttestationResult:
    """Every check of one appraisal, and what it was about.

    `keyset` is None only when it could not be parsed. `nonce` is the caller's Challenge, None when
    freshness was judged by age. Nothing in here may be acted on before `require_accepted`.
    """

    checks: tuple[Check, ...]
    kind: str
    insecure: bool
    keyset: KeySet | None
    evidence_digest: Digest
    policy_digest: Digest
    catalogue_digest: Digest | None
    nonce: bytes | None
    appraised_at: datetime
    claims: Mapping[str, str] = field(factory=dict)
    """What the Evidence says about its machine, for people to read."""
    collateral: Collateral = field(default=NO_COLLATERAL, repr=False)
    """What was there to judge with: another day's collateral may give another verdict."""

    @property
    def tier(self) -> Tier:
        """The worst of all checks; an appraisal without checks found nothing to trust."""
        return max(
            (check.tier for check in self.checks),
            key=_SEVERITY.__getitem__,
            default=Tier.UNVERIFIABLE,
        )

    @property
    def accepted(self) -> bool:
        """Whether every check passed. To act on it, call `require_accepted`, which raises."""
        return self.keyset is not None and self.tier.accepted

    @property
    def refusals(self) -> tuple[Check, ...]:
        """The checks that failed, without those that were never reached."""
        return tuple(
            check for check in self.checks if not check.tier.accepted and check.code != NOT_REACHED
        )

    def require_accepted(self) -> KeySet:
        """Return the accepted key set, or raise `AppraisalRefusedError`, which carries this."""
        if self.keyset is None or not self.accepted:
            raise AppraisalRefusedError(self)
        return self.keyset

    def recipient_key(self) -> RecipientKey:
        """Return the key that sessions are sealed to, or raise like `require_accepted`."""
        keyset = self.require_accepted()
        return RecipientKey(
            keyset_id=keyset.keyset_id(),
            kem=keyset.kem,
            public_bytes=keyset.kem_public_key,
            origin=_ACCEPTED,
        )

    def to_map(self) -> dict[str, Any]:
        """Return the result for `--json`: text, numbers and booleans only."""
        return {
            "accepted": self.accepted,
            "tier": self.tier.value,
            "insecure": self.insecure,
            "kind": self.kind,
            "appraised_at": self.appraised_at.isoformat(),
            "evidence_digest": self.evidence_digest.hex(),
            "policy_digest": self.policy_digest.hex(),
            "keyset_id": None if self.keyset is None else self.keyset.keyset_id().hex(),
            "catalogue_digest": _hex(self.catalogue_digest),
            "nonce": _hex(self.nonce),
            "collateral_digest": self.collateral.digest().hex(),
            "claims": dict(self.claims),
            "checks": [check.to_map() for check in self.checks],
        }


class AppraisalRefusedError(EvidenceRefusedError):
    """The Appraisal Policy does not accept this Evidence. `result` lists the checks that failed."""

    def __init__(self, result: AttestationResult) -> None:
        """Carry `result`; the message names each refused check by number and code."""
        refused = ", ".join(f"({check.number}) {check.code}" for check in result.refusals)
        super().__init__(f"evidence of kind {result.kind!r} was refused: {refused}")
        self.result = result


def _hex(value: bytes | None) -> str | None:
    return None if value is None else value.hex()
