"""Issue receipts: number them, chain them and sign a batch with one signature.

The private key stays behind `sign`, a handle of the keystore. One issuer serves one key set; when
that ends, so does its chain.
"""

import threading
from collections.abc import Callable, Sequence

import attrs
from attrs import frozen

from attestation.encoding.digests import Label, digest
from attestation.identifiers import ClientKeyId, Digest, JobId, KeySetId
from attestation.receipts.commitment import CommitmentKind
from attestation.receipts.receipt import (
    FIRST_PREVIOUS,
    DeviceClaims,
    Metering,
    Receipt,
    ReceiptClaims,
)
from attestation.receipts.signed_batch import sign_batch


@frozen(kw_only=True)
class ReceiptDraft:
    """What the executor knows of one finished or failed job."""

    job_id: JobId
    client_key_id: ClientKeyId
    attempt: int
    code: str
    request_digest: Digest
    result_digest: Digest
    program_digest: Digest
    parameters_commitment: Digest
    commitment_kind: CommitmentKind
    input_commitment: bytes
    output_commitment: bytes
    parents: tuple[Digest, ...] = ()
    started_ms: int
    ended_ms: int
    metering: Metering


@frozen(kw_only=True)
class IssuerIdentity:
    """What every receipt of one key set has in common."""

    keyset_id: KeySetId
    evidence_digest: Digest
    evidence_kind: str
    catalogue_digest: Digest
    confidential: bool
    device: DeviceClaims


class ReceiptIssuer:
    """Turns drafts into receipts, for one key set. Safe to call from several threads."""

    def __init__(self, identity: IssuerIdentity, *, sign: Callable[[bytes], bytes]) -> None:
        """Begin the chain of `identity`; `sign` makes Ed25519 signatures with its receipt key."""
        self._identity = identity
        self._sign = sign
        self._lock = threading.Lock()
        self._sequence = 0
        self._previous = FIRST_PREVIOUS

    def issue(self, drafts: Sequence[ReceiptDraft]) -> list[Receipt]:
        """Return the receipts of `drafts` (at least one), in their order, under one signature.

        When signing fails nothing was issued: the same numbers are given out again.
        """
        with self._lock:
            sequence, previous = self._sequence, self._previous
            leaves = []
            for draft in drafts:
                leaf = self._claims(draft, sequence=sequence, previous=previous).to_bytes()
                leaves.append(leaf)
                # `ReceiptClaims.digest`, without encoding the claims a second time.
                sequence, previous = sequence + 1, digest(Label.RECEIPT, leaf)
            proofs = sign_batch(
                leaves, label=Label.RECEIPT, key_id=self._identity.keyset_id, sign=self._sign
            )
            self._sequence, self._previous = sequence, previous
        return [
            Receipt(claims=leaf, proof=proof.to_bytes())
            for leaf, proof in zip(leaves, proofs, strict=True)
        ]

    def disclaim(self, device: DeviceClaims) -> None:
        """Claim no confidentiality from now on, and say `device` of the device."""
        with self._lock:
            self._identity = attrs.evolve(self._identity, confidential=False, device=device)

    def _claims(self, draft: ReceiptDraft, *, sequence: int, previous: Digest) -> ReceiptClaims:
        identity = self._identity
        return ReceiptClaims(
            job_id=draft.job_id,
            client_key_id=draft.client_key_id,
            attempt=draft.attempt,
            code=draft.code,
            request_digest=draft.request_digest,
            result_digest=draft.result_digest,
            program_digest=draft.program_digest,
            parameters_commitment=draft.parameters_commitment,
            catalogue_digest=identity.catalogue_digest,
            commitment_kind=draft.commitment_kind,
            input_commitment=draft.input_commitment,
            output_commitment=draft.output_commitment,
            parents=draft.parents,
            keyset_id=identity.keyset_id,
            evidence_digest=identity.evidence_digest,
            evidence_kind=identity.evidence_kind,
            confidential=identity.confidential,
            device=identity.device,
            started_ms=draft.started_ms,
            ended_ms=draft.ended_ms,
            metering=draft.metering,
            sequence=sequence,
            previous=previous,
        )
