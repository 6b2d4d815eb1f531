"""The client's half of the session exchange: seal a fresh secret to an accepted worker."""

from os import urandom

from attestation.appraisal.result import RecipientKey
from attestation.errors import LocalProtocolError
from attestation.sealing.hybrid_kem import SUITE, info, public_key_from_bytes
from attestation.sealing.session_keys import SESSION_SECRET_BYTES, SessionKeys, Transcript


def seal_session(recipient: RecipientKey, transcript: Transcript) -> tuple[SessionKeys, bytes]:
    """Return the session's keys and the HPKE ciphertext that gives them to the worker.

    A `RecipientKey` exists only for accepted Evidence (G2). Raises `LocalProtocolError` for
    anything else and for a transcript of another key set, `DecodeError` for an invalid key.
    """
    if not isinstance(recipient, RecipientKey):
        raise LocalProtocolError("sessions are sealed to accepted keys only")
    if recipient.keyset_id != transcript.keyset_id:
        raise LocalProtocolError("the transcript names another key set than the recipient's")
    secret = urandom(SESSION_SECRET_BYTES)
    enc = SUITE.encrypt(secret, public_key_from_bytes(recipient.public_bytes), info(transcript))
    return SessionKeys.derive(secret, transcript), enc
