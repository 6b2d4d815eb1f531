"""EAT Attestation Results: never more than our own verdict, and readable by other libraries."""

import base64
import hashlib
import json
from typing import Any

import cwt
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from attestation.appraisal.ear import PROFILE, Claim, Form, Value, claim_of, ear, trust_vector
from attestation.appraisal.result import AttestationResult, Question, Tier
from attestation.cli.ear_tokens import EarForm, signed_ear, unsigned_ear
from attestation.cli.signing_keys import SigningKey
from tests.simulators.verdicts import check, result, with_tiers

KEYS: dict[str, SigningKey] = {
    "EdDSA": Ed25519PrivateKey.generate(),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
}
each_key = pytest.mark.parametrize("algorithm", KEYS)
TIERS = st.lists(st.sampled_from(list(Tier)), min_size=1, max_size=6)

# draft-ietf-rats-ar4si section 3.2: which values belong to which tier.
RANGES = {"none": (-1, 1), "affirming": (2, 31), "warning": (32, 95), "contraindicated": (96, 127)}


def claims(verdict: AttestationResult, form: Form = Form.JSON) -> dict[Any, Any]:
    return ear(verdict, issued_at=1_780_000_000, build="enclave-worker 0", form=form)


def status_of(value: int) -> str:
    return next(tier for tier, (low, high) in RANGES.items() if low <= value <= high)


