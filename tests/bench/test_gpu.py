"""The command that measures a GPU is ready: a dry run goes through every part of it."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from enclave_worker.device.cubins import TUNINGS, Tuning
from tests.bench import gpu_report, gpu_right
from tests.bench.gpu import SECTIONS
from tests.bench.gpu_run import FULL, Run, require
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
    assert list(results)[: len(SECTIONS) + 1] == ["about", *SECTIONS]
    assert list(SECTIONS)[:3] == ["right", "large", "sanitizer"]
    assert results["left_out"] == []
    assert set(results["right"].values()) == {"yes"}
    assert "unclean" not in done.stderr
    assert results["residue"] == {"forms_in_host_memory": 0, "bytes_in_device_pool": 0}
    assert "dry run" in (tmp_path / "gpu.md").read_text().splitlines()[0]


def test_a_tuning_that_computes_wrong_bytes_fails_the_run_and_is_not_timed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wrong, good = TUNINGS[90]

    def check(_rig: Any, tuning: Tuning, *, small: bool) -> None:
        require(tuning is not wrong, "opened 17/64")

    monkeypatch.setattr(gpu_right, "check", check)
    rig: Any = SimpleNamespace(tunings=lambda: TUNINGS[90], dry=False)
    run = Run(rig, FULL, 100)
    run.section("right", gpu_right.right)
    assert run.right == [good]
    assert list(run.failures) == [f"right {wrong.name}"]


def test_what_has_no_time_left_is_named_and_not_begun() -> None:
    """A lent machine is taken away: what was measured by then is there."""
    run = Run(SimpleNamespace(), FULL, 0)  # type: ignore[arg-type]
    run.section("rates", lambda _run: pytest.fail("it was begun"))
    assert run.left_out == ["rates"]
    assert "rates" in gpu_report.markdown(
        {"about": {"device": "one"}, "failures": {}, "left_out": run.left_out}
    )


@pytest.mark.parametrize(
    ("script", "answer", "failed"),
    [
        ("exit 0", "clean", False),
        ("echo 'Error: Device not supported'; exit 1", "it does not run on this machine", False),
        ("echo '========= Invalid __global__ write'; exit 9", "NO: exit status 9", True),
    ],
)
def test_what_the_sanitizer_finds_fails_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, answer: str, failed: bool
) -> None:
    tool = tmp_path / gpu_right.SANITIZER
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    run = Run(SimpleNamespace(dry=False), FULL, 100)  # type: ignore[arg-type]
    assert set(gpu_right.sanitizer(run).values()) == {answer}
    assert bool(run.failures) == failed


def test_a_part_that_failed_is_named_and_the_others_are_shown() -> None:
    found = {"about": {"device": "one"}, "right": {"a": "yes"}, "failures": {"bus": "gone"}}
    page = gpu_report.markdown(found)
    assert "| a | yes |" in page
    assert "- bus: gone" in page
