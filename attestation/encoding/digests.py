"""Labelled digests: one hash function, one prefix per purpose, so no two purposes can collide.

`digest(label, data) = SHA-256(len(label) as one byte ‖ label ‖ data)`. The label's length comes
first, so no label is a prefix of another.
"""

import hashlib
from enum import Enum

from attestation.identifiers import Digest


class Label(Enum):
    """What a digest or a derived key is for. Values are part of the format (docs/protocol.md)."""

    KEYSET = b"enclave-worker/v1/keyset"
    EVIDENCE = b"enclave-worker/v1/evidence"
    BINDING = b"enclave-worker/v1/binding"
    GPU_NONCE = b"enclave-worker/v1/gpu-nonce"
    GPU_EVIDENCE = b"enclave-worker/v1/gpu-evidence"
    CHALLENGE_LEAF = b"enclave-worker/v1/challenge"
    CATALOGUE = b"enclave-worker/v1/catalogue"
    KERNEL_SOURCE = b"enclave-worker/v1/kernel-source"
    PROGRAM = b"enclave-worker/v1/program"
    PARAMETERS = b"enclave-worker/v1/parameters"
    POLICY = b"enclave-worker/v1/policy"
    POLICY_SIGNATURE = b"enclave-worker/v1/policy-signature"
    COLLATERAL_SET = b"enclave-worker/v1/collateral"
    COLLATERAL_BUNDLE = b"enclave-worker/v1/bundle-of-collateral"
    CLIENT_KEY = b"enclave-worker/v1/client-key"
    CLIENT_HELLO = b"enclave-worker/v1/client-hello"
    WORKER_ID = b"enclave-worker/v1/worker-id"
    SESSION = b"enclave-worker/v1/session"
    SESSION_OPEN = b"enclave-worker/v1/session-open"
    SESSION_WRAP = b"enclave-worker/v1/session/wrap"
    SESSION_CONFIRM = b"enclave-worker/v1/session/confirm"
    JOB_HEADER = b"enclave-worker/v1/job-header"
    JOB_SIGNATURE = b"enclave-worker/v1/job-signature"
    JOB_BODY = b"enclave-worker/v1/job-body"
    CONTENT_KEY = b"enclave-worker/v1/content-key"
    CONTENT_COMMITMENT = b"enclave-worker/v1/content-key-commitment"
    TENSOR_KEY = b"enclave-worker/v1/tensor-key"
    RESULT = b"enclave-worker/v1/result"
    RECEIPT = b"enclave-worker/v1/receipt"
    COMMITMENT = b"enclave-worker/v1/commitment"

    def __init__(self, label: bytes) -> None:
        """Keep the prefix with the label: it is asked for several times a job."""
        self.prefix = bytes([len(label)]) + label


def digest(label: Label, data: bytes | memoryview) -> Digest:
    """Return the 32-byte SHA-256 of `data` under `label`."""
    return Digest(hashlib.sha256(label.prefix + data).digest())


def digest512(label: Label, data: bytes) -> bytes:
    """Return the 64-byte SHA-512 of `data` under `label`, for report data of that size."""
    return hashlib.sha512(label.prefix + data).digest()


def prefix(label: Label) -> bytes:
    """Return the length-prefixed label that every labelled hash or signature starts with."""
    return label.prefix
