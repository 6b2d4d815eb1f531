"""What is waiting for a GPU has been tried: its tests pass over a simulated one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.gpu_aead import host_launcher


@pytest.mark.skipif(host_launcher.COMPILER is None, reason="there is no g++ to run kernels with")
@pytest.mark.parametrize(
    ("file", "which"),
    [("test_device_on_gpu.py", ""), ("test_aead_on_gpu.py", "0 and not 33")],
)
def test_the_tests_for_a_gpu_pass_over_a_simulated_one(
    repository: Path, file: str, which: str
) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-m", "gpu", "-k", which]
    done = subprocess.run(
        [*command, f"tests/gpu/{file}"],
        cwd=repository,
        env={**os.environ, "SIMULATED_GPU": "1"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
