"""The Merkle tree of RFC 9162 section 2.1: SHA-256, 0x00 before leaves, 0x01 before nodes.

One tree serves four uses: nonces of a challenge window, segment tags of a job, receipts of a batch
and entries of a log. Each use puts its own label in front of the leaf data, so that a leaf of one
is never a leaf of another.
"""

import hashlib
from collections.abc import Sequence
from typing import Final

from attestation import limits
from attestation.errors import VerificationError
from attestation.identifiers import DIGEST_BYTES

_LEAF: Final = b"\x00"
_NODE: Final = b"\x01"

EMPTY_ROOT: Final = hashlib.sha256(b"").digest()
"""The root of the tree without leaves. No inclusion proof leads to it."""


class InclusionInvalidError(VerificationError):
    """A Merkle path does not lead from the leaf to the root. The leaf is not in that tree."""

    code = "inclusion-invalid"


def leaf_hash(data: bytes | memoryview) -> bytes:
    """Return the hash of a leaf that holds `data`."""
    hasher = hashlib.sha256(_LEAF)
    hasher.update(data)
    return hasher.digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of an inner node over the hashes of its two children."""
    return hashlib.sha256(_NODE + left + right).digest()


def root(leaf_hashes: Sequence[bytes]) -> bytes:
    """Return the root over `leaf_hashes` (RFC 9162 section 2.1.1)."""
    if not leaf_hashes:
        return EMPTY_ROOT
    return _levels(leaf_hashes)[-1][0]


def inclusion_path(leaf_hashes: Sequence[bytes], index: int) -> tuple[bytes, ...]:
    """Return the siblings from leaf `index` up to the root (RFC 9162 section 2.1.3.1)."""
    return InclusionPaths(leaf_hashes).path(index)


class InclusionPaths:
    """Every leaf's path out of one pass over the tree: a batch of n costs n hashes, not n²."""

    def __init__(self, leaf_hashes: Sequence[bytes]) -> None:
        """Hash the tree over `leaf_hashes`, of which there is at least one."""
        if not leaf_hashes:
            raise ValueError("a tree without leaves has no paths")
        self._levels = _levels(leaf_hashes)

    @property
    def root(self) -> bytes:
        """The root all paths lead to."""
        return self._levels[-1][0]

    def path(self, index: int) -> tuple[bytes, ...]:
        """Return the siblings of leaf `index`, the lowest first."""
        if not 0 <= index < len(self._levels[0]):
            raise IndexError("no such leaf")
        siblings = []
        for level in self._levels[:-1]:
            sibling = index ^ 1
            if sibling < len(level):
                siblings.append(level[sibling])
            index >>= 1
        return tuple(siblings)


def verify_inclusion(
    leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes
) -> None:
    """Check that the hash `leaf` is number `index` of the `size` leaves under `root`.

    The algorithm of RFC 9162 section 2.1.3.2, step by step. Raises `InclusionInvalidError`.
    """
    if not 0 <= index < size or len(path) > limits.MERKLE_PATH:
        raise InclusionInvalidError("no such leaf in a tree of that size")
    if any(len(sibling) != DIGEST_BYTES for sibling in (leaf, root, *path)):
        raise InclusionInvalidError("a hash has another length")
    node, last, result = index, size - 1, leaf
    for sibling in path:
        if last == 0:
            raise InclusionInvalidError("the path is too long")
        if node & 1 or node == last:
            result = node_hash(sibling, result)
            while not node & 1 and node != 0:
                node, last = node >> 1, last >> 1
        else:
            result = node_hash(result, sibling)
        node, last = node >> 1, last >> 1
    if last != 0:
        raise InclusionInvalidError("the path is too short")
    if result != root:
        raise InclusionInvalidError("the path leads to another root")


def _levels(leaf_hashes: Sequence[bytes]) -> list[list[bytes]]:
    # Bottom up, a node without sibling moves up unchanged: the same tree as the RFC's recursion
    # over the largest power of two, without its recursion (tests compare the two).
    levels = [list(leaf_hashes)]
    while len(levels[-1]) > 1:
        below = levels[-1]
        above = [node_hash(below[i], below[i + 1]) for i in range(0, len(below) - 1, 2)]
        if len(below) % 2:
            above.append(below[-1])
        levels.append(above)
    return levels
