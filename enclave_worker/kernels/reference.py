"""The plain meaning of every built-in kernel: textbook formulas, no speed, no device.

Each function takes the kernel's inputs and parameters by name and returns its outputs by name. It
is written apart from the kernel, in another way (loops where the kernel blocks, double precision
where it is careful, eigenvalues where it factorises), so that the two do not share a mistake. Tests
compare them over every dtype; docs/kernels.md has the tolerances. Nothing in a worker imports this.
"""

import cmath
import hashlib
import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

Arrays = dict[str, np.ndarray[Any, Any]]
Array = np.ndarray[Any, Any]


# -- linalg ---------------------------------------------------------------------------------------


def matmul(a: Array, b: Array) -> Arrays:
    """Sum over k of a[i, k] * b[k, j], for each matrix of the batch, in exact or double numbers."""
    wide = _wide(a)
    c = np.zeros((*a.shape[:-1], b.shape[-1]), dtype=wide)
    for i in range(a.shape[-2]):
        for j in range(b.shape[-1]):
            c[..., i, j] = (a[..., i, :].astype(wide) * b[..., :, j].astype(wide)).sum(axis=-1)
    return {"c": c.astype(a.dtype)}


def svd(a: Array) -> Arrays:
    """Eigenvectors of aᴴa are the right singular vectors; u follows from a·v = s·u."""
    wide: Array = a.astype(_wide(a))
    rank = min(a.shape)
    values, vectors = np.linalg.eigh(wide.conj().T @ wide)
    order = np.argsort(values)[::-1][:rank]
    v = vectors[:, order]
    for column in range(rank):
        v[:, column] /= _phase(v[:, column])
    product = wide @ v
    s = np.array([math.sqrt((abs(product[:, i]) ** 2).sum()) for i in range(rank)])
    return {
        "u": (product / s).astype(a.dtype),
        "s": s.astype(a.real.dtype),
        "vh": v.conj().T.astype(a.dtype),
    }


def pca(x: Array, k: int) -> Arrays:
    """The k leading eigenvectors of the covariance matrix, and the rows projected on them."""
    wide: Array = x.astype(np.float64)
    mean = np.array([math.fsum(column) / len(column) for column in wide.T])
    centred = wide - mean
    values, vectors = np.linalg.eigh(centred.T @ centred / (len(x) - 1))
    components = vectors[:, np.argsort(values)[::-1][:k]].T
    components = np.array([row / _phase(row) for row in components])
    return {
        "scores": (centred @ components.T).astype(x.dtype),
        "components": components.astype(x.dtype),
        "mean": mean.astype(x.dtype),
        "variance": np.sort(values)[::-1][:k].astype(x.dtype),
    }


def project(x: Array, mean: Array, components: Array) -> Arrays:
    """(x - mean) · componentsᵀ."""
    centred = x.astype(np.float64) - mean.astype(np.float64)
    scores = np.array(
        [[math.fsum(row * axis) for axis in components.astype(np.float64)] for row in centred]
    )
    return {"scores": scores.astype(x.dtype)}


def lstsq(a: Array, b: Array, tolerance: float) -> Arrays:
    """The Moore-Penrose inverse of a, times b; for matrices of full column rank the normal one."""
    wide: Array = a.astype(_wide(a))
    tolerance = tolerance or max(a.shape) * float(np.finfo(a.dtype).eps)
    x = np.linalg.pinv(wide, rcond=tolerance) @ b.astype(wide.dtype)
    rank = np.linalg.matrix_rank(wide, rtol=tolerance)
    return {"x": x.astype(a.dtype), "rank": np.array(rank, dtype=np.int64)}


# -- stats ----------------------------------------------------------------------------------------


def describe(x: Array, ddof: int) -> Arrays:
    """Per column: exact sums of Python numbers, and quartiles of the sorted column."""
    columns = [[float(value) for value in column] for column in x.T]
    means = [math.fsum(column) / len(column) for column in columns]
    deviations = [
        math.sqrt(math.fsum((value - mean) ** 2 for value in column) / (len(column) - ddof))
        for column, mean in zip(columns, means, strict=True)
    ]
    quartiles = np.quantile(x.astype(np.float64), (0.25, 0.5, 0.75), axis=0)
    return {
        "mean": np.array(means),
        "std": np.array(deviations),
        "minimum": np.array([min(column) for column in x.T], dtype=x.dtype),
        "lower_quartile": quartiles[0],
        "median": quartiles[1],
        "upper_quartile": quartiles[2],
        "maximum": np.array([max(column) for column in x.T], dtype=x.dtype),
    }


def histogram(x: Array, bins: int, span: str, lower: float, upper: float) -> Arrays:
    """`numpy.histogram` is the meaning."""
    limits = None if span == "data" else (lower, upper)
    counts, edges = np.histogram(x.astype(np.float64), bins=bins, range=limits)
    return {"counts": counts.astype(np.int64), "edges": edges.astype(np.float64)}


