"""On a GPU every kernel means what its reference says, over every dtype."""

import math
from typing import Any

import numpy as np
import pytest

from attestation.errors import UnavailableError
from enclave_worker.device.backend import select_device
from enclave_worker.device.device import Device
from enclave_worker.errors import KernelError
from enclave_worker.kernels.reference import REFERENCES
from enclave_worker.kernels.registry import BUILT_IN, Registry
from tests.kernels.cases import Case, assert_agrees, cases

pytestmark = pytest.mark.gpu

REGISTRY = Registry(BUILT_IN)
CASES = list(cases())


@pytest.fixture(scope="module")
def device() -> Device:
    return select_device("cuda:0")


def run(device: Device, case: Case) -> dict[str, Any]:
    """Run on the device and bring the outputs back, as the executor does."""
    inputs = {name: device.to_device(array) for name, array in case.inputs.items()}
    results = REGISTRY[case.kernel].run(device.xp, inputs, case.parameters)
    outputs = {name: np.empty(a.shape, dtype=a.dtype.name) for name, a in results.items()}
    for name, array in results.items():
        device.to_host(array, outputs[name])
    return outputs


@pytest.mark.parametrize("case", CASES, ids=map(str, CASES))
def test_a_kernel_on_the_gpu_agrees_with_its_reference(case: Case, device: Device) -> None:
    values = REGISTRY[case.kernel].signature.resolve(case.parameters)
    got = run(device, case)
    assert_agrees(case, got, REFERENCES[case.kernel](**case.inputs, **values))
    again = run(device, case)
    assert {n: a.tobytes() for n, a in got.items()} == {n: a.tobytes() for n, a in again.items()}


@pytest.mark.parametrize("case", CASES[::7], ids=map(str, CASES[::7]))
def test_results_land_in_the_callers_device_buffers(case: Case, device: Device) -> None:
    inputs = {name: device.to_device(array) for name, array in case.inputs.items()}
    kernel = REGISTRY[case.kernel]
    plain = kernel.run(device.xp, inputs, case.parameters)
    buffers = {name: device.xp.full_like(array, 77) for name, array in plain.items()}
    results = kernel.run(device.xp, inputs, case.parameters, buffers)
    for name, array in plain.items():
        assert results[name] is buffers[name]
        assert device.xp.array_equal(buffers[name], array)


SPECIAL = np.array([[math.nan, 1.0], [math.inf, 2.0], [-math.inf, 3.0], [0.5, -0.0]])


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("name", ["nn.affine", "nn.softmax", "nn.gelu", "stats.describe"])
def test_nan_and_infinity_go_the_same_way_as_on_the_processor(
    name: str, dtype: str, device: Device
) -> None:
    case = Case(name, dtype, {"x": SPECIAL.astype(dtype)}, {})
    assert_agrees(case, run(device, case), REGISTRY[name].run(np, case.inputs, {}))


REFUSED = [
    Case("linalg.svd", "nan", {"a": SPECIAL}, {}),
    Case("ml.logistic_fit", "one-class", {"x": np.ones((3, 1)), "y": np.ones(3, int)}, {}),
    Case(
        "ml.logistic_fit",
        "dependent",
        {"x": np.repeat([[1.0], [2.0], [0.0], [1.0]], 2, axis=1), "y": np.array([0, 1, 1, 0])},
        {"l2": 0},
    ),
    Case(
        "ml.logistic_fit",
        "separable",
        {"x": np.array([[-1.0], [-0.5], [0.5], [2.0]]), "y": np.array([0, 0, 1, 1])},
        {"l2": 0},
    ),
]


@pytest.mark.parametrize("case", REFUSED, ids=map(str, REFUSED))
def test_a_failure_has_the_code_that_it_has_on_the_processor(case: Case, device: Device) -> None:
    """CuPy returns NaN where NumPy raises: the receipt must say the same of both."""
    with pytest.raises(KernelError) as expected:
        REGISTRY[case.kernel].run(np, case.inputs, case.parameters)
    with pytest.raises(type(expected.value)):
        run(device, case)


def test_the_gpu_describes_itself_and_gives_its_memory_back(device: Device) -> None:
    assert device.backend == "cupy"
    assert device.sm_count > 0
    assert {"cupy", "cublas", "cuda-driver"} <= set(device.libraries)
    device.release()
    with device.meter() as meter:
        array = device.to_device(np.ones(1 << 22))
        device.xp.exp(array, out=array)
    assert meter.device_ns > 0
    assert meter.peak_bytes >= 1 << 25
    del array
    device.release()
    assert device.peak_bytes < 1 << 25


def test_a_gpu_that_is_not_there_is_refused(device: Device) -> None:
    with pytest.raises(UnavailableError):
        select_device("cuda:99")
