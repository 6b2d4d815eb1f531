"""Tokens of NVIDIA's Remote Attestation Service (NRAS), parsed and not yet believed.

A detached EAT bundle (RFC 9711 section 5, NVIDIA "Claims Guide") is `[["JWT", overall], {name:
token}]`, where the overall token lists a digest of each device's. A JWT is a JWS in compact form
(RFC 7515); which algorithm it claims decides nothing here. JSON is read strictly: a name that
occurs twice would let two readers see two documents.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any, Final, NoReturn, Self

from attrs import field, frozen

from attestation import limits
from attestation.errors import DecodeError

_PARTS: Final = 3
_JWT: Final = "JWT"
_BARE: Final = b"eyJ"
"""How the base64url of a JSON object begins, and no JSON does."""
_DIGEST: Final = "DIGEST"
_SHA256: Final = "SHA-256"
_BASE64URL: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


@frozen(kw_only=True)
class Token:
    """One JWT. `text` is its compact form, which digests are made of."""

    text: str = field(repr=False)
    header: Mapping[str, Any]
    claims: Mapping[str, Any] = field(repr=False)
    signature: bytes = field(repr=False)

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Parse a compact JWS with JSON inside, or raise `DecodeError`."""
        parts = text.split(".")
        if len(parts) != _PARTS or len(text) > limits.TOKEN_BYTES or not text.isascii():
            raise DecodeError("not a JWT")
        header, claims, signature = (_base64url(part) for part in parts)
        return cls(
            text=text,
            header=_object(read_json(header)),
            claims=_object(read_json(claims)),
            signature=signature,
        )

    @property
    def signed(self) -> bytes:
        """The bytes that the signature is over."""
        return self.text.rpartition(".")[0].encode()

    def claim_text(self, name: str) -> str:
        """Return a claim that must be text, or raise `DecodeError`."""
        value = self.claims.get(name)
        if not isinstance(value, str):
            raise DecodeError(f"a token without {name}")
        return value

    def claim_time(self, name: str) -> int:
        """Return a claim that must be a time in seconds, or raise `DecodeError`."""
        value = self.claims.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise DecodeError(f"a token without {name}")
        return value


@frozen(kw_only=True)
class TokenBundle:
    """The token over all, and those of the devices by their names."""

    overall: Token
    devices: Mapping[str, Token] = field(repr=False)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parse a bundle, or one token by itself, which shows no device; raises `DecodeError`."""
        if len(data) > limits.TOKEN_BYTES:
            raise DecodeError(f"a token of {len(data)} bytes")
        if data.startswith(_BARE):
            return cls(overall=Token.from_text(_ascii(data)), devices={})
        match read_json(data):
            case [[str() as kind, str() as overall], dict() as devices] if kind == _JWT:
                pass
            case _:
                raise DecodeError("not a detached EAT bundle")
        if len(devices) > limits.GPU_DEVICES:
            raise DecodeError(f"tokens of {len(devices)} devices")
        return cls(
            overall=Token.from_text(overall),
            devices={name: Token.from_text(_text(token)) for name, token in devices.items()},
        )

    def digests(self) -> Mapping[str, bytes]:
        """Return what the overall token lists: SHA-256 of each device's token. `DecodeError`."""
        submods = _object(self.overall.claims.get("submods", {}))
        return {name: _listed(value) for name, value in submods.items()}


def _ascii(data: bytes) -> str:
    try:
        return data.decode("ascii").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise DecodeError("not a JWT") from error


def read_json(data: bytes) -> Any:
    """Parse JSON in which no name occurs twice and no number is not one, or raise `DecodeError`."""
    try:
        return json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise DecodeError(f"not JSON that can be read ({type(error).__name__})") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise DecodeError("JSON with a name that occurs twice")
    return found


def _no_number(name: str) -> NoReturn:
    raise DecodeError(f"JSON with {name}")


def _base64url(text: str) -> bytes:
    data = text.encode()
    if not _BASE64URL.issuperset(data):
        raise DecodeError("a JWT with something other than base64url")
    try:
        decoded = base64.urlsafe_b64decode(data + b"=" * (-len(data) % 4))
    except binascii.Error as error:
        raise DecodeError("a JWT with something other than base64url") from error
    # Bits that do not fill a byte must be zero: one token has one form.
    if base64.urlsafe_b64encode(decoded).rstrip(b"=") != data:
        raise DecodeError("a JWT with something other than base64url")
    return decoded


def _listed(value: Any) -> bytes:
    match value:
        case [str() as form, [str() as algorithm, str() as text]]:
            if (form, algorithm) == (_DIGEST, _SHA256) and len(text) == 64:
                try:
                    return bytes.fromhex(text)
                except ValueError as error:
                    raise DecodeError("a digest that is not hexadecimal") from error
    raise DecodeError("a token that lists something other than SHA-256 digests")


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DecodeError("JSON of another shape")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise DecodeError("JSON of another shape")
    return value
