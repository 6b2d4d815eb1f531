"""The keys that one piece of Evidence vouches for.

A key set is drawn after the Challenges of one window are known, attested once, and never again:
re-attesting a key is what the relay attacks on attested channels exploit (docs/protocol.md,
step 3).
"""

from enum import StrEnum
from functools import cached_property
from typing import Final

from attrs import frozen

from attestation import limits
from attestation.encoding.digests import Label, digest
from attestation.encoding.record import Record, item, octets, uint, word
from attestation.errors import DecodeError
from attestation.identifiers import DIGEST_BYTES, Digest, KeySetId

KEM_PUBLIC_KEY_BYTES: Final = 1216
"""ML-KEM-768 encapsulation key, 1184 bytes, then the X25519 public key, 32 bytes."""

RECEIPT_KEY_BYTES: Final = 32


class Kem(StrEnum):
    """How a session secret is encapsulated to the key set. One choice: nothing to downgrade to."""

    MLKEM768_X25519 = "MLKEM768-X25519"


class ReceiptAlgorithm(StrEnum):
    """How receipts are signed."""

    ED25519 = "Ed25519"


@frozen(kw_only=True)
class KeySet(Record):
    """A worker's public keys, the time they live and the kernels they serve.

    Times are Unix milliseconds. A key set that ends before it begins, or that would live longer
    than `limits.KEYSET_SECONDS`, cannot be made or parsed (`DecodeError`).
    """

    VERSION = 1
    LIMIT = limits.KEYSET_BYTES

    kem: Kem = item(word(Kem), default=Kem.MLKEM768_X25519)
    kem_public_key: bytes = item(octets(exactly=KEM_PUBLIC_KEY_BYTES))
    receipt_algorithm: ReceiptAlgorithm = item(
        word(ReceiptAlgorithm), default=ReceiptAlgorithm.ED25519
    )
    receipt_key: bytes = item(octets(exactly=RECEIPT_KEY_BYTES))
    not_before_ms: int = item(uint())
    not_after_ms: int = item(uint())
    catalogue_digest: Digest = item(octets(exactly=DIGEST_BYTES))

    def __attrs_post_init__(self) -> None:
        """Refuse a life that no policy could accept."""
        if not 0 < self.lifetime_ms <= limits.KEYSET_SECONDS * 1000:
            raise DecodeError(f"a key set that lives {self.lifetime_ms} ms")

    @property
    def lifetime_ms(self) -> int:
        """Milliseconds from the first to the last moment of use."""
        return self.not_after_ms - self.not_before_ms

    def keyset_id(self) -> KeySetId:
        """Return the labelled digest that names this key set and that the hardware signs."""
        return self._keyset_id

    @cached_property
    def _keyset_id(self) -> KeySetId:
        return KeySetId(digest(Label.KEYSET, self.to_bytes()))
