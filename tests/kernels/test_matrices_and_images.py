"""Matrices in stacks, images, eight bits, and who promises equal bits: the edges of each."""

import math
from typing import Any

import numpy as np
import pytest

from attestation.errors import ProgramError
from enclave_worker.errors import NotFiniteError, SingularMatrixError
from enclave_worker.kernels import conv
from enclave_worker.kernels.registry import BUILT_IN, Registry
from enclave_worker.kernels.spec import deterministic, kernel
from tests.kernels.simulated_gpu import DeviceArray, SimulatedCupy

REGISTRY = Registry(BUILT_IN)
RNG = np.random.default_rng(6)


def run(name: str, parameters: dict[str, Any] | None = None, **inputs: Any) -> dict[str, Any]:
    return REGISTRY[name].run(np, inputs, parameters or {})


# -- factorisations of stacks ---------------------------------------------------------------------

SQUARE_KERNELS = ("linalg.cholesky", "linalg.eigh")
BOTH = pytest.mark.parametrize("xp", [np, SimulatedCupy()], ids=["numpy", "simulated-gpu"])


def on(xp: Any, name: str, **inputs: Any) -> dict[str, Any]:
    if xp is not np:
        inputs = {port: array.view(DeviceArray) for port, array in inputs.items()}
    return REGISTRY[name].run(xp, inputs, {})


@BOTH
def test_one_singular_matrix_of_a_stack_fails_it(xp: Any) -> None:
    """CuPy returns infinities where NumPy raises; a client sees one code."""
    a = np.stack([np.eye(3), np.outer([1.0, 2, 3], [1.0, 2, 3])])
    with pytest.raises(SingularMatrixError):
        on(xp, "linalg.solve", a=a, b=np.ones((2, 3, 1)))


@BOTH
@pytest.mark.parametrize(
    "matrix",
    [
        -np.eye(3),
        np.zeros((3, 3)),
        np.array([[1.0, 2.0], [2.0, 1.0]]),
        np.array([[1.0, 0, 0], [0, 1, 0], [0, 5, 1]]),
        np.array([[2.0, 0, 1], [0, 2, 0], [3, 0, 4]]),
    ],
)
def test_a_matrix_that_is_not_positive_definite_has_no_factor(matrix: np.ndarray, xp: Any) -> None:
    """cuSOLVER stops in the middle and says so nowhere that a kernel looks."""
    with pytest.raises(SingularMatrixError):
        on(xp, "linalg.cholesky", a=np.stack([np.eye(len(matrix)), matrix]))


@pytest.mark.parametrize("name", SQUARE_KERNELS)
def test_only_the_lower_triangle_is_read(name: str) -> None:
    a = np.array([[4.0, math.nan], [1.0, 3.0]])
    whole = np.array([[4.0, 1.0], [1.0, 3.0]])
    for key, array in run(name, a=a).items():
        np.testing.assert_array_equal(array, run(name, a=whole)[key])


@pytest.mark.parametrize("name", SQUARE_KERNELS)
def test_nan_in_what_is_read_is_refused(name: str) -> None:
    with pytest.raises(NotFiniteError):
        run(name, a=np.array([[4.0, 1.0], [math.nan, 3.0]]))


def test_a_large_well_conditioned_factor_is_not_mistaken_for_a_failure() -> None:
    for dtype in ("float32", "float64"):
        a = RNG.normal(size=(300, 300)).astype(dtype)
        a = a @ a.T + np.eye(300, dtype=dtype)
        factor = run("linalg.cholesky", a=a)["l"]
        np.testing.assert_allclose(factor @ factor.T, a, rtol=0, atol=1e-2)


def test_a_column_of_zeros_has_a_factor_too() -> None:
    result = run("linalg.qr", a=np.array([[0.0, 1.0], [0.0, 2.0]]))
    np.testing.assert_allclose(result["q"] @ result["r"], [[0, 1], [0, 2]], atol=1e-15)


# -- convolution ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "weight", "parameters"),
    [
        ((3, 5, 5), (4, 2, 3, 3), {}),
        ((4, 5, 5), (3, 2, 3, 3), {"groups": 2}),
        ((1, 2, 2), (1, 1, 3, 1), {}),
        ((1, 2, 2), (1, 1, 1, 3), {}),
        ((1, 5, 5), (1, 1, 3, 3), {"stride": 0}),
        ((1, 5, 5), (1, 1, 3, 3), {"padding": -1}),
        ((1, 5, 5), (1, 1, 3, 3), {"groups": 0}),
        ((5, 5), (1, 1, 3, 3), {}),
    ],
)
def test_images_and_filters_that_do_not_fit_are_refused(
    x: tuple[int, ...], weight: tuple[int, ...], parameters: dict[str, Any]
) -> None:
    with pytest.raises(ProgramError):
        run("nn.conv2d", parameters, x=np.ones(x), weight=np.ones(weight))


def test_blocks_of_images_and_rows_meet_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    x = RNG.normal(size=(5, 2, 9, 8)).astype(np.float32)
    weight = RNG.normal(size=(3, 2, 3, 3)).astype(np.float32)
    parameters = {"padding": 1, "stride": 2}
    whole = run("nn.conv2d", parameters, x=x, weight=weight)["y"]
    for block in (1, 300, 1500, 6000):
        monkeypatch.setattr(conv, "MATRIX_BYTES", block)
        parts = run("nn.conv2d", parameters, x=x, weight=weight)["y"]
        np.testing.assert_allclose(parts, whole, rtol=1e-5, atol=1e-5)


def test_a_wide_border_takes_no_memory() -> None:
    """The border is the client's number; what is allocated follows inputs and outputs only."""
    parameters = {"padding": 1 << 40, "stride": (1 << 41) - 1}
    y = run("nn.conv2d", parameters, x=np.ones((1, 2, 2)), weight=np.ones((1, 1, 1, 1)))["y"]
    assert y.tolist() == [[[0.0, 0.0], [0.0, 0.0]]]


# -- eight bits -----------------------------------------------------------------------------------


def test_a_sum_that_int32_cannot_hold_is_refused() -> None:
    for k, fits in (((1 << 17) - 1, True), (1 << 17, False)):
        a, b = np.full((1, k), -128, np.int8), np.full((k, 1), -128, np.int8)
        if fits:
            assert run("quant.matmul_int32", a=a, b=b)["c"].item() == k << 14
            continue
        with pytest.raises(ProgramError):
            run("quant.matmul_int32", a=a, b=b)


def test_quantized_rows_come_back_within_half_a_step() -> None:
    x = RNG.normal(size=(20, 64)).astype(np.float32)
    made = run("quant.quantize", x=x)
    assert abs(made["q"]).max() == 127
    back = made["q"] * made["scale"][:, None]
    assert (abs(back - x) <= made["scale"][:, None] * 0.501).all()


# -- equal bits -----------------------------------------------------------------------------------


def test_only_kernels_that_say_so_promise_equal_bits() -> None:
    """A kernel added without a thought about it promises nothing."""
    silent = {kernel.name for kernel in REGISTRY if not kernel.signature.deterministic}
    assert silent == {"ml.kmeans", "signal.fft"}

    @kernel("test.new", summary="", inputs={"x": "float64[n]"}, outputs={"y": "float64[n]"})
    def function(_xp: Any, inputs: Any, _parameters: Any, _out: Any) -> Any:
        return {"y": inputs["x"]}

    assert not function.signature.deterministic
    assert deterministic(function).signature.deterministic
