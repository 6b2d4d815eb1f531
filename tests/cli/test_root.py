"""The command's frame: plug-ins, errors as one line with a code, exit statuses, JSON."""

import json
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from attestation.cli import root as root_module
from attestation.cli.output import (
    ExitCode,
    emit_json,
    emit_table,
    exit_code,
    json_option,
    printable,
)
from attestation.cli.root import root
from attestation.errors import (
    DecodeError,
    EvidenceRefusedError,
    NotAuthenticError,
    PolicyError,
    ProgramError,
    TensorError,
    UnavailableError,
)


@click.command()
@json_option
@click.argument("kind")
def failing(*, as_json: bool, kind: str) -> None:
    """Raise what the argument names."""
    errors: dict[str, BaseException] = {
        "refused": EvidenceRefusedError("no"),
        "policy": PolicyError("line 3: unknown key"),
        "missing": FileNotFoundError(2, "No such file", "x.npy"),
        "away": UnavailableError("nobody\x1b[31m there"),
        "interrupt": KeyboardInterrupt(),
        "defect": ZeroDivisionError("a defect"),
    }
    raise errors[kind]


class Points(list[EntryPoint]):
    """What `entry_points` returns, filled in by the test."""

    def __call__(self, *, group: str, name: str | None = None) -> list[EntryPoint]:
        return [point for point in self if name in (None, point.name)]


@pytest.fixture
def points(monkeypatch: pytest.MonkeyPatch) -> Points:
    found = Points()
    monkeypatch.setattr(root_module, "entry_points", found)
    found.append(EntryPoint("failing", f"{__name__}:failing", root_module.GROUP))
    found.append(EntryPoint("broken", "no_such_module:command", root_module.GROUP))
    found.append(EntryPoint("notacommand", "os:getcwd", root_module.GROUP))
    found.append(EntryPoint("twice", "a:b", root_module.GROUP))
    found.append(EntryPoint("twice", "c:d", root_module.GROUP))
    return found


def run(*arguments: str) -> Result:
    return CliRunner().invoke(root, arguments)


@pytest.mark.usefixtures("points")
@pytest.mark.parametrize("name", ["broken", "notacommand", "twice"])
def test_a_plug_in_that_cannot_be_used_says_why_and_stops_nothing_else(name: str) -> None:
    outcome = run(name, "--any", "arguments")
    assert outcome.exit_code == ExitCode.ENVIRONMENT
    assert "error[command-unavailable]" in outcome.stderr
    listing = run("--help")
    assert listing.exit_code == 0
    assert "failing" in listing.stdout
    assert "unavailable" in listing.stdout


@pytest.mark.usefixtures("points")
@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [
        ("refused", 1, "evidence-refused"),
        ("policy", 2, "policy-invalid"),
        ("missing", 3, "environment"),
        ("away", 3, "unavailable"),
    ],
)
def test_an_error_is_one_line_with_its_code_and_status(kind: str, status: int, code: str) -> None:
    outcome = run("failing", kind)
    assert outcome.exit_code == status
    assert outcome.stderr.startswith(f"error[{code}]: ")
    assert outcome.stderr.count("\n") == 1
    assert "Traceback" not in outcome.output
    assert "\x1b" not in outcome.stderr
    document = json.loads(run("failing", "--json", kind).stdout)
    assert document["error"]["code"] == code


@pytest.mark.usefixtures("points")
def test_ctrl_c_ends_with_130() -> None:
    outcome = run("failing", "interrupt")
    assert outcome.exit_code == 130
    assert outcome.stderr == "interrupted\n"


@pytest.mark.usefixtures("points")
def test_a_defect_of_ours_is_not_dressed_up_as_an_error_of_the_user() -> None:
    assert isinstance(run("failing", "defect").exception, ZeroDivisionError)


def test_an_unknown_command_and_a_wrong_option_are_usage_errors() -> None:
    assert run("nonsense").exit_code == ExitCode.USAGE
    assert run("submit", "--nonsense").exit_code == ExitCode.USAGE


def test_help_shows_examples_and_exit_statuses_of_every_command_of_ours() -> None:
    assert "Exit status" in run("--help").stdout
    for name in ("submit", "workers", "jobs", "keygen"):
        outcome = run(name, "--help")
        assert outcome.exit_code == 0
        assert "Examples:" in outcome.stdout
        assert f"enclave {name}" in outcome.stdout


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (KeyboardInterrupt(), 130),
        (UnavailableError("x"), 3),
        (PermissionError("x"), 3),
        (ProgramError("x"), 2),
        (TensorError("x"), 2),
        (DecodeError("x"), 1),
        (NotAuthenticError("x"), 1),
    ],
)
def test_exit_statuses_are_those_of_the_documentation(error: BaseException, status: int) -> None:
    assert exit_code(error) == status


def test_output_has_no_control_characters_and_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    """A worker names its device itself; a terminal must not obey it."""
    emit_table("t", ("device",), [("\x1b]0;owned\x07[red]GPU[/red]",)])
    shown = capsys.readouterr().out
    assert "\x1b]" not in shown
    assert "[red]GPU[/red]" in shown
    assert printable("a\x00\x1bb\n") == "a\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}b\n"


def test_json_output_writes_bytes_as_hexadecimal(capsys: pytest.CaptureFixture[str]) -> None:
    emit_json({"id": b"\x01\xff", "many": (1, 2)})
    assert json.loads(capsys.readouterr().out) == {"id": "01ff", "many": [1, 2]}
    with pytest.raises(TypeError):
        emit_json({"x": object()})


def test_keygen_writes_both_kinds_and_refuses_to_overwrite(tmp_path: Path) -> None:
    signing: dict[str, Any] = json.loads(run("keygen", "--json", "-o", str(tmp_path)).stdout)
    assert Path(signing["secret"]).stat().st_mode & 0o777 == 0o600
    assert len(signing["client_key_id"]) == 64
    curve = json.loads(run("keygen", "--curve", "--json", "-o", str(tmp_path)).stdout)
    assert len(curve["curve_public_key"]) == 40
    assert run("keygen", "-o", str(tmp_path)).exit_code == ExitCode.ENVIRONMENT


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-i", "x"), "NAME=FILE"),
        (("-i", "=x.npy"), "NAME=FILE"),
        (("-i", "x=missing.npy"), "tensor-file"),
        (("-i", "x=-", "-i", "x=-"), "twice|one tensor"),
        (("-i", "x=-", "-p", "k"), "NAME=VALUE"),
    ],
)
def test_submit_refuses_a_command_line_it_cannot_mean(
    arguments: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    policy = tmp_path / "policy.toml"
    outcome = run(
        "submit", "linalg.svd", *arguments, "-o", str(tmp_path / "out"), "--policy", str(policy)
    )
    assert outcome.exit_code == ExitCode.USAGE
    assert any(part in outcome.stderr for part in message.split("|"))
    assert not (tmp_path / "out").exists()


def test_a_remote_coordinator_without_curve_keys_is_refused(tmp_path: Path) -> None:
    from tests.scenarios.processes import INSECURE_POLICY  # noqa: PLC0415 - only the text

    policy = tmp_path / "policy.toml"
    policy.write_text(INSECURE_POLICY)
    outcome = run("workers", "--coordinator", "tcp://192.0.2.1:5700", "--policy", str(policy))
    assert outcome.exit_code == ExitCode.ENVIRONMENT
    assert "curve-keys-missing" in outcome.stderr
