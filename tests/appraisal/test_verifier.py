"""Steps 1 to 7, which every kind of Evidence goes through, and what an AttestationResult gives."""

import json
import os
from datetime import timedelta
from typing import Any

import attrs
import pytest

from attestation import limits
from attestation.appraisal.explanation import ADVICE, explain
from attestation.appraisal.result import (
    NOT_REACHED,
    AttestationResult,
    Check,
    Question,
    RecipientKey,
    Tier,
)
from attestation.appraisal.verifier import EvidenceFileError, appraise, appraise_record
from attestation.endorsements.collateral import NO_COLLATERAL
from attestation.errors import EvidenceRefusedError, LocalProtocolError
from attestation.evidence.binding import FreshnessProof, NonceTree
from attestation.evidence.bundle import EvidenceBundle, EvidenceRecord
from attestation.evidence.keyset import KeySet
from attestation.policy.policy import CataloguePolicy, KeyPolicy, Policy
from tests.simulators.evidence import (
    CATALOGUE,
    NOW,
    bundle_for,
    collect_insecure,
    draw_keyset,
    insecure_policy,
    milliseconds,
    tpm_policy,
)

NONCES = tuple(os.urandom(32) for _ in range(5))
TREE = NonceTree.over(NONCES)


def insecure_bundle(keyset: KeySet | None = None) -> EvidenceBundle:
    return bundle_for(keyset or draw_keyset(), TREE, collect_insecure, kind="insecure")


def judge(
    bundle: EvidenceBundle, policy: Policy | None = None, **changes: Any
) -> AttestationResult:
    arguments: dict[str, Any] = {"nonce": NONCES[2], "path": TREE.proofs[2], "now": NOW}
    return appraise(bundle, policy=policy or insecure_policy(), **(arguments | changes))


def codes(result: AttestationResult) -> list[str]:
    with pytest.raises(EvidenceRefusedError):
        result.require_accepted()
    return [check.code for check in result.refusals]


# -- insecure --


def test_insecure_evidence_is_a_warning_at_best_and_says_so_everywhere() -> None:
    result = judge(insecure_bundle())
    assert result.accepted
    assert result.tier is Tier.WARNING
    assert result.insecure
    assert result.to_map()["insecure"] is True
    assert any("INSECURE" in line for line in explain(result))


def test_insecure_evidence_is_refused_by_a_policy_that_does_not_say_so() -> None:
    result = judge(insecure_bundle(), insecure_policy(allow=False))
    assert codes(result) == ["insecure-refused"]
    assert result.tier is Tier.CONTRAINDICATED
    assert result.insecure


def test_insecure_evidence_is_refused_by_a_policy_for_tpms() -> None:
    result = judge(insecure_bundle(), tpm_policy({11: [bytes(32)]}))
    assert codes(result) == ["kind-not-accepted"]
    assert {check.code for check in result.checks[1:]} == {NOT_REACHED}


def test_insecure_evidence_relabelled_as_a_tpms_is_refused() -> None:
    relabelled = attrs.evolve(insecure_bundle(), kind="tpm")
    result = judge(relabelled, tpm_policy({11: [bytes(32)]}))
    assert codes(result) == ["malformed"]


def test_insecure_evidence_for_another_key_set_is_refused() -> None:
    swapped = attrs.evolve(insecure_bundle(), keyset=draw_keyset().to_bytes())
    assert codes(judge(swapped)) == ["binding-mismatch"]


# -- (1) kind --


@pytest.mark.parametrize("kind", ["", "TPM", "sev-es", "insecure\0", "INSECURE"])
def test_an_unknown_kind_is_refused(kind: str) -> None:
    result = judge(attrs.evolve(insecure_bundle(), kind=kind))
    assert codes(result) == ["kind-unknown"]
    assert result.keyset is None


# -- (2) key set --


