"""Nothing of the worker needs a GPU, CuPy or nvidia-ml-py to be imported, asked or explained."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from attestation.cli import demo_cluster

PROGRAM = """
import importlib, pkgutil, sys


class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"cupy", "cupyx", "pynvml", "cuda", "tpm2_pytss"}:
            raise ImportError(name, name=name)


sys.meta_path.insert(0, Absent())
import enclave_worker

for module in pkgutil.walk_packages(enclave_worker.__path__, "enclave_worker."):
    importlib.import_module(module.name)
from enclave_worker.device.confidential import Mode, read_mode
from enclave_worker.doctor import Machine, examine

assert read_mode() is Mode.UNKNOWN
assert examine(Machine())
"""


def test_the_worker_is_imported_and_examined_without_any_of_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_the_demo_uses_the_gpu_where_there_is_one(tmp_path: Path) -> None:
    """And says nothing where there is none: the choice is left to the machine."""
    started: list[list[str]] = []
    processes: Any = SimpleNamespace(start=lambda _name, command: started.append(command))
    demo_cluster._start_worker(processes, "a", "tcp://x", tcti="", ready_file=tmp_path / "ready")
    (command,) = started
    assert command[command.index("--device") + 1] == "auto"
