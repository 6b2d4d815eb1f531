"""A worker as far as receipts go: a real receipt key, its key set, and the real issuer."""

from typing import Any

import attrs
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.encoding.digests import Label, digest
from attestation.endorsements.collateral import NO_COLLATERAL
from attestation.evidence.binding import NonceTree
from attestation.evidence.bundle import EvidenceRecord
from attestation.evidence.keyset import KEM_PUBLIC_KEY_BYTES, KeySet
from attestation.identifiers import ClientKeyId, Digest, JobId
from attestation.receipts.commitment import CommitmentKind
from attestation.receipts.receipt import DeviceClaims, Metering, Receipt, ReceiptClaims
from attestation.receipts.verification import ExpectedReceipt, verify_receipt
from enclave_worker.issuing import IssuerIdentity, ReceiptDraft, ReceiptIssuer
from tests.simulators.evidence import bundle_for, collect_insecure

NONCE = b"n" * 32
CATALOGUE_BYTES = b"a catalogue"
NOW_MS = 1_800_000_000_000
CATALOGUE = digest(Label.CATALOGUE, CATALOGUE_BYTES)


class SigningWorker:
    """Draws a receipt key and issues receipts with it, as an attested worker does."""

    def __init__(self, *, kind: str = "insecure", confidential: bool = False) -> None:
        self.key = Ed25519PrivateKey.generate()
        self.keyset = KeySet(
            kem_public_key=bytes(KEM_PUBLIC_KEY_BYTES),
            receipt_key=self.key.public_key().public_bytes_raw(),
            not_before_ms=NOW_MS,
            not_after_ms=NOW_MS + 3_600_000,
            catalogue_digest=CATALOGUE,
        )
        self.kind = kind
        self.window = NonceTree.over([NONCE])
        self.bundle = bundle_for(self.keyset, self.window, collect_insecure, kind=kind)
        self.evidence_digest = self.bundle.digest()
        self.signatures = 0
        self.identity = IssuerIdentity(
            keyset_id=self.keyset.keyset_id(),
            evidence_digest=self.evidence_digest,
            evidence_kind=kind,
            catalogue_digest=CATALOGUE,
            confidential=confidential,
            device=DeviceClaims(
                backend="numpy", name="cpu", sm_count=0, cuda="", libraries={"numpy": "2.1"}
            ),
        )
        self.issuer = ReceiptIssuer(self.identity, sign=self.sign)

    def record(self) -> EvidenceRecord:
        """The evidence file that goes with the receipts."""
        proof = self.window.proofs[0]
        return EvidenceRecord(
            bundle=self.bundle.to_bytes(),
            nonce=NONCE,
            leaf_index=proof.leaf_index,
            tree_size=proof.tree_size,
            path=proof.path,
            catalogue=CATALOGUE_BYTES,
            collateral=NO_COLLATERAL.to_bytes(),
        )

    def sign(self, message: bytes) -> bytes:
        self.signatures += 1
        return self.key.sign(message)

    def issue(self, **changes: Any) -> Receipt:
        return self.issuer.issue([draft(**changes)])[0]

    def verify(self, receipt: Receipt, expected: ExpectedReceipt | None = None) -> ReceiptClaims:
        return verify_receipt(
            receipt,
            keyset=self.keyset,
            evidence_digest=self.evidence_digest,
            evidence_kind=self.kind,
            expected=expected,
        )


def draft(**changes: Any) -> ReceiptDraft:
    """One finished job, and whatever a test wants otherwise."""
    usual = ReceiptDraft(
        job_id=JobId(b"j" * 16),
        client_key_id=ClientKeyId(b"k" * 32),
        attempt=1,
        code="",
        request_digest=Digest(b"q" * 32),
        result_digest=Digest(b"r" * 32),
        program_digest=Digest(b"p" * 32),
        parameters_commitment=Digest(b"m" * 32),
        commitment_kind=CommitmentKind.TAGS,
        input_commitment=b"i" * 32,
        output_commitment=b"o" * 32,
        started_ms=NOW_MS + 1000,
        ended_ms=NOW_MS + 2000,
        metering=Metering(
            device_ns=5, wall_ns=9, bytes_in=100, bytes_out=200, peak_device_bytes=300
        ),
    )
    return attrs.evolve(usual, **changes)


def expected(**changes: Any) -> ExpectedReceipt:
    """What the client of `draft()` knows of its job."""
    own = draft()
    known = {
        field.name: getattr(own, field.name)
        for field in attrs.fields(ExpectedReceipt)
        if field.name != "catalogue_digest"
    }
    return ExpectedReceipt(**(known | {"catalogue_digest": CATALOGUE} | changes))