@pytest.mark.parametrize("keyset", [b"", b"\xa0", draw_keyset().to_bytes() + b"\0"])
def test_a_malformed_key_set_yields_no_key(keyset: bytes) -> None:
    result = judge(attrs.evolve(insecure_bundle(), keyset=keyset))
    assert codes(result) == ["malformed"]
    assert result.keyset is None
    with pytest.raises(EvidenceRefusedError):
        result.recipient_key()


# -- (3) window --


def test_an_expired_key_set_is_refused() -> None:
    result = judge(insecure_bundle(), now=NOW + timedelta(hours=1, milliseconds=1))
    assert codes(result) == ["keyset-expired"]


def test_a_key_set_of_the_future_is_refused() -> None:
    early = NOW - timedelta(seconds=limits.CLOCK_SKEW_SECONDS, milliseconds=1)
    assert codes(judge(insecure_bundle(), now=early)) == ["keyset-not-yet-valid"]


def test_a_worker_whose_clock_runs_a_little_ahead_is_accepted() -> None:
    assert judge(insecure_bundle(), now=NOW - timedelta(seconds=limits.CLOCK_SKEW_SECONDS)).accepted


def test_a_key_set_at_the_end_of_time_is_refused_and_not_a_crash() -> None:
    last = (1 << 64) - 1
    keyset = draw_keyset(not_before_ms=last - 1000, not_after_ms=last)
    assert codes(judge(insecure_bundle(keyset))) == ["keyset-not-yet-valid"]


# -- (4) lifetime --


def test_a_key_set_that_lives_too_long_is_refused() -> None:
    policy = attrs.evolve(insecure_policy(), keys=KeyPolicy(max_lifetime_seconds=600))
    keyset = draw_keyset(lifetime=timedelta(seconds=600, milliseconds=1))
    assert codes(judge(insecure_bundle(keyset), policy)) == ["keyset-life-too-long"]


# -- (5) catalogue --


def test_a_catalogue_that_the_policy_does_not_name_is_refused() -> None:
    keyset = draw_keyset(catalogue_digest=bytes(32))
    assert codes(judge(insecure_bundle(keyset))) == ["catalogue-not-accepted"]


def test_a_policy_that_names_no_catalogue_denies() -> None:
    nothing = CataloguePolicy(accept_any=False, digests=())
    policy = attrs.evolve(insecure_policy(), catalogue=nothing)
    assert codes(judge(insecure_bundle(), policy)) == ["catalogue-not-accepted"]


# -- (6) freshness --


@pytest.mark.parametrize("index", range(len(NONCES)))
def test_every_challenge_of_the_window_is_answered(index: int) -> None:
    assert judge(insecure_bundle(), nonce=NONCES[index], path=TREE.proofs[index]).accepted


def test_evidence_for_another_nonce_is_refused() -> None:
    assert codes(judge(insecure_bundle(), nonce=os.urandom(32))) == ["nonce-mismatch"]


@pytest.mark.parametrize(
    "path",
    [
        None,
        TREE.proofs[3],
        attrs.evolve(TREE.proofs[2], path=()),
        attrs.evolve(TREE.proofs[2], path=(*TREE.proofs[2].path, bytes(32))),
        attrs.evolve(TREE.proofs[2], tree_size=3),
        FreshnessProof(leaf_index=0, tree_size=1, path=()),
    ],
)
def test_a_path_that_does_not_lead_to_the_signed_root_is_refused(
    path: FreshnessProof | None,
) -> None:
    assert codes(judge(insecure_bundle(), path=path)) == ["nonce-mismatch"]


def test_replayed_evidence_is_refused_without_a_challenge_of_ones_own() -> None:
    policy = insecure_policy()
    stale = attrs.evolve(policy, evidence=attrs.evolve(policy.evidence, max_age_seconds=60))
    at = NOW + timedelta(seconds=61)
    assert codes(judge(insecure_bundle(), stale, nonce=None, now=at)) == ["evidence-stale"]


def test_young_evidence_is_accepted_by_a_policy_that_sets_an_age() -> None:
    policy = insecure_policy()
    aged = attrs.evolve(policy, evidence=attrs.evolve(policy.evidence, max_age_seconds=60))
    assert judge(insecure_bundle(), aged, nonce=None, now=NOW + timedelta(seconds=60)).accepted


