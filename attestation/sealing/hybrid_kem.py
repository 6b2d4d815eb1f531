"""The one HPKE suite (RFC 9180): ML-KEM-768 and X25519 together, HKDF-SHA-256, AES-256-GCM.

Recorded traffic stays closed unless both fall (G8). A public key is 1216 bytes, the ML-KEM-768
encapsulation key (FIPS 203, 1184 bytes) and then the X25519 key (32 bytes, RFC 7748).

The worker's half of the exchange is here; the client's, which needs an accepted key, is in
`envelope`, because a worker must not load what appraises evidence.
"""

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from attestation.encoding.digests import Label, prefix
from attestation.errors import DecodeError, NotAuthenticError
from attestation.sealing.session_keys import SESSION_SECRET_BYTES, SessionKeys, Transcript

MLKEM_BYTES: Final = 1184
PUBLIC_KEY_BYTES: Final = MLKEM_BYTES + 32
ENC_BYTES: Final = 1088 + 32 + SESSION_SECRET_BYTES + 16
"""ML-KEM ciphertext, X25519 share, sealed session secret, tag."""

SUITE: Final = hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)


def info(transcript: Transcript) -> bytes:
    """Return the HPKE `info`: a secret sealed for one transcript opens for no other."""
    return prefix(Label.SESSION) + transcript.digest()


def generate_key_pair() -> tuple[hpke.MLKEM768X25519PrivateKey, bytes]:
    """Draw a key pair; returns the private key and the 1216 public bytes.

    The private key has no raw-bytes accessor (design, step 3).
    """
    kem, exchange = MLKEM768PrivateKey.generate(), X25519PrivateKey.generate()
    public = public_key_to_bytes(kem.public_key(), exchange.public_key())
    return hpke.MLKEM768X25519PrivateKey(kem, exchange), public


def public_key_to_bytes(kem: MLKEM768PublicKey, exchange: X25519PublicKey) -> bytes:
    """Return the 1216 bytes of a hybrid public key."""
    return kem.public_bytes_raw() + exchange.public_bytes_raw()


def public_key_from_bytes(data: bytes) -> hpke.MLKEM768X25519PublicKey:
    """Parse 1216 bytes; raises `DecodeError`, also where FIPS 203 section 7.2 refuses the key."""
    if len(data) != PUBLIC_KEY_BYTES:
        raise DecodeError(f"a hybrid public key of {len(data)} bytes")
    try:
        kem = MLKEM768PublicKey.from_public_bytes(data[:MLKEM_BYTES])
        exchange = X25519PublicKey.from_public_bytes(data[MLKEM_BYTES:])
        # X25519 gives zero for a point of small order, whatever the other side's key is.
        X25519PrivateKey.generate().exchange(exchange)
    except ValueError as error:
        raise DecodeError("not a valid ML-KEM-768 and X25519 public key") from error
    return hpke.MLKEM768X25519PublicKey(kem, exchange)


def open_session(
    private_key: hpke.MLKEM768X25519PrivateKey, enc: bytes, transcript: Transcript
) -> SessionKeys:
    """Open a client's session (worker's side), or raise `NotAuthenticError`."""
    if len(enc) != ENC_BYTES:
        raise NotAuthenticError(f"a sealed session secret of {len(enc)} bytes")
    try:
        secret = SUITE.decrypt(enc, private_key, info(transcript))
    except (InvalidTag, ValueError):
        raise NotAuthenticError("the session was sealed to another key or transcript") from None
    return SessionKeys.derive(secret, transcript)
