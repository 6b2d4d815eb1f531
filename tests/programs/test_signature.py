"""What a kernel takes and makes is decided from its signature alone, and in the client's favour."""

import math
from typing import Any

import attrs
import pytest

from attestation.encoding.record import Record
from attestation.errors import DecodeError, ProgramError
from attestation.programs.errors import InputMissingError
from attestation.programs.parameters import Parameter, ParameterKind
from attestation.programs.program import Program
from attestation.programs.signature import KernelSignature
from attestation.sealing.tensor_spec import TensorSpec
from tests.programs import kernels
from tests.programs.kernels import signature, spec

F4, F8, C8, C16, I8 = "float32", "float64", "complex64", "complex128", "int64"


@pytest.mark.parametrize(
    ("kernel", "inputs", "parameters", "outputs"),
    [
        (kernels.MATMUL, {"a": (F4, 2, 3), "b": (F4, 3, 5)}, {}, {"c": (F4, 2, 5)}),
        (kernels.MATMUL, {"a": (F8, 7, 2, 3), "b": (F8, 7, 3, 5)}, {}, {"c": (F8, 7, 2, 5)}),
        (
            kernels.SVD,
            {"x": (C8, 5, 3)},
            {},
            {"u": (C8, 5, 3), "s": (F4, 3), "vh": (C8, 3, 3)},
        ),
        (
            kernels.PCA,
            {"x": (F8, 9, 4)},
            {"k": 2},
            {"components": (F8, 2, 4), "explained": (F8, 2), "scores": (F8, 9, 2), "mean": (F8, 4)},
        ),
        (kernels.LSTSQ, {"a": (F4, 9, 2), "b": (F4, 9, 1)}, {}, {"x": (F4, 2, 1)}),
        (kernels.DESCRIBE, {"x": (F4, 9, 2)}, {}, {"mean": (F8, 2)}),
        (kernels.HISTOGRAM, {"x": (F4, 9)}, {}, {"counts": (I8, 10), "edges": (F8, 11)}),
        (kernels.HISTOGRAM, {"x": (F4,)}, {"bins": 3}, {"counts": (I8, 3), "edges": (F8, 4)}),
        (kernels.AFFINE, {"x": (F4, 1, 2, 3, 4)}, {"scale": 2}, {"y": (F4, 1, 2, 3, 4)}),
        (kernels.SOFTMAX, {"x": (F4, 3)}, {}, {"y": (F4, 3)}),
        (
            kernels.LAYERNORM,
            {"x": (F4, 6, 3), "gamma": (F4, 3), "beta": (F4, 3)},
            {},
            {"y": (F4, 6, 3)},
        ),
        (
            kernels.ATTENTION,
            {"q": (F4, 8, 6, 3), "k": (F4, 8, 5, 3), "v": (F4, 8, 5, 2)},
            {},
            {"y": (F4, 8, 6, 2)},
        ),
        (kernels.FFT, {"x": (F8, 2, 16)}, {}, {"y": (C16, 2, 16)}),
        (kernels.FFT, {"x": (C8, 16)}, {}, {"y": (C8, 16)}),
        (
            kernels.KMEANS,
            {"x": (F8, 9, 2)},
            {"k": 3},
            {"centroids": (F8, 3, 2), "labels": (I8, 9), "inertia": (F8,)},
        ),
        (
            kernels.LOGISTIC_FIT,
            {"x": (F8, 9, 2), "y": (I8, 9)},
            {},
            {"weights": (F8, 2), "bias": (F8,)},
        ),
    ],
)
def test_outputs_follow_from_inputs_and_parameters(
    kernel: KernelSignature,
    inputs: dict[str, tuple[Any, ...]],
    parameters: dict[str, Any],
    outputs: dict[str, tuple[Any, ...]],
) -> None:
    inferred = kernel.infer({name: spec(*parts) for name, parts in inputs.items()}, parameters)
    assert inferred == {name: spec(*parts) for name, parts in outputs.items()}
    assert list(inferred) == [port.name for port in kernel.outputs]


