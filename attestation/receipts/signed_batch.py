"""One signature over many messages: a COSE_Sign1 over the root of their Merkle tree.

A signature per message costs about eight times the throughput of small jobs (docs/benchmarks.md);
a hash or two per message costs nothing. Each message travels with its own `SignedLeaf`, so nobody
needs the other messages of its batch, and a lone message is a batch of one with an empty path.
Leaf data are `prefix(label) ‖ message`, and the COSE content type names the label too: a signature
over job headers can never be shown as one over receipts.
"""

from collections.abc import Callable, Sequence
from functools import cache

from attrs import frozen

from attestation import limits
from attestation.encoding.digests import Label, prefix
from attestation.encoding.record import Record, array, item, octets, uint
from attestation.errors import DecodeError, SignatureInvalidError
from attestation.identifiers import DIGEST_BYTES
from attestation.receipts import cose, merkle


@frozen(kw_only=True)
class BatchRoot(Record):
    """The signed payload: the root and how many messages are under it."""

    VERSION = 1

    root: bytes = item(octets(exactly=DIGEST_BYTES))
    size: int = item(uint())


@frozen(kw_only=True)
class SignedLeaf(Record):
    """One message's place in a batch, and the signature over the batch."""

    LIMIT = limits.RECEIPT_BYTES

    index: int = item(uint())
    size: int = item(uint())
    path: tuple[bytes, ...] = item(
        array(octets(exactly=DIGEST_BYTES), limit=limits.MERKLE_PATH), secret=True
    )
    cose: bytes = item(octets(limit=limits.RECEIPT_BYTES), secret=True)

    def verify(self, leaf: bytes, *, label: Label, public_key: bytes) -> bytes:
        """Return the key id under which `public_key` signed the batch that `leaf` is part of.

        Raises `SignatureInvalidError` for a forged signature, a leaf of another batch or place, and
        a signature made under another label.
        """
        try:
            key_id, payload = cose.verify1(self.cose, public_key, content_type=content_type(label))
            signed = BatchRoot.from_bytes(payload)
            if signed.size != self.size:
                raise SignatureInvalidError("the signature is over a batch of another size")
            merkle.verify_inclusion(
                _leaf_hash(label, leaf),
                index=self.index,
                size=self.size,
                path=self.path,
                root=signed.root,
            )
        except (DecodeError, merkle.InclusionInvalidError) as error:
            raise SignatureInvalidError(f"not signed by that key: {error}") from error
        return key_id


def sign_batch(
    leaves: Sequence[bytes], *, label: Label, key_id: bytes, sign: Callable[[bytes], bytes]
) -> list[SignedLeaf]:
    """Sign `leaves` (at least one) with one call of `sign`; the order of the result is theirs."""
    if not leaves:
        raise ValueError("an empty batch proves nothing")
    paths = merkle.InclusionPaths([_leaf_hash(label, leaf) for leaf in leaves])
    size = len(leaves)
    signature = cose.sign1(
        BatchRoot(root=paths.root, size=size).to_bytes(),
        key_id=key_id,
        content_type=content_type(label),
        sign=sign,
    )
    return [
        SignedLeaf(index=index, size=size, path=paths.path(index), cose=signature)
        for index in range(size)
    ]


@cache
def content_type(label: Label) -> str:
    """Return the COSE content type (protected header 3) of batches under `label`."""
    return f"application/vnd.{label.value.decode().replace('/', '.')}+cbor"


def _leaf_hash(label: Label, leaf: bytes) -> bytes:
    return merkle.leaf_hash(prefix(label) + leaf)
