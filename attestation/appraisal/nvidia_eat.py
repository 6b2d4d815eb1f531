"""Appraise tokens of NVIDIA's Remote Attestation Service: the NRAS steps of docs/appraisal.md.

A token is NVIDIA's verdict on devices, not evidence of them: it says what NVIDIA found, and nothing
of what this program looks at. Nothing in it ties the devices to a worker but the nonce.
"""

import hashlib
import hmac
from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from attestation.appraisal.checklist import Checklist, Step
from attestation.appraisal.claims import Claims
from attestation.endorsements.nvidia_nras import service_key
from attestation.errors import DecodeError, VerificationError
from attestation.evidence.nvidia_eat import Token, TokenBundle

ISSUER: Final = "https://nras.attestation.nvidia.com"
"""The production service. NVIDIA's staging service signs too, and vouches for nothing."""

STEPS: Final = (
    Step.authentic("token format"),
    Step.authentic("token algorithm"),
    Step.authentic("token signatures"),
    Step.authentic("token window"),
    Step.authentic("token nonce"),
    Step.authentic("token devices"),
    Step.acceptable("token issuer"),
    Step.acceptable("token result"),
)

_ALGORITHM: Final = "ES384"
_SIGNATURE_BYTES: Final = 96


class TokenAlgorithmError(VerificationError):
    """A token is not signed with ES384. The SDK's own tokens are not: get NVIDIA's from inside."""

    code = "token-algorithm"


class TokenSignatureError(VerificationError):
    """The service's key did not sign a token. Treat it as forged."""

    code = "token-signature-invalid"


class TokenExpiredError(VerificationError):
    """A token has expired at that time; they live an hour. Ask for a new one."""

    code = "token-expired"


class TokenNotYetValidError(VerificationError):
    """A token begins in the future. Compare the time given with the record's."""

    code = "token-not-yet-valid"


class TokenNonceError(VerificationError):
    """A token answers another nonce. Ask again; if it recurs, someone replays."""

    code = "token-nonce-mismatch"


class TokenSetError(VerificationError):
    """The token over all lists other devices than are shown. Ask for all of them."""

    code = "token-set-incomplete"


class TokenDigestError(VerificationError):
    """A device's token is not the one that the token over all lists. Treat it as forged."""

    code = "token-digest-mismatch"


class TokenIssuerError(VerificationError):
    """The token is not of NVIDIA's production service. Ask that one."""

    code = "token-issuer"


class TokenResultError(VerificationError):
    """NVIDIA found something wrong with a device. Its claims say what."""

    code = "token-result"


def examine(
    data: bytes,
    *,
    nonce: bytes | None,
    jwks: Sequence[bytes],
    pinned: Collection[bytes],
    now: datetime,
    checks: Checklist,
) -> Claims:
    """Run `STEPS`. `pinned` are SHA-256 digests of keys that need no certificates.

    Without a nonce, all tokens must answer the same one: an auditor did not choose it.
    """
    # (1) The bundle parses; (2) no token claims an algorithm that anyone could have signed with.
    bundle = checks.need("a bundle of tokens", TokenBundle.from_bytes, data)
    tokens = [bundle.overall, *bundle.devices.values()]
    checks.run(_algorithms, tokens)
    # (3) Keys of NVIDIA's service signed them.
    checks.run(_signatures, tokens, jwks, pinned, now)
    # (4) They are alive at `now` and (5) answer this nonce.
    checks.run(_window, tokens, now)
    checks.run(_nonces, tokens, nonce)
    # (6) The devices shown are those listed: none changed, none left out.
    checks.run(_devices, bundle)
    # (7) The production service made them, and (8) found nothing wrong.
    checks.run(_issuer, tokens)
    checks.run(_result, bundle)
    return {name: _claim(token) for name, token in bundle.devices.items()}


