"""Documents of Nitro enclaves, read and verified with other people's tools: cwt for COSE, cbor2.

What ours accepts, they accept with the same contents; no byte that they refuse is accepted here.
"""

import json
from pathlib import Path
from typing import Any

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cwt import COSE, COSEKey

from attestation.appraisal.nitro import verify_signature
from attestation.errors import DecodeError, VerificationError
from attestation.evidence.nitro import NitroDocument
from tests.simulators.nitro import SimulatedNsm

VECTORS = Path(__file__).resolve().parents[2] / ".." / "shared" / "vectors"
INDEX = VECTORS / "index.shared.json"
COSE_SIGN1_TAG = b"\xd2"


def _documents() -> dict[str, bytes]:
    made = {
        "simulated": SimulatedNsm().document(b"user data"),
        "simulated, without user data": SimulatedNsm().document(None),
    }
    if INDEX.exists():
        for entry in json.loads(INDEX.read_text())["entries"]:
            if entry["kind"] == "aws-nitro":
                made[entry["name"]] = (VECTORS / entry["files"]["document"]).read_bytes()
    return made


DOCUMENTS = _documents()


def theirs(document: bytes) -> dict[str, Any] | None:
    """Return the payload when the key of the certificate in it signed it, else None."""
    try:
        payload = cbor2.loads(cbor2.loads(document)[2])
        leaf = x509.load_der_x509_certificate(payload["certificate"])
        pem = leaf.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        COSE.new().decode(COSE_SIGN1_TAG + document, COSEKey.from_pem(pem, alg="ES384", kid=b"k"))
    except Exception:  # noqa: BLE001 - two libraries, each with errors of its own
        return None
    return dict(payload)


def ours(document: bytes) -> NitroDocument | None:
    try:
        parsed = NitroDocument.from_bytes(document)
        verify_signature(parsed)
    except (DecodeError, VerificationError):
        return None
    return parsed


@pytest.mark.parametrize("name", DOCUMENTS)
def test_both_read_the_same_out_of_it(name: str) -> None:
    found, other = ours(DOCUMENTS[name]), theirs(DOCUMENTS[name])
    assert found is not None
    assert other is not None
    assert (found.module_id, found.timestamp_ms) == (other["module_id"], other["timestamp"])
    assert dict(found.pcrs) == other["pcrs"]
    assert (found.certificate, list(found.cabundle)) == (other["certificate"], other["cabundle"])
    assert (found.user_data, found.nonce) == (other.get("user_data"), other.get("nonce"))
    assert found.public_key == other.get("public_key")


@pytest.mark.parametrize("name", DOCUMENTS)
def test_neither_accepts_a_changed_byte(name: str) -> None:
    document = DOCUMENTS[name]
    for offset in range(0, len(document), 23):
        changed = document[:offset] + bytes([document[offset] ^ 4]) + document[offset + 1 :]
        assert ours(changed) is None, f"byte {offset}"
        assert theirs(changed) is None, f"byte {offset}"
