"""`enclave policy init` and `lint`."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from attestation.cli.policy import policy
from attestation.errors import PolicyError


def run(*arguments: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(policy, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_an_insecure_policy_is_written_only_on_request_and_shouts(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    code, _, error = run("init", "--allow-insecure-evidence", "-o", path)
    assert code == 0
    assert "INSECURE" in error
    code, output, error = run("lint", path)
    assert code == 0
    assert "INSECURE" in error
    assert "allow_insecure_evidence" in output


def test_lint_prints_one_json_document(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    run("init", "--allow-insecure-evidence", "-o", path)
    _, output, _ = run("lint", path, "--json")
    document = json.loads(output)
    assert len(document["digest"]) == 64
    assert len(document["warnings"]) == 2


def test_a_fresh_policy_for_tpms_does_not_lint_before_it_is_filled_in(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    run("init", "-o", path)
    with pytest.raises(PolicyError, match=r"line \d+: tpm\.roots"):
        run("lint", path)


def test_init_does_not_overwrite_a_policy(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text("mine")
    with pytest.raises(PolicyError):
        run("init", "-o", path)
    assert path.read_text() == "mine"