MATRIX = spec(F4, 3, 3)


@pytest.mark.parametrize(
    ("kernel", "inputs", "code"),
    [
        (kernels.MATMUL, {"a": spec(F4, 2, 3), "b": spec(F4, 4, 5)}, "shape-mismatch"),
        (kernels.MATMUL, {"a": spec(F4, 2, 2, 3), "b": spec(F4, 3, 5)}, "shape-mismatch"),
        (kernels.MATMUL, {"a": spec(F4, 2, 2, 3), "b": spec(F4, 1, 3, 5)}, "shape-mismatch"),
        (kernels.MATMUL, {"a": spec(F4, 3), "b": spec(F4, 3, 5)}, "shape-mismatch"),
        (kernels.MATMUL, {"a": MATRIX, "b": spec(F8, 3, 3)}, "dtype-mismatch"),
        (kernels.MATMUL, {"a": spec(I8, 3, 3), "b": spec(I8, 3, 3)}, "dtype-mismatch"),
        (kernels.MATMUL, {"a": MATRIX}, "input-missing"),
        (kernels.MATMUL, {}, "input-missing"),
        (kernels.MATMUL, {"a": MATRIX, "b": MATRIX, "c": MATRIX}, "input-unknown"),
        (kernels.MATMUL, {"a": spec(F4, 0, 3), "b": spec(F4, 3, 5)}, "tensor-empty"),
        (kernels.MATMUL, {"a": spec(F4, 0, 2, 3), "b": spec(F4, 0, 3, 5)}, "tensor-empty"),
        (kernels.AFFINE, {"x": spec(F4, 0)}, "tensor-empty"),
        (kernels.SVD, {"x": spec(F4, 1, 2, 3)}, "shape-mismatch"),
        (kernels.SVD, {"x": spec(F4)}, "shape-mismatch"),
        (kernels.LOGISTIC_FIT, {"x": MATRIX, "y": spec("int32", 3)}, "dtype-mismatch"),
        (kernels.LOGISTIC_FIT, {"x": MATRIX, "y": spec(I8, 4)}, "shape-mismatch"),
        (kernels.LOGISTIC_FIT, {"x": MATRIX, "y": spec(I8, 3, 1)}, "shape-mismatch"),
        (
            kernels.MATMUL,
            {"a": spec(F4, 1 << 30, 1), "b": spec(F4, 1, 1 << 30)},
            "output-too-large",
        ),
    ],
)
def test_inputs_that_do_not_fit_are_refused(
    kernel: KernelSignature, inputs: dict[str, TensorSpec], code: str
) -> None:
    with pytest.raises(ProgramError) as refused:
        kernel.infer(inputs, {})
    assert refused.value.code == code


def test_the_refusal_names_the_port() -> None:
    with pytest.raises(ProgramError, match=r"^b: .*T\[\.\.\., k, n\]"):
        kernels.MATMUL.infer({"a": spec(F4, 2, 3), "b": spec(F4, 4, 5)}, {})


def test_a_rule_between_sizes_and_parameters_is_kept() -> None:
    for k in (4, 5):
        with pytest.raises(ProgramError) as refused:
            kernels.PCA.infer({"x": spec(F4, 9, 3)}, {"k": k})
        assert refused.value.code == "rule-broken"


def test_a_size_may_be_solved_for_and_must_stay_positive() -> None:
    kernel = signature("t.t", {"e": "T[n+1]", "x": "T[n]"}, {"y": "T[n-1]"}, rules=("n == n",))
    assert kernel.infer({"e": spec(F4, 4), "x": spec(F4, 3)}, {}) == {"y": spec(F4, 2)}
    for e, x, code in ((4, 4, "shape-mismatch"), (1, 1, "shape-mismatch"), (2, 1, "tensor-empty")):
        with pytest.raises(ProgramError) as refused:
            kernel.infer({"e": spec(F4, e), "x": spec(F4, x)}, {})
        assert refused.value.code == code


