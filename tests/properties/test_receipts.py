"""Receipts from outside parse or are refused, and no altered proof verifies."""

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.encoding.record import Record
from attestation.errors import DecodeError, SignatureInvalidError, VerificationError
from attestation.receipts import cose
from attestation.receipts.merkle import (
    InclusionInvalidError,
    inclusion_path,
    leaf_hash,
    root,
    verify_inclusion,
)
from attestation.receipts.receipt import Receipt, ReceiptClaims
from attestation.receipts.signed_batch import BatchRoot, SignedLeaf
from tests.receipts.signing import SigningWorker, expected

WORKER = SigningWorker()
RECEIPT = WORKER.issue()


@given(size=st.integers(1, 200), data=st.data())
def test_a_forged_inclusion_proof_is_refused(size: int, data: st.DataObject) -> None:
    """One part of a right proof is replaced by another value: it must not verify."""
    hashes = [leaf_hash(index.to_bytes(2, "big")) for index in range(size)]
    index = data.draw(st.integers(0, size - 1))
    path, top = list(inclusion_path(hashes, index)), root(hashes)
    leaf = hashes[index]
    verify_inclusion(leaf, index, size, path, top)
    match data.draw(st.sampled_from(["leaf", "index", "path", "cut", "extend", "root"])):
        case "leaf":
            leaf = data.draw(st.binary(min_size=32, max_size=32).filter(lambda h: h != leaf))
        case "index":
            index = data.draw(st.integers(-1, 300).filter(lambda other: other != index))
        case "path" if path:
            place = data.draw(st.integers(0, len(path) - 1))
            path[place] = data.draw(
                st.binary(max_size=40).filter(lambda sibling: sibling != path[place])
            )
        case "cut" if path:
            del path[data.draw(st.integers(0, len(path) - 1))]
        case "root":
            top = leaf_hash(top)
        case _:
            path.insert(data.draw(st.integers(0, len(path))), data.draw(st.sampled_from(hashes)))
    with pytest.raises(InclusionInvalidError):
        verify_inclusion(leaf, index, size, path, top)


@given(
    st.binary(max_size=40),
    st.integers(-5, 1 << 70),
    st.integers(-5, 1 << 70),
    st.lists(st.binary(max_size=40) | st.just(bytes(32)), max_size=70),
    st.binary(max_size=40),
)
def test_any_inclusion_proof_is_refused_with_its_own_error(
    leaf: bytes, index: int, size: int, path: list[bytes], top: bytes
) -> None:
    try:
        verify_inclusion(leaf, index, size, path, top)
    except InclusionInvalidError:
        return
    assert (index, size, path) == (0, 1, [])
    assert leaf == top


@pytest.mark.parametrize("kind", [BatchRoot, SignedLeaf, ReceiptClaims, Receipt])
@given(data=st.binary(max_size=300))
def test_any_bytes_parse_or_are_refused(kind: type[Record], data: bytes) -> None:
    try:
        parsed = kind.from_bytes(data)
    except DecodeError:
        return
    assert parsed.to_bytes() == data


@given(place=st.integers(0, len(RECEIPT.claims) - 1), bit=st.integers(0, 7))
def test_any_flipped_bit_of_the_claims_parses_or_is_refused(place: int, bit: int) -> None:
    changed = bytearray(RECEIPT.claims)
    changed[place] ^= 1 << bit
    try:
        parsed = ReceiptClaims.from_bytes(bytes(changed))
    except DecodeError:
        return
    assert parsed.to_bytes() == bytes(changed)


@given(data=st.binary(max_size=200))
def test_any_bytes_are_a_cose_structure_or_refused(data: bytes) -> None:
    with pytest.raises((DecodeError, SignatureInvalidError)):
        cose.verify1(data, WORKER.keyset.receipt_key, content_type="x")


@given(
    part=st.sampled_from(["claims", "proof"]), place=st.integers(0, 10_000), bit=st.integers(0, 7)
)
def test_any_flipped_bit_of_a_receipt_is_refused(part: str, place: int, bit: int) -> None:
    changed = bytearray(getattr(RECEIPT, part))
    changed[place % len(changed)] ^= 1 << bit
    with pytest.raises(VerificationError):
        WORKER.verify(attrs.evolve(RECEIPT, **{part: bytes(changed)}), expected())
