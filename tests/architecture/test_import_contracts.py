"""The import contracts hold, and each is seen to fail when it is broken.

A contract that nothing can break protects nothing: a typing error in a module's name would make it
silent. So every contract is run against a copy of the tree with one forbidden import planted.
"""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.architecture.sources import PACKAGES, modules, within

# contract id, module that gets a line, the line
PLANTS = [
    ("layers", "attestation.encoding.planted", "import attestation.client.client"),
    ("layers", "attestation.evidence.planted", "import attestation.policy.loading"),
    ("layers", "attestation.sealing.planted", "from attestation.programs import program"),
    ("layers", "coordinator.planted", "import enclave_worker.executor"),
    ("layers", "enclave_worker.planted", "import coordinator.broker"),
    ("coordinator", "coordinator.planted", "import attestation.sealing.floe"),
    ("coordinator", "coordinator.core.planted", "from attestation.wire import messages"),
    ("coordinator", "coordinator.core.planted", "import attestation.receipts.receipt"),
    ("coordinator", "coordinator.planted", "import attestation.evidence.bundle"),
    ("coordinator", "coordinator.planted", "import numpy"),
    ("worker", "enclave_worker.planted", "import attestation.policy.loading"),
    ("worker", "enclave_worker.attester.planted", "import attestation.appraisal.verifier"),
    ("worker", "enclave_worker.planted", "import attestation.client.client"),
    ("worker", "enclave_worker.planted", "import attestation.cli.root"),
    ("foundation", "attestation.client.planted", "import coordinator.store"),
    ("foundation", "attestation.cli.planted", "import enclave_worker.runtime"),
    ("audit", "attestation.receipts.planted", "import attestation.sealing.content_key"),
    ("audit", "attestation.policy.planted", "import attestation.wire.messages"),
    ("audit", "attestation.appraisal.planted", "import numpy"),
    ("sockets", "attestation.client.planted", "import zmq"),
    ("sockets", "coordinator.core.planted", "from zmq import Context"),
    ("tracing", "attestation.client.planted", "import opentelemetry"),
    ("xml", "attestation.appraisal.planted", "from lxml import etree"),
    ("arrays", "attestation.sealing.planted", "import numpy as np"),
    ("devices", "enclave_worker.planted", "import cupy"),
    ("sans-io", "coordinator.core.planted", "import time"),
    ("sans-io", "attestation.wire.planted", "import secrets"),
    ("sans-io", "attestation.evidence.planted", "import os"),
]


def lint_imports(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = Path(sys.executable).with_name("lint-imports")
    return subprocess.run(
        [command, "--no-cache", "--no-logo", *arguments],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def contracts() -> dict[str, str]:
    settings = tomllib.loads(Path("pyproject.toml").read_text())["tool"]["importlinter"]
    return {contract["id"]: contract["name"] for contract in settings["contracts"]}


@pytest.fixture(scope="module")
def copied_tree(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    target = tmp_path_factory.mktemp("tree")
    for package in (*PACKAGES, "tests/architecture"):
        shutil.copytree(
            repository / package, target / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    shutil.copy(repository / "pyproject.toml", target)
    return target


def test_every_contract_holds(repository: Path) -> None:
    result = lint_imports(repository)
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_contract_is_attacked_below(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    assert {plant[0] for plant in PLANTS} == set(contracts())


@pytest.mark.parametrize(("contract", "module", "line"), PLANTS)
def test_a_forbidden_import_breaks_its_contract(
    copied_tree: Path,
    repository: Path,
    monkeypatch: pytest.MonkeyPatch,
    contract: str,
    module: str,
    line: str,
) -> None:
    monkeypatch.chdir(repository)
    planted = copied_tree.joinpath(*module.split(".")).with_suffix(".py")
    planted.write_text(f'"""Planted."""\n\n{line}\n')
    try:
        result = lint_imports(copied_tree, "--contract", contract)
    finally:
        planted.unlink()
    assert result.returncode == 1, result.stdout + result.stderr
    assert f"{contracts()[contract]} BROKEN" in result.stdout
    assert module in result.stdout


def test_every_module_has_a_layer(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that no layer names could import anything."""
    monkeypatch.chdir(repository)
    settings = tomllib.loads(Path("pyproject.toml").read_text())["tool"]["importlinter"]
    layers = next(entry for entry in settings["contracts"] if entry["id"] == "layers")["layers"]
    named = [name.strip() for row in layers for name in row.replace("|", ":").split(":")]
    for name, path in modules().items():
        if path.name != "__init__.py":
            assert within(name, *named), f"{name} is in no layer (pyproject.toml)"
