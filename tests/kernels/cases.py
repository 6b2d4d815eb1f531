"""Inputs for every kernel and dtype, and how near to its reference each must come.

A case is data only, so that the processor's tests and the GPU's run the same ones.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from attrs import field, frozen

from attestation.programs.parameters import Scalar

Array = np.ndarray[Any, Any]
Arrays = dict[str, Array]

TOLERANCES: Mapping[str, float] = {
    "float16": 2e-3,
    "float32": 4e-6,
    "float64": 2e-13,
    "complex64": 4e-6,
    "complex128": 2e-13,
}
"""Allowed |result - reference| / (1 + |reference|), elementwise. Integers are exact."""

LOOSER: Mapping[str, Mapping[str, float]] = {
    # The reference takes eigenvalues of aᴴ·a, which squares the condition number.
    "linalg.svd": {"float32": 2e-5, "float64": 1e-11, "complex64": 2e-5, "complex128": 1e-11},
    "linalg.pca": {"float32": 2e-5, "float64": 1e-11},
    "linalg.lstsq": {"float32": 2e-5, "float64": 1e-11, "complex64": 2e-5, "complex128": 1e-11},
    # The reference descends until its gradient is 1e-13 per row.
    "ml.logistic_fit": {"float64": 1e-9},
}
"""Where the answer is worse conditioned than one rounding, or the reference stops early."""


@frozen
class Case:
    """One call of a kernel."""

    kernel: str
    label: str
    inputs: Arrays = field(repr=False)
    parameters: Mapping[str, Scalar]

    @property
    def dtype(self) -> str:
        """The dtype that the case is about: that of the first input."""
        return next(iter(self.inputs.values())).dtype.name

    def __str__(self) -> str:
        return f"{self.kernel}-{self.label}"


def assert_agrees(case: Case, got: Mapping[str, Array], want: Mapping[str, Array]) -> None:
    """Compare all outputs, dtype and shape included, within the table above."""
    for name, reference in want.items():
        result = np.asarray(got[name])
        assert result.dtype == reference.dtype, f"{case}: {name} is {result.dtype}"
        assert result.shape == reference.shape, f"{case}: {name} has shape {result.shape}"
        if reference.dtype.kind in "iub":
            np.testing.assert_array_equal(result, reference, err_msg=f"{case}: {name}")
            continue
        # An output may be wider than the data (float64 means of float16 rows), never less exact.
        limit = tolerance(case.kernel, reference.dtype.name)
        np.testing.assert_allclose(
            result, reference, rtol=limit, atol=limit, err_msg=f"{case}: {name}"
        )


def tolerance(kernel: str, dtype: str) -> float:
    """Return what is allowed for an output of `dtype`."""
    return LOOSER.get(kernel, {}).get(dtype, TOLERANCES[dtype])


def cases() -> Iterator[Case]:
    """Yield every case; the numbers in them are the same on every machine."""
    for make in _MAKERS:
        yield from make(np.random.default_rng(20_261_122))


Maker = Callable[[np.random.Generator], Iterator[Case]]
FLOATS = ("float16", "float32", "float64")
EXACT = ("float32", "float64")
COMPLEX = ("complex64", "complex128")
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")

LABELS = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32")


def normal(rng: np.random.Generator, dtype: str, *shape: int) -> Array:
    values = rng.normal(size=shape)
    if dtype in COMPLEX:
        values = values + 1j * rng.normal(size=shape)
    if dtype in INTEGERS:
        values = np.clip(np.round(40 * values) + (60 if dtype.startswith("u") else 0), 0, 120)
    return np.asarray(values).astype(dtype)


def _matmul(rng: np.random.Generator) -> Iterator[Case]:
    for dtype in (*FLOATS, *COMPLEX, "int32", "int64"):
        for label, a, b in (("plain", (7, 5), (5, 3)), ("batch", (2, 3, 4, 5), (2, 3, 5, 6))):
            inputs = {"a": normal(rng, dtype, *a), "b": normal(rng, dtype, *b)}
            yield Case("linalg.matmul", f"{label}-{dtype}", inputs, {})


def _factorisations(rng: np.random.Generator) -> Iterator[Case]:
    for dtype in (*EXACT, *COMPLEX):
        for shape in ((9, 4), (4, 9), (5, 5)):
            a = normal(rng, dtype, *shape)
            size = "x".join(map(str, shape))
            yield Case("linalg.svd", f"{size}-{dtype}", {"a": a}, {})
            b = normal(rng, dtype, shape[0], 3)
            yield Case("linalg.lstsq", f"{size}-{dtype}", {"a": a, "b": b}, {})
        low_rank = normal(rng, dtype, 8, 2) @ normal(rng, dtype, 2, 4)
        inputs = {"a": low_rank, "b": normal(rng, dtype, 8, 1)}
        yield Case("linalg.lstsq", f"rank2-{dtype}", inputs, {"tolerance": 1e-4})


def _components(rng: np.random.Generator) -> Iterator[Case]:
    for dtype in EXACT:
        spread = np.array([5, 3, 2, 1, 0.5], dtype=dtype)
        x = normal(rng, dtype, 40, 5) * spread + np.asarray(10, dtype=dtype)
        yield Case("linalg.pca", f"k3-{dtype}", {"x": x}, {"k": 3})
        inputs = {"x": x, "mean": x.mean(axis=0), "components": normal(rng, dtype, 2, 5)}
        yield Case("linalg.project", dtype, inputs, {})


EXPRESSIONS = (
    "a",
    "where(a > 0, a, 0.01*a) + max(b, 1)*erf(-a) - clip(b, -1, 1)/exp(a)",
    "where(not (a < b and c >= 0.5) or a == 3, -abs(a), b*b - 7 - c)",
    "sqrt(abs(a)) + expm1(a/8) + log1p(abs(b)) + sin(a)*cos(b) + tanh(c) + log(1 + c*c)",
    "floor(a) - ceil(b) + where(a <= b, 1, 0) - where(a != b, 2.5, 0)",
)
WHOLE = (
    "a",
    "where(not (a < b and c >= 2) or a == 3, -abs(a), b*b*b*1000003 - 7 - c)",
    "clip(a, -5, 5)*max(b, 1) + min(a, c) - -2147483647",
)


def _expressions(rng: np.random.Generator) -> Iterator[Case]:
    for dtype in (*FLOATS, "int32", "int64"):
        for number, text in enumerate(EXPRESSIONS if dtype in FLOATS else WHOLE):
            names = [name for name in "abc" if re.search(rf"\b{name}\b", text)]
            for shape in ((), (3, 5)) if number == 1 else ((7,),):
                inputs = {name: 2 * normal(rng, dtype, *shape) for name in names}
                label = f"{number}-rank{len(shape)}-{dtype}"
                yield Case("expr.map", label, inputs, {"expression": text})
    for dtype in ("int32", "int64"):
        info = np.iinfo(dtype)
        edge = np.array([info.min, info.min + 1, -1, 0, 1, info.max], dtype)
        inputs = {"a": edge, "b": edge[::-1].copy()}
        for number, text in enumerate(("-a", "abs(a) + b", "a*b - a", "a - b*3")):
            names = {name: inputs[name] for name in "ab" if name in text.replace("abs", "")}
            yield Case("expr.map", f"edge{number}-{dtype}", names, {"expression": text})


def _square(rng: np.random.Generator) -> Iterator[Case]:
    for dtype in (*EXACT, *COMPLEX):
        for shape in ((4, 4), (2, 3, 3, 3), (1, 1)):
            size = "x".join(map(str, shape))
            a = normal(rng, dtype, *shape) + 3 * np.eye(shape[-1], dtype=dtype)
            b = normal(rng, dtype, *shape[:-1], 2)
            yield Case("linalg.solve", f"{size}-{dtype}", {"a": a, "b": b}, {})
            positive = a @ a.swapaxes(-1, -2).conj() + np.eye(shape[-1], dtype=dtype)
            yield Case("linalg.cholesky", f"{size}-{dtype}", {"a": positive}, {})
            # Well apart, or the vectors would turn within their plane at every rounding.
            apart = np.diag(np.arange(shape[-1]) * 5.0 - 7).astype(dtype)
            hermitian = (a + a.swapaxes(-1, -2).conj()) / 8 + apart
            inputs = {"a": hermitian.astype(dtype)}
            yield Case("linalg.eigh", f"{size}-{dtype}", inputs, {})
        for shape in ((5, 3), (2, 3, 5), (2, 2, 4, 4)):
            size = "x".join(map(str, shape))
            yield Case("linalg.qr", f"{size}-{dtype}", {"a": normal(rng, dtype, *shape)}, {})


def _bfloat16(rng: np.random.Generator) -> Iterator[Case]:
    bits = rng.integers(0, 1 << 16, size=(4, 50)).astype(np.uint16)
    bits[0, :6] = (0x7F80, 0xFF80, 0x7FC1, 0x0001, 0x8000, 0x7F7F)
    # A signalling NaN becomes a quiet one on the way through a processor's registers.
    is_nan = (bits & 0x7FFF) > 0x7F80
    bits[is_nan] |= np.uint16(0x40)
    yield Case("convert.from_bfloat16", "uint16", {"bits": bits}, {})
    halves = (np.arange(1 << 10, dtype=np.uint32) << 22 | 0x8000).view(np.float32)
    x = np.concatenate([normal(rng, "float32", 200), halves[np.isfinite(halves)]])
    special = np.array([np.inf, -np.inf, np.nan, -0.0, 3.4e38, -3.4e38, 1e-45], np.float32)
    yield Case("convert.to_bfloat16", "float32", {"x": np.concatenate([x, special])}, {})


def _eight_bits(rng: np.random.Generator) -> Iterator[Case]:
    for label, a, b in (
        ("plain", (7, 5), (5, 3)),
        ("batch", (2, 3, 4, 20), (2, 3, 20, 6)),
        ("long", (2, 2500), (2500, 3)),
    ):
        inputs = {
            "a": rng.integers(-128, 128, size=a).astype(np.int8),
            "b": rng.integers(-128, 128, size=b).astype(np.int8),
        }
        yield Case("quant.matmul_int32", label, inputs, {})
        scales = {
            "a_scale": np.abs(normal(rng, "float32", *a[:-1])) / 500,
            "b_scale": np.abs(normal(rng, "float32", *b[:-2], b[-1])) / 500,
        }
        yield Case("quant.matmul", label, inputs | scales, {})
    extremes = {"a": np.full((1, 4096), -128, np.int8), "b": np.full((4096, 1), -128, np.int8)}
    yield Case("quant.matmul_int32", "extremes", extremes, {})
    for dtype in FLOATS:
        for shape in ((9,), (2, 3, 9)):
            x = 4 * normal(rng, dtype, *shape)
            x.reshape(-1, 9)[-1] = 0
            yield Case("quant.quantize", f"rank{len(shape)}-{dtype}", {"x": x}, {})


def _convolutions(rng: np.random.Generator) -> Iterator[Case]:
    shapes: tuple[tuple[tuple[int, ...], tuple[int, ...], dict[str, Scalar]], ...] = (
        ((2, 3, 7, 6), (4, 3, 3, 3), {}),
        ((3, 5, 5), (2, 3, 1, 1), {"stride": 2}),
        ((2, 2, 4, 6, 9), (6, 2, 3, 2), {"padding": 2, "stride": 2, "groups": 2}),
        ((1, 6, 5, 4), (6, 1, 3, 3), {"padding": 1, "groups": 6}),
        ((1, 1, 2, 2), (1, 1, 5, 6), {"padding": 4, "stride": 3}),
    )
    for dtype in FLOATS:
        for number, (image, filters, parameters) in enumerate(shapes):
            inputs = {"x": normal(rng, dtype, *image), "weight": normal(rng, dtype, *filters)}
            if number % 2 == 0:
                inputs["bias"] = normal(rng, dtype, filters[0])
            yield Case("nn.conv2d", f"{number}-{dtype}", inputs, parameters)


def _statistics(rng: np.random.Generator) -> Iterator[Case]:
    for dtype in (*FLOATS, *INTEGERS):
        x = normal(rng, dtype, 33, 4)
        yield Case("stats.describe", f"ddof0-{dtype}", {"x": x}, {})
        yield Case("stats.describe", f"ddof1-{dtype}", {"x": x}, {"ddof": 1})
        yield Case("stats.histogram", f"data-{dtype}", {"x": x}, {"bins": 7})
        given: Mapping[str, Scalar] = {"bins": 5, "span": "given", "lower": -1, "upper": 1.5}
        yield Case("stats.histogram", f"given-{dtype}", {"x": x}, given)
    for dtype in FLOATS:
        x = normal(rng, dtype, 33, 4)
        x[:, 2] = 0.1
        yield Case("stats.standardize", f"constant-{dtype}", {"x": x}, {"ddof": 1})
        inputs = {"x": x, "mean": normal(rng, dtype, 4), "scale": np.full(4, 1.5, dtype)}
        yield Case("stats.rescale", dtype, inputs, {})


def _elementwise(rng: np.random.Generator) -> Iterator[Case]:
    for dtype in FLOATS:
        for shape in ((), (1,), (3, 5, 7)):
            x = np.asarray(3 * normal(rng, dtype, *shape), dtype=dtype)
            label = f"rank{len(shape)}-{dtype}"
            yield Case("nn.affine", label, {"x": x}, {"scale": -2.5, "shift": 0.75})
            for approximate in ("none", "tanh"):
                parameters = {"approximate": approximate}
                yield Case("nn.gelu", f"{approximate}-{label}", {"x": x}, parameters)
        wide = np.linspace(-12, 12, 97).astype(dtype)
        yield Case("nn.gelu", f"tails-{dtype}", {"x": wide}, {})


def _rows(rng: np.random.Generator) -> Iterator[Case]:
    for dtype in FLOATS:
        for shape in ((9,), (2, 3, 9)):
            x = 4 * normal(rng, dtype, *shape)
            yield Case("nn.softmax", f"rank{len(shape)}-{dtype}", {"x": x}, {})
            inputs = {"x": x, "gamma": normal(rng, dtype, 9), "beta": normal(rng, dtype, 9)}
            yield Case("nn.layernorm", f"rank{len(shape)}-{dtype}", inputs, {"epsilon": 1e-3})
        huge = np.array([[60000, 59990, -60000]], dtype=dtype)
        yield Case("nn.softmax", f"huge-{dtype}", {"x": huge}, {})


def _attention(rng: np.random.Generator) -> Iterator[Case]:
    for dtype in FLOATS:
        for keys in (6, 4, 9):
            inputs = {
                "q": normal(rng, dtype, 2, 2, 6, 4),
                "k": normal(rng, dtype, 2, 2, keys, 4),
                "v": normal(rng, dtype, 2, 2, keys, 3),
            }
            for causal in (False, True):
                label = f"keys{keys}-{'causal' if causal else 'full'}-{dtype}"
                yield Case("nn.attention", label, inputs, {"causal": causal})
        yield Case("nn.attention", f"scale-{dtype}", inputs, {"scale": 0.25})


def _fft(rng: np.random.Generator) -> Iterator[Case]:
    for dtype in (*EXACT, *COMPLEX):
        x = normal(rng, dtype, 2, 15)
        for inverse in (False, True):
            for norm in ("backward", "ortho", "forward"):
                label = f"{norm}-{'inverse' if inverse else 'direct'}-{dtype}"
                yield Case("signal.fft", label, {"x": x}, {"inverse": inverse, "norm": norm})


def _learning(rng: np.random.Generator) -> Iterator[Case]:
    for dtype in EXACT:
        corners = 6 * np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0], [1, 1, 1]])
        x = (np.repeat(corners, 15, axis=0) + rng.normal(size=(60, 3))).astype(dtype)
        for seed in (0, 7):
            parameters = {"k": 4, "seed": seed, "iterations": 50}
            yield Case("ml.kmeans", f"seed{seed}-{dtype}", {"x": x}, parameters)
        same = np.full((5, 2), 0.1, dtype=dtype)
        yield Case("ml.kmeans", f"copies-{dtype}", {"x": same}, {"k": 3, "iterations": 9})
        weights = np.array([1.5, -2.0, 0.5])
        y = (x.astype(float) @ weights + 3 * rng.normal(size=60) > 0).astype(np.int64)
        for l2 in (0.0, 1.0):
            yield Case("ml.logistic_fit", f"l2={l2}-{dtype}", {"x": x, "y": y}, {"l2": l2})
        for label in LABELS if dtype == "float64" else ():
            # Strongly penalised, which the reference's descent finds in few steps.
            inputs = {"x": x[:20] / 6, "y": y[:20].astype(label)}
            yield Case("ml.logistic_fit", f"{label}-{dtype}", inputs, {"l2": 30.0})
        inputs = {"x": x, "weights": weights.astype(dtype), "bias": np.array(-0.5, dtype)}
        yield Case("ml.logistic_predict", dtype, inputs, {"threshold": 0.4})
    for dtype, other in zip(LABELS, reversed(LABELS), strict=True):
        labels = (rng.random(50) < 0.4).astype(dtype)
        predicted = (rng.random(50) < 0.4).astype(other)
        inputs = {"labels": labels, "predicted": predicted}
        yield Case("ml.accuracy", dtype, inputs, {})


_MAKERS: tuple[Maker, ...] = (
    _square,
    _bfloat16,
    _eight_bits,
    _convolutions,
    _expressions,
    _matmul,
    _factorisations,
    _components,
    _statistics,
    _elementwise,
    _rows,
    _attention,
    _fft,
    _learning,
)
