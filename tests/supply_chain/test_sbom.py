"""The bill of materials names what is installed, and nothing about the machine it was made on."""

import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def sbom(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> str:
    if importlib.util.find_spec("cyclonedx_py") is None:
        pytest.skip("cyclonedx-bom is not installed (extra `audit`)")
    path = tmp_path_factory.mktemp("sbom") / "sbom.json"
    # `make sbom` validates it against its schema, which takes half a minute.
    tool = [sys.executable, "-m", "cyclonedx_py", "environment", "--no-validate"]
    project = repository / "pyproject.toml"
    subprocess.run(
        [*tool, "--pyproject", str(project), "--output-file", str(path), sys.executable],
        check=True,
        cwd=repository,
        capture_output=True,
    )
    return path.read_text()


def test_every_runtime_dependency_is_listed_with_its_version(sbom: str) -> None:
    document = json.loads(sbom)
    assert document["bomFormat"] == "CycloneDX"
    listed = {each["name"].lower(): each.get("version") for each in document["components"]}
    for name in ("attrs", "cryptography", "numpy", "pyzmq", "structlog"):
        assert listed[name] == importlib.metadata.version(name)
    assert document["metadata"]["component"]["name"] == "enclave-worker"


def test_it_says_nothing_about_the_machine(sbom: str, repository: Path) -> None:
    for word in (str(repository), str(Path.home()), os.uname().nodename, "file://"):
        assert word not in sbom
