"""An EAT Attestation Result as a file: a signed JWT or CWT, or claims that say that nobody signed.

JWT is RFC 7515 in its compact form, CWT is RFC 8392: a COSE_Sign1 (tag 18) inside the tag for CWTs
(61). ES256 and EdDSA, as the key is; both formats want r and s of ECDSA at full length, which is
not the DER that cryptography makes.
"""

import base64
import hashlib
import json
from enum import StrEnum
from typing import Any, Final

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from attestation.appraisal.ear import Form, ear, unsigned
from attestation.appraisal.result import AttestationResult
from attestation.cli.output import json_text
from attestation.cli.signing_keys import SigningKey
from attestation.encoding import cbor

_CWT_TAG: Final = b"\xd8\x3d"
_SIGN1_TAG: Final = b"\xd2"
_COORDINATE_BYTES: Final = 32

# RFC 9052: alg, content type's neighbour `kid`; RFC 9596: typ.
_ALGORITHM, _KEY_ID, _TYPE = 1, 4, 16
_ES256, _EDDSA = -7, -8


class EarForm(StrEnum):
    """How a result is written."""

    JWT = "jwt"
    CWT = "cwt"


def unsigned_ear(result: AttestationResult, *, issued_at: int, build: str) -> bytes:
    """Return the claims as JSON whose first claim says that they are unsigned."""
    claims = ear(result, issued_at=issued_at, build=build, form=Form.JSON)
    return (json_text(unsigned(claims)) + "\n").encode()


def signed_ear(
    result: AttestationResult, *, issued_at: int, build: str, key: SigningKey, form: EarForm
) -> bytes:
    """Return a token over the claims, signed with `key`."""
    if form is EarForm.JWT:
        claims = ear(result, issued_at=issued_at, build=build, form=Form.JSON)
        return _jwt(claims, key)
    return _cwt(ear(result, issued_at=issued_at, build=build, form=Form.CBOR), key)


def key_id(key: SigningKey) -> bytes:
    """Return the SHA-256 of the public key's SubjectPublicKeyInfo, which tokens name it by."""
    spki = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(spki).digest()


def _jwt(claims: dict[Any, Any], key: SigningKey) -> bytes:
    algorithm = "EdDSA" if isinstance(key, Ed25519PrivateKey) else "ES256"
    header = {"alg": algorithm, "typ": "eat+jwt", "kid": _base64(key_id(key)).decode("ascii")}
    parts = [_base64(json.dumps(part, sort_keys=True).encode()) for part in (header, claims)]
    message = b".".join(parts)
    return message + b"." + _base64(_sign(key, message)) + b"\n"


def _cwt(claims: dict[Any, Any], key: SigningKey) -> bytes:
    algorithm = _EDDSA if isinstance(key, Ed25519PrivateKey) else _ES256
    protected = cbor.encode(
        {_ALGORITHM: algorithm, _KEY_ID: key_id(key), _TYPE: "application/eat+cwt"}
    )
    payload = cbor.encode(claims)
    signature = _sign(key, cbor.encode(["Signature1", protected, b"", payload]))
    return _CWT_TAG + _SIGN1_TAG + cbor.encode([protected, {}, payload, signature])


def _sign(key: SigningKey, message: bytes) -> bytes:
    if isinstance(key, Ed25519PrivateKey):
        return key.sign(message)
    r, s = decode_dss_signature(key.sign(message, ec.ECDSA(hashes.SHA256())))
    return b"".join(value.to_bytes(_COORDINATE_BYTES, "big") for value in (r, s))


def _base64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")
