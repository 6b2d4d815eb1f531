"""One signature over many messages proves each of them, in its place and for its purpose only."""

import attrs
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.encoding import cbor
from attestation.encoding.digests import Label
from attestation.errors import DecodeError, SignatureInvalidError
from attestation.receipts import cose
from attestation.receipts.signed_batch import BatchRoot, SignedLeaf, content_type, sign_batch

KEY = Ed25519PrivateKey.generate()
PUBLIC = KEY.public_key().public_bytes_raw()
KEY_ID = b"i" * 32
LEAVES = [b"one", b"two", b"three"]


def batch(leaves: list[bytes] = LEAVES, label: Label = Label.RECEIPT) -> list[SignedLeaf]:
    return sign_batch(leaves, label=label, key_id=KEY_ID, sign=KEY.sign)


def check(proof: SignedLeaf, leaf: bytes, label: Label = Label.RECEIPT) -> bytes:
    return proof.verify(leaf, label=label, public_key=PUBLIC)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 64])
def test_every_message_of_a_batch_verifies_alone(size: int) -> None:
    leaves = [bytes([index]) * 10 for index in range(size)]
    for leaf, proof in zip(leaves, batch(leaves), strict=True):
        assert check(SignedLeaf.from_bytes(proof.to_bytes()), leaf) == KEY_ID


def test_a_batch_is_signed_once() -> None:
    calls = []

    def sign(message: bytes) -> bytes:
        calls.append(message)
        return KEY.sign(message)

    sign_batch(LEAVES, label=Label.RECEIPT, key_id=KEY_ID, sign=sign)
    assert len(calls) == 1


def test_a_lone_message_has_an_empty_path() -> None:
    assert batch([b"alone"])[0].path == ()


def test_an_empty_batch_cannot_be_signed() -> None:
    with pytest.raises(ValueError, match="empty"):
        batch([])


def test_another_message_is_refused() -> None:
    with pytest.raises(SignatureInvalidError):
        check(batch()[0], b"One")


def test_messages_of_one_batch_cannot_trade_places() -> None:
    proofs = batch()
    with pytest.raises(SignatureInvalidError):
        check(proofs[0], LEAVES[1])


@pytest.mark.parametrize("change", [{"index": 1}, {"size": 4}, {"size": 2}, {"path": ()}])
def test_a_changed_place_in_the_batch_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(SignatureInvalidError):
        check(attrs.evolve(batch()[0], **change), LEAVES[0])


def test_a_size_that_was_not_signed_is_refused_though_the_path_fits() -> None:
    """Leaf 0 has a path of two in trees of 3 and of 4; the signed size tells them apart."""
    with pytest.raises(SignatureInvalidError, match="another size"):
        check(attrs.evolve(batch()[0], size=4), LEAVES[0])


def test_a_job_header_signature_is_no_receipt() -> None:
    """A client must not be able to pass its own signature off as a worker's, nor the reverse."""
    proof = batch(label=Label.JOB_SIGNATURE)[0]
    check(proof, LEAVES[0], Label.JOB_SIGNATURE)
    with pytest.raises(SignatureInvalidError, match="another purpose"):
        check(proof, LEAVES[0], Label.RECEIPT)


def test_a_root_over_another_label_is_refused_under_the_right_content_type() -> None:
    """Even a signer tricked into the wrong content type has not signed the other kind of leaf."""
    root = BatchRoot.from_bytes(
        cose.verify1(
            batch(label=Label.JOB_SIGNATURE)[0].cose,
            PUBLIC,
            content_type=content_type(Label.JOB_SIGNATURE),
        )[1]
    )
    relabelled = cose.sign1(
        root.to_bytes(), key_id=KEY_ID, content_type=content_type(Label.RECEIPT), sign=KEY.sign
    )
    proof = attrs.evolve(batch()[0], cose=relabelled)
    with pytest.raises(SignatureInvalidError, match="another root"):
        check(proof, LEAVES[0])


