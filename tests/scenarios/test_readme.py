"""The example in the README runs as it is printed, but for the address."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from attestation.cli.demo import catalogue_digest
from attestation.cli.demo_cluster import Cluster
from attestation.cli.demo_processes import DemoProcesses

pytestmark = pytest.mark.scenario


def test_the_example_in_the_readme_runs_as_printed(tmp_path: Path, repository: Path) -> None:
    example = re.findall(r"```python\n(.*?)```", (repository / "README.md").read_text(), re.S)[0]
    assert len(example.strip().splitlines()) <= 10
    with DemoProcesses(tmp_path / "logs") as processes:
        cluster = Cluster.start(
            processes,
            kind="insecure",
            workers=1,
            output=tmp_path,
            catalogue=catalogue_digest(),
        )
        script = example.replace("tcp://127.0.0.1:5700", cluster.url) + "\nprint(c.shape)\n"
        result = subprocess.run(
            [sys.executable, "-c", script],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "(512, 128)"
    assert len(list((tmp_path / "proofs").iterdir())) == 2
