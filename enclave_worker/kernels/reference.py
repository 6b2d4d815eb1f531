"""The plain meaning of every built-in kernel: textbook formulas, no speed, no device.

Each function takes the kernel's inputs and parameters by name and returns its outputs by name. It
is written apart from the kernel, in another way (loops where the kernel blocks, double precision
where it is careful, eigenvalues where it factorises), so that the two do not share a mistake. Tests
compare them over every dtype; docs/kernels.md has the tolerances. Nothing in a worker imports this.
"""

import cmath
import hashlib
import math
import struct
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from enclave_worker.kernels.reference_expression import expression_map
from enclave_worker.kernels.reference_linalg import (
    cholesky,
    eigh,
    lstsq,
    matmul,
    pca,
    project,
    qr,
    solve,
    svd,
)

Arrays = dict[str, np.ndarray[Any, Any]]
Array = np.ndarray[Any, Any]


# -- convert --------------------------------------------------------------------------------------


def from_bfloat16(bits: Array) -> Arrays:
    """A bfloat16 is the upper half of a float32."""
    numbers = [struct.unpack(">f", struct.pack(">HH", int(b), 0))[0] for b in bits.flat]
    return {"y": np.array(numbers, dtype=np.float32).reshape(bits.shape)}


def to_bfloat16(x: Array) -> Arrays:
    """Of the two neighbours, the nearer one; of two equally near ones, the even one."""

    def nearest(value: float) -> int:
        low: int = struct.unpack(">I", struct.pack(">f", value))[0] >> 16
        if math.isnan(value) or math.isinf(value):
            return low | (0x40 if math.isnan(value) else 0)
        below, above = (struct.unpack(">f", struct.pack(">HH", b, 0))[0] for b in (low, low + 1))
        if math.isinf(above):
            above = math.copysign(2.0**128, value)
        closer = float(abs(value - below) - abs(above - value))
        return low + (1 if closer > 0 or (closer == 0 and low % 2 == 1) else 0)

    return {"bits": np.array([nearest(float(v)) for v in x.flat], np.uint16).reshape(x.shape)}


# -- quant ----------------------------------------------------------------------------------------


def quant_matmul_int32(a: Array, b: Array) -> Arrays:
    """The sum of products, in 64 bits."""
    return {"c": matmul(a.astype(np.int64), b.astype(np.int64))["c"].astype(np.int32)}


def quant_matmul(a: Array, b: Array, a_scale: Array, b_scale: Array) -> Arrays:
    """The integer product times both scales."""
    exact = quant_matmul_int32(a, b)["c"].astype(np.float64)
    scaled = (
        exact * a_scale.astype(np.float64)[..., None] * b_scale.astype(np.float64)[..., None, :]
    )
    return {"c": scaled.astype(np.float32)}


def quantize(x: Array) -> Arrays:
    """Row by row: the largest size over 127 is the scale; Python rounds halves to even."""
    q, scale = np.zeros(x.shape, np.int8), np.zeros(x.shape[:-1], np.float32)
    for index in np.ndindex(x.shape[:-1]):
        scale[index] = max(abs(float(value)) for value in x[index]) / 127
        if scale[index] > 0:
            whole = [round(float(value) / float(scale[index])) for value in x[index]]
            q[index] = [max(-127, min(127, value)) for value in whole]
    return {"q": q, "scale": scale}


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


def conv2d(
    x: Array, weight: Array, stride: int, padding: int, groups: int, bias: Array | None = None
) -> Arrays:
    """Each output is the sum of one filter over one window of the image, zeros around it."""
    border = [(0, 0)] * (x.ndim - 2) + [(padding, padding)] * 2
    wide = np.pad(x.astype(np.float64), border)
    count, depth, down, across = weight.shape
    rows, columns = (
        (size - reach) // stride + 1
        for size, reach in zip(wide.shape[-2:], (down, across), strict=True)
    )
    y = np.empty((*x.shape[:-3], count, rows, columns))
    for index in np.ndindex(y.shape):
        channel, top, left = index[-3], index[-2] * stride, index[-1] * stride
        first = channel // (count // groups) * depth
        window = wide[index[:-3]][first : first + depth, top : top + down, left : left + across]
        total = math.fsum((window * weight[channel].astype(np.float64)).flat)
        y[index] = total + (0.0 if bias is None else float(bias[channel]))
    return {"y": y.astype(x.dtype)}


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


REFERENCES: Final[Mapping[str, Callable[..., Arrays]]] = {
    "convert.from_bfloat16": from_bfloat16,
    "convert.to_bfloat16": to_bfloat16,
    "expr.map": expression_map,
    "linalg.cholesky": cholesky,
    "linalg.eigh": eigh,
    "linalg.lstsq": lstsq,
    "linalg.matmul": matmul,
    "linalg.pca": pca,
    "linalg.project": project,
    "linalg.qr": qr,
    "linalg.solve": solve,
    "linalg.svd": svd,
    "ml.accuracy": accuracy,
    "ml.kmeans": kmeans,
    "ml.logistic_fit": logistic_fit,
    "ml.logistic_predict": logistic_predict,
    "nn.affine": affine,
    "nn.attention": attention,
    "nn.conv2d": conv2d,
    "nn.gelu": gelu,
    "nn.layernorm": layernorm,
    "nn.softmax": softmax,
    "quant.matmul": quant_matmul,
    "quant.matmul_int32": quant_matmul_int32,
    "quant.quantize": quantize,
    "signal.fft": fft,
    "stats.describe": describe,
    "stats.histogram": histogram,
    "stats.rescale": rescale,
    "stats.standardize": standardize,
}
"""Kernel name to its meaning."""
