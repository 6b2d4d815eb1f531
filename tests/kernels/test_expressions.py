"""From a checked expression to what runs: nothing of the text, and on both backends one meaning."""

import math
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation.errors import ProgramError
from attestation.programs.expressions import DTYPES, OPERATIONS, parse
from enclave_worker.kernels import expression_cuda, expression_numpy
from enclave_worker.kernels.reference import REFERENCES
from enclave_worker.kernels.registry import installed_registry
from tests.kernels import cuda_words
from tests.kernels.host_elementwise import COMPILER
from tests.kernels.simulated_gpu import DeviceArray, SimulatedCupy
from tests.programs.test_expressions import well_formed

EXPR = installed_registry()["expr.map"]
RNG = np.random.default_rng(16)
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler here")


def run(xp: Any, text: str, **inputs: Any) -> Any:
    return EXPR.run(xp, inputs, {"expression": text})["y"]


@settings(max_examples=300)
@given(well_formed)
def test_the_cuda_code_of_any_expression_has_known_words_only(text: str) -> None:
    parsed = parse(text)
    for dtype in DTYPES:
        try:
            parsed.check(dict.fromkeys(parsed.names, dtype))
        except ProgramError:
            continue
        made = expression_cuda.source(parsed, dtype)
        cuda_words.check(made.inputs, made.output, made.code)


WHOLE = (
    "where(not (a < b and a <= b or a > b) or a >= b, -a + b - a*b, 2) + abs(a)"
    " + where(a == b, max(a, b), 0) + where(a != b, min(a, b), 0)"
)
EVERY = f"{WHOLE} + a/b" + "".join(
    f" + {name}(a)"
    for name in (
        *("floor", "ceil", "exp", "expm1", "log", "log1p"),
        *("sqrt", "sin", "cos", "tanh", "erf"),
    )
)


def test_the_words_of_every_operation_are_checked() -> None:
    parsed = parse(EVERY)
    assert {node.operation for node in parsed.nodes} >= set(OPERATIONS)
    made = expression_cuda.source(parsed, "float32")
    cuda_words.check(made.inputs, made.output, made.code)


@pytest.mark.parametrize(
    "code",
    [
        "y = v0;",
        "const float v0 = x0; asm();\ny = v0;",
        'const float v0 = x0 + "a";\ny = v0;',
        "const float v0 = 7;\ny = v0;",
        "const float v0 = system(x0);\ny = v0;",
        "const float v0 = v1;\ny = v0;",
        "const float v0 = x0 /* */;\ny = v0;",
        "#include <x>\nconst float v0 = x0;\ny = v0;",
    ],
)
def test_the_grammar_of_words_refuses_what_was_never_meant(code: str) -> None:
    with pytest.raises(AssertionError):
        cuda_words.check("float32 x0", "float32 y", code)


def test_a_constant_is_an_argument_and_not_in_the_code() -> None:
    """Constants are parameters of a job, and what was compiled outlives the job."""
    secret, other = (
        expression_cuda.source(parse(f"a*{text} + {text}"), "float64") for text in ("31337", "2.5")
    )
    assert secret == other
    assert "31337" not in f"{secret}"


def test_names_of_inputs_are_not_in_the_code() -> None:
    assert expression_cuda.source(parse("a + h"), "int32") == expression_cuda.source(
        parse("b + c"), "int32"
    )


def test_no_more_compiled_expressions_are_kept_than_said() -> None:
    """A client that sends ever new ones does not fill the worker's memory."""
    xp = SimulatedCupy()
    xp.ElementwiseKernel = lambda *_parts, **_options: object()
    kept = expression_cuda._Compiled()
    for number in range(200):
        kept.find(xp, expression_cuda.Source("float32 x0", "float32 y", str(number)))
    assert len(kept._kernels) == expression_cuda._KEPT
    newest = expression_cuda.Source("float32 x0", "float32 y", "199")
    assert kept.find(xp, newest) is kept.find(xp, newest)


@needs_compiler
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_nan_infinity_and_zero_go_the_same_way_on_both(dtype: str) -> None:
    special = np.array([math.nan, math.inf, -math.inf, 0.0, -1.0, 2.5], dtype)
    a, b = (grid.reshape(-1) for grid in np.meshgrid(special, special))
    text = "max(a, b) + min(a, 1) - clip(b, -1, 2)/a + where(a < b or a != a, log(a), sqrt(b))"
    host = run(np, text, a=a, b=b)
    device = run(SimulatedCupy(), text, a=a.view(DeviceArray), b=b.view(DeviceArray))
    np.testing.assert_allclose(
        device.view(np.ndarray), host, rtol=2e-3 if dtype == "float16" else 1e-6
    )


