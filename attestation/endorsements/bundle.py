"""A file of collateral that says when it was gathered, signed by whoever gathered it.

What is inside carries its vendors' signatures, and those are checked in every appraisal whoever
gathered it. The signature here is about one more thing: *at this time, this was what the vendors
gave out*. That is worth something only to who knows the gatherer's key; anybody can sign a bundle
with a key of his own, so without a pinned key the date is shown and not believed.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Self

from attrs import frozen
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from attestation import limits
from attestation.encoding import cbor
from attestation.encoding.digests import Label, prefix
from attestation.encoding.record import Record, item, octets, uint
from attestation.endorsements.collateral import Collateral
from attestation.errors import SignatureInvalidError, VerificationError

_YEAR_9999_MS = 253_402_300_799_000


class CollateralSignerError(VerificationError):
    """Somebody else than the pinned key signed this bundle. Gather anew, or pin its signer."""

    code = "collateral-signer"


class CollateralSignatureError(SignatureInvalidError):
    """A bundle of collateral was changed after it was signed. Gather it again."""

    code = "collateral-signature"


@frozen(kw_only=True)
class CollateralBundle(Record):
    """A `*.collateral` file. `collateral` is a canonical `Collateral`, kept as it was signed."""

    VERSION = 1
    LIMIT = limits.COLLATERAL_BYTES + limits.KIB

    collateral: bytes = item(octets(limit=limits.COLLATERAL_BYTES), secret=True)
    gathered_at_ms: int = item(uint(_YEAR_9999_MS))
    signer: bytes = item(octets(exactly=32))
    signature: bytes = item(octets(exactly=64), secret=True)

    @classmethod
    def sign(
        cls,
        collateral: Collateral,
        *,
        gathered_at: datetime,
        signer: bytes,
        sign: Callable[[bytes], bytes],
    ) -> Self:
        """Date and sign `collateral`; `signer` is the Ed25519 public key that `sign` belongs to."""
        data = collateral.to_bytes()
        milliseconds = int(gathered_at.timestamp() * 1000)
        return cls(
            collateral=data,
            gathered_at_ms=milliseconds,
            signer=signer,
            signature=sign(_signed(data, milliseconds)),
        )

    @property
    def gathered_at(self) -> datetime:
        """When the signer says that it was gathered."""
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=self.gathered_at_ms)

    def open(self, *, pinned: bytes | None) -> Collateral:
        """Return what is inside, for an appraisal to check.

        With `pinned`, the date is that key's word. Raises `CollateralSignerError` when another key
        signed, `CollateralSignatureError` when the bytes are not those that were signed, and
        `DecodeError`.
        """
        if pinned is not None and self.signer != pinned:
            raise CollateralSignerError(f"signed by {self.signer.hex()}")
        try:
            Ed25519PublicKey.from_public_bytes(self.signer).verify(
                self.signature, _signed(self.collateral, self.gathered_at_ms)
            )
        except (InvalidSignature, ValueError) as error:
            raise CollateralSignatureError("the bundle is not what its key signed") from error
        return Collateral.from_bytes(self.collateral)


def _signed(collateral: bytes, gathered_at_ms: int) -> bytes:
    return prefix(Label.COLLATERAL_BUNDLE) + cbor.encode([gathered_at_ms, collateral])
