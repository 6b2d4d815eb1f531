"""Appraise Evidence under a policy, in the numbered steps of docs/appraisal.md.

Steps 1 to 7 are about every kind, the rest are the kind's own. A refused step does not end the
appraisal unless the later ones need what it did not yield, so that one run shows everything that is
wrong. No clock, no network, no randomness: the time and the Challenge are arguments.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final, TypeAlias

from attestation import limits
from attestation.appraisal import (
    azure_snp_vtpm,
    azure_tdx_vtpm,
    insecure,
    nitro,
    nvidia_composite,
    sev_snp,
    sgx,
    tdx,
    tpm,
)
from attestation.appraisal.checklist import CannotContinueError, Checklist, Step
from attestation.appraisal.claims import Case, Claims
from attestation.appraisal.refusals import (
    CatalogueNotAcceptedError,
    EvidenceStaleError,
    KeySetExpiredError,
    KeySetLifeError,
    KeySetNotYetValidError,
    KindNotAcceptedError,
    KindUnknownError,
    NonceMismatchError,
    NonceNeededError,
)
from attestation.appraisal.result import AttestationResult
from attestation.encoding.digests import Label, digest
from attestation.endorsements.collateral import NO_COLLATERAL, Collateral
from attestation.errors import LocalProtocolError, VerificationError
from attestation.evidence.azure_vtpm import SNP_KIND as AZURE_SNP
from attestation.evidence.azure_vtpm import TDX_KIND as AZURE_TDX
from attestation.evidence.binding import FreshnessProof
from attestation.evidence.bundle import EvidenceBundle, EvidenceRecord
from attestation.evidence.insecure import KIND as INSECURE
from attestation.evidence.keyset import KeySet
from attestation.evidence.nitro import KIND as NITRO
from attestation.evidence.sev_snp import KIND as SEV_SNP
from attestation.evidence.sgx import KIND as SGX
from attestation.evidence.tdx import KIND as TDX
from attestation.evidence.tpm import KIND as TPM
from attestation.policy.policy import Policy

Appraiser: TypeAlias = Callable[[Case, Checklist], Claims]

STEPS: Final = (
    Step.acceptable("kind"),
    Step.authentic("key set"),
    Step.authentic("key set window"),
    Step.acceptable("key set lifetime"),
    Step.acceptable("catalogue"),
    Step.authentic("freshness"),
    Step.acceptable("GPU evidence"),
)

KINDS: Final[Mapping[str, tuple[tuple[Step, ...], Appraiser]]] = {
    TPM: (tpm.STEPS, tpm.appraise),
    SEV_SNP: (sev_snp.STEPS, sev_snp.appraise),
    TDX: (tdx.STEPS, tdx.appraise),
    SGX: (sgx.STEPS, sgx.appraise),
    AZURE_SNP: (azure_snp_vtpm.STEPS, azure_snp_vtpm.appraise),
    AZURE_TDX: (azure_tdx_vtpm.STEPS, azure_tdx_vtpm.appraise),
    NITRO: (nitro.STEPS, nitro.appraise),
    INSECURE: (insecure.STEPS, insecure.appraise),
}

_SKEW: Final = timedelta(seconds=limits.CLOCK_SKEW_SECONDS)


class EvidenceFileError(VerificationError):
    """The catalogue in an evidence file is not the one its key set names. Discard the file."""

    code = "evidence-file-inconsistent"


def appraise(
    bundle: EvidenceBundle,
    *,
    policy: Policy,
    nonce: bytes | None,
    path: FreshnessProof | None,
    now: datetime,
    collateral: Collateral = NO_COLLATERAL,
) -> AttestationResult:
    """Judge `bundle` at `now`; a bad verdict is a result, not an exception.

    `nonce` is the caller's own Challenge and `path` the proof that came with the Evidence. Without
    a nonce, freshness is judged by age. What a kind needs of `collateral` and does not find there
    is *unverifiable*.
    """
    if now.tzinfo is None:
        raise LocalProtocolError("an appraisal needs a time with its time zone")
    checks = Checklist()
    checks.announce(STEPS)
    keyset: KeySet | None = None
    claims: Claims = {}
    try:
        # (1) The policy accepts this kind, and we can appraise it.
        steps, appraiser = checks.need("accepted by the policy", _kind, bundle, policy)
        checks.announce(steps)
        if bundle.gpu_evidence is not None and policy.gpu is not None:
            checks.announce(nvidia_composite.STEPS)
        # (2) The key set parses.
        keyset = checks.need("well formed", KeySet.from_bytes, bundle.keyset)
        # (3) It is alive at `now`, (4) for no longer than the policy allows.
        checks.run(_window, keyset, now)
        checks.run(_lifetime, keyset, policy)
        # (5) The policy names the kernels that it serves.
        checks.run(_catalogue, keyset, policy)
        # (6) The Evidence answers our Challenge, or is young enough.
        checks.run(_freshness, bundle, keyset, policy, nonce, path, now)
        # (7) There is GPU Evidence if the policy wants some, and none that nobody would look at.
        checks.run(nvidia_composite.presence, bundle, policy)
        # (8...) What this kind is made of.
        case = Case(bundle=bundle, keyset=keyset, policy=policy, collateral=collateral, now=now)
        claims = appraiser(case, checks)
        # (...) What its GPUs are made of, and that the CPU vouches for them.
        if bundle.gpu_evidence is not None and policy.gpu is not None:
            gpus = nvidia_composite.appraise(case, policy.gpu, bundle.gpu_evidence, checks)
            claims = {**claims, **gpus}
    except CannotContinueError:
        pass  # the step that failed is on the list, and the rest will be as not reached
    return AttestationResult(
        checks=checks.finish(),
        kind=bundle.kind,
        insecure=bundle.kind == INSECURE,
        keyset=keyset,
        evidence_digest=bundle.digest(),
        policy_digest=policy.digest(),
        catalogue_digest=None if keyset is None else keyset.catalogue_digest,
        nonce=nonce,
        appraised_at=now,
        claims=claims,
        collateral=collateral,
    )


def appraise_record(
    record: EvidenceRecord,
    *,
    policy: Policy,
    nonce: bytes | None,
    now: datetime,
    collateral: Collateral = NO_COLLATERAL,
) -> AttestationResult:
    """Judge an evidence file; raises `EvidenceFileError` and, for what is in it, `DecodeError`.

    The nonce in the file is not used as the Challenge: only the caller knows what he asked. Of the
    collateral in the file those kinds are used of which the caller gives nothing himself.
    """
    kept = Collateral.from_bytes(record.collateral)
    bundle = EvidenceBundle.from_bytes(record.bundle)
    result = appraise(
        bundle,
        policy=policy,
        nonce=nonce,
        path=record.proof(),
        now=now,
        collateral=collateral.over(kept),
    )
    if result.catalogue_digest not in (None, digest(Label.CATALOGUE, record.catalogue)):
        raise EvidenceFileError("the catalogue is not the one that the key set names")
    return result


def _kind(bundle: EvidenceBundle, policy: Policy) -> tuple[tuple[Step, ...], Appraiser]:
    known = KINDS.get(bundle.kind)
    if known is None:
        raise KindUnknownError(f"evidence of kind {bundle.kind!r}")
    if bundle.kind not in policy.evidence.kinds:
        raise KindNotAcceptedError(f"the policy does not accept kind {bundle.kind!r}")
    return known


def _window(keyset: KeySet, now: datetime) -> str:
    if now > _time(keyset.not_after_ms):
        raise KeySetExpiredError(f"ended at {_time(keyset.not_after_ms).isoformat()}")
    if now < _time(keyset.not_before_ms) - _SKEW:
        raise KeySetNotYetValidError(f"begins at {_time(keyset.not_before_ms).isoformat()}")
    return f"until {_time(keyset.not_after_ms).isoformat()}"


def _lifetime(keyset: KeySet, policy: Policy) -> str:
    seconds = keyset.lifetime_ms / 1000
    if seconds > policy.keys.max_lifetime_seconds:
        raise KeySetLifeError(
            f"lives {seconds:g} s where {policy.keys.max_lifetime_seconds} s are allowed"
        )
    return f"{seconds:g} s"


def _catalogue(keyset: KeySet, policy: Policy) -> str:
    if not policy.catalogue.accepts(keyset.catalogue_digest):
        raise CatalogueNotAcceptedError(f"sha256:{keyset.catalogue_digest.hex()} is not named")
    return "any: the policy says so" if policy.catalogue.accept_any else "named by the policy"


def _freshness(
    bundle: EvidenceBundle,
    keyset: KeySet,
    policy: Policy,
    nonce: bytes | None,
    path: FreshnessProof | None,
    now: datetime,
) -> str:
    if nonce is not None:
        if path is None:
            raise NonceMismatchError("no proof that the Challenge is among those answered")
        try:
            path.verify(nonce, nonce_root=bundle.nonce_root)
        except VerificationError as error:
            raise NonceMismatchError(str(error)) from error
        return f"answers the Challenge, one of {path.tree_size}"
    limit = policy.evidence.max_age_seconds
    if limit == 0:
        raise NonceNeededError("no Challenge was given, and the policy sets no max_age_seconds")
    # The key set is drawn when the Challenges are known, so its beginning dates the Evidence.
    age = now - _time(keyset.not_before_ms)
    if age > timedelta(seconds=limit):
        raise EvidenceStaleError(f"{age.total_seconds():g} s old where {limit} s are allowed")
    return f"no Challenge given; {age.total_seconds():g} s old"


def _time(milliseconds: int) -> datetime:
    try:
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds)
    except OverflowError:
        return datetime.max.replace(tzinfo=UTC)
