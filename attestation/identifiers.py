"""Names for the byte strings that identify things, so that no function can take one for another."""

from typing import Final, NewType

JobId = NewType("JobId", bytes)
"""16 random bytes drawn by the client. In every AAD and receipt of the job."""

WorkerId = NewType("WorkerId", bytes)
"""16 bytes, derived by the coordinator from the worker's CURVE key and its random instance."""

SessionId = NewType("SessionId", bytes)
"""16 random bytes drawn by the client for one HPKE exchange with one key set."""

KeySetId = NewType("KeySetId", bytes)
"""32 bytes: the labelled digest of a canonical key set."""

ClientKeyId = NewType("ClientKeyId", bytes)
"""32 bytes: the labelled digest of a client's Ed25519 public key."""

Digest = NewType("Digest", bytes)
"""32 bytes of labelled SHA-256 (see `encoding.digests`)."""

SHORT_ID_BYTES: Final = 16
DIGEST_BYTES: Final = 32
