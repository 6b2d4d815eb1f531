"""Sessions are bound to what both sides saw; wrapped keys to one session and one request."""

from datetime import UTC, datetime
from typing import Any

import pytest
from attrs import evolve

from attestation.appraisal.result import AttestationResult, Check, Question, RecipientKey, Tier
from attestation.encoding.digests import Label, digest
from attestation.errors import (
    DecodeError,
    EvidenceRefusedError,
    LocalProtocolError,
    NotAuthenticError,
)
from attestation.evidence.keyset import KeySet
from attestation.identifiers import Digest, JobId, KeySetId, SessionId
from attestation.sealing.content_key import ContentKey
from attestation.sealing.envelope import seal_session
from attestation.sealing.hybrid_kem import (
    ENC_BYTES,
    PUBLIC_KEY_BYTES,
    generate_key_pair,
    open_session,
    public_key_from_bytes,
)
from attestation.sealing.session_keys import (
    WRAP_BYTES,
    SessionKeys,
    Transcript,
    wrap_session_id,
)

PRIVATE, PUBLIC = generate_key_pair()
JOB = JobId(b"j" * 16)
REQUEST = digest(Label.JOB_HEADER, b"this request")
OTHER_REQUEST = digest(Label.JOB_HEADER, b"another request")


def result(public: bytes = PUBLIC, tier: Tier = Tier.AFFIRMING) -> AttestationResult:
    keyset = KeySet(
        kem_public_key=public,
        receipt_key=bytes(32),
        not_before_ms=0,
        not_after_ms=1000,
        catalogue_digest=Digest(bytes(32)),
    )
    return AttestationResult(
        checks=(
            Check(
                number=1,
                name="format",
                question=Question.AUTHENTIC,
                tier=tier,
                code="ok",
                detail="",
            ),
        ),
        kind="insecure",
        insecure=True,
        keyset=keyset,
        evidence_digest=Digest(b"e" * 32),
        policy_digest=Digest(b"p" * 32),
        catalogue_digest=Digest(bytes(32)),
        nonce=b"n" * 32,
        appraised_at=datetime(2030, 1, 1, tzinfo=UTC),
    )


RECIPIENT = result().recipient_key()
TRANSCRIPT = Transcript(
    keyset_id=RECIPIENT.keyset_id,
    evidence_digest=Digest(b"e" * 32),
    policy_digest=Digest(b"p" * 32),
    client_key=b"c" * 32,
    session_id=SessionId(b"s" * 16),
    nonce=b"n" * 32,
)
OTHERS: dict[str, Any] = {
    "keyset_id": KeySetId(b"x" * 32),
    "evidence_digest": Digest(b"x" * 32),
    "policy_digest": Digest(b"x" * 32),
    "client_key": b"x" * 32,
    "session_id": SessionId(b"x" * 16),
    "nonce": b"x" * 32,
}


def keys(secret: bytes = b"S" * 32, transcript: Transcript = TRANSCRIPT) -> SessionKeys:
    return SessionKeys.derive(secret, transcript)


# -- the exchange ---------------------------------------------------------------------------------


def test_both_sides_hold_the_same_session() -> None:
    client, enc = seal_session(RECIPIENT, TRANSCRIPT)
    worker = open_session(PRIVATE, enc, TRANSCRIPT)
    client.check_confirmation(worker.confirmation())
    key = ContentKey.generate()
    unwrapped = worker.unwrap(client.wrap(key, REQUEST), REQUEST)
    assert unwrapped.commitment(JOB) == key.commitment(JOB)


@pytest.mark.parametrize("field", OTHERS)
def test_session_of_another_transcript_does_not_open(field: str) -> None:
    """Key set, evidence, policy, client, session and nonce are all in the HPKE info."""
    _, enc = seal_session(RECIPIENT, TRANSCRIPT)
    with pytest.raises(NotAuthenticError):
        open_session(PRIVATE, enc, evolve(TRANSCRIPT, **{field: OTHERS[field]}))


def test_session_sealed_to_another_worker_does_not_open() -> None:
    _, enc = seal_session(RECIPIENT, TRANSCRIPT)
    private, _ = generate_key_pair()
    with pytest.raises(NotAuthenticError):
        open_session(private, enc, TRANSCRIPT)


def test_changed_or_cut_session_does_not_open() -> None:
    _, enc = seal_session(RECIPIENT, TRANSCRIPT)
    assert len(enc) == ENC_BYTES
    offsets = {0, 1087, 1088, 1119, 1120, 1151, 1152, 1167} | set(range(0, ENC_BYTES, 97))
    for offset in offsets:
        changed = bytearray(enc)
        changed[offset] ^= 1
        for bad in (bytes(changed), enc[:offset], enc + b"\0"):
            with pytest.raises(NotAuthenticError):
                open_session(PRIVATE, bad, TRANSCRIPT)


def test_session_with_a_zeroed_classical_share_does_not_open() -> None:
    _, enc = seal_session(RECIPIENT, TRANSCRIPT)
    with pytest.raises(NotAuthenticError):
        open_session(PRIVATE, enc[:1088] + bytes(32) + enc[1120:], TRANSCRIPT)


