"""A receipt proves one job, of one client, on one attested worker; everything else is refused."""

import attrs
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.encoding.digests import Label
from attestation.errors import ReceiptRefusedError
from attestation.identifiers import Digest, KeySetId
from attestation.receipts.errors import (
    ReceiptCatalogueError,
    ReceiptChainError,
    ReceiptConfidentialError,
    ReceiptEvidenceError,
    ReceiptKeySetError,
    ReceiptMalformedError,
    ReceiptSignatureError,
    ReceiptTimeError,
)
from attestation.receipts.receipt import FIRST_PREVIOUS, Receipt, ReceiptClaims
from attestation.receipts.signed_batch import SignedLeaf, sign_batch
from attestation.receipts.verification import verify_chain, verify_receipt
from enclave_worker.issuing import ReceiptIssuer
from tests.receipts.signing import NOW_MS, SigningWorker, draft, expected

HOUR_MS = 3_600_000


def resigned(worker: SigningWorker, receipt: Receipt, **changes: object) -> Receipt:
    """The receipt as a worker would make it that signs whatever it likes."""
    claims = attrs.evolve(ReceiptClaims.from_bytes(receipt.claims), **changes)
    return sign(worker, claims.to_bytes())


def sign(worker: SigningWorker, claims: bytes, label: Label = Label.RECEIPT) -> Receipt:
    key_id = worker.keyset.keyset_id()
    proof = sign_batch([claims], label=label, key_id=key_id, sign=worker.sign)[0]
    return Receipt(claims=claims, proof=proof.to_bytes())


def test_the_claims_of_an_honest_receipt_come_back() -> None:
    worker = SigningWorker()
    receipt = Receipt.from_bytes(worker.issue().to_bytes())
    claims = worker.verify(receipt, expected())
    assert claims.job_id == b"j" * 16
    assert claims.device.name == "cpu"
    assert claims.sequence == 0
    assert claims.digest() == receipt.digest()


def test_a_failure_receipt_verifies_and_says_why() -> None:
    worker = SigningWorker()
    receipt = worker.issue(code="kernel-failed", result_digest=Digest(b"f" * 32))
    assert worker.verify(receipt, expected(result_digest=b"f" * 32)).code == "kernel-failed"


def test_an_auditor_without_the_request_gets_the_claims() -> None:
    worker = SigningWorker()
    assert worker.verify(worker.issue()).client_key_id == b"k" * 32


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("job_id", b"x" * 16, "receipt-job-mismatch"),
        ("client_key_id", b"x" * 32, "receipt-client-mismatch"),
        ("attempt", 2, "receipt-attempt-mismatch"),
        ("request_digest", b"x" * 32, "receipt-request-mismatch"),
        ("program_digest", b"x" * 32, "receipt-program-mismatch"),
        ("parameters_commitment", b"x" * 32, "receipt-parameters-mismatch"),
        ("catalogue_digest", b"x" * 32, "receipt-catalogue-mismatch"),
        ("commitment_kind", "sha256", "receipt-commitment-kind-mismatch"),
        ("input_commitment", b"x" * 32, "receipt-input-mismatch"),
        ("result_digest", b"x" * 32, "receipt-result-mismatch"),
        ("output_commitment", b"x" * 32, "receipt-output-mismatch"),
    ],
)
def test_a_receipt_for_another_request_or_result_is_refused(
    field: str, value: object, code: str
) -> None:
    """A worker, or a coordinator that swaps receipts, cannot answer one job with another's."""
    worker = SigningWorker()
    with pytest.raises(ReceiptRefusedError) as refused:
        worker.verify(worker.issue(), expected(**{field: value}))
    assert refused.value.code == code


def test_every_field_that_a_client_knows_has_its_refusal() -> None:
    from attestation.receipts import verification  # noqa: PLC0415 - its table, for this test alone

    named = {name for name, _ in verification._REFUSALS}
    assert named == {field.name for field in attrs.fields(verification.ExpectedReceipt)}