def _algorithms(tokens: Sequence[Token]) -> str:
    for token in tokens:
        if token.header.get("alg") != _ALGORITHM:
            raise TokenAlgorithmError(f"a token that claims {token.header.get('alg')!r}")
        if "crit" in token.header:
            raise TokenAlgorithmError("a token with extensions that must be understood")
    return _ALGORITHM


def _signatures(
    tokens: Sequence[Token], jwks: Sequence[bytes], pinned: Collection[bytes], now: datetime
) -> str:
    for token in tokens:
        kid = token.header.get("kid")
        if not isinstance(kid, str):
            raise DecodeError("a token that names no key")
        key = service_key(kid, jwks=jwks, pinned=pinned, now=now)
        if len(token.signature) != _SIGNATURE_BYTES:
            raise TokenSignatureError(f"a signature of {len(token.signature)} bytes")
        half = _SIGNATURE_BYTES // 2
        parts = (token.signature[:half], token.signature[half:])
        r, s = (int.from_bytes(part, "big") for part in parts)
        try:
            key.verify(encode_dss_signature(r, s), token.signed, ec.ECDSA(hashes.SHA384()))
        except InvalidSignature as error:
            raise TokenSignatureError(f"not signed by {kid!r}") from error
    return "signed by keys of NVIDIA's service"


def _window(tokens: Sequence[Token], now: datetime) -> str:
    for token in tokens:
        if now < _time(token.claim_time("nbf")):
            raise TokenNotYetValidError(f"begins at {_time(token.claim_time('nbf')).isoformat()}")
        # RFC 7519 4.1.4: not accepted on or after that time.
        if now >= _time(token.claim_time("exp")):
            raise TokenExpiredError(f"ended at {_time(token.claim_time('exp')).isoformat()}")
    return f"until {_time(tokens[0].claim_time('exp')).isoformat()}"


def _nonces(tokens: Sequence[Token], nonce: bytes | None) -> str:
    wanted = tokens[0].claim_text("eat_nonce").lower() if nonce is None else nonce.hex()
    for token in tokens:
        if token.claim_text("eat_nonce").lower() != wanted:
            raise TokenNonceError(f"a token answers {token.claim_text('eat_nonce')}")
    return "every token answers it" if nonce is not None else f"all answer {wanted}"


def _devices(bundle: TokenBundle) -> str:
    listed = bundle.digests()
    if not listed or set(listed) != set(bundle.devices):
        wrong = sorted(set(listed) ^ set(bundle.devices))
        raise TokenSetError(f"listed or shown, not both: {', '.join(wrong) or 'no device'}")
    for name, digest in listed.items():
        shown = hashlib.sha256(bundle.devices[name].text.encode()).digest()
        if not hmac.compare_digest(shown, digest):
            raise TokenDigestError(f"{name} has another token")
    return f"{len(listed)} devices, each as listed"


def _issuer(tokens: Sequence[Token]) -> str:
    for token in tokens:
        if token.claim_text("iss") != ISSUER:
            raise TokenIssuerError(f"issued by {token.claim_text('iss')}")
    return ISSUER


def _result(bundle: TokenBundle) -> str:
    if bundle.overall.claims.get("x-nvidia-overall-att-result") is not True:
        raise TokenResultError("the overall result is not true")
    for name, token in bundle.devices.items():
        if str(token.claims.get("measres")).lower() != "success":
            raise TokenResultError(f"{name}: measurements do not match")
        if token.claims.get("dbgstat", "disabled") != "disabled":
            raise TokenResultError(f"{name}: debugging is {token.claims.get('dbgstat')}")
    return "true"


def _claim(token: Token) -> str:
    names = ("hwmodel", "ueid", "x-nvidia-gpu-driver-version", "x-nvidia-gpu-vbios-version")
    return ", ".join(str(token.claims[name]) for name in names if name in token.claims)


def _time(seconds: int) -> datetime:
    try:
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    except OverflowError:
        return datetime.max.replace(tzinfo=UTC)