# -- parameters -----------------------------------------------------------------------------------

KNOBS = signature(
    "t.knobs",
    {"x": "T[n]"},
    {"y": "T[n]"},
    parameters=(
        Parameter(name="count", kind=ParameterKind.INT, minimum=1, maximum=9),
        Parameter(name="wide", kind=ParameterKind.INT, default=0),
        Parameter(name="rate", kind=ParameterKind.FLOAT, default=0.5, minimum=0, maximum=1),
        Parameter(name="any", kind=ParameterKind.FLOAT, default=0.0, finite=False),
        Parameter(name="flag", kind=ParameterKind.BOOL, default=False),
        Parameter(name="mode", kind=ParameterKind.CHOICE, default="a", choices=("a", "b")),
    ),
)


def test_defaults_are_filled_in_and_given_values_kept() -> None:
    values = KNOBS.resolve({"count": 3, "rate": 1, "mode": "b", "any": math.inf})
    assert values == {
        "count": 3,
        "wide": 0,
        "rate": 1.0,
        "any": math.inf,
        "flag": False,
        "mode": "b",
    }
    assert type(values["rate"]) is float
    assert KNOBS.resolve(values) == values


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({}, "parameter-missing"),
        ({"count": None}, "parameter-missing"),
        ({"count": 0}, "parameter-out-of-range"),
        ({"count": 10}, "parameter-out-of-range"),
        ({"count": 1 << 64}, "parameter-out-of-range"),
        ({"count": 1, "wide": 1 << 63}, "parameter-out-of-range"),
        ({"count": 1, "wide": -(1 << 63) - 1}, "parameter-out-of-range"),
        ({"count": 1.0}, "parameter-type"),
        ({"count": True}, "parameter-type"),
        ({"count": "1"}, "parameter-type"),
        ({"count": 1, "rate": True}, "parameter-type"),
        ({"count": 1, "rate": "0.5"}, "parameter-type"),
        ({"count": 1, "rate": 1.5}, "parameter-out-of-range"),
        ({"count": 1, "rate": math.nan}, "parameter-out-of-range"),
        ({"count": 1, "rate": -math.inf}, "parameter-out-of-range"),
        ({"count": 1, "rate": 10**400}, "parameter-out-of-range"),
        ({"count": 1, "flag": 1}, "parameter-type"),
        ({"count": 1, "mode": "c"}, "parameter-out-of-range"),
        ({"count": 1, "mode": True}, "parameter-type"),
        ({"count": 1, "cuont": 2}, "parameter-unknown"),
    ],
)
def test_a_parameter_that_the_kernel_does_not_allow_is_refused(
    given: dict[str, Any], code: str
) -> None:
    with pytest.raises(ProgramError) as refused:
        KNOBS.infer({"x": spec(F4, 1)}, given)
    assert refused.value.code == code


def test_a_refused_value_is_not_repeated_in_the_message() -> None:
    """Parameters are confidential, and an error's message may end in the operator's log."""
    for given in ({"count": 987654}, {"count": 1, "rate": 987654.0}, {"count": "987654"}):
        with pytest.raises(ProgramError) as refused:
            KNOBS.resolve(given)
        assert "987654" not in str(refused.value)


@pytest.mark.parametrize(
    "declaration",
    [
        {"name": "1k", "kind": ParameterKind.INT},
        {"name": "a.b", "kind": ParameterKind.INT},
        {"name": "k", "kind": ParameterKind.INT, "minimum": 0.5},
        {"name": "k", "kind": ParameterKind.INT, "minimum": True},
        {"name": "k", "kind": ParameterKind.INT, "default": 0, "minimum": 1},
        {"name": "k", "kind": ParameterKind.INT, "default": "x"},
        {"name": "k", "kind": ParameterKind.INT, "choices": ("a",)},
        {"name": "k", "kind": ParameterKind.FLOAT, "default": math.nan},
        {"name": "k", "kind": ParameterKind.FLOAT, "maximum": math.inf},
        {"name": "k", "kind": ParameterKind.BOOL, "minimum": 0},
        {"name": "k", "kind": ParameterKind.CHOICE},
        {"name": "k", "kind": ParameterKind.CHOICE, "choices": ("a",), "default": "b"},
    ],
)
def test_a_declaration_that_contradicts_itself_is_refused(declaration: dict[str, Any]) -> None:
    with pytest.raises(DecodeError):
        Parameter(**declaration)