def test_a_receipt_by_another_key_is_refused() -> None:
    """An unattested host that makes up the whole receipt, key set id included."""
    worker, impostor = SigningWorker(), Ed25519PrivateKey.generate()
    forged = ReceiptIssuer(worker.identity, sign=impostor.sign).issue([draft()])[0]
    with pytest.raises(ReceiptSignatureError):
        worker.verify(forged, expected())


def test_changed_claims_are_refused() -> None:
    worker = SigningWorker()
    receipt = worker.issue(attempt=1)
    claims = attrs.evolve(ReceiptClaims.from_bytes(receipt.claims), attempt=2)
    with pytest.raises(ReceiptSignatureError):
        worker.verify(attrs.evolve(receipt, claims=claims.to_bytes()))


def test_receipts_of_one_batch_cannot_trade_proofs() -> None:
    worker = SigningWorker()
    one, two = worker.issuer.issue([draft(), draft(attempt=2)])
    worker.verify(one)
    worker.verify(two)
    with pytest.raises(ReceiptSignatureError):
        worker.verify(Receipt(claims=one.claims, proof=two.proof))


def test_a_signature_for_another_purpose_is_no_receipt() -> None:
    worker = SigningWorker()
    honest = worker.issue()
    for label in (Label.JOB_SIGNATURE, Label.CHALLENGE_LEAF, Label.COMMITMENT):
        with pytest.raises(ReceiptSignatureError):
            worker.verify(sign(worker, honest.claims, label))


def test_a_receipt_of_another_attested_worker_is_refused() -> None:
    one, other = SigningWorker(), SigningWorker()
    with pytest.raises(ReceiptSignatureError):
        one.verify(other.issue(), expected())


def test_a_key_shared_by_two_key_sets_does_not_make_them_one() -> None:
    """The claims and the signature name the key set: the key alone is not enough."""
    worker = SigningWorker()
    twin = attrs.evolve(worker.keyset, not_after_ms=worker.keyset.not_after_ms - 1)
    with pytest.raises(ReceiptKeySetError):
        verify_receipt(
            worker.issue(),
            keyset=twin,
            evidence_digest=worker.evidence_digest,
            evidence_kind=worker.kind,
            expected=None,
        )


def test_claims_that_name_another_key_set_are_refused() -> None:
    worker = SigningWorker()
    with pytest.raises(ReceiptKeySetError):
        worker.verify(resigned(worker, worker.issue(), keyset_id=KeySetId(bytes(32))))


def test_claims_that_name_other_evidence_are_refused() -> None:
    worker = SigningWorker()
    with pytest.raises(ReceiptEvidenceError):
        worker.verify(resigned(worker, worker.issue(), evidence_digest=Digest(bytes(32))))


def test_claims_that_name_a_better_kind_of_evidence_are_refused() -> None:
    worker = SigningWorker(kind="tpm")
    with pytest.raises(ReceiptEvidenceError):
        worker.verify(resigned(worker, worker.issue(), evidence_kind="sev_snp"))


def test_claims_that_name_another_catalogue_than_the_key_set_are_refused() -> None:
    worker = SigningWorker()
    with pytest.raises(ReceiptCatalogueError):
        worker.verify(resigned(worker, worker.issue(), catalogue_digest=Digest(bytes(32))))


@pytest.mark.parametrize("kind", ["insecure", "tpm", "a-kind-of-tomorrow"])
def test_no_worker_is_confidential_on_evidence_that_cannot_give_it(kind: str) -> None:
    worker = SigningWorker(kind=kind, confidential=True)
    with pytest.raises(ReceiptConfidentialError):
        worker.verify(worker.issue(), expected())


@pytest.mark.parametrize(
    ("started", "ended"),
    [
        (2000, 1000),
        (-31_000, 1000),
        (1000, HOUR_MS + 31_000),
        (-HOUR_MS, -HOUR_MS),
        (2 * HOUR_MS, 2 * HOUR_MS),
    ],
    ids=["backwards", "too-early", "too-late", "before-the-keys", "after-the-keys"],
)
def test_a_job_outside_the_life_of_the_keys_is_refused(started: int, ended: int) -> None:
    """A key that leaks after its hour cannot make receipts dated after it."""
    worker = SigningWorker()
    with pytest.raises(ReceiptTimeError):
        worker.verify(worker.issue(started_ms=NOW_MS + started, ended_ms=NOW_MS + ended))


