"""On a GPU every kernel means what its reference says, over every dtype."""

import math
from typing import Any

import numpy as np
import pytest

from attestation.errors import UnavailableError
from enclave_worker.device.backend import select_device
from enclave_worker.device.device import Device
from enclave_worker.errors import KernelError
from enclave_worker.kernels import int8_gemm
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
    if not REGISTRY[case.kernel].signature.deterministic:
        return
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
    Case("linalg.solve", "singular", {"a": np.ones((2, 3, 3)), "b": np.ones((2, 3, 1))}, {}),
    Case("linalg.solve", "singular-one", {"a": np.zeros((3, 3)), "b": np.ones((3, 1))}, {}),
    Case("linalg.cholesky", "indefinite", {"a": np.array([[1.0, 2.0], [2.0, 1.0]])}, {}),
    Case("linalg.cholesky", "stack", {"a": np.stack([np.eye(3), -np.eye(3)])}, {}),
    Case(
        "linalg.cholesky",
        "late",
        {"a": np.diag([*np.ones(200), -1.0])},
        {},
    ),
    Case("linalg.qr", "nan", {"a": SPECIAL}, {}),
    Case("linalg.eigh", "nan", {"a": SPECIAL[:2]}, {}),
    Case("quant.quantize", "nan", {"x": SPECIAL}, {}),
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


# -- one kernel for an expression, integers on tensor cores, larger sizes ----------------------

RNG = np.random.default_rng(16)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_expression_without_rounded_functions_is_equal_to_the_last_bit(
    dtype: str, device: Device
) -> None:
    """Products are not fused into sums on the device, and its roots and quotients are exact."""
    a, b = RNG.normal(size=(2, 100_003)).astype(dtype)
    text = "(a*b - a*b) + sqrt(abs(a))/b + where(a < b, floor(3*a), -b)*a - max(a, b)"
    case = Case("expr.map", dtype, {"a": a, "b": b}, {"expression": text})
    host = REGISTRY["expr.map"].run(np, case.inputs, case.parameters)
    assert run(device, case)["y"].tobytes() == host["y"].tobytes()


@pytest.mark.parametrize("shape", [(64, 64, 64), (129, 1000, 77), (1, 4096, 1), (512, 2048, 512)])
def test_int8_products_are_equal_to_the_last_bit(
    shape: tuple[int, int, int], device: Device
) -> None:
    m, k, n = shape
    a = RNG.integers(-128, 128, size=(2, m, k)).astype(np.int8)
    b = RNG.integers(-128, 128, size=(2, k, n)).astype(np.int8)
    case = Case("quant.matmul_int32", "large", {"a": a, "b": b}, {})
    exact = a.astype(np.int64) @ b.astype(np.int64)
    assert (run(device, case)["c"] == exact).all()
    by_cublas = int8_gemm._by_cublas(device.xp, device.to_device(a), device.to_device(b))
    assert by_cublas is not None, "cuBLAS has int8 on every GPU that we name"
    assert (device.xp.asnumpy(by_cublas) == exact).all()


def test_a_network_runs_in_the_memory_of_the_device(device: Device) -> None:
    """In and out by the device's own addresses; without the CUDA provider it fails instead."""
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    pytest.importorskip("sklearn")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has no CUDA provider (onnxruntime-gpu has)")
    from tests.kernels.digits import digits, scores  # noqa: PLC0415 - needs what was asked for

    made = digits()
    kernel = Registry.installed()["onnx.run"]
    inputs = {
        "model": device.to_device(np.frombuffer(made.model, np.uint8)),
        "a": device.to_device(made.images),
    }
    y = kernel.run(device.xp, inputs, {"rows": len(made.images), "columns": 10})["y"]
    got = np.empty(y.shape, np.float32)
    device.to_host(y, got)
    np.testing.assert_allclose(got, scores(made.images, made.model), atol=1e-3)


LARGE = [
    Case(
        "linalg.solve",
        "large",
        {"a": RNG.normal(size=(3, 300, 300)), "b": np.ones((3, 300, 2))},
        {},
    ),
    Case("linalg.qr", "large", {"a": RNG.normal(size=(2, 400, 150))}, {}),
    Case("signal.fft", "large", {"x": RNG.normal(size=(8, 10_007))}, {}),
    Case("linalg.svd", "large", {"a": RNG.normal(size=(300, 200))}, {}),
    Case(
        "linalg.matmul",
        "large",
        {"a": RNG.normal(size=(700, 3000)), "b": RNG.normal(size=(3000, 500))},
        {},
    ),
    Case(
        "nn.conv2d",
        "large",
        {"x": RNG.normal(size=(8, 64, 56, 56)), "weight": RNG.normal(size=(64, 64, 3, 3))},
        {"padding": 1},
    ),
    Case("stats.standardize", "large", {"x": RNG.normal(size=(100_000, 30))}, {}),
]


@pytest.mark.parametrize("case", LARGE, ids=map(str, LARGE))
def test_a_promise_of_equal_bits_is_kept_at_sizes_that_fill_the_gpu(
    case: Case, device: Device
) -> None:
    """Small inputs use one block, which has one order anyway."""
    host = REGISTRY[case.kernel].run(np, case.inputs, case.parameters)
    first = run(device, case)
    for name, array in host.items():
        np.testing.assert_allclose(first[name], array, rtol=1e-7, atol=1e-7)
    if REGISTRY[case.kernel].signature.deterministic:
        for _ in range(5):
            again = run(device, case)
            assert {n: a.tobytes() for n, a in again.items()} == {
                n: a.tobytes() for n, a in first.items()
            }
