"""Write docs/vectors/sealed-tensor-v1.json: known answers for all of docs/sealed-tensor.md.

    python tests/sealing/make_vectors.py

Keys and plaintexts are fixed, and the sealing modules' source of randomness is replaced by a SHAKE
stream, so the same bytes come out every time. The one exception is the HPKE ciphertext, because
encapsulation draws inside OpenSSL: it is kept from the file as long as it opens.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from attestation import limits
from attestation.encoding.digests import Label, digest, prefix
from attestation.identifiers import Digest, JobId, KeySetId, SessionId
from attestation.receipts.commitment import SegmentCommitment
from attestation.sealing import content_key, hybrid_kem
from attestation.sealing.content_key import ContentKey
from attestation.sealing.sealed_tensor import (
    Direction,
    Place,
    TensorHeader,
    TensorSealer,
    seal_bytes,
)
from attestation.sealing.session_keys import SessionKeys, Transcript
from attestation.sealing.tensor_spec import TensorSpec

PATH = Path(__file__).resolve().parents[2] / "docs" / "vectors" / "sealed-tensor-v1.json"

CONTENT_KEY = bytes(range(32))
JOB = JobId(bytes(range(0x10, 0x20)))
REQUEST = Digest(hashlib.sha256(b"a request").digest())
SECRET = bytes(range(0x80, 0xA0))
MLKEM_SEED = bytes(range(64))
X25519_PRIVATE = bytes(range(0x40, 0x60))
SEGMENT = limits.SEGMENT_BYTES_MIN

INPUT = Place(job_id=JOB, direction=Direction.INPUT, attempt=0, index=0)
OUTPUT = Place(job_id=JOB, direction=Direction.OUTPUT, attempt=3, index=1)
TENSORS = {
    "a small input": ("x", "float32", (2, 3), INPUT),
    "a scalar output of the third attempt": ("loss", "complex128", (), OUTPUT),
    "an empty tensor": ("empty", "int16", (4, 0), INPUT),
    "exactly one full segment": ("full", "uint8", (SEGMENT,), INPUT),
    "three segments": ("long-one", "float64", (2, 8200), INPUT),
}


def pattern(size: int) -> bytes:
    """The plaintext of every tensor here: byte i is i mod 251."""
    return bytes(i % 251 for i in range(size))


@contextmanager
def fixed_randomness(seed: str) -> Iterator[None]:
    """Make the sealing modules draw from SHAKE-256 of `seed`."""
    drawn = 0

    def draw(size: int) -> bytes:
        nonlocal drawn
        drawn += size
        return hashlib.shake_256(seed.encode()).digest(drawn)[-size:]

    with ExitStack() as stack:
        for module in ("floe", "sealed_tensor", "session_keys"):
            stack.enter_context(patch(f"attestation.sealing.{module}.urandom", draw))
        yield


def segment_entry(segment: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "length": len(segment),
        "iv": segment[4:16].hex(),
        "tag": segment[-16:].hex(),
        "sha256": hashlib.sha256(segment).hexdigest(),
    }
    return entry | ({"bytes": segment.hex()} if len(segment) <= 128 else {})


def tensor_entry(title: str) -> dict[str, Any]:
    name, dtype, shape, place = TENSORS[title]
    spec = TensorSpec(dtype=dtype, shape=shape)
    header = TensorHeader.for_tensor(spec, name=name, place=place, segment_bytes=SEGMENT)
    key = ContentKey.from_bytes(CONTENT_KEY)
    with fixed_randomness(title):
        sealer = TensorSealer(key, header)
        segments = [
            bytes(sealer.segment(index, pattern(spec.nbytes)))
            for index in range(sealer.segment_count)
        ]
    return {
        "title": title,
        "nbytes": spec.nbytes,
        "header": header.to_bytes().hex(),
        "tensor_key": key.tensor_key(header.to_bytes()).hex(),
        "floe_header": sealer.sealed_header.floe_header.hex(),
        "sealed_header": sealer.sealed_header.to_bytes().hex(),
        "segments": [segment_entry(segment) for segment in segments],
        "commitments": {
            kind: SegmentCommitment.over(kind, segments).root().hex() for kind in ("tags", "sha256")
        },
    }


def content_entry() -> dict[str, Any]:
    key = ContentKey.from_bytes(CONTENT_KEY)
    body_key = key.body_key(REQUEST)
    with fixed_randomness("body"):
        sealed = seal_bytes(body_key, REQUEST, b"a sealed program")
    return {
        "content_key": CONTENT_KEY.hex(),
        "job_id": JOB.hex(),
        "commitment": key.commitment(JOB).hex(),
        "request_digest": REQUEST.hex(),
        "body_key": body_key.hex(),
        "body": b"a sealed program".hex(),
        "sealed_body": sealed.hex(),
    }


def session_entry(previous: dict[str, Any]) -> dict[str, Any]:
    kem, exchange = (
        MLKEM768PrivateKey.from_seed_bytes(MLKEM_SEED),
        X25519PrivateKey.from_private_bytes(X25519_PRIVATE),
    )
    public = hybrid_kem.public_key_to_bytes(kem.public_key(), exchange.public_key())
    transcript = Transcript(
        keyset_id=KeySetId(digest(Label.KEYSET, b"key set")),
        evidence_digest=digest(Label.EVIDENCE, b"evidence"),
        policy_digest=digest(Label.POLICY, b"policy"),
        client_key=bytes(range(0xC0, 0xE0)),
        session_id=SessionId(bytes(range(0xE0, 0xF0))),
        nonce=bytes(range(0x20, 0x40)),
    )
    private = hpke.MLKEM768X25519PrivateKey(kem, exchange)
    salt = transcript.digest()
    keys = SessionKeys.derive(SECRET, transcript)
    with fixed_randomness("wrap"):
        wrap = keys.wrap(ContentKey.from_bytes(CONTENT_KEY), REQUEST)
    return {
        "mlkem768_seed": MLKEM_SEED.hex(),
        "x25519_private_key": X25519_PRIVATE.hex(),
        "public_key": public.hex(),
        "transcript": transcript.to_bytes().hex(),
        "transcript_digest": salt.hex(),
        "info": hybrid_kem.info(transcript).hex(),
        "secret": SECRET.hex(),
        "enc": sealed_secret(previous, private, public, transcript).hex(),
        "wrap_key": content_key.derive(SECRET, salt=salt, info=prefix(Label.SESSION_WRAP)).hex(),
        "confirmation": keys.confirmation().hex(),
        "wrap": wrap.hex(),
    }


def sealed_secret(
    previous: dict[str, Any],
    private: hpke.MLKEM768X25519PrivateKey,
    public: bytes,
    transcript: Transcript,
) -> bytes:
    """The HPKE ciphertext in the file, or a new one if there is none."""
    enc = bytes.fromhex(previous.get("session", {}).get("enc", ""))
    if not enc:
        recipient = hybrid_kem.public_key_from_bytes(public)
        enc = hybrid_kem.SUITE.encrypt(SECRET, recipient, hybrid_kem.info(transcript))
    keys = hybrid_kem.open_session(private, enc, transcript)
    keys.check_confirmation(SessionKeys.derive(SECRET, transcript).confirmation())
    return enc


def build(previous: dict[str, Any]) -> dict[str, Any]:
    """Return the whole document; `previous` is the one in the file."""
    return {
        "format": "sealed-tensor-v1",
        "plaintext": "byte i of every tensor is i mod 251",
        "segment_bytes": SEGMENT,
        "content": content_entry(),
        "tensors": [tensor_entry(title) for title in TENSORS],
        "session": session_entry(previous),
    }


def render(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=2) + "\n"


if __name__ == "__main__":
    before = json.loads(PATH.read_text()) if PATH.exists() else {}
    PATH.parent.mkdir(parents=True, exist_ok=True)
    PATH.write_text(render(build(before)))
