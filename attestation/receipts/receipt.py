"""A receipt: what an attested worker says it did for one job, signed with its attested key."""

from collections.abc import Mapping
from functools import cached_property
from typing import Final

from attrs import frozen

from attestation import limits
from attestation.encoding.digests import Label, digest
from attestation.encoding.record import (
    Record,
    array,
    boolean,
    item,
    octets,
    record,
    table,
    text,
    uint,
    word,
)
from attestation.identifiers import (
    DIGEST_BYTES,
    SHORT_ID_BYTES,
    ClientKeyId,
    Digest,
    JobId,
    KeySetId,
)
from attestation.receipts.commitment import CommitmentKind

FIRST_PREVIOUS: Final = Digest(bytes(DIGEST_BYTES))
"""What the first receipt of a key set names as its predecessor."""

CONFIDENTIAL_KINDS: Final = frozenset({"sev-snp", "tdx", "nitro"})
"""Kinds of Evidence whose platform keeps the operator out of the memory a job is in.

Behind `tpm` and `insecure` he reads everything.
"""

_LIBRARIES: Final = 64
_PARENTS: Final = 256
_UINT32: Final = (1 << 32) - 1


@frozen(kw_only=True)
class DeviceClaims(Record):
    """What the kernels ran on, in the worker's words; its Evidence says what they are worth.

    `backend` is `numpy` or `cupy`; `sm_count` 0 and an empty `cuda` mean a CPU. A GPU has the word
    for its confidential mode (docs/receipts.md); any but `on` means that its host reads its memory.
    """

    backend: str = item(text())
    name: str = item(text(200))
    sm_count: int = item(uint(_UINT32))
    cuda: str = item(text())
    libraries: Mapping[str, str] = item(table(text(), limit=_LIBRARIES))
    confidential_mode: str = item(text(), default="")


@frozen(kw_only=True)
class Metering(Record):
    """What the job used. Bytes in and out are sealed bytes; times are nanoseconds."""

    device_ns: int = item(uint())
    wall_ns: int = item(uint())
    bytes_in: int = item(uint())
    bytes_out: int = item(uint())
    peak_device_bytes: int = item(uint())


@frozen(kw_only=True)
class ReceiptClaims(Record):
    """What is signed. `code` is empty when the program ran, and says why when it did not.

    `confidential` is true only where hardware keeps the operator out of the memory the job was in:
    never with Evidence of kind `insecure` or `tpm`. Times are Unix milliseconds by the worker's
    clock. `sequence` counts the receipts of one key set from 0 and `previous` is the digest of the
    one before, so that a missing one shows.
    """

    VERSION = 1
    LIMIT = limits.RECEIPT_BYTES

    job_id: JobId = item(octets(exactly=SHORT_ID_BYTES))
    client_key_id: ClientKeyId = item(octets(exactly=DIGEST_BYTES))
    attempt: int = item(uint(_UINT32))
    code: str = item(text())
    request_digest: Digest = item(octets(exactly=DIGEST_BYTES))
    result_digest: Digest = item(octets(exactly=DIGEST_BYTES))
    program_digest: Digest = item(octets(exactly=DIGEST_BYTES))
    parameters_commitment: Digest = item(octets(exactly=DIGEST_BYTES))
    catalogue_digest: Digest = item(octets(exactly=DIGEST_BYTES))
    commitment_kind: CommitmentKind = item(word(CommitmentKind))
    input_commitment: bytes = item(octets(exactly=DIGEST_BYTES))
    output_commitment: bytes = item(octets(exactly=DIGEST_BYTES))
    parents: tuple[Digest, ...] = item(
        array(octets(exactly=DIGEST_BYTES), limit=_PARENTS), default=()
    )
    keyset_id: KeySetId = item(octets(exactly=DIGEST_BYTES))
    evidence_digest: Digest = item(octets(exactly=DIGEST_BYTES))
    evidence_kind: str = item(text())
    confidential: bool = item(boolean())
    device: DeviceClaims = item(record(DeviceClaims))
    started_ms: int = item(uint())
    ended_ms: int = item(uint())
    metering: Metering = item(record(Metering))
    sequence: int = item(uint())
    previous: Digest = item(octets(exactly=DIGEST_BYTES))

    def digest(self) -> Digest:
        """Return the digest that the next receipt of the key set names as `previous`."""
        return digest(Label.RECEIPT, self.to_bytes())


@frozen(kw_only=True)
class Receipt(Record):
    """Claims, kept as the bytes that were signed, and a `SignedLeaf` over them.

    Parsed, not believed: only `verification.verify_receipt` gives out claims that are.
    """

    VERSION = 1
    LIMIT = limits.RECEIPT_BYTES

    claims: bytes = item(octets(limit=limits.RECEIPT_BYTES), secret=True)
    proof: bytes = item(octets(limit=limits.RECEIPT_BYTES), secret=True)

    @cached_property
    def parsed(self) -> ReceiptClaims:
        """The claims as they are written; raises `DecodeError`. Not verified."""
        return ReceiptClaims.from_bytes(self.claims)

    def digest(self) -> Digest:
        """Return the digest of the claims, which is the receipt's name in lineage and chain.

        The proof is left out: it changes with the batch, and the claims do not.
        """
        return digest(Label.RECEIPT, self.claims)
