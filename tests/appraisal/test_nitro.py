"""Evidence of kind `nitro`: one accepted enclave, and one test for each attack on it."""

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any
from unittest.mock import patch

import attrs
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from attestation.appraisal import nitro, verifier
from attestation.appraisal.checklist import CannotContinueError, Checklist
from attestation.appraisal.claims import Case, Claims
from attestation.appraisal.result import AttestationResult, Question, Tier
from attestation.appraisal.verifier import appraise
from attestation.endorsements import aws
from attestation.endorsements.collateral import NO_COLLATERAL
from attestation.evidence.binding import NonceTree
from attestation.evidence.bundle import EvidenceBundle
from attestation.evidence.nitro import KIND, NitroEvidence
from attestation.policy.nitro import NitroPolicy
from attestation.policy.policy import Policy
from tests.simulators.evidence import NOW, bundle_for, draw_keyset, tpm_policy
from tests.simulators.nitro import IMAGE, LEAF_LIFE, PCRS, SimulatedAws, SimulatedNsm

EVERY = bool(os.environ.get("EVERY_FLIP"))

AWS = SimulatedAws()
NSM = SimulatedNsm(vendor=AWS)
KEYSET = draw_keyset()
NONCE = os.urandom(32)
TREE = NonceTree.over([NONCE])
POLICY = NitroPolicy(pcrs=((0, (bytes(range(1, 49)), IMAGE)),), max_age_seconds=600)


@pytest.fixture(autouse=True)
def simulated_root() -> Iterator[None]:
    """Let the simulated root count instead of AWS's."""

    def trusting(case: Case, checks: Checklist) -> Claims:
        return nitro.appraise(case, checks, root=AWS.root)

    with patch.dict(verifier.KINDS, {KIND: (nitro.STEPS, trusting)}):  # type: ignore[arg-type]
        yield


def whole(policy: NitroPolicy | None = POLICY) -> Policy:
    base = tpm_policy({})
    evidence = attrs.evolve(base.evidence, kinds=(KIND,))
    return attrs.evolve(base, tpm=None, nitro=policy, evidence=evidence)


def judge(
    nsm: SimulatedNsm = NSM, policy: NitroPolicy | None = POLICY, **changes: Any
) -> AttestationResult:
    bundle: EvidenceBundle = bundle_for(KEYSET, TREE, nsm.collect, kind=KIND)
    bundle = attrs.evolve(bundle, **changes.pop("bundle", {}))
    arguments = {"nonce": NONCE, "path": TREE.proofs[0], "now": NOW} | changes
    return appraise(bundle, policy=whole(policy), **arguments)


def codes(result: AttestationResult) -> list[str]:
    assert not result.accepted
    return [check.code for check in result.refusals]


def questions(result: AttestationResult) -> set[Question]:
    return {check.question for check in result.refusals}


def test_an_honest_document_is_affirmed_in_every_numbered_step() -> None:
    result = judge()
    assert result.tier is Tier.AFFIRMING
    assert [check.number for check in result.checks] == list(range(1, 17))
    assert result.claims["module"] == "i-0-enc0"
    assert result.recipient_key().keyset_id == KEYSET.keyset_id()


# -- format --


@pytest.mark.parametrize("body", [b"", b"\xa0", b"document"])
def test_a_body_that_does_not_parse_is_malformed(body: bytes) -> None:
    assert codes(judge(bundle={"body": body})) == ["malformed"]


def test_a_document_that_does_not_parse_is_malformed() -> None:
    assert codes(judge(NSM.but(header={1: -7}))) == ["malformed"]


# -- certificates --


def test_a_line_of_the_same_names_under_another_root_is_refused() -> None:
    """Everybody can make a CA that is called aws.nitro-enclaves."""
    assert codes(judge(NSM.but(vendor=SimulatedAws()))) == ["chain-not-anchored"]


