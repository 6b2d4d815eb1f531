"""Mistakes that verifiers of Intel quotes, and systems around them, shipped: here refusals."""

import hashlib
import json
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from attrs import evolve

from attestation.appraisal import tdx, verifier
from attestation.appraisal.result import AttestationResult
from attestation.endorsements.collateral import NO_COLLATERAL, Collateral
from attestation.evidence.binding import NonceTree
from attestation.evidence.bundle import EvidenceBundle
from attestation.evidence.keyset import KeySet
from attestation.evidence.tdx import TdxEvidence
from attestation.policy.policy import CataloguePolicy, EvidencePolicy, KeyPolicy, Policy
from tests.simulators.evidence import bundle_for, draw_keyset
from tests.simulators.intel import NOW, Domain, Intel, Platform, intel, p256, pem, tcb_level
from tests.simulators.intel_case import examine_td, gather, refused, tdx_policy

NONCE = hashlib.sha256(b"a Challenge").digest()


def policy() -> Policy:
    return Policy(
        evidence=EvidencePolicy(kinds=("tdx",), allow_insecure_evidence=False, max_age_seconds=0),
        keys=KeyPolicy(max_lifetime_seconds=3600),
        catalogue=CataloguePolicy(accept_any=True, digests=()),
        tdx=tdx_policy(),
    )


def collect(report_data: bytes) -> bytes:
    return TdxEvidence(quote=intel().td_quote(Domain(report_data=report_data))).to_bytes()


@pytest.fixture
def worker() -> tuple[KeySet, NonceTree, EvidenceBundle]:
    keyset, tree = draw_keyset(now=NOW), NonceTree.over([NONCE])
    return keyset, tree, bundle_for(keyset, tree, collect, kind="tdx")


@pytest.fixture(autouse=True)
def simulated_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the verifier pin the simulated root, as it pins Intel's: the only thing changed."""
    appraise = partial(tdx.appraise, root=lambda: intel().root.certificate)
    monkeypatch.setattr(verifier, "KINDS", {"tdx": (tdx.STEPS, appraise)})


def appraise(
    bundle: EvidenceBundle,
    tree: NonceTree,
    nonce: bytes = NONCE,
    collateral: Collateral | None = None,
    **changes: Any,
) -> AttestationResult:
    given = gather(intel().collateral()) if collateral is None else collateral
    return verifier.appraise(
        evolve(bundle, **changes),
        policy=policy(),
        nonce=nonce,
        path=tree.proofs[0],
        now=NOW,
        collateral=given,
    )


def codes(result: AttestationResult) -> set[str]:
    return {check.code for check in result.refusals}


def test_a_worker_with_a_good_quote_is_accepted(worker: Any) -> None:
    keyset, tree, bundle = worker
    assert appraise(bundle, tree).require_accepted() == keyset


def test_a_key_beside_the_quote_is_not_a_key_in_the_quote(worker: Any) -> None:
    """Clients encrypted to a key that came with a genuine quote and was not in it."""
    _, tree, bundle = worker
    other = draw_keyset(now=NOW).to_bytes()
    assert codes(appraise(bundle, tree, keyset=other)) == {"binding-mismatch"}


def test_a_quote_copied_to_another_host_is_refused(worker: Any) -> None:
    """The quote of an honest machine shown by one that is not, with keys of its own."""
    _, tree, bundle = worker
    thief = bundle_for(draw_keyset(now=NOW), tree, collect, kind="tdx")
    assert codes(appraise(thief, tree, body=bundle.body)) == {"binding-mismatch"}


def test_a_quote_for_another_challenge_is_refused(worker: Any) -> None:
    """Without a nonce of the client's own, stolen session keys can be replayed."""
    _, tree, bundle = worker
    fresh = NonceTree.over([hashlib.sha256(b"another Challenge").digest()])
    assert "nonce-mismatch" in codes(appraise(bundle, tree, nonce=b"\1" * 32))
    assert codes(appraise(bundle, tree, nonce_root=fresh.root)) >= {"binding-mismatch"}


def test_a_field_in_the_evidence_does_not_choose_the_verifier(worker: Any) -> None:
    """A sender that could say "test" got the verifier that always said yes."""
    _, tree, bundle = worker
    for kind in ("insecure", "sgx", "tdx-simulated", "", "tdx\0"):
        assert not appraise(bundle, tree, kind=kind).accepted


def test_a_simulated_root_is_not_in_the_production_verifier() -> None:
    """Simulators that shipped inside the real binary passed as hardware."""
    assert tdx.intel_root() != intel().root.certificate
    assert tdx.appraise.__kwdefaults__ == {"root": tdx.intel_root}


