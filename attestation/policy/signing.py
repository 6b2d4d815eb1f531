"""Who answers for a policy: a detached signature file beside it, `policy.toml.sig`.

Signed is the digest of the policy's values and not the text of its file: a policy names PEM files,
and whoever could swap one of those would have changed whom it trusts without touching the text.
The file is a COSE_Sign1 (receipts/cose.py), which other tools read too.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from attestation import limits
from attestation.encoding.digests import Label, digest, prefix
from attestation.errors import DecodeError, PolicyError, SignatureInvalidError
from attestation.policy.policy import Policy
from attestation.receipts import cose

CONTENT_TYPE: Final = "application/vnd.enclave-worker.policy-digest"
SUFFIX: Final = ".sig"


class PolicySignatureError(PolicyError):
    """The policy is not signed by the key that you pinned. Use the one its owner signed."""

    code = "policy-signature"


def signature_path(policy: Path) -> Path:
    """Return where the signature of the policy file at `policy` is looked for."""
    return policy.with_name(policy.name + SUFFIX)


def sign_policy(policy: Policy, *, public_key: bytes, sign: Callable[[bytes], bytes]) -> bytes:
    """Return the content of a signature file; `sign` is the owner's Ed25519."""
    return cose.sign1(
        _payload(policy), key_id=key_id(public_key), content_type=CONTENT_TYPE, sign=sign
    )


def verify_policy(policy: Policy, signature: bytes, *, public_key: bytes) -> None:
    """Check that the owner of `public_key` signed these values; raises `PolicySignatureError`."""
    try:
        _, payload = cose.verify1(signature, public_key, content_type=CONTENT_TYPE)
    except (DecodeError, SignatureInvalidError) as error:
        raise PolicySignatureError(f"the signature does not verify: {error}") from error
    if payload != _payload(policy):
        raise PolicySignatureError(f"signed are other values than sha256:{policy.digest().hex()}")


def require_signature(policy: Policy, path: Path, *, public_key: bytes) -> None:
    """Check the signature file beside the policy file at `path`; raises `PolicySignatureError`."""
    file_path = signature_path(path)
    try:
        with file_path.open("rb") as file:
            signature = file.read(limits.RECEIPT_BYTES + 1)
    except OSError as error:
        raise PolicySignatureError(
            f"{file_path}: cannot be read ({error.strerror}), and a pinned key asks for it"
        ) from error
    try:
        verify_policy(policy, signature, public_key=public_key)
    except PolicySignatureError as error:
        raise PolicySignatureError(f"{file_path}: {error}") from error


def key_id(public_key: bytes) -> bytes:
    """Return the id of a signer's Ed25519 key, as the signature file names it."""
    return digest(Label.POLICY_SIGNATURE, public_key)


def _payload(policy: Policy) -> bytes:
    return prefix(Label.POLICY_SIGNATURE) + policy.digest()