def test_a_pinned_root_in_front_of_a_foreign_line_is_refused() -> None:
    foreign = SimulatedAws()
    bundle = [entry.public_bytes(Encoding.DER) for entry in foreign.line[:-1]]
    bundle[0] = AWS.root().public_bytes(Encoding.DER)
    assert codes(judge(NSM.but(vendor=foreign, bundle=tuple(bundle)))) == ["chain-invalid"]


@pytest.mark.parametrize(
    "order", [(1, 0, 2, 3), (0, 2, 1, 3), (3, 2, 1, 0), (0, 1, 2), (0, 1, 3), (0, 1, 2, 3, 3)]
)
def test_a_bundle_in_another_order_or_with_a_gap_is_refused(order: tuple[int, ...]) -> None:
    ders = [entry.public_bytes(Encoding.DER) for entry in AWS.line]
    result = judge(NSM.but(bundle=tuple(ders[place] for place in order)))
    assert codes(result) in (["chain-invalid"], ["chain-not-anchored"])


@pytest.mark.parametrize("place", [1, 2, 3])
def test_a_certificate_that_is_no_ca_issues_nothing(place: int) -> None:
    """An enclave's owner who held some leaf's key could otherwise go on from there."""
    authorities = tuple(index != place for index in range(4))
    vendor = attrs.evolve(AWS, authorities=authorities)
    assert codes(judge(NSM.but(vendor=vendor))) == ["chain-invalid"]


def test_more_cas_than_a_ca_allows_are_refused() -> None:
    vendor = attrs.evolve(AWS, depths=(None, 1, 1, 0))
    assert codes(judge(NSM.but(vendor=vendor))) == ["chain-invalid"]


def test_garbage_instead_of_a_certificate_is_malformed() -> None:
    assert set(codes(judge(NSM.but(fields={"certificate": b"\x30\x03abc"})))) == {"malformed"}


@pytest.mark.parametrize(
    ("begins", "code"),
    [
        (NOW - LEAF_LIFE - timedelta(seconds=1), "certificate-expired"),
        (NOW + timedelta(minutes=1), "certificate-not-yet-valid"),
    ],
)
def test_an_enclaves_key_outside_its_life_is_refused(begins: Any, code: str) -> None:
    vendor = attrs.evolve(AWS, leaf_from=begins)
    assert codes(judge(NSM.but(vendor=vendor)))[0] == code


def test_all_that_is_wrong_with_a_document_is_found_in_one_run() -> None:
    """Whoever changed one in several places hides none of them behind the first."""
    stranger = ec.generate_private_key(ec.SECP384R1())
    vendor = attrs.evolve(AWS, leaf_from=NOW - LEAF_LIFE - timedelta(seconds=1))
    found = codes(judge(NSM.but(vendor=vendor, key=stranger)))
    assert {"certificate-expired", "signature-invalid"} <= set(found)


# -- signature and time --


def test_a_document_signed_by_another_key_is_refused() -> None:
    stranger = ec.generate_private_key(ec.SECP384R1())
    assert codes(judge(NSM.but(key=stranger))) == ["signature-invalid"]


@pytest.mark.parametrize("shift", [timedelta(seconds=31), timedelta(days=900)])
def test_a_document_from_the_future_is_refused(shift: timedelta) -> None:
    result = judge(NSM.but(made_at=NOW + shift))
    assert codes(result) == ["document-time"]


def test_a_document_older_than_its_key_is_refused() -> None:
    result = judge(NSM.but(made_at=NOW - timedelta(hours=1)))
    assert codes(result) == ["document-time", "document-stale"]


def test_clocks_may_differ_by_half_a_minute() -> None:
    assert judge(NSM.but(made_at=NOW + timedelta(seconds=29))).accepted


def test_a_document_older_than_the_policy_allows_is_genuine_and_refused() -> None:
    """Its certificate is still good for hours: age is the policy's word, not the chain's."""
    vendor = attrs.evolve(AWS, leaf_from=NOW - timedelta(hours=1))
    old = NSM.but(vendor=vendor, made_at=NOW - timedelta(minutes=11))
    result = judge(old)
    assert codes(result) == ["document-stale"]
    assert questions(result) == {Question.ACCEPTABLE}


# -- debug and reference values --


