"""The command that measures a GPU is ready: a dry run goes through every part of it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench import gpu_report
from tests.gpu_aead import host_launcher
from tests.simulators.memory_scan import needs_root


@needs_root()
@pytest.mark.skipif(host_launcher.COMPILER is None, reason="a dry run needs g++")
def test_a_dry_run_goes_through_every_measurement(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.bench.gpu", "--dry-run", "--output", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "gpu.json").read_text())
    assert results["failures"] == {}
    assert set(results) == {
        *("about", "right", "rates", "bus", "beside", "small", "residue", "failures"),
    }
    assert set(results["right"].values()) == {"yes"}
    assert results["residue"] == {"forms_in_host_memory": 0, "bytes_in_device_pool": 0}
    assert "dry run" in (tmp_path / "gpu.md").read_text().splitlines()[0]


def test_a_part_that_failed_is_named_and_the_others_are_shown() -> None:
    found = {"about": {"device": "one"}, "right": {"a": "yes"}, "failures": {"bus": "gone"}}
    page = gpu_report.markdown(found)
    assert "| a | yes |" in page
    assert "- bus: gone" in page