def standardize(x: Array, ddof: int) -> Arrays:
    """(value - mean) / deviation for each column; a column that is constant becomes zero."""
    z = np.zeros(x.shape)
    means, scales = np.zeros(x.shape[1]), np.ones(x.shape[1])
    for index, column in enumerate(x.T.astype(np.float64)):
        if min(column) == max(column):
            means[index] = column[0]
            continue
        means[index] = math.fsum(column) / len(column)
        total = math.fsum((value - means[index]) ** 2 for value in column)
        scales[index] = math.sqrt(total / (len(column) - ddof))
        z[:, index] = (column - means[index]) / scales[index]
    return {"z": z.astype(x.dtype), "mean": means.astype(x.dtype), "scale": scales.astype(x.dtype)}


def rescale(x: Array, mean: Array, scale: Array) -> Arrays:
    """(x - mean) / scale."""
    wide: Array = x.astype(np.float64)
    return {"z": ((wide - mean.astype(np.float64)) / scale.astype(np.float64)).astype(x.dtype)}


# -- nn -------------------------------------------------------------------------------------------


def affine(x: Array, scale: float, shift: float) -> Arrays:
    """The line: scale * x + shift."""
    return {
        "y": np.array([scale * float(v) + shift for v in x.flat]).reshape(x.shape).astype(x.dtype)
    }


def softmax(x: Array) -> Arrays:
    """exp(x) over its sum, row by row."""
    y = np.empty(x.shape)
    for index in np.ndindex(x.shape[:-1]):
        largest = max(float(value) for value in x[index])
        powers = [math.exp(float(value) - largest) for value in x[index]]
        y[index] = [power / math.fsum(powers) for power in powers]
    return {"y": y.astype(x.dtype)}


def gelu(x: Array, approximate: str) -> Arrays:
    """Multiply x by the normal distribution's Phi(x), or Hendrycks' tanh formula for it."""

    def exact(v: float) -> float:
        return 0.5 * v * math.erfc(-v / math.sqrt(2))

    def tanh(v: float) -> float:
        return 0.5 * v * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3)))

    function = exact if approximate == "none" else tanh
    return {"y": np.array([function(float(v)) for v in x.flat]).reshape(x.shape).astype(x.dtype)}


def layernorm(x: Array, gamma: Array, beta: Array, epsilon: float) -> Arrays:
    """Each row to mean 0 and variance 1, then times gamma plus beta."""
    y = np.empty(x.shape)
    for index in np.ndindex(x.shape[:-1]):
        row = [float(value) for value in x[index]]
        mean = math.fsum(row) / len(row)
        variance = math.fsum((value - mean) ** 2 for value in row) / len(row)
        root = math.sqrt(variance + epsilon)
        y[index] = [
            (v - mean) / root * float(g) + float(b)
            for v, g, b in zip(row, gamma, beta, strict=True)
        ]
    return {"y": y.astype(x.dtype)}


def attention(q: Array, k: Array, v: Array, causal: bool, scale: float) -> Arrays:  # noqa: FBT001
    """Each query's softmax-weighted mean of the values, one query at a time."""
    factor = scale or 1 / math.sqrt(q.shape[-1])
    y = np.empty((*q.shape[:-1], v.shape[-1]))
    for index in np.ndindex(q.shape[:-1]):
        batch, position = index[:-1], index[-1]
        last = position + 1 if causal else k.shape[-2]
        keys, values = (array[batch][:last].astype(np.float64) for array in (k, v))
        scores = [factor * math.fsum(q[index].astype(np.float64) * key) for key in keys]
        largest = max(scores)
        weights = [math.exp(score - largest) for score in scores]
        y[index] = sum(w * value for w, value in zip(weights, values, strict=True)) / sum(weights)
    return {"y": y.astype(q.dtype)}


# -- signal ---------------------------------------------------------------------------------------


def fft(x: Array, inverse: bool, norm: str) -> Arrays:  # noqa: FBT001
    """The discrete Fourier transform by its definition, n² terms."""
    n = x.shape[-1]
    sign = 2j if inverse else -2j
    matrix = np.array(
        [[cmath.exp(sign * math.pi * ((j * k) % n) / n) for j in range(n)] for k in range(n)]
    )
    divisor = {
        "ortho": math.sqrt(n),
        "backward": n if inverse else 1,
        "forward": 1 if inverse else n,
    }
    y = np.einsum("kj,...j->...k", matrix, x.astype(np.complex128)) / divisor[norm]
    return {"y": y.astype(np.result_type(x.dtype, np.complex64))}


# -- ml -------------------------------------------------------------------------------------------


def uniform(seed: int, counter: int) -> float:
    """The generator of docs/kernels.md: 53 bits of SHA-256 over seed and counter."""
    block = hashlib.sha256(f"enclave-worker/kernels/uniform {seed} {counter}".encode()).digest()
    return int.from_bytes(block[:8], "big") // 2**11 / 2**53