def test_a_clock_that_steps_a_little_is_forgiven() -> None:
    worker = SigningWorker()
    worker.verify(worker.issue(started_ms=NOW_MS - 29_000, ended_ms=NOW_MS + HOUR_MS + 29_000))


@pytest.mark.parametrize("part", ["claims", "proof"])
@pytest.mark.parametrize("value", [b"", b"\xa0", b"\xff" * 40])
def test_a_receipt_that_does_not_parse_is_refused(part: str, value: bytes) -> None:
    worker = SigningWorker()
    with pytest.raises(ReceiptMalformedError):
        worker.verify(attrs.evolve(worker.issue(), **{part: value}))


def test_signed_claims_in_a_second_encoding_are_refused() -> None:
    """Also from the worker itself: one receipt has one digest."""
    worker = SigningWorker()
    honest = worker.issue()
    padded = honest.claims.replace(b"gattempt\x01", b"gattempt\x18\x01")
    assert padded != honest.claims
    with pytest.raises(ReceiptMalformedError):
        worker.verify(sign(worker, padded))


# -- numbering and chain --------------------------------------------------------------------------


def chain(worker: SigningWorker, count: int) -> list[ReceiptClaims]:
    return [worker.verify(worker.issue()) for _ in range(count)]


def test_receipts_are_numbered_and_chained_across_batches() -> None:
    worker = SigningWorker()
    receipts = worker.issuer.issue([draft(), draft()]) + worker.issuer.issue([draft()])
    claims = [worker.verify(receipt) for receipt in receipts]
    assert [one.sequence for one in claims] == [0, 1, 2]
    assert claims[0].previous == FIRST_PREVIOUS
    verify_chain(claims)
    verify_chain(claims[1:])


def test_a_batch_costs_one_signature() -> None:
    worker = SigningWorker()
    worker.issuer.issue([draft() for _ in range(50)])
    assert worker.signatures == 1
    assert SignedLeaf.from_bytes(worker.issue().proof).path == ()


def test_a_receipt_left_out_breaks_the_chain() -> None:
    claims = chain(SigningWorker(), 3)
    for part in ([claims[0], claims[2]], [claims[1], claims[0]], [claims[0], claims[0]]):
        with pytest.raises(ReceiptChainError):
            verify_chain(part)


def test_a_replaced_receipt_breaks_the_chain() -> None:
    claims = chain(SigningWorker(), 3)
    with pytest.raises(ReceiptChainError):
        verify_chain([claims[0], attrs.evolve(claims[1], code="kernel-failed"), claims[2]])


def test_a_chain_does_not_change_key_sets() -> None:
    one, other = chain(SigningWorker(), 2), chain(SigningWorker(), 2)
    with pytest.raises(ReceiptChainError):
        verify_chain([one[0], other[1]])


def test_a_chain_does_not_begin_in_the_middle() -> None:
    claims = chain(SigningWorker(), 2)
    for forged in (
        attrs.evolve(claims[1], previous=FIRST_PREVIOUS),
        attrs.evolve(claims[0], previous=Digest(b"x" * 32)),
    ):
        with pytest.raises(ReceiptChainError):
            verify_chain([forged])


def test_a_failed_signature_leaves_no_gap() -> None:
    """The keystore may refuse (its key set ended): numbers that were not signed are not used up."""
    worker = SigningWorker()
    broken = [True]

    def sign_or_fail(message: bytes) -> bytes:
        if broken.pop():
            broken.append(False)
            raise OSError("the key is gone")
        return worker.sign(message)

    issuer = ReceiptIssuer(worker.identity, sign=sign_or_fail)
    with pytest.raises(OSError, match="gone"):
        issuer.issue([draft()])
    assert worker.verify(issuer.issue([draft()])[0]).sequence == 0
