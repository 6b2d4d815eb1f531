"""`SIMULATED_GPU=1 pytest -m gpu tests/gpu`: these tests themselves, tried without a GPU.

CuPy is the simulated one of tests/device then, and our kernels are compiled for the processor. What
needs CuPy's own arithmetic, the driver or real sizes is skipped, with the reason.
"""

import sys
from pathlib import Path
from tempfile import mkdtemp
from typing import Final

import pytest

from tests.device.simulated_cupy import SimulatedCupy
from tests.gpu.sizes import SIMULATED
from tests.gpu_aead import host_launcher

_ONLY_REAL: Final = {
    "test_kernels_on_gpu.py": "CuPy's own arithmetic is what it tests",
    "test_the_doctor_finds_the_gpu_and_that_it_computes": "there is no driver",
}

if SIMULATED:
    _folder = Path(mkdtemp(prefix="kernels-"))
    _simulated = SimulatedCupy(lambda tuning: host_launcher.build(tuning, _folder))
    sys.modules["cupy"] = _simulated
    sys.modules["cupy.cuda"] = _simulated.cuda  # type: ignore[assignment]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items if SIMULATED else ():
        for name, reason in _ONLY_REAL.items():
            if name in item.nodeid:
                item.add_marker(pytest.mark.skip(reason=reason))