def test_a_policy_without_an_age_needs_a_challenge() -> None:
    assert codes(judge(insecure_bundle(), nonce=None, path=None)) == ["nonce-needed"]


# -- evidence files --


def record(bundle: EvidenceBundle, catalogue: bytes = CATALOGUE) -> EvidenceRecord:
    proof = TREE.proofs[2]
    return EvidenceRecord(
        bundle=bundle.to_bytes(),
        nonce=NONCES[2],
        leaf_index=proof.leaf_index,
        tree_size=proof.tree_size,
        path=proof.path,
        catalogue=catalogue,
        collateral=NO_COLLATERAL.to_bytes(),
    )


def test_an_evidence_file_is_judged_like_the_evidence_it_holds() -> None:
    bundle = insecure_bundle()
    kept = EvidenceRecord.from_bytes(record(bundle).to_bytes())
    again = appraise_record(kept, policy=insecure_policy(), nonce=NONCES[2], now=NOW)
    assert again.checks == judge(bundle).checks


def test_the_nonce_in_an_evidence_file_does_not_make_it_fresh() -> None:
    result = appraise_record(
        record(insecure_bundle()), policy=insecure_policy(), nonce=None, now=NOW
    )
    assert codes(result) == ["nonce-needed"]


def test_an_evidence_file_with_another_catalogue_is_refused() -> None:
    other = record(insecure_bundle(), b"other kernels")
    with pytest.raises(EvidenceFileError):
        appraise_record(other, policy=insecure_policy(), nonce=NONCES[2], now=NOW)


# -- the result --


def test_a_recipient_key_cannot_be_made_by_hand() -> None:
    honest = judge(insecure_bundle()).recipient_key()
    with pytest.raises(LocalProtocolError):
        RecipientKey(
            keyset_id=honest.keyset_id, kem=honest.kem, public_bytes=bytes(1216), origin=object()
        )


def test_a_recipient_key_does_not_show_its_bytes() -> None:
    key = judge(insecure_bundle()).recipient_key()
    assert key.public_bytes.hex()[:32] not in repr(key)
    assert repr(key.public_bytes)[2:20] not in repr(key)


def test_a_result_without_checks_is_not_accepted() -> None:
    empty = attrs.evolve(judge(insecure_bundle()), checks=())
    assert empty.tier is Tier.UNVERIFIABLE
    with pytest.raises(EvidenceRefusedError):
        empty.recipient_key()


@pytest.mark.parametrize("tier", [Tier.UNVERIFIABLE, Tier.CONTRAINDICATED])
def test_one_bad_check_among_good_ones_refuses(tier: Tier) -> None:
    good = judge(insecure_bundle())
    bad = Check(
        number=99, name="extra", question=Question.ACCEPTABLE, tier=tier, code="extra", detail=""
    )
    result = attrs.evolve(good, checks=(bad, *good.checks))
    assert result.tier is tier
    with pytest.raises(EvidenceRefusedError):
        result.recipient_key()


def test_a_result_has_a_json_form() -> None:
    document = json.loads(json.dumps(judge(insecure_bundle()).to_map()))
    assert document["accepted"] is True
    assert document["tier"] == "warning"
    assert [check["number"] for check in document["checks"]] == list(range(1, 11))


def test_every_refusal_comes_with_advice() -> None:
    unnamed = draw_keyset(catalogue_digest=bytes(32))
    result = judge(insecure_bundle(unnamed), insecure_policy(allow=False), nonce=None)
    assert len(result.refusals) == 3
    lines = list(explain(result))
    for check in result.refusals:
        assert ADVICE[check.code]
        assert any(ADVICE[check.code] in line for line in lines)


def test_the_life_of_a_key_set_is_in_milliseconds() -> None:
    assert draw_keyset().not_after_ms - milliseconds(NOW) == 3_600_000
