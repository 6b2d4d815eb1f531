"""A receipt checked with other people's tools only: cwt for COSE, cbor2, hashlib.

Nothing of ours verifies here. The reader is written from docs/receipts.md; our code only makes the
receipt, as a worker would.
"""

import hashlib
from typing import Any

import cbor2
import pytest
from cwt import COSE, COSEKey, VerifyError

from tests.receipts.signing import SigningWorker, draft

LABEL = b"enclave-worker/v1/receipt"
TYPE = "application/vnd.enclave-worker.v1.receipt+cbor"
COSE_SIGN1_TAG = b"\xd2"  # tag 18, RFC 9052 section 2


class NotProvenError(Exception):
    """The independent reader found nothing that signs these claims."""


def cose_key(worker: SigningWorker, *, public: bytes | None = None) -> Any:
    public = worker.key.public_key().public_bytes_raw() if public is None else public
    # RFC 9053 section 7.2: kty OKP, alg EdDSA, key_ops verify, crv Ed25519, x.
    return COSEKey.new({1: 1, 2: worker.keyset.keyset_id(), 3: -8, 4: [2], -1: 6, -2: public})


def read_independently(receipt: bytes, key: Any) -> dict[str, Any]:
    """Return the claims that `key` signed, by docs/receipts.md alone."""
    outer = cbor2.loads(receipt)
    proof = cbor2.loads(outer["proof"])
    payload = cbor2.loads(COSE.new().decode(COSE_SIGN1_TAG + proof["cose"], key))
    protected = cbor2.loads(cbor2.loads(proof["cose"])[0])
    if protected[3] != TYPE or proof["size"] != payload["size"]:
        raise NotProvenError
    leaf = bytes([0, len(LABEL)]) + LABEL + outer["claims"]
    root = hashlib.sha256(leaf).digest()
    # RFC 9162 section 2.1.3.2
    node, last = proof["index"], proof["size"] - 1
    for sibling in proof["path"]:
        if node % 2 or node == last:
            root = hashlib.sha256(b"\x01" + sibling + root).digest()
            while node % 2 == 0 and node != 0:
                node, last = node // 2, last // 2
        else:
            root = hashlib.sha256(b"\x01" + root + sibling).digest()
        node, last = node // 2, last // 2
    if last or root != payload["root"]:
        raise NotProvenError
    claims: dict[str, Any] = cbor2.loads(outer["claims"])
    return claims


def test_a_lone_receipt_verifies_with_an_unrelated_cose_library() -> None:
    worker = SigningWorker()
    claims = read_independently(worker.issue().to_bytes(), cose_key(worker))
    assert claims["job_id"] == b"j" * 16
    assert claims["keyset_id"] == worker.keyset.keyset_id()
    assert claims["metering"]["bytes_out"] == 200


@pytest.mark.parametrize("size", [2, 3, 7, 20])
def test_every_receipt_of_a_batch_verifies_with_it(size: int) -> None:
    worker = SigningWorker()
    receipts = worker.issuer.issue([draft(attempt=number) for number in range(size)])
    for number, receipt in enumerate(receipts):
        assert read_independently(receipt.to_bytes(), cose_key(worker))["attempt"] == number


def test_it_refuses_another_workers_key() -> None:
    worker, other = SigningWorker(), SigningWorker()
    key = cose_key(worker, public=other.key.public_key().public_bytes_raw())
    with pytest.raises(VerifyError):
        read_independently(worker.issue().to_bytes(), key)


def test_it_refuses_claims_of_another_leaf() -> None:
    worker = SigningWorker()
    one, two = (
        cbor2.loads(receipt.to_bytes())
        for receipt in worker.issuer.issue([draft(), draft(attempt=2)])
    )
    with pytest.raises(NotProvenError):
        read_independently(cbor2.dumps(one | {"claims": two["claims"]}), cose_key(worker))


def test_the_bytes_are_what_another_cbor_library_writes_canonically() -> None:
    worker = SigningWorker()
    receipt = worker.issue()
    for data in (receipt.to_bytes(), receipt.claims, receipt.proof):
        assert cbor2.dumps(cbor2.loads(data), canonical=True) == data