# -- declarations ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", kernels.ALL, ids=lambda kernel: kernel.name)
def test_a_signature_survives_its_encoding(kernel: KernelSignature) -> None:
    assert KernelSignature.from_bytes(kernel.to_bytes()) == kernel


@pytest.mark.parametrize(
    "pattern",
    [
        *("", "T", "T[", "T]", "T[n", "T[n]]", "[n]", "T[n,]", "T[,n]", "T[n,,m]", "T[n m]"),
        *("T[n, ...]", "T[..., ...]", "T[....]", "T[n+]", "T[n+k]", "T[n*]", "T[-1]", "T[n*2*3]"),
        *("T[n]?", "T[n]??", "T[n?]", "T?[n]", "T[div(n)]", "T[mod(n, div(n, 2))]", "T[n/2]"),
        *("T[min(n)]", "T[min(n, m, n)]", "T[min(min(n, m), n)]", "T[min n]", "T[(n)]"),
        *("int7[n]", "U[n]", "complex[n]", "complex(int64)[n]", "real(bool)[n]", "real(T[n]"),
        *(
            "T[unbound]",
            "T[ n ]\n",
            "T[\u0661]",
            "T[n\u00e9]",
            "T[99999999999999]",
            "T[n" + "+1" * 200,
        ),
        "T[" + ", ".join(["n"] * 17) + "]",
    ],
)
def test_a_pattern_outside_the_language_is_refused(pattern: str) -> None:
    with pytest.raises(DecodeError):
        signature("t.t", {"x": "T[n, m]"}, {"y": pattern})


@pytest.mark.parametrize(
    "pattern",
    [
        *("T[n]", " T [ n ] ", "T[n-1]", "T[2]", "T[]", "T[min(n,2)+1]", "T[2*n-n*n+1+1]"),
        *("T[div(n+2*n-1, n)+1]", "T[mod(n, 3)]"),
    ],
)
def test_a_pattern_of_the_language_is_read(pattern: str) -> None:
    signature("t.t", {"x": "T[n]"}, {"y": pattern})


@pytest.mark.parametrize(
    "rule", ["", "n", "n <", "n < 2", "n <= ", "n <= m", "n >= 1", "1 == 1 == 1"]
)
def test_a_rule_outside_the_language_is_refused(rule: str) -> None:
    with pytest.raises(DecodeError):
        signature("t.t", {"x": "T[n]"}, {"y": "T[n]"}, rules=(rule,))


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        ({}, {"y": "float32[]"}),
        ({"x": "T[n]"}, {}),
        ({"x": "T[min(n, m)]"}, {"y": "T[1]"}),
        ({"x": "real(T)[n]"}, {"y": "T[n]"}),
        ({"x": "float32[n]"}, {"y": "T[n]"}),
        ({"x": "T[n]"}, {"y": "T[..., n]"}),
        ({"x": "T[rate]"}, {"y": "T[1]"}),
        ({"x y": "T[n]"}, {"y": "T[n]"}),
        ({"x": "T[n]?"}, {"y": "T[n]"}),
        ({"x": "T[n]", "b": "T[m]?"}, {"y": "T[m]"}),
        ({"x": "float32[n]", "b": "T[n]?"}, {"y": "T[n]"}),
        ({"x": "T[n]", "b": "T[..., n]?"}, {"y": "T[..., n]"}),
        ({"x": "T[n+m]"}, {"y": "T[n]"}),
        ({"x": "T[2*n]"}, {"y": "T[1]"}),
    ],
)
def test_a_signature_that_leaves_a_name_open_is_refused(
    inputs: dict[str, str], outputs: dict[str, str]
) -> None:
    rate = kernels.number("rate", 1.0)
    with pytest.raises(DecodeError):
        signature("t.t", inputs, outputs, parameters=(rate,))