@needs_compiler
def test_what_has_no_rounded_function_is_equal_to_the_last_bit() -> None:
    """Products are rounded before they are added, as NumPy does: `a*b - a*b` is zero."""
    a, b = RNG.normal(size=(2, 5000)).astype(np.float32)
    text = "(a*b - a*b) + sqrt(abs(a))/b + where(a < b, floor(3*a), -b)*a - max(a, b)"
    host = run(np, text, a=a, b=b)
    device = run(SimulatedCupy(), text, a=a.view(DeviceArray), b=b.view(DeviceArray))
    assert device.view(np.ndarray).tobytes() == host.tobytes()


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc here")
def test_the_code_compiles_for_a_gpu(tmp_path: Path) -> None:
    """As CuPy compiles it, less the loop: every operation that each dtype has."""
    kernels = []
    for dtype in ("float32", "float64", "int32", "int64"):
        made = expression_cuda.source(parse(EVERY if dtype[0] == "f" else WHOLE), dtype)
        names = {"float32": "float", "float64": "double", "int32": "int", "int64": "long long"}
        given = [part.split() for part in made.inputs.split(", ")]
        parameters = ", ".join(
            f"{names[kind]} {name}" if name[0] == "k" else f"const {names[kind]}* _{name}"
            for kind, name in given
        )
        reads = "".join(f"auto {n} = _{n}[threadIdx.x];\n" for _, n in given if n[0] == "x")
        body = f"{reads}auto& y = _y[threadIdx.x];\n{made.code}"
        kernels.append(f"__global__ void {dtype}({parameters}, {names[dtype]}* _y) {{ {body} }}")
    source, cubin = tmp_path / "expressions.cu", tmp_path / "expressions.cubin"
    source.write_text("\n".join(kernels))
    options = [*expression_cuda.OPTIONS, "-arch=sm_80", "-Werror=all-warnings", "-cubin"]
    subprocess.run(["nvcc", *options, "-o", cubin, source], check=True, timeout=250)
    assert cubin.stat().st_size > 0


def test_large_arrays_are_done_in_blocks_without_a_seam() -> None:
    a = RNG.normal(size=100_003)
    y = run(np, "where(a > 0, a*a + 1, exp(a)) - erf(a)", a=a)
    some = slice(16_300, 16_500)
    assert (
        y[some].tobytes() == run(np, "where(a > 0, a*a + 1, exp(a)) - erf(a)", a=a[some]).tobytes()
    )


def test_blocks_of_intermediate_results_are_shared() -> None:
    chain = parse("+".join(f"{number}*a" for number in range(60)))
    places = expression_numpy._places(chain, converted=False)
    assert len(set(places) - {None}) <= 3


def test_intermediate_results_are_zeroed(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are what inputs become; freed memory keeps it."""
    made: list[Any] = []
    real = np.empty

    def noted(*arguments: Any, **keywords: Any) -> Any:
        made.append(real(*arguments, **keywords))
        return made[-1]

    monkeypatch.setattr(expression_numpy.np, "empty", noted)
    out = np.zeros(10)
    expression_numpy.evaluate(np, parse("(a + 1)*(a - 1)"), {"a": np.ones(10) * 7}, out)
    assert made
    assert all(not block.any() for block in made)
    assert out.tolist() == [48.0] * 10


@pytest.mark.parametrize(
    ("text", "inputs"),
    [
        ("a + b", {"a": np.ones(3)}),
        ("a", {"a": np.ones(3), "b": np.ones(3)}),
        ("a + b", {"a": np.ones(3), "b": np.ones((3, 1))}),
        ("a + b", {"a": np.ones(3), "b": np.ones(3, np.float32)}),
        ("b", {"b": np.ones(3)}),
        ("a + i", {"a": np.ones(3), "i": np.ones(3)}),
        ("a / 2", {"a": np.ones(3, np.int64)}),
        ("exec(a)", {"a": np.ones(3)}),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_runs(
    text: str, inputs: dict[str, Any]
) -> None:
    with pytest.raises(ProgramError):
        run(np, text, **inputs)


@settings(max_examples=100, deadline=None)
@given(well_formed, st.sampled_from(["float64", "int32"]))
def test_any_expression_means_what_its_reference_says(text: str, dtype: str) -> None:
    """The reference reads the text with Python's own parser."""
    parsed = parse(text)
    inputs = {
        name: np.array([-2, -1, 0, 1, 2, 5], dtype) + np.array(index, dtype)
        for index, name in enumerate(parsed.names)
    }
    try:
        parsed.check(dict.fromkeys(parsed.names, dtype))
    except ProgramError:
        return
    got = np.empty(6, dtype)
    with np.errstate(all="ignore"):
        expression_numpy.evaluate(np, parsed, inputs, got)
    want = REFERENCES["expr.map"](expression=text, **inputs)["y"]
    np.testing.assert_allclose(got, want, rtol=1e-9)
