"""Inputs for every kernel and dtype, and how near to its reference each must come.

A case is data only, so that the processor's tests and the GPU's run the same ones.
"""

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
        inputs = {"x": x, "weights": weights.astype(dtype), "bias": np.array(-0.5, dtype)}
        yield Case("ml.logistic_predict", dtype, inputs, {"threshold": 0.4})
    for dtype in ("bool", "uint8", "int64"):
        labels = (rng.random(50) < 0.4).astype(dtype)
        predicted = (rng.random(50) < 0.4).astype(np.int64)
        inputs = {"labels": labels, "predicted": predicted}
        yield Case("ml.accuracy", dtype, inputs, {})


_MAKERS: tuple[Maker, ...] = (
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