@pytest.mark.parametrize(
    "change",
    [
        {"name": "matmul"},
        {"name": "Linalg.matmul"},
        {"name": "linalg.matmul\n"},
        {"types": {}},
        {"types": {"T": ()}},
        {"types": {"T": ("float128",)}},
        {"types": {"T": ("float32",), "float64": ("float32",)}},
        {"types": {"T": ("float32",), "complex": ("float32",)}},
        {"inputs": kernels.MATMUL.inputs * 2},
        {"outputs": kernels.MATMUL.outputs * 2},
        {"parameters": (kernels.K, kernels.K)},
    ],
)
def test_a_malformed_signature_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(DecodeError):
        attrs.evolve(kernels.MATMUL, **change)


def test_a_signature_from_outside_gets_the_same_checks() -> None:
    good = kernels.MATMUL.to_map()
    assert isinstance(good["outputs"], list)
    bad = good | {"outputs": [{"name": "c", "pattern": "T[..., unbound]"}]}
    assert issubclass(KernelSignature, Record)
    with pytest.raises(DecodeError):
        KernelSignature.from_map(bad)


# -- inputs that may be left out, and sizes that are computed -------------------------------------

BIASED = signature("t.biased", {"x": "T[..., n]", "bias": "T[n]?"}, {"y": "T[..., n]"})
STRIDED = signature(
    "t.strided",
    {"x": "T[c, h]", "w": "T[o, i, p]"},
    {"y": "T[o, div(h+2*padding-p, stride)+1]"},
    parameters=(
        Parameter(name="stride", kind=ParameterKind.INT, default=1),
        Parameter(name="padding", kind=ParameterKind.INT, default=0, minimum=0),
        Parameter(name="groups", kind=ParameterKind.INT, default=1, minimum=1),
    ),
    rules=("c == groups*i", "mod(o, groups) == 0", "p <= h+2*padding"),
)


def test_an_input_that_may_be_left_out_is_checked_when_it_is_there() -> None:
    x = spec(F4, 2, 3)
    assert BIASED.infer({"x": x}, {}) == {"y": x}
    assert BIASED.infer({"x": x, "bias": spec(F4, 3)}, {}) == {"y": x}
    for bias in (spec(F4, 4), spec("float64", 3), spec(F4, 1, 3)):
        with pytest.raises(ProgramError):
            BIASED.infer({"x": x, "bias": bias}, {})
    with pytest.raises(InputMissingError):
        BIASED.infer({"bias": spec(F4, 3)}, {})


def test_a_kernel_by_name_gets_the_inputs_that_are_given() -> None:
    assert Program.single(BIASED).inputs == ("x",)
    assert Program.single(BIASED, {"x", "bias"}).inputs == ("bias", "x")


def test_a_size_may_be_computed_from_others() -> None:
    inputs = {"x": spec(F4, 4, 10), "w": spec(F4, 6, 2, 3)}
    made = STRIDED.infer(inputs, {"stride": 2, "padding": 1, "groups": 2})
    assert made == {"y": spec(F4, 6, 5)}


@pytest.mark.parametrize(
    "given",
    [
        {"groups": 1},
        {"groups": 4},
        {"groups": 2, "stride": 0},
        {"groups": 2, "stride": -1},
    ],
)
def test_sizes_that_do_not_divide_are_refused(given: dict[str, int]) -> None:
    """A catalogue comes from a worker: its divisions by zero are its own fault, not our crash."""
    with pytest.raises(ProgramError):
        STRIDED.infer({"x": spec(F4, 4, 10), "w": spec(F4, 6, 2, 3)}, given)
    with pytest.raises(ProgramError):
        STRIDED.infer({"x": spec(F4, 4, 2), "w": spec(F4, 6, 2, 3)}, {"groups": 2})