def test_the_attestation_key_is_tied_to_the_quoting_enclave() -> None:
    """Two packages verify all signatures and leave out this hash: anyone signs any report."""
    checks, _ = examine_td(intel().td_quote(vouched=bytes(32)))
    assert refused(checks) == {"attestation key": "attestation-key-not-bound"}


def test_the_chain_ends_at_a_pinned_key_and_not_at_a_name() -> None:
    """Two packages accept any root that comes with the quote; Intel's samples use its name."""
    checks, _ = examine_td(Intel.make().td_quote(), vendor=intel())
    assert refused(checks) == {"PCK certificate": "chain-not-anchored"}


def test_a_chain_in_the_collateral_does_not_replace_that_of_the_quote() -> None:
    """A verifier prefers whatever chain the collateral carries."""
    honest = pem(intel().chain)
    checks, _ = examine_td(
        Intel.make().td_quote(),
        gather(intel().collateral(pck_certificate_chain=honest)),
        vendor=intel(),
    )
    assert refused(checks) == {"PCK certificate": "chain-not-anchored"}


def test_the_patch_level_is_that_of_the_certificate() -> None:
    """A verifier took the patch level from the report, which old firmware writes itself."""
    old = intel().on(Platform(components=bytes(16), pce_svn=0))
    checks, _ = examine_td(old.td_quote(), vendor=old)
    assert refused(checks) == {"TCB status": "tcb-not-supported"}


def test_module_versions_are_not_compared_as_numbers() -> None:
    """Two packages compare all components and call a current TDX module out of date."""
    levels = [tcb_level(tdx=[7, 0, 2] + [0] * 13), tcb_level(tdx=[0] * 16, status="OutOfDate")]
    checks, _ = examine_td(
        intel().td_quote(), gather(intel().collateral(tcb_info={"tcbLevels": levels}))
    )
    assert refused(checks) == {}


def test_collateral_that_cannot_be_had_is_neither_pass_nor_forgery(worker: Any) -> None:
    """An outage of the vendor's service was a pass with one verifier and a crash with another."""
    _, tree, bundle = worker
    result = appraise(bundle, tree, collateral=NO_COLLATERAL)
    assert codes(result) == {"intel-collateral-missing"}
    assert result.tier == "unverifiable"


def test_old_collateral_does_not_make_an_old_platform_current() -> None:
    """The status of last year's collateral is last year's status."""
    later = NOW + timedelta(days=60)
    checks, _ = examine_td(intel().td_quote(), now=later)
    assert set(refused(checks)) == {"TCB info", "QE identity", "revocation"}


def test_collateral_that_the_host_wrote_is_refused() -> None:
    """Verdicts were taken from a document that the host served and nobody signed."""
    item = json.loads(intel().collateral())
    item["tcb_info"] = json.dumps(intel().tcb_info(tcbLevels=[tcb_level(sgx=[0] * 16)]))
    checks, _ = examine_td(intel().td_quote(), gather(json.dumps(item).encode()))
    assert refused(checks) == {"TCB info": "signature-invalid"}


def test_a_debug_td_is_refused() -> None:
    """Development modes passed as confidential."""
    checks, _ = examine_td(intel().td_quote(Domain(td_attributes=1 << 28 | 1)))
    assert refused(checks) == {"debug": "intel-debug"}


def test_a_td_that_was_started_with_other_software_is_refused() -> None:
    """Configuration and tables that nobody measured changed what ran; RTMRs say what was."""
    tampered = Domain(rtmrs=(*Domain().rtmrs[:2], b"\xbd" * 48, Domain().rtmrs[3]))
    checks, _ = examine_td(intel().td_quote(tampered))
    assert refused(checks) == {"measurements": "td-measurement-not-accepted"}


def test_a_length_that_promises_too_much_is_refused_unread() -> None:
    """A length prefix without a bound let a peer make the verifier allocate what it liked."""
    quote = intel().td_quote()
    for offset in (48 + 584, 48 + 584 + 4 + 128 + 2):
        cut = quote[:offset] + b"\xff\xff\xff\xff" + quote[offset + 4 :]
        assert refused(examine_td(cut)[0]) == {"format": "malformed"}


def test_a_signature_does_not_move_to_other_bytes() -> None:
    """Concatenation without lengths let one signed text be read as another."""
    quote = intel().td_quote()
    moved = intel().td_quote(quote_signer=p256())
    size = 48 + 584
    swapped = (
        moved[:size] + moved[size : size + 4] + quote[size + 4 : size + 68] + moved[size + 68 :]
    )
    assert refused(examine_td(swapped)[0]) == {}, "the same report under the true signature"
    other = Domain(report_data=b"\1" * 64).to_bytes()
    assert refused(examine_td(swapped[:48] + other + swapped[size:])[0]) == {
        "quote signature": "signature-invalid"
    }
