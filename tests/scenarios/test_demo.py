"""The demo is the first thing a newcomer runs: it must tell the truth and leave nothing running."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from attestation.cli import demo_tpm
from attestation.cli.demo_processes import enclave_command

pytestmark = pytest.mark.scenario

needs_software_tpm = pytest.mark.skipif(
    bool(demo_tpm.missing()), reason=f"{demo_tpm.missing()} is not installed"
)


def run_demo(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*enclave_command(), "demo", "--output", str(directory), *arguments],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
        timeout=180,
    )


def processes_of(directory: Path) -> list[str]:
    """Command lines of running processes that name the demo's directory."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if str(directory) in command:
                found.append(command)
    return found


def check(result: subprocess.CompletedProcess[str], directory: Path) -> dict[str, Any]:
    assert result.returncode == 0, result.stdout + result.stderr
    document: dict[str, Any] = json.loads(result.stdout)
    assert document["jobs"] == document["audit"]["receipts"] == 20
    assert document["killed"]["jobs_held"] >= 1
    assert len(document["moved"]) >= 1
    assert document["attempts"]["1"] + len(document["moved"]) == 20
    assert document["accuracy"]["sealed"] == document["accuracy"]["numpy"] > 0.95
    assert document["accuracy"]["largest_difference"] <= document["accuracy"]["tolerance"]
    assert document["audit"]["forgeries_refused"] == 1
    # Neither kind is confidential computing, whatever else went well.
    assert document["confidential"] is False
    assert len(list((directory / "proofs").glob("*.receipt"))) == 20
    assert processes_of(directory) == []
    return document


def test_the_demo_survives_a_killed_worker_and_verifies_every_receipt(tmp_path: Path) -> None:
    directory = tmp_path / "out"
    document = check(run_demo(directory, "--attester", "insecure", "--json"), directory)
    assert document["evidence_kind"] == "insecure"


@needs_software_tpm
def test_the_demo_with_a_tpm_pins_key_and_pcr_values_beforehand(tmp_path: Path) -> None:
    directory = tmp_path / "out"
    document = check(run_demo(directory, "--attester", "tpm", "--json"), directory)
    assert document["evidence_kind"] == "tpm"
    policy = (directory / "policy.toml").read_text()
    assert "attestation_keys" in policy
    assert "allow_insecure_evidence" not in policy


def test_the_demo_says_that_insecure_evidence_proves_nothing(tmp_path: Path) -> None:
    result = run_demo(tmp_path / "out", "--attester", "insecure")
    assert result.returncode == 0, result.stderr
    assert "INSECURE" in result.stdout
    assert "proves nothing" in result.stdout


def test_the_demo_never_deletes_what_it_did_not_make(tmp_path: Path) -> None:
    precious = tmp_path / "policy.toml"
    precious.write_text("mine")
    result = run_demo(tmp_path, "--attester", "insecure")
    assert result.returncode == 2
    assert precious.read_text() == "mine"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_no_process(tmp_path: Path, number: signal.Signals) -> None:
    directory = tmp_path / "out"
    with subprocess.Popen(
        [*enclave_command(), "demo", "--output", str(directory), "--attester", "insecure"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
    ) as demo:
        deadline = time.monotonic() + 60
        while not (directory / "logs" / "worker-2.log").exists():
            assert demo.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        demo.send_signal(number)
        assert demo.wait(60) == 130
    assert processes_of(directory) == []
