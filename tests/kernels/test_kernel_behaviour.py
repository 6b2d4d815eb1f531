"""What kernels do at the edges: special values, refusals, and what must never reach a message."""

import math
from typing import Any

import numpy as np
import pytest

from attestation.errors import ProgramError
from attestation.programs.errors import (
    DtypeMismatchError,
    EmptyTensorError,
    ParameterOutOfRangeError,
    RuleBrokenError,
    ShapeMismatchError,
)
from enclave_worker.errors import (
    DeviceMemoryError,
    DomainError,
    KernelError,
    NotConvergedError,
    NotFiniteError,
    SingularMatrixError,
)
from enclave_worker.kernels import blocks
from enclave_worker.kernels.registry import BUILT_IN, Registry
from enclave_worker.kernels.spec import kernel

REGISTRY = Registry(BUILT_IN)
RNG = np.random.default_rng(5)
FLOATS = ("float16", "float32", "float64")
SPECIAL = (math.nan, math.inf, -math.inf, 0.0, -0.0)


def run(name: str, parameters: dict[str, Any] | None = None, **inputs: Any) -> dict[str, Any]:
    return REGISTRY[name].run(np, inputs, parameters or {})


# -- NaN and infinity are values ------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS)
def test_nan_and_infinity_pass_through_affine_as_in_numpy(dtype: str) -> None:
    x = np.array(SPECIAL, dtype=dtype)
    y = run("nn.affine", {"scale": -2.0, "shift": 1.0}, x=x)["y"]
    np.testing.assert_array_equal(y, -2 * x + 1)


@pytest.mark.parametrize("dtype", FLOATS)
def test_one_bad_row_does_not_spoil_the_others(dtype: str) -> None:
    x = RNG.normal(size=(4, 3)).astype(dtype)
    x[1, 1], x[2, 0] = math.nan, math.inf
    ones, zeros = np.ones(3, dtype), np.zeros(3, dtype)
    for y in (
        run("nn.softmax", x=x)["y"],
        run("nn.layernorm", x=x, gamma=ones, beta=zeros)["y"],
    ):
        assert np.isnan(y[1:3]).all()
        assert np.isfinite(y[[0, 3]]).all()


def test_a_column_with_nan_has_nan_statistics_and_its_neighbour_has_numbers() -> None:
    x = np.array([[1.0, math.nan], [2.0, 5.0], [3.0, 6.0]])
    result = run("stats.describe", x=x)
    for name, values in result.items():
        assert np.isfinite(values[0]), name
        assert np.isnan(values[1]), name


def test_infinity_is_an_extreme_and_a_mean_as_in_numpy() -> None:
    result = run("stats.describe", x=np.array([[1.0], [math.inf], [math.inf]]))
    assert result["maximum"] == result["mean"] == result["median"] == math.inf
    assert np.isnan(result["std"])


def test_a_given_histogram_counts_neither_nan_nor_what_lies_outside() -> None:
    x = np.array([math.nan, -math.inf, math.inf, -0.1, 1.1, 0.0, 0.5, 1.0])
    parameters = {"bins": 2, "span": "given", "lower": 0, "upper": 1}
    assert run("stats.histogram", parameters, x=x)["counts"].tolist() == [1, 2]
    nothing = run("stats.histogram", parameters, x=np.array([math.nan, 7.0]))
    assert nothing["counts"].tolist() == [0, 0]


NEEDS_FINITE: list[tuple[str, dict[str, Any], str]] = [
    ("linalg.svd", {}, "a"),
    ("linalg.pca", {"k": 1}, "x"),
    ("linalg.qr", {}, "a"),
    ("quant.quantize", {}, "x"),
    ("ml.kmeans", {"k": 2}, "x"),
    ("stats.histogram", {}, "x"),
]


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(("name", "parameters", "port"), NEEDS_FINITE)
def test_what_has_no_answer_for_nan_says_so(
    name: str, parameters: dict[str, Any], port: str, value: float
) -> None:
    x = RNG.normal(size=(4, 3))
    x[2, 1] = value
    with pytest.raises(NotFiniteError):
        run(name, parameters, **{port: x})


