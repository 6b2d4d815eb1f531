"""`enclave receipt`: an auditor with three files, and what he is told."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import attrs
import click
import pytest
from click.testing import CliRunner, Result

from attestation.cli.root import root
from attestation.receipts.receipt import Receipt, ReceiptClaims
from tests.receipts.signing import CATALOGUE, NONCE, NOW_MS, SigningWorker

POLICY = f"""
version = 1
[evidence]
kinds = ["insecure"]
allow_insecure_evidence = true
max_age_seconds = 3600
[keys]
max_lifetime_seconds = 3600
[catalogue]
digests = ["sha256:{CATALOGUE.hex()}"]
"""


class Files:
    """A receipt, its evidence and a policy, as an auditor gets them."""

    def __init__(self, directory: Path, **changes: object) -> None:
        self.worker = SigningWorker()
        self.signed = self.worker.issue(**changes)
        self.receipt = directory / "job.receipt"
        self.evidence = directory / "job.evidence"
        self.policy = directory / "policy.toml"
        self.receipt.write_bytes(self.signed.to_bytes())
        self.evidence.write_bytes(self.worker.record().to_bytes())
        self.policy.write_text(POLICY)

    def verify(self, *options: str) -> Result:
        return run(
            *("verify", str(self.receipt), "--evidence", str(self.evidence)),
            *("--policy", str(self.policy), *options),
        )


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(root, ["receipt", *arguments])


def at(seconds: float) -> str:
    begin = datetime.fromtimestamp(NOW_MS / 1000, UTC)
    return (begin + timedelta(seconds=seconds)).isoformat()


def test_an_auditor_is_told_what_was_proven(files: Files) -> None:
    result = files.verify()
    assert result.exit_code == 0, result.output
    assert "VERIFIED: signed by a key inside insecure evidence" in result.stdout
    assert (b"j" * 16).hex() in result.stdout
    assert "The job ran to its end" in result.stdout
    assert "NOT CONFIDENTIAL" in result.stdout


def test_insecure_evidence_is_called_insecure_on_both_outputs(files: Files) -> None:
    result = files.verify()
    assert "INSECURE" in result.stdout
    assert "INSECURE" in result.stderr
    assert json.loads(files.verify("--json").stdout)["insecure"] is True


def test_the_default_time_is_said(files: Files) -> None:
    assert at(2) in files.verify().stderr
    assert "as of" not in files.verify("--at", at(60)).stderr


def test_programs_get_the_claims_as_json(files: Files) -> None:
    document = json.loads(files.verify("--json").stdout)
    assert document["verified"] is True
    assert document["claims"]["job_id"] == (b"j" * 16).hex()
    assert document["receipt_digest"] == files.signed.digest().hex()
    assert document["attestation"]["accepted"] is True


def test_the_own_challenge_can_be_given(files: Files) -> None:
    assert files.verify("--nonce", NONCE.hex()).exit_code == 0
    assert files.verify("--nonce", bytes(32).hex()).exit_code == 1


def test_a_failed_job_is_said_to_have_failed(tmp_path: Path) -> None:
    result = Files(tmp_path, code="kernel-failed").verify()
    assert result.exit_code == 0
    assert "FAILED with code 'kernel-failed'" in result.stdout


def code_of(result: Result) -> str:
    """The code of the error, as programs read it."""
    document = json.loads(result.stdout)
    assert list(document) == ["error"], "a refusal prints no claims"
    return str(document["error"]["code"])


def test_a_changed_receipt_is_refused(files: Files) -> None:
    claims = attrs.evolve(ReceiptClaims.from_bytes(files.signed.claims), attempt=7)
    files.receipt.write_bytes(attrs.evolve(files.signed, claims=claims.to_bytes()).to_bytes())
    result = files.verify("--json")
    assert result.exit_code == 1
    assert code_of(result) == "receipt-signature-invalid"


def test_a_receipt_beside_another_workers_evidence_is_refused(files: Files) -> None:
    files.evidence.write_bytes(SigningWorker().record().to_bytes())
    assert code_of(files.verify("--json")) == "receipt-signature-invalid"


def test_evidence_that_the_policy_does_not_accept_proves_no_receipt(files: Files) -> None:
    files.policy.write_text(POLICY.replace(CATALOGUE.hex(), "00" * 32))
    result = files.verify("--json")
    assert result.exit_code == 1
    assert "VERIFIED" not in result.stdout
    assert "claims" not in json.loads(result.stdout)


def test_evidence_beside_another_catalogue_is_refused(files: Files) -> None:
    files.evidence.write_bytes(attrs.evolve(files.worker.record(), catalogue=b"other").to_bytes())
    assert code_of(files.verify("--json")) == "evidence-file-inconsistent"


@pytest.mark.parametrize("seconds", [-3600, 2 * 3600])
def test_evidence_judged_at_a_time_when_it_did_not_hold_is_refused(
    files: Files, seconds: int
) -> None:
    assert files.verify("--at", at(seconds)).exit_code == 1


def test_a_policy_without_an_age_needs_the_challenge(files: Files) -> None:
    """The nonce in the evidence file is not taken for the auditor's own."""
    files.policy.write_text(POLICY.replace("max_age_seconds = 3600", "max_age_seconds = 0"))
    assert files.verify().exit_code == 1
    assert files.verify("--nonce", NONCE.hex()).exit_code == 0