def test_another_key_is_refused() -> None:
    other = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    with pytest.raises(SignatureInvalidError):
        batch()[0].verify(LEAVES[0], label=Label.RECEIPT, public_key=other)


@pytest.mark.parametrize("key", [b"", bytes(31), bytes(33)])
def test_a_key_of_another_length_is_refused(key: bytes) -> None:
    with pytest.raises(SignatureInvalidError):
        batch()[0].verify(LEAVES[0], label=Label.RECEIPT, public_key=key)


def test_every_changed_byte_of_the_signature_structure_is_refused() -> None:
    proof = batch()[0]
    for place in range(len(proof.cose)):
        changed = bytearray(proof.cose)
        changed[place] ^= 1
        with pytest.raises(SignatureInvalidError):
            check(attrs.evolve(proof, cose=bytes(changed)), LEAVES[0])


# -- the COSE structure ---------------------------------------------------------------------------

TYPE = "application/x-test"
PROTECTED = {1: -8, 3: TYPE, 4: KEY_ID}


def structure(protected: object, unprotected: object, payload: object, signature: object) -> bytes:
    return cbor.encode([protected, unprotected, payload, signature])


def signed(protected: dict[int, object], unprotected: object = None) -> bytes:
    """A COSE_Sign1 that is well signed, whatever it says."""
    header = cbor.encode(protected)
    signature = KEY.sign(cbor.encode(["Signature1", header, b"", b"payload"]))
    return structure(header, {} if unprotected is None else unprotected, b"payload", signature)


def test_key_id_and_payload_come_back() -> None:
    data = cose.sign1(b"payload", key_id=KEY_ID, content_type=TYPE, sign=KEY.sign)
    assert data == signed(PROTECTED)
    assert cose.verify1(data, PUBLIC, content_type=TYPE) == (KEY_ID, b"payload")


@pytest.mark.parametrize(
    "protected",
    [
        {},
        {3: TYPE, 4: KEY_ID},
        {1: -8, 4: KEY_ID},
        {1: -8, 3: TYPE},
        PROTECTED | {2: ["crit"]},
        PROTECTED | {1: -7},
        PROTECTED | {1: -8.0},
        PROTECTED | {1: None},
        PROTECTED | {1: "EdDSA"},
        PROTECTED | {3: 50},
        PROTECTED | {4: "kid"},
    ],
)
def test_a_protected_header_with_other_fields_is_refused(protected: dict[int, object]) -> None:
    """No algorithm to choose, none to leave out: nothing a signer says changes how we verify."""
    with pytest.raises(DecodeError):
        cose.verify1(signed(protected), PUBLIC, content_type=TYPE)


@pytest.mark.parametrize("unprotected", [{1: -8}, {4: b"other"}, {"x": 1}, [], b"", 0])
def test_anything_unprotected_is_refused(unprotected: object) -> None:
    with pytest.raises(DecodeError):
        cose.verify1(signed(PROTECTED, unprotected), PUBLIC, content_type=TYPE)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        cbor.encode({}),
        cbor.encode([]),
        structure(b"", {}, b"", b""),
        structure(b"\xa0", {}, None, bytes(64)),
        cbor.encode([cbor.encode(PROTECTED), {}, b"payload"]),
        b"\xd2" + signed(PROTECTED),
        signed(PROTECTED) + b"\x00",
    ],
)
def test_what_is_no_cose_sign1_of_ours_is_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        cose.verify1(data, PUBLIC, content_type=TYPE)


@pytest.mark.parametrize("signature", [b"", bytes(63), bytes(64), bytes(65)])
def test_a_signature_that_is_none_is_refused(signature: bytes) -> None:
    data = structure(cbor.encode(PROTECTED), {}, b"payload", signature)
    with pytest.raises(SignatureInvalidError):
        cose.verify1(data, PUBLIC, content_type=TYPE)
