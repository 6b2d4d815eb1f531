"""docs/receipts.md says what the code does."""

import inspect
import re
from pathlib import Path

import attrs
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.encoding.digests import Label, prefix
from attestation.errors import ReceiptRefusedError
from attestation.receipts import errors, merkle
from attestation.receipts.receipt import ReceiptClaims
from attestation.receipts.signed_batch import content_type, sign_batch


def page(repository: Path) -> str:
    return (repository / "docs" / "receipts.md").read_text()


def test_every_refusal_is_listed(repository: Path) -> None:
    listed = set(re.findall(r"^\| `(receipt-[a-z-]+)`", page(repository), re.MULTILINE))
    made = {
        kind.code
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, ReceiptRefusedError) and kind is not ReceiptRefusedError
    }
    assert listed == made


def test_every_claim_is_listed(repository: Path) -> None:
    section = page(repository).partition("### Claims")[2].partition("###")[0]
    cells = re.findall(r"^\| (.*?) \|", section, re.MULTILINE)
    named = {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}
    assert named == {field.name for field in attrs.fields(ReceiptClaims)} | {"v"}


def test_the_known_answer_is_ours(repository: Path) -> None:
    block = re.search(r"```text\n(public key.*?)```", page(repository), re.DOTALL)
    assert block is not None
    entries = re.findall(r"^([a-z].*?)  +((?:[0-9a-f]+\n *)+)", block.group(1), re.MULTILINE)
    known = {name: bytes.fromhex(re.sub(r"\s", "", value)) for name, value in entries}
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    assert known["public key"] == key.public_key().public_bytes_raw()
    messages = [b"one", b"two"]
    hashes = [merkle.leaf_hash(prefix(Label.RECEIPT) + message) for message in messages]
    assert hashes == [known["leaf hash 0"], known["leaf hash 1"]]
    assert merkle.root(hashes) == known["root"]
    proof = sign_batch(messages, label=Label.RECEIPT, key_id=bytes(32), sign=key.sign)[0]
    assert proof.cose == known["cose"]
    assert content_type(Label.RECEIPT) in page(repository)
