"""Signed policies: whose policy is it, and is it whole, with the certificates that it names?"""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from attestation.cli.root import root
from attestation.client.keys import ClientKey
from attestation.errors import PolicyError
from attestation.policy.loading import load_policy, parse_policy
from attestation.policy.signing import (
    CONTENT_TYPE,
    PolicySignatureError,
    key_id,
    sign_policy,
    signature_path,
    verify_policy,
)
from attestation.policy.template import policy_template
from attestation.receipts import cose
from tests.simulators.vendor import Operator, pem

OWNER = Ed25519PrivateKey.generate()
OTHER = Ed25519PrivateKey.generate()
PINNED = OWNER.public_key().public_bytes_raw()
TEXT = policy_template(allow_insecure_evidence=True)
TPM = f"""version = 1
[evidence]
kinds = ["tpm"]
max_age_seconds = 60
[keys]
max_lifetime_seconds = 600
[catalogue]
digests = "any"
[tpm]
pcr_bank = "sha256"
roots = ["root.pem"]
[tpm.pcrs]
11 = ["{"ab" * 32}"]
"""


def write(directory: Path, text: str = TEXT, key: Ed25519PrivateKey | None = OWNER) -> Path:
    path = directory / "policy.toml"
    path.write_text(text)
    if key is not None:
        signature = sign_policy(
            load_policy(path), public_key=key.public_key().public_bytes_raw(), sign=key.sign
        )
        signature_path(path).write_bytes(signature)
    return path


def refused(path: Path) -> bool:
    try:
        load_policy(path, signer=PINNED)
    except PolicySignatureError:
        return True
    return False


def test_a_policy_that_its_owner_signed_is_used(tmp_path: Path) -> None:
    path = write(tmp_path)
    assert load_policy(path, signer=PINNED) == load_policy(path)


def test_a_policy_without_a_signature_is_refused_when_a_key_is_pinned(tmp_path: Path) -> None:
    assert refused(write(tmp_path, key=None))


def test_somebody_elses_signature_is_refused(tmp_path: Path) -> None:
    assert refused(write(tmp_path, key=OTHER))


def test_a_key_that_the_signature_file_brings_along_is_not_believed(tmp_path: Path) -> None:
    """The id in the file is the owner's, the signature is not."""
    path = write(tmp_path, key=None)
    forged = sign_policy(load_policy(path), public_key=PINNED, sign=OTHER.sign)
    signature_path(path).write_bytes(forged)
    assert refused(path)


def test_one_opened_door_is_another_policy(tmp_path: Path) -> None:
    path = write(tmp_path)
    path.write_text(TEXT.replace("max_age_seconds = 3600", "max_age_seconds = 3601"))
    assert refused(path)


def test_comments_and_order_may_change(tmp_path: Path) -> None:
    path = write(tmp_path)
    path.write_text(f"# reviewed\n{TEXT}\n\n")
    assert not refused(path)


def test_a_swapped_root_file_breaks_the_signature(tmp_path: Path) -> None:
    """The text of the policy names a file; whoever swaps that file changes whom it trusts."""
    (tmp_path / "root.pem").write_bytes(pem(Operator("honest").root))
    path = write(tmp_path, TPM)
    assert not refused(path)
    (tmp_path / "root.pem").write_bytes(pem(Operator("swapped").root))
    assert refused(path)


def test_a_signature_made_for_something_else_is_not_one_on_a_policy(tmp_path: Path) -> None:
    path = write(tmp_path, key=None)
    policy = load_policy(path)
    payload = cose.verify1(
        sign_policy(policy, public_key=PINNED, sign=OWNER.sign), PINNED, content_type=CONTENT_TYPE
    )[1]
    for content_type, data in (("application/x-receipt", payload), (CONTENT_TYPE, policy.digest())):
        signature_path(path).write_bytes(
            cose.sign1(data, key_id=key_id(PINNED), content_type=content_type, sign=OWNER.sign)
        )
        assert refused(path)


def test_a_policy_of_another_time_is_not_the_one_that_was_signed(tmp_path: Path) -> None:
    """An owner's older, wider policy with its own signature verifies: that is what dates are for.

    But no mixture of the two does.
    """
    old = write(tmp_path)
    kept = signature_path(old).read_bytes()
    new = write(tmp_path, TEXT.replace("max_age_seconds = 3600", "max_age_seconds = 60"))
    signature_path(new).write_bytes(kept)
    assert refused(new)


@given(st.binary(max_size=300))
def test_any_signature_file_is_refused_as_a_policy_error(data: bytes) -> None:
    policy = parse_policy(TEXT, directory=Path("/nonexistent"))
    with pytest.raises(PolicySignatureError):
        verify_policy(policy, data, public_key=PINNED)


@given(st.data())
def test_no_changed_signature_file_is_accepted(data: st.DataObject) -> None:
    policy = parse_policy(TEXT, directory=Path("/nonexistent"))
    honest = sign_policy(policy, public_key=PINNED, sign=OWNER.sign)
    changed = bytearray(honest)
    place = data.draw(st.integers(0, len(honest) - 1))
    changed[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(PolicySignatureError):
        verify_policy(policy, bytes(changed), public_key=PINNED)


def test_an_unreadable_policy_is_reported_before_its_signature(tmp_path: Path) -> None:
    path = write(tmp_path)
    path.write_text("version = 2\n")
    with pytest.raises(PolicyError) as error:
        load_policy(path, signer=PINNED)
    assert not isinstance(error.value, PolicySignatureError)


# -- commands --


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(root, [str(argument) for argument in arguments])


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    return ClientKey.of(OWNER).save(tmp_path / "keys")


def test_an_owner_signs_and_others_verify(tmp_path: Path, keys: tuple[Path, Path]) -> None:
    path = write(tmp_path, key=None)
    private, public = keys
    assert run("policy", "verify", path, "--policy-key", public).exit_code == 2
    assert run("policy", "sign", path, "--key", private).exit_code == 0
    assert run("policy", "verify", path, "--policy-key", public).exit_code == 0
    _, other = ClientKey.of(OTHER).save(tmp_path / "other")
    answer = run("policy", "verify", path, "--policy-key", other)
    assert answer.exit_code == 2
    assert "policy-signature" in answer.stderr


def test_an_auditor_pins_the_owner(tmp_path: Path, keys: tuple[Path, Path]) -> None:
    path = write(tmp_path, key=OTHER)
    answer = run(
        *("verify", path, "--policy", path, "--at", "2026-06-01T12:00:00Z"),
        *("--policy-key", keys[1]),
    )
    assert answer.exit_code == 2
    assert "policy-signature" in answer.stderr


@pytest.mark.parametrize("content", ["", "not a key", "-----BEGIN PUBLIC KEY-----\nAAAA\n"])
def test_a_pinned_key_that_is_none_pins_nothing(tmp_path: Path, content: str) -> None:
    """An empty file in the place of a key must not mean that no key is pinned."""
    path = write(tmp_path)
    key = tmp_path / "key.pub"
    key.write_text(content)
    answer = run("policy", "verify", path, "--policy-key", key)
    assert answer.exit_code == 3
    assert "signing-key" in answer.stderr


def test_a_private_key_that_others_can_read_signs_nothing(
    tmp_path: Path, keys: tuple[Path, Path]
) -> None:
    path = write(tmp_path, key=None)
    keys[0].chmod(0o644)
    assert run("policy", "sign", path, "--key", keys[0]).exit_code == 3
    assert not signature_path(path).exists()
