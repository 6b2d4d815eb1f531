"""Key sets, bundles, evidence files and the binding between them."""

import hashlib
import os
from datetime import timedelta

import attrs
import pytest

from attestation import limits
from attestation.encoding import cbor
from attestation.encoding.digests import Label, digest, prefix
from attestation.endorsements.collateral import NO_COLLATERAL
from attestation.errors import DecodeError, LocalProtocolError, VerificationError
from attestation.evidence.binding import NonceTree, gpu_nonce, qualifying_data, report_data
from attestation.evidence.bundle import EvidenceBundle, EvidenceRecord
from attestation.evidence.keyset import KeySet
from attestation.receipts import merkle
from tests.simulators.evidence import bundle_for, collect_insecure, draw_keyset

TREE = NonceTree.over([bytes(32)])


def test_a_key_set_round_trips_and_has_one_id() -> None:
    keyset = draw_keyset()
    assert KeySet.from_bytes(keyset.to_bytes()) == keyset
    assert keyset.keyset_id() == digest(Label.KEYSET, keyset.to_bytes())
    assert draw_keyset().keyset_id() != keyset.keyset_id()


@pytest.mark.parametrize(
    "lifetime",
    [timedelta(0), timedelta(seconds=-1), timedelta(seconds=limits.KEYSET_SECONDS, milliseconds=1)],
)
def test_a_key_set_with_an_impossible_life_cannot_be_made(lifetime: timedelta) -> None:
    with pytest.raises(DecodeError):
        draw_keyset(lifetime=lifetime)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("v", 2),
        ("kem", "X25519"),
        ("receipt_algorithm", "none"),
        ("kem_public_key", bytes(1184)),
        ("receipt_key", bytes(33)),
        ("catalogue_digest", bytes(31)),
        ("not_after_ms", 0),
        ("not_before_ms", -1),
        ("extra", 1),
    ],
)
def test_a_changed_field_of_a_key_set_does_not_parse(field: str, value: object) -> None:
    """A weaker KEM in particular: there is nothing to downgrade to."""
    changed = draw_keyset().to_map() | {field: value}  # type: ignore[operator]
    with pytest.raises(DecodeError):
        KeySet.from_bytes(cbor.encode(changed))


def test_report_data_is_the_documented_hash() -> None:
    keyset_id, root = draw_keyset().keyset_id(), os.urandom(32)
    gpu = hashlib.sha256(prefix(Label.GPU_EVIDENCE)).digest()
    expected = hashlib.sha512(prefix(Label.BINDING) + keyset_id + root + gpu).digest()
    assert report_data(keyset_id, root) == expected
    assert report_data(keyset_id, root, None) == report_data(keyset_id, root, b"")
    assert qualifying_data(expected) == hashlib.sha256(expected).digest()


def test_the_gpus_nonce_is_tied_to_keys_and_challenges() -> None:
    keyset_id = draw_keyset().keyset_id()
    nonces = {gpu_nonce(keyset_id, bytes(32)), gpu_nonce(keyset_id, b"\1" * 32)}
    nonces.add(gpu_nonce(draw_keyset().keyset_id(), bytes(32)))
    assert len(nonces) == 3


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 33])
def test_each_challenge_of_a_window_has_its_own_proof(count: int) -> None:
    nonces = [os.urandom(32) for _ in range(count)]
    tree = NonceTree.over(nonces)
    for nonce, proof in zip(nonces, tree.proofs, strict=True):
        proof.verify(nonce, nonce_root=tree.root)
        with pytest.raises(VerificationError):
            proof.verify(os.urandom(32), nonce_root=tree.root)


def test_a_bare_hash_of_the_challenge_is_not_a_leaf() -> None:
    """Leaves are labelled, so no other tree of ours contains one."""
    assert TREE.root != merkle.leaf_hash(bytes(32))


@pytest.mark.parametrize("nonces", [[], [bytes(31)], [bytes(32), b""]])
def test_a_window_needs_challenges_of_the_right_size(nonces: list[bytes]) -> None:
    with pytest.raises(LocalProtocolError):
        NonceTree.over(nonces)


def test_a_window_is_bounded() -> None:
    with pytest.raises(LocalProtocolError):
        NonceTree.over([bytes(32)] * (limits.CHALLENGES_PER_WINDOW + 1))


def test_bundles_and_files_round_trip() -> None:
    bundle = bundle_for(draw_keyset(), TREE, collect_insecure, kind="insecure")
    assert EvidenceBundle.from_bytes(bundle.to_bytes()) == bundle
    record = EvidenceRecord(
        bundle=bundle.to_bytes(),
        nonce=bytes(32),
        leaf_index=0,
        tree_size=1,
        path=(),
        catalogue=b"",
        collateral=NO_COLLATERAL.to_bytes(),
    )
    assert EvidenceRecord.from_bytes(record.to_bytes()) == record
    assert record.proof() == TREE.proofs[0]


def test_every_field_of_a_bundle_is_in_its_digest() -> None:
    bundle = bundle_for(draw_keyset(), TREE, collect_insecure, kind="insecure")
    changed = [
        attrs.evolve(bundle, **{field: value})
        for field, value in {
            "kind": "tpm",
            "keyset": b"",
            "nonce_root": bytes(32),
            "gpu_evidence": b"",
            "body": b"",
        }.items()
    ]
    assert len({entry.digest() for entry in (bundle, *changed)}) == 6


def test_a_bundle_does_not_show_its_bytes() -> None:
    bundle = bundle_for(draw_keyset(), TREE, collect_insecure, kind="insecure")
    assert len(repr(bundle)) < 300
