"""An installation without extras: verifying works, and everything else says what to install."""

import json
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from attestation.cli.extras import EXTRAS, missing_extra
from attestation.cli.root import GROUP

# What every extra brings is not there; a module that is found anyway fails loudly.
_BLOCKED = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("cupy", "numpy", "tpm2_pytss", "zmq"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
from attestation.cli.root import main
main()
"""
NOTHING_NEEDED = {"collateral", "policy", "receipt", "verify"}


def enclave(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _BLOCKED, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )


def test_every_command_is_an_auditors_or_names_its_extra() -> None:
    own = {
        point.name
        for point in entry_points(group=GROUP)
        if point.module.split(".")[0] in ("attestation", "coordinator", "enclave_worker")
    }
    assert own == NOTHING_NEEDED | set(EXTRAS)


def test_every_extra_that_is_named_exists(repository: Path) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    named = {extra for extras in EXTRAS.values() for extra in extras.split(",")}
    assert named <= set(project["optional-dependencies"])
    base = " ".join(project["dependencies"])
    assert "zmq" not in base
    assert "numpy" not in base


@pytest.mark.parametrize("command", sorted(NOTHING_NEEDED))
def test_an_auditors_commands_load_without_any_extra(command: str) -> None:
    result = enclave(command, "--help")
    assert result.returncode == 0, result.stderr
    assert "unavailable" not in result.stdout


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (("coordinator", "--state", "x"), "coordinator"),
        (("demo",), "client,coordinator,worker"),
        (("jobs",), "client"),
        (("kernels",), "worker"),
        (("keygen", "--curve"), "client"),
        (("submit", "linalg.svd"), "client"),
        (("worker", "--coordinator", "tcp://127.0.0.1:1", "--attester", "insecure"), "worker"),
        (("workers",), "client"),
    ],
)
def test_a_command_that_lacks_its_extra_says_what_to_type(
    tmp_path: Path, arguments: tuple[str, ...], extra: str
) -> None:
    result = enclave(*arguments)
    assert result.returncode == 3
    assert f"pip install 'enclave-worker[{extra}]'" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_program_reads_it_as_json(tmp_path: Path) -> None:
    result = enclave("keygen", "--curve", "--json", "-o", str(tmp_path))
    assert json.loads(result.stdout)["error"]["code"] == "command-unavailable"


def test_a_signing_key_is_made_without_zeromq(tmp_path: Path) -> None:
    """Who signs policies and collateral is no client."""
    assert enclave("keygen", "-o", str(tmp_path)).returncode == 0
    assert (tmp_path / "client.key").is_file()


def test_a_defect_is_not_mistaken_for_a_missing_extra() -> None:
    assert missing_extra("submit", ImportError("no", name="attestation.gone")) == ""
    assert missing_extra("somebodys-plugin", ImportError("no", name="numpy")) == ""
    assert missing_extra(None, ImportError("no")) == ""