def test_nothing_is_sealed_to_a_key_that_was_not_accepted() -> None:
    """G2: there is no way to a RecipientKey but an accepted AttestationResult."""
    with pytest.raises(EvidenceRefusedError):
        result(tier=Tier.CONTRAINDICATED).recipient_key()
    with pytest.raises(LocalProtocolError):
        RecipientKey(
            keyset_id=RECIPIENT.keyset_id, kem=RECIPIENT.kem, public_bytes=PUBLIC, origin=object()
        )
    for impostor in (PUBLIC, result().keyset, None):
        with pytest.raises(LocalProtocolError):
            seal_session(impostor, TRANSCRIPT)  # type: ignore[arg-type]


def test_nothing_is_sealed_for_a_transcript_of_another_key_set() -> None:
    with pytest.raises(LocalProtocolError):
        seal_session(RECIPIENT, evolve(TRANSCRIPT, keyset_id=OTHERS["keyset_id"]))


def test_accepted_but_invalid_key_is_refused() -> None:
    recipient = result(b"\xff" * PUBLIC_KEY_BYTES).recipient_key()
    with pytest.raises(DecodeError):
        seal_session(recipient, evolve(TRANSCRIPT, keyset_id=recipient.keyset_id))


@pytest.mark.parametrize("length", [0, 32, 1184, 1215, 1217])
def test_public_key_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(DecodeError):
        public_key_from_bytes((PUBLIC + b"\0")[:length])


def test_mlkem_key_outside_its_modulus_is_refused() -> None:
    """FIPS 203 section 7.2: coefficients of 3329 and above are not an encapsulation key."""
    with pytest.raises(DecodeError):
        public_key_from_bytes(b"\xff" * 384 + PUBLIC[384:])


@pytest.mark.parametrize("point", [bytes(32), b"\x01" + bytes(31)])
def test_classical_key_of_small_order_is_refused(point: bytes) -> None:
    """It would leave the hybrid with one leg."""
    with pytest.raises(DecodeError):
        public_key_from_bytes(PUBLIC[:1184] + point)


# -- confirmation ---------------------------------------------------------------------------------


@pytest.mark.parametrize("field", OTHERS)
def test_confirmation_of_another_transcript_is_refused(field: str) -> None:
    other = keys(transcript=evolve(TRANSCRIPT, **{field: OTHERS[field]}))
    with pytest.raises(NotAuthenticError):
        keys().check_confirmation(other.confirmation())


@pytest.mark.parametrize("confirmation", [b"", bytes(32), keys(b"T" * 32).confirmation()])
def test_confirmation_without_the_secret_is_refused(confirmation: bytes) -> None:
    with pytest.raises(NotAuthenticError):
        keys().check_confirmation(confirmation)


# -- wraps ----------------------------------------------------------------------------------------


def test_wrap_says_which_session_it_is_for() -> None:
    wrap = keys().wrap(ContentKey.generate(), REQUEST)
    assert len(wrap) == WRAP_BYTES == 76
    assert wrap_session_id(wrap) == TRANSCRIPT.session_id


def test_wrap_replayed_for_another_job_is_refused() -> None:
    """The request digest is authenticated: one job's key never opens in the name of another."""
    wrap = keys().wrap(ContentKey.generate(), REQUEST)
    with pytest.raises(NotAuthenticError):
        keys().unwrap(wrap, OTHER_REQUEST)


def test_wrap_of_another_session_is_refused() -> None:
    other = keys(transcript=evolve(TRANSCRIPT, session_id=OTHERS["session_id"]))
    wrap = other.wrap(ContentKey.generate(), REQUEST)
    with pytest.raises(NotAuthenticError):
        keys().unwrap(wrap, REQUEST)
    relabelled = TRANSCRIPT.session_id + wrap[16:]
    with pytest.raises(NotAuthenticError):
        keys().unwrap(relabelled, REQUEST)


def test_wrap_under_another_secret_is_refused() -> None:
    wrap = keys(b"T" * 32).wrap(ContentKey.generate(), REQUEST)
    with pytest.raises(NotAuthenticError):
        keys().unwrap(wrap, REQUEST)


def test_any_flipped_bit_of_a_wrap_is_refused() -> None:
    wrap = keys().wrap(ContentKey.generate(), REQUEST)
    for bit in range(8 * len(wrap)):
        changed = bytearray(wrap)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(NotAuthenticError):
            keys().unwrap(bytes(changed), REQUEST)


@pytest.mark.parametrize("length", [0, 16, 28, 75, 77])
def test_wrap_of_another_length_is_refused(length: int) -> None:
    wrap = keys().wrap(ContentKey.generate(), REQUEST) + b"\0"
    with pytest.raises(DecodeError):
        keys().unwrap(wrap[:length], REQUEST)


def test_wrapping_twice_never_gives_the_same_bytes() -> None:
    key = ContentKey.generate()
    assert keys().wrap(key, REQUEST) != keys().wrap(key, REQUEST)


@pytest.mark.parametrize("secret", [b"", bytes(31), bytes(33)])
def test_secret_of_another_length_makes_no_session(secret: bytes) -> None:
    with pytest.raises(LocalProtocolError):
        keys(secret)


def test_session_keys_show_nothing() -> None:
    assert repr(keys()) == f"SessionKeys(session_id={b's'.hex() * 16})"
