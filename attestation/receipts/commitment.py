"""What a receipt says about the ciphertext of a job: one hash over all segments of a direction.

`tags` hashes the 16-byte authentication tag that ends each segment: nearly free, and nobody without
the content key can find other segments with the same tags. The key's holders (the client and the
worker) could, since GCM tags do not commit; against them `sha256` hashes whole segments, which
costs a pass over the data. The receipt names the kind. Plaintext is never hashed: a digest of
guessable values gives them away.
"""

import hashlib
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Final, Self

from attestation.encoding.digests import Label, prefix
from attestation.errors import DecodeError, LocalProtocolError
from attestation.receipts import merkle

TAG_BYTES: Final = 16
_PREFIX: Final = prefix(Label.COMMITMENT)


class CommitmentKind(StrEnum):
    """What of each segment is hashed."""

    TAGS = "tags"
    SHA256 = "sha256"


_KINDS: Final[Mapping[str, CommitmentKind]] = {kind.value: kind for kind in CommitmentKind}


class SegmentCommitment:
    """Collects the segments of one direction, numbered in the order in which they travel.

    They may arrive in any order, from one thread at a time. Memory: 32 bytes per segment.
    """

    def __init__(self, kind: str) -> None:
        """Start an empty commitment; raises `DecodeError` for a kind that there is not."""
        known = _KINDS.get(kind)
        if known is None:
            raise DecodeError("an unknown kind of commitment")
        self.kind = known
        self._leaves: dict[int, bytes] = {}

    @classmethod
    def over(cls, kind: str, segments: Iterable[bytes | bytearray | memoryview]) -> Self:
        """Return the commitment to `segments`, given in order."""
        commitment = cls(kind)
        for index, segment in enumerate(segments):
            commitment.add(index, segment)
        return commitment

    def add(self, index: int, segment: bytes | bytearray | memoryview) -> None:
        """Take segment `index`. Raises `DecodeError` when it is shorter than a tag."""
        if len(segment) < TAG_BYTES:
            raise DecodeError("a segment is shorter than its tag")
        if index < 0 or index in self._leaves:
            raise LocalProtocolError(f"segment {index} was committed to already")
        if self.kind is CommitmentKind.TAGS:
            summary = bytes(segment[-TAG_BYTES:])
        else:
            summary = hashlib.sha256(segment).digest()
        self._leaves[index] = merkle.leaf_hash(_PREFIX + summary)

    def root(self) -> bytes:
        """Return the commitment to the segments 0 to n-1, or raise if one of them is missing."""
        try:
            return merkle.root([self._leaves[index] for index in range(len(self._leaves))])
        except KeyError as error:
            raise LocalProtocolError(f"segment {error.args[0]} is missing") from error
