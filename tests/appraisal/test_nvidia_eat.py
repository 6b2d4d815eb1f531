"""Tokens of NVIDIA's service: one bundle that is accepted, and one test for each attack."""

import base64
import hashlib
import hmac
import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from attestation.appraisal import nvidia_eat
from attestation.appraisal.checklist import CannotContinueError, Checklist
from attestation.appraisal.result import NOT_REACHED, Check, Tier
from attestation.endorsements import nvidia_nras
from attestation.endorsements.nvidia_nras import parse_key_set
from attestation.errors import DecodeError
from attestation.evidence.nvidia_eat import Token, TokenBundle, read_json
from tests.simulators.nvidia import Authority, new_key, raw_signature, root

NOW = datetime.fromisoformat("2026-06-01T12:00:00Z")
NONCE = os.urandom(32)
SECONDS = int(NOW.timestamp())
KID = "nv-eat-kid-test"

Change = Callable[[dict[str, Any]], dict[str, Any]]


@pytest.fixture(scope="module")
def intermediate() -> Authority:
    return root("test Attestation Service CA").issue("test Intermediate")


@pytest.fixture(scope="module")
def service(intermediate: Authority) -> Authority:
    return intermediate.issue("test Attestation Service", ca=False)


@pytest.fixture(autouse=True)
def trusted(intermediate: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    anchors = (intermediate.certificate,)
    monkeypatch.setattr(nvidia_nras, "intermediates", lambda: anchors)


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def signed(claims: dict[str, Any], key: ec.EllipticCurvePrivateKey, **header: Any) -> str:
    head = {"alg": "ES384", "kid": KID} | header
    text = ".".join(encoded(json.dumps(part).encode()) for part in (head, claims))
    return f"{text}.{encoded(raw_signature(key, text.encode()))}"


def claims_of_device(**changes: Any) -> dict[str, Any]:
    return {
        "iss": nvidia_eat.ISSUER,
        "eat_nonce": NONCE.hex(),
        "nbf": SECONDS - 60,
        "exp": SECONDS + 3600,
        "measres": "success",
        "dbgstat": "disabled",
        "hwmodel": "GH100",
    } | changes


def bundle(
    service: Authority,
    *,
    overall: Change = lambda claims: claims,
    devices: Sequence[dict[str, Any]] = ({}, {}),
    shown: Callable[[dict[str, str]], dict[str, str]] = lambda tokens: tokens,
    **header: Any,
) -> bytes:
    tokens = {
        f"GPU-{number}": signed(claims_of_device(**changes), service.key)
        for number, changes in enumerate(devices)
    }
    listed = {
        name: ["DIGEST", ["SHA-256", hashlib.sha256(token.encode()).hexdigest()]]
        for name, token in tokens.items()
    }
    claims = overall(claims_of_device(submods=listed) | {"x-nvidia-overall-att-result": True})
    return json.dumps([["JWT", signed(claims, service.key, **header)], shown(tokens)]).encode()


def key_set(service: Authority, *, x5c: Sequence[bytes] | None = None, kid: str = KID) -> bytes:
    numbers = service.key.public_key().public_numbers()
    chain = service.line[:2] if x5c is None else x5c
    entry = {
        "kty": "EC",
        "crv": "P-384",
        "kid": kid,
        "x": encoded(numbers.x.to_bytes(48, "big")),
        "y": encoded(numbers.y.to_bytes(48, "big")),
        "x5c": [base64.b64encode(data).decode() for data in chain],
    }
    return json.dumps({"keys": [entry, {"kty": "RSA", "kid": "another"}]}).encode()


def appraise(
    data: bytes,
    jwks: Sequence[bytes],
    *,
    nonce: bytes | None = NONCE,
    now: datetime = NOW,
    pinned: Sequence[bytes] = (),
) -> tuple[Check, ...]:
    checks = Checklist()
    checks.announce(nvidia_eat.STEPS)
    with suppress(CannotContinueError):
        nvidia_eat.examine(data, nonce=nonce, jwks=jwks, pinned=pinned, now=now, checks=checks)
    return checks.finish()


def codes(checks: Sequence[Check]) -> list[str]:
    return [check.code for check in checks if not check.tier.accepted and check.code != NOT_REACHED]


def test_a_bundle_of_the_service_is_accepted(service: Authority) -> None:
    assert codes(appraise(bundle(service), [key_set(service)])) == []
    assert codes(appraise(bundle(service), [key_set(service)], nonce=None)) == []


# -- who signed --


def test_an_unknown_key_is_unverifiable(service: Authority) -> None:
    """Keys rotate daily: a key set of another day says nothing about the token."""
    for jwks in ([], [key_set(service, kid="of another day")]):
        checks = appraise(bundle(service), jwks)
        assert codes(checks) == ["token-key-unknown"]
        assert checks[2].tier is Tier.UNVERIFIABLE


def test_a_key_set_that_somebody_made_is_refused(service: Authority) -> None:
    """Key sets are collateral: they may come from the worker, and count by their certificates."""
    stranger = root("test Attestation Service CA").issue("test Intermediate").issue("s", ca=False)
    checks = appraise(bundle(stranger), [key_set(stranger)])
    assert codes(checks) == ["chain-not-anchored"]
    assert codes(appraise(bundle(stranger), [key_set(stranger, x5c=[])])) == ["chain-not-anchored"]


def test_a_genuine_certificate_beside_another_key_is_refused(service: Authority) -> None:
    stranger = root("a").issue("b", ca=False)
    forged = key_set(stranger, x5c=service.line[:2])
    assert codes(appraise(bundle(stranger), [forged])) == ["chain-invalid"]


def test_two_keys_of_one_name_are_refused(service: Authority, intermediate: Authority) -> None:
    other = intermediate.issue("another key", ca=False)
    both = [key_set(service), key_set(other)]
    assert codes(appraise(bundle(service), both)) == ["chain-invalid"]


def test_the_intermediate_itself_signs_no_token(intermediate: Authority) -> None:
    checks = appraise(bundle(intermediate), [key_set(intermediate, x5c=intermediate.line[:1])])
    assert codes(checks) == ["chain-not-anchored"]


def test_a_leaf_that_has_expired_is_refused_pinned_or_not(intermediate: Authority) -> None:
    """Leaves live two days."""
    short = intermediate.issue("two days", ca=False, life=timedelta(days=2))
    pins = [key.pin() for key in parse_key_set(key_set(short))]
    for pinned in ([], pins):
        checks = appraise(bundle(short), [key_set(short)], pinned=pinned)
        assert codes(checks) == ["certificate-expired"]


def test_a_pinned_key_needs_no_certificate(service: Authority) -> None:
    bare = key_set(service, x5c=[])
    [key] = parse_key_set(bare)
    assert codes(appraise(bundle(service), [bare], pinned=[key.pin()])) == []


def test_a_token_signed_with_another_key_of_that_name_is_refused(service: Authority) -> None:
    forged = bundle(Authority(new_key(), service.certificate))
    assert codes(appraise(forged, [key_set(service)])) == ["token-signature-invalid"]


@pytest.mark.parametrize("algorithm", ["none", "HS256", "HS384", "ES256", "RS256", None, ["ES384"]])
def test_another_algorithm_is_refused_before_any_key_is_looked_for(
    algorithm: object, service: Authority
) -> None:
    """The SDK's own tokens are HS256 with the key `secret`."""
    data = bundle(service, alg=algorithm)
    assert codes(appraise(data, [key_set(service)])) == ["token-algorithm"]


def test_a_token_of_the_sdk_is_refused(service: Authority) -> None:
    text = ".".join(encoded(json.dumps(part).encode()) for part in ({"alg": "HS256"}, {}))
    mac = hmac.new(b"secret", text.encode(), "sha256").digest()
    data = json.dumps([["JWT", f"{text}.{encoded(mac)}"], {}]).encode()
    assert codes(appraise(data, [key_set(service)]))[0] == "token-algorithm"


def test_an_algorithm_confused_device_token_is_refused(service: Authority) -> None:
    def confuse(tokens: dict[str, str]) -> dict[str, str]:
        return tokens | {"GPU-1": signed(claims_of_device(), service.key, alg="HS384")}

    assert "token-algorithm" in codes(appraise(bundle(service, shown=confuse), [key_set(service)]))


def test_a_key_that_is_unknown_hides_nothing_else(service: Authority) -> None:
    """The right nonce and time are asked of a token whose key set was lost as of any other."""
    checks = appraise(bundle(service), [], nonce=bytes(32))
    assert codes(checks) == ["token-key-unknown", "token-nonce-mismatch"]


def test_extensions_that_must_be_understood_are_refused(service: Authority) -> None:
    assert codes(appraise(bundle(service, crit=["b64"]), [key_set(service)])) == ["token-algorithm"]


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_a_token_by_itself_shows_none_of_its_devices(service: Authority, end: bytes) -> None:
    """Whoever hands on the overall token alone hides what it is about."""
    [[_, overall], _] = json.loads(bundle(service))
    found = codes(appraise(overall.encode() + end, [key_set(service)]))
    assert found == ["token-set-incomplete"]


def test_a_token_by_itself_that_anyone_could_have_made_is_refused_for_that() -> None:
    head, claims = ({"alg": "none"}, {"iss": "anybody"})
    text = ".".join(encoded(json.dumps(part).encode()) for part in (head, claims)) + "."
    assert codes(appraise(text.encode(), []))[0] == "token-algorithm"


# -- what they say --


@pytest.mark.parametrize(
    ("now", "code"),
    [
        (NOW - timedelta(seconds=61), "token-not-yet-valid"),
        (NOW + timedelta(seconds=3600), "token-expired"),
    ],
)
def test_a_token_outside_its_hour_is_refused(now: datetime, code: str, service: Authority) -> None:
    assert codes(appraise(bundle(service), [key_set(service)], now=now)) == [code]


@pytest.mark.parametrize("claim", ["exp", "nbf", "eat_nonce", "iss"])
def test_a_token_that_leaves_out_a_claim_is_refused(claim: str, service: Authority) -> None:
    def without(claims: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in claims.items() if name != claim}

    assert "malformed" in codes(appraise(bundle(service, overall=without), [key_set(service)]))


def test_one_expired_device_token_is_refused(service: Authority) -> None:
    data = bundle(service, devices=[{}, {"exp": SECONDS - 1}])
    assert codes(appraise(data, [key_set(service)])) == ["token-expired"]


def test_another_nonce_is_refused(service: Authority) -> None:
    checks = appraise(bundle(service), [key_set(service)], nonce=bytes(32))
    assert codes(checks) == ["token-nonce-mismatch"]


def test_a_device_token_of_another_request_is_refused(service: Authority) -> None:
    data = bundle(service, devices=[{}, {"eat_nonce": "00" * 32}])
    for nonce in (NONCE, None):
        assert codes(appraise(data, [key_set(service)], nonce=nonce)) == ["token-nonce-mismatch"]


def test_a_device_that_is_left_out_is_refused(service: Authority) -> None:
    data = bundle(service, shown=lambda tokens: {"GPU-0": tokens["GPU-0"]})
    assert codes(appraise(data, [key_set(service)])) == ["token-set-incomplete"]


def test_a_device_that_is_not_listed_is_refused(service: Authority) -> None:
    data = bundle(service, shown=lambda tokens: tokens | {"GPU-9": tokens["GPU-0"]})
    assert codes(appraise(data, [key_set(service)])) == ["token-set-incomplete"]


def test_a_bundle_of_no_devices_is_refused(service: Authority) -> None:
    assert codes(appraise(bundle(service, devices=[]), [key_set(service)])) == [
        "token-set-incomplete"
    ]


def test_a_good_device_shown_for_a_bad_one_is_refused(service: Authority) -> None:
    """Two tokens that NVIDIA signed, one under the other's name."""
    data = bundle(service, shown=lambda tokens: dict.fromkeys(tokens, tokens["GPU-0"]))
    assert codes(appraise(data, [key_set(service)])) == ["token-digest-mismatch"]


@pytest.mark.parametrize(
    "issuer", ["https://nras.attestation-stg.nvidia.com", "https://example.com", ""]
)
def test_another_issuer_is_refused_though_signed(issuer: str, service: Authority) -> None:
    """NVIDIA's staging service signs, and vouches for nothing."""
    data = bundle(service, devices=[{}, {"iss": issuer}])
    assert codes(appraise(data, [key_set(service)])) == ["token-issuer"]


@pytest.mark.parametrize("value", [False, None, "true", 1])
def test_an_overall_result_other_than_true_is_refused(value: object, service: Authority) -> None:
    data = bundle(service, overall=lambda claims: claims | {"x-nvidia-overall-att-result": value})
    assert codes(appraise(data, [key_set(service)])) == ["token-result"]


@pytest.mark.parametrize("change", [{"measres": "fail"}, {"dbgstat": "enabled"}, {"measres": None}])
def test_a_device_with_something_wrong_is_refused_whatever_the_overall_result(
    change: dict[str, Any], service: Authority
) -> None:
    assert codes(appraise(bundle(service, devices=[{}, change]), [key_set(service)])) == [
        "token-result"
    ]


# -- bytes --


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"{}",
        b'[["JWT"], {}]',
        b'[["CWT", "a.b.c"], {}]',
        b'[["JWT", "a.b"], {}]',
        b'[["JWT", "e30.e30."], {"a": 1}]',
        b'[["JWT", "e30=.e30.e30"], {}]',
        b'[["JWT", "e31.e30.e30"], {}]',
        b'[["JWT", "W10.e30.e30"], {}]',
        b"[" * 100_000,
        b'[["JWT", "' + b"a" * 300_000 + b'"], {}]',
    ],
)
def test_what_is_no_bundle_is_malformed(data: bytes) -> None:
    with pytest.raises(DecodeError):
        TokenBundle.from_bytes(data)


