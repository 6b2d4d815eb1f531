"""Choosing a device, and what it says of itself. The GPU's own tests are in tests/gpu."""

import builtins
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from attestation.errors import UnavailableError
from enclave_worker.device.backend import select_device


@pytest.fixture
def without_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine where the extra is not installed."""
    real = builtins.__import__

    def refuse(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name.partition(".")[0] == "cupy":
            raise ImportError(name)
        return real(name, *arguments, **keywords)

    for name in [n for n in sys.modules if n.partition(".")[0] == "cupy"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", refuse)


def test_auto_without_cupy_takes_the_processor_and_says_why(without_cupy: None) -> None:
    device = select_device("auto")
    assert device.backend == "numpy"
    assert "cuda13" in device.reason


def test_a_named_gpu_is_never_replaced_by_the_processor(without_cupy: None) -> None:
    """An operator who sells a GPU must not sell his processor by accident."""
    with pytest.raises(UnavailableError, match="cuda12 or cuda13"):
        select_device("cuda:0")


@pytest.mark.parametrize(
    "choice", ["", "gpu", "cuda", "cuda:", "cuda:-1", "cuda:x", "CPU", "cuda:٣"]
)
def test_an_unknown_device_is_refused(choice: str) -> None:
    with pytest.raises(UnavailableError):
        select_device(choice)


def test_the_processor_describes_itself_for_a_receipt() -> None:
    device = select_device("cpu")
    assert device.name
    assert (device.sm_count, device.cuda) == (0, "")
    assert isinstance(device.libraries, Mapping)
    assert device.libraries["numpy"] == np.__version__
    assert all(isinstance(v, str) and len(k) <= 64 for k, v in device.libraries.items())


def test_nothing_is_copied_to_the_processor() -> None:
    device = select_device("cpu")
    x = np.arange(6.0)
    assert device.to_device(x) is x
    out = np.empty(6)
    device.to_host(x, out)
    assert out.tolist() == x.tolist()


@pytest.mark.parametrize(
    "out", [np.empty(5), np.empty(6, np.float32), np.empty(12)[::2], np.empty((6, 1))]
)
def test_a_host_buffer_that_does_not_fit_is_refused(out: Any) -> None:
    """NumPy would broadcast or convert instead, and the tail would hold another job's bytes."""
    with pytest.raises(ValueError, match="host buffer"):
        select_device("cpu").to_host(np.arange(6.0), out)


def test_a_meter_measures_its_block_also_when_that_fails() -> None:
    device = select_device("cpu")
    with pytest.raises(ZeroDivisionError), device.meter() as meter:
        raise ZeroDivisionError
    assert meter.device_ns > 0
    assert meter.peak_bytes == 0, "the system has no figure per job; the plan's is the job's"


def test_cupy_is_not_loaded_until_a_gpu_is_looked_for() -> None:
    """It is 200 MB, and a worker on a processor needs none of them."""
    program = (
        "import sys\n"
        "from enclave_worker.device.backend import select_device\n"
        "import enclave_worker.kernels.registry as r\n"
        "r.Registry.installed(); select_device('cpu')\n"
        "sys.exit('cupy' in sys.modules or 'enclave_worker.kernels.reference' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0
