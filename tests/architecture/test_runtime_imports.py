"""What is really loaded, seen from inside a fresh interpreter.

The import contracts read source text. These tests import the modules and look at `sys.modules`, so
an import hidden in a function called at start, in an `__init__` or in a plug-in is seen too.
"""

import json
import subprocess
import sys

import pytest

from tests.architecture.sources import modules, within

# Extras that an installation may lack; a module that needs one is not importable without it.
OPTIONAL = {"cupy", "tpm2_pytss", "safetensors"}

_PROBE = """
import importlib, json, sys

names, blocked, optional = json.loads(sys.argv[1])


class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in blocked:
            raise ImportError(f"{name} is blocked", name=name)


sys.meta_path.insert(0, Blocker())
for name in names:
    try:
        importlib.import_module(name)
    except ImportError as error:
        if (error.name or "").split(".")[0] not in optional:
            raise
print(json.dumps(sorted(sys.modules)))
"""

AUDIT = (
    "attestation.appraisal",
    "attestation.encoding",
    "attestation.endorsements",
    "attestation.evidence",
    "attestation.policy",
    "attestation.receipts",
)
COORDINATOR_MAY_LOAD = (
    "attestation.cli.output",
    "attestation.encoding",
    "attestation.errors",
    "attestation.heap",
    "attestation.identifiers",
    "attestation.limits",
    "attestation.logging",
    "attestation.observability",
    "attestation.receipts.merkle",
    "attestation.wire.control",
    "attestation.wire.frames",
)
WORKER_NEVER_LOADS = (
    "attestation.appraisal",
    "attestation.client",
    "attestation.endorsements",
    "attestation.policy",
    "attestation.receipts.verification",
    "attestation.wire.client_session",
    "coordinator",
)
NEEDS_ZEROMQ = (
    "attestation.client.transport",
    "attestation.client.transport_keys",
    "attestation.messaging",
)
NEEDS_NUMPY = ("attestation.client.files", "attestation.client.numpy_tensors")


def loaded_by(names: list[str], *, blocked: tuple[str, ...] = ()) -> list[str]:
    """Import `names` in a fresh interpreter and return every module that is loaded then."""
    result = subprocess.run(
        [sys.executable, "-c", _PROBE, json.dumps([names, blocked, sorted(OPTIONAL)])],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    loaded: list[str] = json.loads(result.stdout)
    return loaded


def ours(*packages: str) -> list[str]:
    return [name for name in modules() if within(name, *packages)]


def test_the_coordinator_loads_nothing_that_reads_a_tensor_or_a_key() -> None:
    loaded = loaded_by(ours("coordinator"))
    assert "coordinator.broker" in loaded
    for name in loaded:
        on_the_way = any(allowed.startswith(f"{name}.") for allowed in COORDINATOR_MAY_LOAD)
        if within(name, "attestation") and not on_the_way:
            assert within(name, *COORDINATOR_MAY_LOAD), f"the coordinator loads {name}"
        assert not within(name, "enclave_worker", "numpy", "cupy"), f"the coordinator loads {name}"


def test_the_coordinator_runs_without_numpy() -> None:
    loaded_by(ours("coordinator"), blocked=("numpy", "cupy"))


def test_the_worker_loads_nothing_that_judges_workers() -> None:
    loaded = loaded_by(ours("enclave_worker"))
    assert "enclave_worker.runtime" in loaded
    for name in loaded:
        assert not within(name, *WORKER_NEVER_LOADS), f"the worker loads {name}"


@pytest.mark.parametrize("package", AUDIT)
def test_an_auditor_needs_no_sockets_arrays_or_keys(package: str) -> None:
    names = ours(package)
    assert names
    for name in loaded_by(names, blocked=("zmq", "numpy", "cupy", "tpm2_pytss")):
        assert not within(
            name, "attestation.sealing", "attestation.client", "attestation.programs"
        ), f"{package} loads {name}"


def test_only_the_transport_needs_zeromq() -> None:
    """Sealing, verifying and every session work without a socket library."""
    wanting = {
        "attestation.client.aio",
        "attestation.client.client",
        *NEEDS_ZEROMQ,
    }
    names = [
        name
        for name in ours("attestation")
        if name not in wanting and not within(name, "attestation.cli", "attestation.client")
    ]
    loaded_by(names, blocked=("zmq",))


def test_only_tensors_need_numpy() -> None:
    names = [
        name
        for name in ours("attestation")
        if not within(name, "attestation.cli", "attestation.client")
    ]
    loaded_by(names, blocked=("numpy",))


def test_help_is_quick_because_it_loads_little() -> None:
    loaded = loaded_by(["attestation.cli.root"])
    for name in loaded:
        assert not within(name, "numpy", "zmq", "cryptography"), f"--help loads {name}"