@pytest.mark.parametrize("name", ["receipt", "evidence"])
@pytest.mark.parametrize("data", [b"", b"\xff" * 100, bytes(3 << 20)], ids=["none", "junk", "big"])
def test_a_file_that_is_none_is_refused(files: Files, name: str, data: bytes) -> None:
    getattr(files, name).write_bytes(data)
    result = files.verify("--json")
    assert result.exit_code == 1
    assert code_of(result) == "malformed"


@pytest.mark.parametrize("name", ["receipt", "evidence"])
def test_a_file_that_is_missing_is_the_environments_fault(files: Files, name: str) -> None:
    getattr(files, name).unlink()
    assert files.verify().exit_code == 3


@pytest.mark.parametrize(
    "options",
    [
        ("--at", "noon"),
        ("--at", "2026-01-31T12:00:00"),
        ("--nonce", "xyz"),
        ("--nonce", "00"),
        ("--unknown",),
    ],
)
def test_a_wrong_option_is_a_usage_error(files: Files, options: tuple[str, ...]) -> None:
    assert files.verify(*options).exit_code == 2


def test_no_policy_means_no(files: Files) -> None:
    assert run("verify", str(files.receipt), "--evidence", str(files.evidence)).exit_code == 2


def test_showing_says_that_nothing_was_verified(files: Files) -> None:
    shown = run("show", str(files.receipt))
    assert shown.exit_code == 0
    assert "NOT VERIFIED" in shown.stdout
    document = json.loads(run("show", str(files.receipt), "--json").stdout)
    assert document["verified"] is False
    assert document["claims"]["device"]["name"] == "cpu"


def test_a_device_name_cannot_write_to_the_terminal(files: Files) -> None:
    claims = ReceiptClaims.from_bytes(files.signed.claims)
    device = attrs.evolve(claims.device, name="\x1b[2Jgone [bold]")
    hostile = attrs.evolve(claims, device=device)
    files.receipt.write_bytes(Receipt(claims=hostile.to_bytes(), proof=b"").to_bytes())
    shown = run("show", str(files.receipt)).stdout
    assert "\x1b[2J" not in shown
    assert "[bold]" in shown


def test_every_example_in_the_help_is_a_command() -> None:
    receipt = root.get_command(click.Context(root), "receipt")
    assert isinstance(receipt, click.Group)
    assert set(receipt.commands) == {"verify", "show"}
    assert "enclave receipt verify" in run("verify", "--help").output