def kmeans(x: Array, k: int, seed: int, iterations: int) -> Arrays:
    """k-means++ seeding, then Lloyd's two steps until no label changes."""
    rows = x.astype(np.float64)
    centroids = [rows[int(uniform(seed, 0) * len(rows))]]
    for step in range(1, k):
        nearest = np.array([min(((row - c) ** 2).sum() for c in centroids) for row in rows])
        if nearest.sum() == 0:
            centroids.append(rows[int(uniform(seed, step) * len(rows))])
            continue
        target = uniform(seed, step) * nearest.sum()
        total, chosen = 0.0, 0
        while chosen < len(rows) - 1 and total + nearest[chosen] <= target:
            total += nearest[chosen]
            chosen += 1
        centroids.append(rows[chosen])
    means = np.array(centroids)
    labels, distances = _assign(rows, means)
    done, rounds = False, 0
    while not done and rounds < iterations:
        for c in range(k):
            if (labels == c).any():
                means[c] = rows[labels == c].mean(axis=0)
        rounds += 1
        previous = labels
        labels, distances = _assign(rows, means)
        done = bool((labels == previous).all())
    return {
        "centroids": means.astype(x.dtype),
        "labels": labels,
        "inertia": np.array(distances.sum()),
        "iterations": np.array(rounds, dtype=np.int64),
    }


def _assign(rows: Array, means: Array) -> tuple[Array, Array]:
    table = np.array([[((row - c) ** 2).sum() for c in means] for row in rows])
    return table.argmin(axis=1).astype(np.int64), table.min(axis=1)


def logistic_fit(x: Array, y: Array, l2: float, iterations: int, tolerance: float) -> Arrays:
    """Plain gradient descent on the penalised log-likelihood, with a provably safe step."""
    del iterations, tolerance  # The kernel's; this takes the steps that it needs.
    rows = np.column_stack([x.astype(np.float64), np.ones(len(x))])
    penalty = np.array([l2] * x.shape[1] + [0.0])
    target = y.astype(np.float64)
    beta, momentum = np.zeros(rows.shape[1]), np.zeros(rows.shape[1])
    step = 1 / (np.linalg.norm(rows, 2) ** 2 / 4 + l2)
    for count in range(1, 200_000):
        gradient = rows.T @ (_sigmoid(rows @ momentum) - target) + penalty * momentum
        following = momentum - step * gradient
        momentum = following + (count - 1) / (count + 2) * (following - beta)
        beta = following
        if abs(gradient).max() < 1e-13 * len(x):
            break
    return {"weights": beta[:-1].astype(x.dtype), "bias": np.array(beta[-1], dtype=x.dtype)}


def logistic_predict(x: Array, weights: Array, bias: Array, threshold: float) -> Arrays:
    """1 / (1 + exp(-(x·w + b))) and whether it reaches the threshold."""
    wide = x.astype(np.float64) @ weights.astype(np.float64) + float(bias)
    probability = _sigmoid(wide).astype(x.dtype)
    return {"probability": probability, "label": (probability >= threshold).astype(np.int64)}


def accuracy(labels: Array, predicted: Array) -> Arrays:
    """The part of the pairs that are equal."""
    equal = sum(int(a) == int(b) for a, b in zip(labels, predicted, strict=True))
    return {"accuracy": np.array(equal / len(labels))}


def _sigmoid(values: Array) -> Array:
    return np.array([1 / (1 + math.exp(-v)) if v > -700 else math.exp(v) for v in values])


def _wide(array: Array) -> Any:
    if array.dtype.kind in "iub":
        return np.int64
    return np.complex128 if array.dtype.kind == "c" else np.float64


def _phase(vector: Array) -> Any:
    """The sign or phase of the first entry that is within one percent of the largest."""
    sizes = [abs(value) for value in vector]
    leader = next(v for v, size in zip(vector, sizes, strict=True) if size >= 0.99 * max(sizes))
    return leader / abs(leader)


REFERENCES: Final[Mapping[str, Callable[..., Arrays]]] = {
    "linalg.lstsq": lstsq,
    "linalg.matmul": matmul,
    "linalg.pca": pca,
    "linalg.project": project,
    "linalg.svd": svd,
    "ml.accuracy": accuracy,
    "ml.kmeans": kmeans,
    "ml.logistic_fit": logistic_fit,
    "ml.logistic_predict": logistic_predict,
    "nn.affine": affine,
    "nn.attention": attention,
    "nn.gelu": gelu,
    "nn.layernorm": layernorm,
    "nn.softmax": softmax,
    "signal.fft": fft,
    "stats.describe": describe,
    "stats.histogram": histogram,
    "stats.rescale": rescale,
    "stats.standardize": standardize,
}
"""Kernel name to its meaning."""
