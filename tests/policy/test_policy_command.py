"""`enclave policy init` and `lint`."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from attestation.cli.policy import policy
from attestation.errors import PolicyError
from attestation.policy.loading import load_policy
from attestation.policy.template import TABLES
from tests.simulators.vendor import Operator, pem


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


@pytest.mark.parametrize("kind", sorted(TABLES))
def test_a_fresh_policy_accepts_nothing_before_its_empty_lists_are_filled_in(
    tmp_path: Path, kind: str
) -> None:
    """Nobody knows a user's Reference Values for him, and a guess would be an acceptance."""
    path = tmp_path / "policy.toml"
    assert run("init", "--kind", kind, "-o", path)[0] == 0
    with pytest.raises(PolicyError, match="empty list"):
        run("lint", path)
    # Every other line of it is as the policy's own reader wants it.
    size = 64 if kind == "tpm" else 96
    (tmp_path / "root.pem").write_bytes(pem(Operator().root))
    text = path.read_text().replace("roots = []", 'roots = ["root.pem"]')
    path.write_text(text.replace(" = []", f' = ["{"ab" * (size // 2)}"]'))
    assert run("lint", path)[0] == 0
    assert load_policy(path).evidence.kinds == (kind,)


def test_init_does_not_overwrite_a_policy(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text("mine")
    with pytest.raises(PolicyError):
        run("init", "-o", path)
    assert path.read_text() == "mine"
