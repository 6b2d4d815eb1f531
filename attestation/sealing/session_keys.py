"""What client and worker share after one HPKE exchange: a wrap key and a confirmation.

Both are HKDF-SHA-384 of the session secret with the transcript digest as salt, so two parties that
disagree about key set, evidence, policy, client or session share nothing.
docs/sealed-tensor.md, section 4.
"""

import hmac
from os import urandom
from typing import Final, Self

from attrs import frozen
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from attestation import limits
from attestation.encoding.digests import Label, digest, prefix
from attestation.encoding.record import Record, item, octets
from attestation.errors import DecodeError, LocalProtocolError, NotAuthenticError
from attestation.identifiers import (
    DIGEST_BYTES,
    SHORT_ID_BYTES,
    Digest,
    KeySetId,
    SessionId,
)
from attestation.sealing.content_key import CONTENT_KEY_BYTES, ContentKey, derive

SESSION_SECRET_BYTES: Final = 32

_NONCE_BYTES: Final = 12
_PREFIX_BYTES: Final = SHORT_ID_BYTES + _NONCE_BYTES
WRAP_BYTES: Final = _PREFIX_BYTES + CONTENT_KEY_BYTES + 16


@frozen(kw_only=True)
class Transcript(Record):
    """Everything both sides must agree on before a key of this session is worth anything.

    `nonce` is the Challenge of the client that the Evidence answers.
    """

    VERSION = 1

    keyset_id: KeySetId = item(octets(exactly=DIGEST_BYTES))
    evidence_digest: Digest = item(octets(exactly=DIGEST_BYTES))
    policy_digest: Digest = item(octets(exactly=DIGEST_BYTES))
    client_key: bytes = item(octets(exactly=32))
    session_id: SessionId = item(octets(exactly=SHORT_ID_BYTES))
    nonce: bytes = item(octets(exactly=limits.NONCE_BYTES))

    def digest(self) -> Digest:
        """Return the labelled digest that HPKE and every key of the session are bound to."""
        return digest(Label.SESSION, self.to_bytes())


class SessionKeys:
    """The keys of one session. They have no accessor, and neither has the secret they come from."""

    __slots__ = ("_confirmation", "_wrap", "session_id")

    def __init__(self, *, session_id: SessionId, wrap_key: bytes, confirmation: bytes) -> None:
        """Hold derived keys; `derive` is what makes them."""
        self.session_id = session_id
        self._wrap = AESGCM(wrap_key)
        self._confirmation = confirmation

    def __repr__(self) -> str:
        return f"SessionKeys(session_id={self.session_id.hex()})"

    @classmethod
    def derive(cls, secret: bytes, transcript: Transcript) -> Self:
        """Derive the keys of the session that `transcript` describes from its 32-byte secret."""
        if len(secret) != SESSION_SECRET_BYTES:
            raise LocalProtocolError(f"a session secret has {SESSION_SECRET_BYTES} bytes")
        salt = transcript.digest()
        confirm_key = derive(secret, salt=salt, info=prefix(Label.SESSION_CONFIRM))
        return cls(
            session_id=transcript.session_id,
            wrap_key=derive(secret, salt=salt, info=prefix(Label.SESSION_WRAP)),
            confirmation=hmac.digest(confirm_key, prefix(Label.SESSION_CONFIRM) + salt, "sha256"),
        )

    def confirmation(self) -> bytes:
        """Return the worker's 32-byte proof that it holds the session secret."""
        return self._confirmation

    def check_confirmation(self, confirmation: bytes) -> None:
        """Raise `NotAuthenticError` unless the peer holds the same secret and transcript."""
        if not hmac.compare_digest(confirmation, self._confirmation):
            raise NotAuthenticError("the worker does not hold this session's secret")

    def wrap(self, content_key: ContentKey, request_digest: Digest) -> bytes:
        """Return `session id(16) ‖ iv(12) ‖ ciphertext(32) ‖ tag(16)`, good for one request."""
        nonce = urandom(_NONCE_BYTES)
        aad = self._aad(request_digest)
        return self.session_id + nonce + content_key.sealed_under(self._wrap, nonce=nonce, aad=aad)

    def unwrap(self, wrap: bytes, request_digest: Digest) -> ContentKey:
        """Return the content key, or raise `NotAuthenticError` if it is for another request."""
        if wrap_session_id(wrap) != self.session_id:
            raise NotAuthenticError("the key was wrapped under another session")
        nonce, sealed = wrap[SHORT_ID_BYTES:_PREFIX_BYTES], wrap[_PREFIX_BYTES:]
        try:
            key = self._wrap.decrypt(nonce, sealed, self._aad(request_digest))
        except InvalidTag:
            raise NotAuthenticError("the wrapped key was changed or is for another job") from None
        return ContentKey.from_bytes(key)

    def _aad(self, request_digest: Digest) -> bytes:
        if len(request_digest) != DIGEST_BYTES:
            raise LocalProtocolError("a request digest of another length")
        return request_digest + self.session_id


def wrap_session_id(wrap: bytes) -> SessionId:
    """Return which session a wrapped key belongs to; raises `DecodeError`.

    A hint to find the session by: only `unwrap` authenticates it.
    """
    if len(wrap) != WRAP_BYTES:
        raise DecodeError(f"a wrapped key of {len(wrap)} bytes")
    return SessionId(bytes(wrap[:SHORT_ID_BYTES]))
