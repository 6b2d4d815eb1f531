"""What the hardware signs: one value that ties key set, Challenges and GPU evidence together.

CPU and GPU evidence each contain a digest of the other side's input, so that neither can be taken
from one machine and shown beside the other's of a second machine.
"""

import hashlib
from collections.abc import Sequence
from typing import Self

from attrs import frozen

from attestation import limits
from attestation.encoding.digests import Label, digest, digest512, prefix
from attestation.errors import LocalProtocolError
from attestation.identifiers import Digest, KeySetId
from attestation.receipts import merkle


def report_data(keyset_id: KeySetId, nonce_root: bytes, gpu_evidence: bytes | None = None) -> bytes:
    """Return the 64 bytes that go into the hardware's report."""
    gpu_digest = digest(Label.GPU_EVIDENCE, gpu_evidence or b"")
    return digest512(Label.BINDING, keyset_id + nonce_root + gpu_digest)


def qualifying_data(report_data: bytes) -> bytes:
    """Return the 32 bytes that a TPM signs: small TPMs take no more than one digest."""
    return hashlib.sha256(report_data).digest()


def gpu_nonce(keyset_id: KeySetId, nonce_root: bytes) -> Digest:
    """Return the 32-byte nonce for the GPU's own evidence, which is collected first."""
    return digest(Label.GPU_NONCE, keyset_id + nonce_root)


@frozen(kw_only=True)
class FreshnessProof:
    """Where one Challenge sits among those that a signature answers (RFC 9162 section 2.1.3)."""

    leaf_index: int
    tree_size: int
    path: tuple[bytes, ...]

    def verify(self, nonce: bytes, *, nonce_root: bytes) -> None:
        """Raise `VerificationError` unless `nonce` is this leaf of the tree under `nonce_root`."""
        merkle.verify_inclusion(
            _leaf(nonce),
            index=self.leaf_index,
            size=self.tree_size,
            path=self.path,
            root=nonce_root,
        )


@frozen(kw_only=True)
class NonceTree:
    """The Challenges of one window, and the root that is signed for all of them."""

    root: bytes
    proofs: tuple[FreshnessProof, ...]

    @classmethod
    def over(cls, nonces: Sequence[bytes]) -> Self:
        """Build the tree; `proofs` are in the order of `nonces`."""
        if not 1 <= len(nonces) <= limits.CHALLENGES_PER_WINDOW:
            raise LocalProtocolError(f"a window of {len(nonces)} Challenges")
        if any(len(nonce) != limits.NONCE_BYTES for nonce in nonces):
            raise LocalProtocolError("a Challenge has another length")
        tree = merkle.InclusionPaths([_leaf(nonce) for nonce in nonces])
        proofs = tuple(
            FreshnessProof(leaf_index=index, tree_size=len(nonces), path=tree.path(index))
            for index in range(len(nonces))
        )
        return cls(root=tree.root, proofs=proofs)


def _leaf(nonce: bytes) -> bytes:
    return merkle.leaf_hash(prefix(Label.CHALLENGE_LEAF) + nonce)