@pytest.mark.parametrize("zero", [(0, 1, 2), (0,), (2,)])
def test_a_debug_enclave_is_genuine_and_refused(zero: tuple[int, ...]) -> None:
    debug = NSM.but(pcrs=dict(PCRS) | dict.fromkeys(zero, bytes(48)))
    anything = NitroPolicy(pcrs=(), accept_any_pcrs=True, max_age_seconds=600)
    result = judge(debug, anything)
    assert codes(result) == ["debug-enclave"]
    assert questions(result) == {Question.ACCEPTABLE}


def test_a_debug_enclave_that_the_policy_allows_is_a_warning() -> None:
    debug = NSM.but(pcrs=dict(PCRS) | {0: bytes(48)})
    lax = NitroPolicy(pcrs=(), accept_any_pcrs=True, allow_debug=True, max_age_seconds=600)
    result = judge(debug, lax)
    assert result.tier is Tier.WARNING


def test_another_image_is_refused() -> None:
    other = NSM.but(pcrs=dict(PCRS) | {0: b"o" * 48})
    assert codes(judge(other)) == ["pcr-not-accepted"]


def test_a_pcr_that_is_not_in_the_document_is_refused() -> None:
    fewer = {index: value for index, value in PCRS.items() if index != 0}
    assert codes(judge(NSM.but(pcrs=fewer))) == ["pcr-not-quoted"]


def test_a_policy_without_pcrs_denies() -> None:
    result = judge(policy=NitroPolicy(pcrs=(), max_age_seconds=600))
    assert codes(result) == ["reference-values-missing"]


def test_a_policy_without_a_table_denies() -> None:
    assert "reference-values-missing" in codes(judge(policy=None, now=NOW + timedelta(seconds=1)))


# -- binding --


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"user_data": None}, id="none"),
        pytest.param({"user_data": b""}, id="empty"),
        pytest.param({"user_data": bytes(64)}, id="another"),
        pytest.param({"user_data": None, "nonce": bytes(64)}, id="in the wrong field"),
    ],
)
def test_a_document_about_something_else_is_refused(fields: Mapping[str, Any]) -> None:
    assert codes(judge(NSM.but(fields=fields))) == ["binding-mismatch"]


def test_user_data_that_only_begin_like_the_report_data_are_refused() -> None:
    def longer(data: bytes) -> bytes:
        return NSM.collect(data + b"\0")

    bundle = bundle_for(KEYSET, TREE, longer, kind=KIND)
    result = appraise(bundle, policy=whole(), nonce=NONCE, path=TREE.proofs[0], now=NOW)
    assert codes(result) == ["binding-mismatch"]


def test_evidence_for_another_workers_key_is_refused() -> None:
    swapped = {"keyset": draw_keyset().to_bytes()}
    assert codes(judge(bundle=swapped)) == ["binding-mismatch"]


# -- flips --


def test_no_flipped_byte_of_a_document_is_accepted() -> None:
    """The frame has no byte to spare, and everything inside it is signed or is the signature."""
    anything = NitroPolicy(pcrs=(), accept_any_pcrs=True, max_age_seconds=600)
    good = NSM.document(b"data")
    assert examined(good, anything)
    for offset in range(0, len(good), 1 if EVERY else 3):
        changed = good[:offset] + bytes([good[offset] ^ 1 << offset % 8]) + good[offset + 1 :]
        assert not examined(changed, anything), f"byte {offset}"


def examined(document: bytes, policy: NitroPolicy) -> bool:
    checks = Checklist()
    checks.announce(nitro.REPORT_STEPS)
    with suppress(CannotContinueError):
        nitro.examine(
            NitroEvidence(document=document),
            policy=policy,
            collateral=NO_COLLATERAL,
            now=NOW,
            checks=checks,
            root=AWS.root,
        )
    return all(check.tier.accepted for check in checks.finish())


def test_the_root_that_is_shipped_is_not_the_simulated_one() -> None:
    assert aws.root().public_bytes(Encoding.DER) != AWS.root().public_bytes(Encoding.DER)
