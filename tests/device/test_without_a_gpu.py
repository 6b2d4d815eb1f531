"""Nothing of the worker needs a GPU, CuPy or nvidia-ml-py to be imported, asked or explained."""

import subprocess
import sys

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
