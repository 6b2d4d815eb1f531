"""The worker as a process: hardened, loud about INSECURE, and free of the client's code."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.worker.simulated_coordinator import WORKER_ID, SimulatedCoordinator

FORBIDDEN = (
    "attestation.appraisal",
    "attestation.policy",
    "attestation.endorsements",
    "attestation.client",
    "coordinator",
)


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )


def command(*arguments: str) -> list[str]:
    code = "from attestation.cli.root import main; main()"
    return [sys.executable, "-c", code, "--log-format", "json", "worker", *arguments]


def test_the_worker_loads_nothing_that_decides_whom_to_trust() -> None:
    """Appraisal, policy and client code are not in the process that is measured."""
    code = (
        "import sys, enclave_worker.cli, enclave_worker.runtime, enclave_worker.executor,"
        " enclave_worker.attester.tpm, enclave_worker.kernels.registry as r;"
        " r.installed_registry();"
        " print('\\n'.join(sys.modules))"
    )
    loaded = run_python(code).stdout.split()
    assert "enclave_worker.executor" in loaded
    found = [name for name in loaded if name.startswith(FORBIDDEN)]
    assert found == []


def test_the_executor_has_no_sockets_and_the_loop_no_keys() -> None:
    without_zmq = (
        "import sys, enclave_worker.executor, enclave_worker.jobs; print('zmq' in sys.modules)"
    )
    assert run_python(without_zmq).stdout.strip() == "False"
    source = Path(__file__).parents[2] / "enclave_worker" / "runtime.py"
    assert "keystore" not in source.read_text().lower()


def test_a_hardened_process_dumps_no_core_and_cannot_be_traced() -> None:
    code = (
        "import ctypes, resource; from enclave_worker.hardening import harden_process;"
        "harden_process();"
        "print(resource.getrlimit(resource.RLIMIT_CORE), ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))"
    )
    assert run_python(code).stdout.splitlines()[-1] == "(0, 0) 0"


def test_a_host_that_refuses_hardening_gets_no_worker() -> None:
    code = (
        "import resource; resource.setrlimit = lambda *a: (_ for _ in ()).throw(OSError());"
        "from enclave_worker.hardening import harden_process, HardeningError\n"
        "try:\n    harden_process()\nexcept HardeningError as error:\n    print(error.code)"
    )
    assert run_python(code).stdout.strip() == "hardening-failed"


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (("--coordinator", "tcp://10.0.0.1:1", "--attester", "insecure"), 3, "curve-keys-required"),
        ((), 2, "--coordinator"),
        (("--coordinator", "tcp://127.0.0.1:1", "--capacity", "0"), 2, "--capacity"),
        (("--coordinator", "tcp://127.0.0.1:1", "--tpm-pcrs", "0,99"), 2, "PCR"),
        (("--coordinator", "tcp://127.0.0.1:1", "--tpm-pcrs", "a"), 2, "numbers"),
        (("--coordinator", "tcp://127.0.0.1:1", "--device", "tpu"), 3, "tpu"),
        (("--coordinator", "tcp://127.0.0.1:1", "--curve-key", "x"), 2, "belong together"),
        (
            ("--coordinator", "tcp://127.0.0.1:1", "--curve-key", "x", "--coordinator-key", "y"),
            3,
            "curve-key-file",
        ),
        (
            ("--coordinator", "tcp://127.0.0.1:1", "--attester", "tpm", "--tpm-tcti", "device:/no"),
            3,
            "tpm",
        ),
    ],
)
def test_a_worker_that_cannot_run_says_why_and_exits(
    arguments: tuple[str, ...], status: int, says: str
) -> None:
    done = subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == status, done.stderr
    assert says in done.stderr


@pytest.fixture
def coordinator() -> Iterator[SimulatedCoordinator]:
    with SimulatedCoordinator() as coordinator:
        yield coordinator


def test_a_worker_process_joins_says_insecure_and_drains_on_sigterm(
    coordinator: SimulatedCoordinator, tmp_path: Path
) -> None:
    ready = tmp_path / "ready"
    arguments = ("--attester", "insecure", "--device", "cpu", "--ready-file", str(ready))
    process = subprocess.Popen(
        command("--coordinator", coordinator.url, *arguments),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        coordinator.wait(ready.exists)
        assert ready.read_text().strip() == WORKER_ID.hex()
        assert not os.access(f"/proc/{process.pid}/mem", os.R_OK) or os.geteuid() == 0
        process.send_signal(signal.SIGTERM)
        end = time.monotonic() + 20
        while process.poll() is None and time.monotonic() < end:
            coordinator.pump(0.05)
        assert process.returncode == 0
    finally:
        process.kill()
        _, errors = process.communicate()
    assert "INSECURE" in errors
    events = [json.loads(line)["event"] for line in errors.splitlines() if line.startswith("{")]
    assert events[0] == "worker.hardened"
    assert "worker.ready" in events
