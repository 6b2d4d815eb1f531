"""Check a receipt against accepted Evidence and, on the client's side, against its own request.

Nothing here reads a clock, opens a file or needs a secret: an auditor does what the client does.
The steps carry the numbers of docs/receipts.md.
"""

import itertools
from collections.abc import Sequence
from typing import Final

from attrs import field, frozen

from attestation import limits
from attestation.encoding.digests import Label
from attestation.errors import DecodeError, ReceiptRefusedError, SignatureInvalidError
from attestation.evidence.keyset import KeySet
from attestation.identifiers import ClientKeyId, Digest, JobId, KeySetId
from attestation.receipts.errors import (
    ReceiptAttemptError,
    ReceiptCatalogueError,
    ReceiptChainError,
    ReceiptClientError,
    ReceiptCommitmentKindError,
    ReceiptConfidentialError,
    ReceiptEvidenceError,
    ReceiptInputError,
    ReceiptJobError,
    ReceiptKeySetError,
    ReceiptMalformedError,
    ReceiptOutputError,
    ReceiptParametersError,
    ReceiptProgramError,
    ReceiptRequestError,
    ReceiptResultError,
    ReceiptSignatureError,
    ReceiptTimeError,
)
from attestation.receipts.receipt import (
    CONFIDENTIAL_KINDS,
    FIRST_PREVIOUS,
    Receipt,
    ReceiptClaims,
)
from attestation.receipts.signed_batch import SignedLeaf

_SKEW_MS: Final = limits.CLOCK_SKEW_SECONDS * 1000

_REFUSALS: Final[tuple[tuple[str, type[ReceiptRefusedError]], ...]] = (
    ("job_id", ReceiptJobError),
    ("client_key_id", ReceiptClientError),
    ("attempt", ReceiptAttemptError),
    ("request_digest", ReceiptRequestError),
    ("program_digest", ReceiptProgramError),
    ("parameters_commitment", ReceiptParametersError),
    ("catalogue_digest", ReceiptCatalogueError),
    ("commitment_kind", ReceiptCommitmentKindError),
    ("input_commitment", ReceiptInputError),
    ("result_digest", ReceiptResultError),
    ("output_commitment", ReceiptOutputError),
)


@frozen(kw_only=True)
class ExpectedReceipt:
    """What a client knows of its own job: every field must be in the receipt as it is here."""

    job_id: JobId
    client_key_id: ClientKeyId
    attempt: int
    request_digest: Digest
    program_digest: Digest
    parameters_commitment: Digest
    catalogue_digest: Digest
    commitment_kind: str
    input_commitment: bytes = field(repr=False)
    result_digest: Digest
    output_commitment: bytes = field(repr=False)


def verify_receipt(
    receipt: Receipt,
    *,
    keyset: KeySet,
    evidence_digest: Digest,
    evidence_kind: str,
    expected: ExpectedReceipt | None,
) -> ReceiptClaims:
    """Return the claims that `keyset`, out of accepted Evidence, signed; or raise why not.

    Every refusal is its own `ReceiptRefusedError`. Without `expected` (an auditor has no request)
    the claims are proven to be the worker's, and what they are about is for the caller to compare.
    A failure receipt (`code` not empty) verifies like any other.
    """
    keyset_id = keyset.keyset_id()
    # (1) Claims and proof are in the format.                            docs/receipts.md, step 1
    claims, proof = _parse(receipt)
    # (2) The receipt key of this key set signed exactly these bytes, as a receipt.
    _check_signature(receipt, proof, keyset.receipt_key, keyset_id)
    # (3) They name this key set, this Evidence and this catalogue.
    if claims.keyset_id != keyset_id:
        raise ReceiptKeySetError("the claims name another key set")
    if claims.catalogue_digest != keyset.catalogue_digest:
        raise ReceiptCatalogueError("the claims name another catalogue than the key set")
    _check_evidence(claims, evidence_digest, evidence_kind)
    # (4) They claim no confidentiality that the Evidence cannot give.
    if claims.confidential and claims.evidence_kind not in CONFIDENTIAL_KINDS:
        raise ReceiptConfidentialError(
            f"Evidence of kind {claims.evidence_kind!r} cannot give confidentiality"
        )
    # (5) The job ran while the key set lived.
    _check_times(claims, keyset)
    # (6) They are about the request that was made.
    if expected is not None:
        _check_expected(claims, expected)
    return claims


def verify_chain(claims: Sequence[ReceiptClaims]) -> None:
    """Check that `claims`, verified and in order, are consecutive receipts of one key set.

    A list that begins at sequence 0 begins the chain. Raises `ReceiptChainError`.
    """
    for one in claims:
        if (one.sequence == 0) != (one.previous == FIRST_PREVIOUS):
            raise ReceiptChainError("only the first receipt of a key set has no predecessor")
    for before, after in itertools.pairwise(claims):
        if after.keyset_id != before.keyset_id:
            raise ReceiptChainError("receipts of two key sets are no chain")
        if after.sequence != before.sequence + 1:
            raise ReceiptChainError(f"receipt {after.sequence} does not follow {before.sequence}")
        if after.previous != before.digest():
            raise ReceiptChainError(f"receipt {after.sequence} follows another than the one given")


def _parse(receipt: Receipt) -> tuple[ReceiptClaims, SignedLeaf]:
    try:
        return receipt.parsed, SignedLeaf.from_bytes(receipt.proof)
    except DecodeError as error:
        raise ReceiptMalformedError(str(error)) from error


def _check_signature(
    receipt: Receipt, proof: SignedLeaf, receipt_key: bytes, keyset_id: KeySetId
) -> None:
    try:
        key_id = proof.verify(receipt.claims, label=Label.RECEIPT, public_key=receipt_key)
    except SignatureInvalidError as error:
        raise ReceiptSignatureError(str(error)) from error
    if key_id != keyset_id:
        raise ReceiptKeySetError("the signature names another key set")


def _check_evidence(claims: ReceiptClaims, evidence_digest: Digest, evidence_kind: str) -> None:
    if claims.evidence_digest != evidence_digest:
        raise ReceiptEvidenceError("the claims name other Evidence")
    if claims.evidence_kind != evidence_kind:
        raise ReceiptEvidenceError(
            f"the claims say {claims.evidence_kind!r}, the Evidence is {evidence_kind!r}"
        )


def _check_times(claims: ReceiptClaims, keyset: KeySet) -> None:
    if claims.ended_ms < claims.started_ms:
        raise ReceiptTimeError("the job ended before it began")
    if claims.started_ms < keyset.not_before_ms - _SKEW_MS:
        raise ReceiptTimeError("the job began before the key set's life")
    if claims.ended_ms > keyset.not_after_ms + _SKEW_MS:
        raise ReceiptTimeError("the job ended after the key set's life")


def _check_expected(claims: ReceiptClaims, expected: ExpectedReceipt) -> None:
    for name, refusal in _REFUSALS:
        if getattr(claims, name) != getattr(expected, name):
            raise refusal(f"{name} is not that of the request or result")