# -- numbers that go wrong when done naively ------------------------------------------------------


def test_standardize_finds_a_constant_column_that_rounding_hides() -> None:
    x = np.full((7, 1), 0.1)
    assert x.std() > 0, "choose a value whose mean does not round back to it"
    result = run("stats.standardize", x=x)
    assert result["z"].tolist() == [[0.0]] * 7
    assert result["scale"].tolist() == [1.0]


@pytest.mark.parametrize("dtype", FLOATS)
def test_rescaling_the_training_rows_repeats_standardize_bit_for_bit(dtype: str) -> None:
    x = (RNG.normal(size=(50, 4)) * 3 + 7).astype(dtype)
    fitted = run("stats.standardize", x=x)
    again = run("stats.rescale", x=x, mean=fitted["mean"], scale=fitted["scale"])
    assert again["z"].tobytes() == fitted["z"].tobytes()


def test_deviation_keeps_its_digits_far_from_zero() -> None:
    """The formula E[x²] - E[x]² would have none left."""
    x = np.array([[1e9 + 1], [1e9 + 2], [1e9 + 3]])
    assert run("stats.describe", {"ddof": 1}, x=x)["std"] == pytest.approx(1.0, rel=1e-12)


def test_deviation_is_corrected_for_a_mean_that_no_float_can_hold() -> None:
    """The mean of 0, 2, 2 above 2^53 is 4/3 above it, and floats there are 2 apart."""
    x = 2.0**53 + np.array([[0.0], [2.0], [2.0]])
    assert run("stats.describe", x=x)["std"] == pytest.approx(math.sqrt(8 / 9), rel=1e-12)


def test_the_sign_of_a_singular_vector_survives_a_tie() -> None:
    """Of two entries that are equal but for rounding, the larger one differs between devices."""
    for tilt in (-1e-9, 1e-9):
        a = np.array([[1.0, -1.0 - tilt], [3.0, -3.0 - tilt]])
        assert run("linalg.svd", a=a)["vh"][0, 0] > 0


@pytest.mark.parametrize(("dtype", "limit"), [("float32", 5e-7), ("float64", 1e-15)])
def test_gelu_is_exact_to_rounding_over_its_whole_range(dtype: str, limit: float) -> None:
    x = np.linspace(-9, 9, 20_001).astype(dtype)
    want = np.array([0.5 * v * math.erfc(-v / math.sqrt(2)) for v in x.astype(float)])
    error = np.abs(run("nn.gelu", x=x)["y"].astype(float) - want) / (1 + np.abs(want))
    assert error.max() < limit
    tanh = run("nn.gelu", {"approximate": "tanh"}, x=x)["y"].astype(float)
    assert np.abs(tanh - want).max() > 1e-4, "the two formulas differ, so the test can tell them"


def test_singular_vectors_keep_their_sign_when_the_rows_are_shuffled() -> None:
    """Two workers with other libraries must not disagree about a sign."""
    x = RNG.normal(size=(30, 4)) * [4, 3, 2, 1]
    first = run("linalg.pca", {"k": 4}, x=x)["components"]
    second = run("linalg.pca", {"k": 4}, x=x[::-1].copy())["components"]
    np.testing.assert_allclose(first, second, atol=1e-12)


def test_half_precision_sums_in_single() -> None:
    """4096 ones summed in float16 stop at 2048."""
    ones = np.ones((1, 4096), dtype=np.float16)
    assert run("linalg.matmul", a=ones, b=ones.T.copy())["c"] == 4096
    assert run("nn.layernorm", x=ones, gamma=ones[0], beta=ones[0])["y"].tolist() == ones.tolist()


def test_kmeans_depends_on_its_seed_and_on_nothing_else() -> None:
    x = RNG.random((200, 2))
    results = [run("ml.kmeans", {"k": 5, "seed": s}, x=x)["centroids"] for s in (1, 1, 2)]
    assert results[0].tobytes() == results[1].tobytes()
    assert results[0].tobytes() != results[2].tobytes()


