"""The one secret of a job, and everything that is derived from it.

Derivations are HKDF-SHA-384 (RFC 5869) with an empty salt and a labelled `info`; none of them can
collide with another, and none leads back to the content key. docs/sealed-tensor.md, section 2.
"""

from os import urandom
from typing import Final, NoReturn, Self

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

from attestation.encoding.digests import Label, digest, prefix
from attestation.errors import LocalProtocolError
from attestation.identifiers import Digest, JobId
from attestation.sealing.floe import Buffer, wipe

CONTENT_KEY_BYTES: Final = 32

_SHA_384: Final = SHA384()


def derive(key: Buffer, *, info: bytes, salt: bytes | None = None) -> bytes:
    """Return 32 bytes of HKDF-SHA-384."""
    return HKDF(_SHA_384, 32, salt, info).derive(key)


class ContentKey:
    """Drawn by the client for one job. Whoever holds it can read that job, and no other.

    There is no way to read it back out: it is derived from, or sealed under a session's wrap key.
    `wipe` overwrites it, and what HKDF extracts from it once for all derivations; derived keys and
    the copies inside OpenSSL live as long as their users.
    """

    __slots__ = ("_extracted", "_key", "_wiped")

    def __init__(self, key: Buffer) -> None:
        """Copy `key`; raises `LocalProtocolError` unless it has 32 bytes."""
        if len(key) != CONTENT_KEY_BYTES:
            raise LocalProtocolError(f"a content key has {CONTENT_KEY_BYTES} bytes")
        self._key = bytearray(key)
        self._extracted = bytearray(HKDF.extract(_SHA_384, None, self._key))
        self._wiped = False

    def __repr__(self) -> str:
        return f"ContentKey({'wiped' if self._wiped else '...'})"

    def __reduce__(self) -> NoReturn:
        raise LocalProtocolError("a content key does not leave its process")

    @classmethod
    def generate(cls) -> Self:
        """Draw a fresh key."""
        return cls(urandom(CONTENT_KEY_BYTES))

    @classmethod
    def from_bytes(cls, key: Buffer) -> Self:
        """Copy a key that was unwrapped; raises `LocalProtocolError` unless it has 32 bytes."""
        return cls(key)

    def commitment(self, job_id: JobId) -> Digest:
        """Return what the job header says of this key, so that a wrong one is noticed at once."""
        return Digest(self._derive(Label.CONTENT_COMMITMENT, job_id))

    def tensor_key(self, header: bytes) -> bytes:
        """Return the FLOE key of the tensor with this canonical `TensorHeader`."""
        return self._derive(Label.TENSOR_KEY, digest(Label.TENSOR_KEY, header))

    def body_key(self, request_digest: Digest) -> bytes:
        """Return the key that the confidential half of the request is sealed under."""
        return self._derive(Label.JOB_BODY, request_digest)

    def sealed_under(self, aead: AESGCM, *, nonce: bytes, aad: bytes) -> bytes:
        """Return this key's ciphertext and tag under a session's wrap key."""
        return aead.encrypt(nonce, self._live(), aad)

    def wipe(self) -> None:
        """Overwrite the key. Every later use raises `LocalProtocolError`."""
        wipe(self._key)
        wipe(self._extracted)
        self._wiped = True

    def _derive(self, label: Label, context: bytes) -> bytes:
        self._live()
        info = prefix(label) + context
        return HKDFExpand(_SHA_384, CONTENT_KEY_BYTES, info).derive(self._extracted)

    def _live(self) -> bytearray:
        if self._wiped:
            raise LocalProtocolError("this content key was wiped")
        return self._key