def unpadded(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return base64.urlsafe_b64decode(data + b"=" * (-len(data) % 4))


# -- what is claimed --


@given(TIERS, st.sampled_from(["tpm", "sev-snp", "insecure"]))
def test_a_token_never_claims_more_trust_than_the_verdict(tiers: list[Tier], kind: str) -> None:
    verdict = with_tiers(tiers, kind=kind)
    submodule = claims(verdict)["submods"][kind]
    assert submodule["ear_status"] == claims(verdict)["ear_status"]
    assert (submodule["ear_status"] in ("affirming", "warning")) == verdict.accepted
    # EAR: the status is of no higher trust than the worst claim in the vector.
    order = ["affirming", "warning", "none", "contraindicated"]
    worst = max(
        (status_of(value) for value in submodule["ear_trustworthiness_vector"].values()),
        key=order.index,
    )
    assert order.index(submodule["ear_status"]) >= order.index(worst)


@given(TIERS)
def test_no_step_is_lost_on_the_way_to_the_vector(tiers: list[Tier]) -> None:
    found = trust_vector(with_tiers(tiers))[Claim.INSTANCE_IDENTITY]
    wanted = {
        Tier.AFFIRMING: Value.AFFIRMING,
        Tier.WARNING: Value.WARNING,
        Tier.UNVERIFIABLE: Value.NONE,
        Tier.CONTRAINDICATED: Value.CRYPTOGRAPHY_FAILED,
    }
    assert found is wanted[max(tiers, key=list(Tier).index)]


@pytest.mark.parametrize(
    ("name", "claim"),
    [
        ("measurement", Claim.EXECUTABLES),
        ("catalogue", Claim.EXECUTABLES),
        ("minimum TCB", Claim.HARDWARE),
        ("product", Claim.HARDWARE),
        ("debug", Claim.CONFIGURATION),
        ("a step that was invented tomorrow", Claim.CONFIGURATION),
    ],
)
def test_a_step_counts_towards_what_it_speaks_about(name: str, claim: Claim) -> None:
    assert claim_of(check(name, question=Question.ACCEPTABLE)) is claim
    assert claim_of(check(name, question=Question.AUTHENTIC)) is Claim.INSTANCE_IDENTITY


def test_insecure_evidence_is_contraindicated_for_everybody_else() -> None:
    """Our policy may name it; a reader of the token has a policy in which that word is nothing."""
    verdict = result(check(tier=Tier.WARNING, code="insecure"), kind="insecure", insecure=True)
    assert verdict.accepted
    assert claims(verdict)["ear_status"] == "contraindicated"
    assert claims(verdict)["submods"]["insecure"]["ear_trustworthiness_vector"]["hardware"] == 97


@pytest.mark.parametrize(
    ("kind", "tier", "claimed"),
    [
        ("sev-snp", Tier.AFFIRMING, True),
        ("azure-snp-vtpm", Tier.AFFIRMING, True),
        ("tdx", Tier.AFFIRMING, True),
        ("sev-snp", Tier.WARNING, False),
        ("sev-snp", Tier.CONTRAINDICATED, False),
        ("tpm", Tier.AFFIRMING, False),
        ("nitro", Tier.AFFIRMING, False),
    ],
)
def test_encrypted_memory_is_claimed_only_where_hardware_does_that(
    kind: str, tier: Tier, claimed: bool
) -> None:
    vector = trust_vector(with_tiers([tier], kind=kind))
    assert (Claim.RUNTIME_OPAQUE in vector) is claimed


def test_the_claims_have_the_names_and_numbers_of_the_draft() -> None:
    nonce = b"n" * 32
    verdict = result(nonce=nonce)
    written, short = claims(verdict), claims(verdict, Form.CBOR)
    assert written["eat_profile"] == short[265] == PROFILE == "tag:ietf.org,2026:rats/ear#04"
    assert written["iat"] == short[6] == 1_780_000_000
    assert written["ear_verifier_id"]["build"] == short[1004][1] == "enclave-worker 0"
    one, other = written["submods"]["sev-snp"], short[266]["sev-snp"]
    assert (one["ear_status"], other[1000]) == ("affirming", 2)
    assert one["ear_trustworthiness_vector"]["instance-identity"] == other[1001][0] == 2
    assert one["ear_appraisal_policy_ids"] == other[1003] == [f"sha256:{(b'p' * 32).hex()}"]
    assert unpadded(one["eat_nonce"]) == other[10] == nonce


def test_without_a_challenge_there_is_no_nonce() -> None:
    assert "eat_nonce" not in claims(result())["submods"]["sev-snp"]


def test_the_whole_reasoning_travels_with_the_token() -> None:
    verdict = result(check(tier=Tier.CONTRAINDICATED, code="signature-invalid"))
    reasoning = claims(verdict)["submods"]["sev-snp"]["tag:enclave-worker,2026:reasoning"]
    assert reasoning == verdict.to_map()


# -- tokens --


def test_unsigned_claims_say_that_nobody_signed_them() -> None:
    data = unsigned_ear(result(), issued_at=1, build="b")
    document = json.loads(data)
    assert document.pop("tag:enclave-worker,2026:signature").startswith("UNSIGNED")
    assert document == ear(result(), issued_at=1, build="b", form=Form.JSON) | document
    assert data.count(b".") < 10 or not data.startswith(b"ey")


def jwt(algorithm: str) -> list[bytes]:
    data = signed_ear(result(), issued_at=1, build="b", key=KEYS[algorithm], form=EarForm.JWT)
    return data.strip().split(b".")


@each_key
def test_a_jwt_verifies_with_the_algorithm_that_it_names(algorithm: str) -> None:
    header, payload, signature = jwt(algorithm)
    key = KEYS[algorithm].public_key()
    named = json.loads(unpadded(header))
    assert named["alg"] == algorithm
    assert named["typ"] == "eat+jwt"
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert unpadded(named["kid"]) == hashlib.sha256(spki).digest()
    message, raw = header + b"." + payload, unpadded(signature)
    assert len(raw) == 64
    if isinstance(key, ec.EllipticCurvePublicKey):
        pair = (int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
        key.verify(encode_dss_signature(*pair), message, ec.ECDSA(hashes.SHA256()))
    else:
        key.verify(raw, message)
    assert json.loads(unpadded(payload))["eat_profile"] == PROFILE


@each_key
def test_another_library_reads_the_cwt(algorithm: str) -> None:
    key = KEYS[algorithm]
    data = signed_ear(result(), issued_at=1, build="b", key=key, form=EarForm.CWT)
    decoded: Any = cwt.decode(data, cose_key(key))
    assert decoded[265] == PROFILE
    assert decoded[266]["sev-snp"][1000] == 2


@each_key
def test_a_changed_cwt_does_not_verify(algorithm: str) -> None:
    key = KEYS[algorithm]
    data = bytearray(signed_ear(result(), issued_at=1, build="b", key=key, form=EarForm.CWT))
    at = data.index(b"sev-snp")
    data[at] ^= 1
    with pytest.raises(cwt.VerifyError):
        cwt.decode(bytes(data), cose_key(key))


def cose_key(key: SigningKey) -> Any:
    public = key.public_key()
    spki = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return cwt.COSEKey.from_pem(pem, kid=hashlib.sha256(spki).digest())