@pytest.mark.parametrize("data", [b'{"a": 1, "a": 2}', b"NaN", b"[Infinity]", b"1e", b"\xff"])
def test_json_that_two_readers_may_read_differently_is_malformed(data: bytes) -> None:
    with pytest.raises(DecodeError):
        read_json(data)


@pytest.mark.parametrize(
    "data",
    [
        b"[]",
        b'{"keys": 1}',
        b'{"keys": [{"kty": "EC", "crv": "P-384"}]}',
        b'{"keys": [{"kty": "EC", "crv": "P-384", "kid": "a", "x": "AA", "y": "AA"}]}',
        json.dumps(
            {"keys": [{"kty": "EC", "crv": "P-384", "kid": "a", "x": "A" * 64, "y": "A" * 64}]}
        ).encode(),
    ],
)
def test_what_is_no_key_set_is_malformed(data: bytes) -> None:
    with pytest.raises(DecodeError):
        parse_key_set(data)


def test_a_token_gives_out_exactly_what_was_signed(service: Authority) -> None:
    text = signed({"a": "b"}, service.key)
    token = Token.from_text(text)
    assert token.signed.decode() == text.rpartition(".")[0]
    assert token.claim_text("a") == "b"


def test_every_flipped_bit_of_a_bundle_is_refused(service: Authority) -> None:
    data, jwks = bundle(service, devices=[{}]), [key_set(service)]
    assert codes(appraise(data, jwks)) == []
    stride = 1 if os.environ.get("EVERY_FLIP") else 11
    for place in range(0, len(data), stride):
        changed = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        harmless = data[place : place + 1] == b" "
        assert codes(appraise(changed, jwks)) != [] or harmless, f"byte {place}"