@pytest.mark.parametrize("name", ["nn.softmax", "nn.gelu", "nn.affine", "nn.layernorm"])
def test_blocks_of_any_size_give_one_result(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the last block is a ragged one."""
    x = RNG.normal(size=(101, 7)).astype(np.float32)
    inputs = {"x": x}
    if name == "nn.layernorm":
        inputs |= {"gamma": x[0].copy(), "beta": x[1].copy()}
    whole = run(name, **inputs)["y"]
    monkeypatch.setattr(blocks.spans, "__kwdefaults__", {"block_bytes": 300})
    assert run(name, **inputs)["y"].tobytes() == whole.tobytes()


def test_sums_over_blocks_give_what_one_block_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    x = RNG.normal(size=(1001, 3))
    y = (x[:, 0] + RNG.normal(size=1001) > 0).astype(np.uint8)
    q = RNG.normal(size=(2, 50, 4))

    def results() -> list[Any]:
        return [
            *run("stats.describe", x=x).values(),
            *run("stats.histogram", x=x).values(),
            *run("ml.kmeans", {"k": 3}, x=x).values(),
            *run("ml.logistic_fit", x=x, y=y).values(),
            *run("nn.attention", {"causal": True}, q=q, k=q, v=q).values(),
        ]

    whole = results()
    monkeypatch.setattr(blocks.spans, "__kwdefaults__", {"block_bytes": 500})
    monkeypatch.setattr("enclave_worker.kernels.ml.MATRIX_BYTES", 500)
    monkeypatch.setattr("enclave_worker.kernels.nn.MATRIX_BYTES", 1000)
    for one, other in zip(whole, results(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)


# -- refusals -------------------------------------------------------------------------------------


def labelled(rows: int = 40) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    x = RNG.normal(size=(rows, 2))
    return x, (x[:, 0] + RNG.normal(size=rows) > 0).astype(np.int64)


def test_labels_that_can_be_separated_do_not_fit_without_a_penalty() -> None:
    x = np.array([[-2.0], [-1.0], [1.0], [2.0]])
    y = np.array([0, 0, 1, 1])
    with pytest.raises(NotConvergedError):
        run("ml.logistic_fit", {"l2": 0}, x=x, y=y)
    assert run("ml.logistic_fit", {"l2": 0.1}, x=x, y=y)["weights"] > 0


def test_dependent_columns_do_not_fit_without_a_penalty() -> None:
    x, y = labelled()
    doubled = np.column_stack([x, x[:, 0] * 2])
    with pytest.raises(SingularMatrixError):
        run("ml.logistic_fit", {"l2": 0}, x=doubled, y=y)
    assert np.isfinite(run("ml.logistic_fit", {"l2": 1}, x=doubled, y=y)["weights"]).all()


def test_too_few_iterations_are_an_error_and_no_answer() -> None:
    x, y = labelled()
    with pytest.raises(NotConvergedError):
        run("ml.logistic_fit", {"iterations": 1}, x=x, y=y)


@pytest.mark.parametrize("labels", [[0, 1, 2, 1], [0, 0, 0, 0], [1, 1, 1, 1], [-1, 1, -1, 1]])
def test_labels_other_than_both_0_and_1_are_refused(labels: list[int]) -> None:
    with pytest.raises(DomainError):
        run("ml.logistic_fit", x=RNG.normal(size=(4, 1)), y=np.array(labels))


def test_a_histogram_needs_its_edges_in_order() -> None:
    with pytest.raises(DomainError):
        run("stats.histogram", {"span": "given", "lower": 1, "upper": 1}, x=np.ones(3))


REFUSED: list[tuple[str, dict[str, Any], dict[str, Any], type[ProgramError]]] = [
    ("linalg.matmul", {"a": np.ones((2, 3)), "b": np.ones((2, 3))}, {}, ShapeMismatchError),
    ("linalg.matmul", {"a": np.ones((2, 3)), "b": np.ones((3, 2), "f")}, {}, DtypeMismatchError),
    ("linalg.matmul", {"a": np.ones((9, 2, 3)), "b": np.ones((3, 2))}, {}, ShapeMismatchError),
    ("linalg.svd", {"a": np.ones((2, 3), "float16")}, {}, DtypeMismatchError),
    ("linalg.pca", {"x": np.ones((3, 9))}, {"k": 4}, RuleBrokenError),
    ("linalg.pca", {"x": np.ones((1, 9))}, {"k": 1}, RuleBrokenError),
    ("linalg.pca", {"x": np.ones((3, 9))}, {"k": 0}, ParameterOutOfRangeError),
    ("ml.kmeans", {"x": np.ones((3, 2))}, {"k": 4}, RuleBrokenError),
    ("stats.describe", {"x": np.ones((1, 2))}, {"ddof": 1}, RuleBrokenError),
    ("stats.describe", {"x": np.ones((0, 2))}, {}, EmptyTensorError),
    ("nn.affine", {"x": np.ones(2)}, {"scale": math.inf}, ParameterOutOfRangeError),
    ("nn.affine", {"x": np.ones(2, "int32")}, {}, DtypeMismatchError),
    ("signal.fft", {"x": np.ones(4)}, {"norm": "none"}, ParameterOutOfRangeError),
]


@pytest.mark.parametrize(("name", "inputs", "parameters", "error"), REFUSED)
def test_what_a_signature_excludes_never_reaches_the_kernel(
    name: str, inputs: dict[str, Any], parameters: dict[str, Any], error: type[ProgramError]
) -> None:
    with pytest.raises(error):
        REGISTRY[name].run(np, inputs, parameters)


# -- a kernel that breaks its promise -------------------------------------------------------------

MARKER = "31415.92653"


def broken(outcome: Any) -> Any:
    @kernel("test.broken", summary="", inputs={"x": "float64[n]"}, outputs={"y": "float64[n]"})
    def function(_xp: Any, inputs: Any, _parameters: Any, _out: Any) -> Any:
        return outcome(inputs["x"])

    return function


@pytest.mark.parametrize(
    "outcome",
    [
        lambda x: {"y": x[:-1]},
        lambda x: {"y": x.astype(np.float32)},
        lambda x: {"y": x, "extra": x},
        lambda x: {},
        lambda x: {"z": x},
        lambda x: {"y": None},
        lambda x: None,
        lambda x: {"y": x.astype(object)},
    ],
)
def test_a_kernel_that_breaks_its_signature_gives_no_result(outcome: Any) -> None:
    with pytest.raises(KernelError) as caught:
        broken(outcome).run(np, {"x": np.arange(3.0)}, {})
    assert caught.value.code == "kernel-failed"


def test_what_a_kernel_raises_takes_no_value_of_the_input_along() -> None:
    """Tracebacks print the context of an error: there must be none that quotes the input."""

    def outcome(x: Any) -> Any:
        raise ValueError(f"cannot convert {x[0]}")

    with pytest.raises(KernelError) as caught:
        broken(outcome).run(np, {"x": np.full(3, float(MARKER))}, {})
    assert "ValueError" in str(caught.value)
    assert MARKER not in str(caught.value)
    assert caught.value.__context__ is None
    assert caught.value.__cause__ is None


def test_running_out_of_memory_has_its_own_code() -> None:
    def outcome(x: Any) -> Any:
        raise MemoryError

    with pytest.raises(DeviceMemoryError):
        broken(outcome).run(np, {"x": np.ones(3)}, {})


@pytest.mark.parametrize(
    "buffer",
    [np.empty(4), np.empty(3, np.float32), np.empty(6)[::2], np.empty((1, 3))],
)
def test_a_buffer_that_does_not_fit_is_refused_before_the_kernel_runs(buffer: Any) -> None:
    def outcome(x: Any) -> Any:
        pytest.fail("the kernel ran")

    with pytest.raises(KernelError):
        broken(outcome).run(np, {"x": np.ones(3)}, {}, {"y": buffer})
    with pytest.raises(KernelError):
        broken(outcome).run(np, {"x": np.ones(3)}, {}, {"w": np.empty(3)})


def test_no_warning_of_numpy_reaches_the_log(recwarn: pytest.WarningsRecorder) -> None:
    run("nn.softmax", x=np.array([[math.inf, -math.inf]]))
    run("nn.affine", {"scale": 1e300}, x=np.full(3, 1e300))
    assert not recwarn.list
