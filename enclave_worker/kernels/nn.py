"""Building blocks of neural networks. Half precision is stored; sums and powers are single."""

import math

import numpy as np

from enclave_worker.kernels.blocks import (
    DEVICE_BYTES,
    FLOATS,
    MATRIX_BYTES,
    elementwise,
    elementwise_into,
    rowwise,
    working_dtype,
)
from enclave_worker.kernels.normal import erfc
from enclave_worker.kernels.spec import (
    Array,
    Arrays,
    Namespace,
    Values,
    choice,
    deterministic,
    flag,
    kernel,
    number,
)


@deterministic
@kernel(
    "nn.affine",
    summary="y = scale·x + shift for every element.",
    types={"T": FLOATS},
    inputs={"x": "T[...]"},
    outputs={"y": "T[...]"},
    parameters=(
        number("scale", "factor", default=1.0),
        number("shift", "added after scaling", default=0.0),
    ),
)
def affine(xp: Namespace, inputs: Arrays, parameters: Values, out: Arrays) -> Arrays:
    """Scale and shift each block while it is in the cache."""

    def block(x: Array, y: Array) -> None:
        xp.multiply(x, parameters["scale"], out=y)
        xp.add(y, parameters["shift"], out=y)

    return {"y": elementwise_into(xp, block, inputs["x"], out, "y")}


@deterministic
@kernel(
    "nn.softmax",
    summary="exp(x) over its sum along the last axis; a row with NaN or +infinity becomes NaN.",
    types={"T": FLOATS},
    inputs={"x": "T[..., n]"},
    outputs={"y": "T[..., n]"},
)
def softmax(xp: Namespace, inputs: Arrays, _parameters: Values, out: Arrays) -> Arrays:
    """Subtract each row's largest value first, so that no power overflows."""
    return {"y": rowwise(xp, lambda x: _softmax(xp, x), inputs["x"], out, "y")}


@deterministic
@kernel(
    "nn.gelu",
    summary="x·Φ(x): exact to rounding, or the tanh approximation.",
    types={"T": FLOATS},
    inputs={"x": "T[...]"},
    outputs={"y": "T[...]"},
    parameters=(choice("approximate", "formula for Φ", choices=("none", "tanh")),),
)
def gelu(xp: Namespace, inputs: Arrays, parameters: Values, out: Arrays) -> Arrays:
    """Φ(x) = erfc(-x/√2) / 2, or Hendrycks and Gimpel's tanh formula (arXiv 1606.08415)."""

    def exact(x: Array) -> None:
        tail = erfc(xp, xp.abs(x) * math.sqrt(0.5)) * 0.5
        # erfc is computed for arguments >= 0 and mirrored, which keeps the digits of small tails.
        xp.multiply(x, xp.where(x < 0, tail, 1 - tail), out=x)

    def tanh(x: Array) -> None:
        inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)
        xp.multiply(x, 0.5 * (1 + xp.tanh(inner)), out=x)

    block = exact if parameters["approximate"] == "none" else tanh
    return {"y": elementwise(xp, block, inputs["x"], out, "y")}


@deterministic
@kernel(
    "nn.layernorm",
    summary="Rows to mean 0 and variance 1, then times gamma plus beta.",
    types={"T": FLOATS},
    inputs={"x": "T[..., d]", "gamma": "T[d]", "beta": "T[d]"},
    outputs={"y": "T[..., d]"},
    parameters=(number("epsilon", "added to the variance", default=1e-5, minimum=0.0),),
)
def layernorm(xp: Namespace, inputs: Arrays, parameters: Values, out: Arrays) -> Arrays:
    """Two passes: the difference of mean squares would cancel for rows far from zero."""
    dtype = working_dtype(inputs["x"])
    gamma, beta = inputs["gamma"].astype(dtype), inputs["beta"].astype(dtype)

    def block(x: Array) -> None:
        xp.subtract(x, x.mean(axis=-1, keepdims=True), out=x)
        variance = (x * x).mean(axis=-1, keepdims=True)
        xp.divide(x, xp.sqrt(variance + parameters["epsilon"]), out=x)
        xp.multiply(x, gamma, out=x)
        xp.add(x, beta, out=x)

    return {"y": rowwise(xp, block, inputs["x"], out, "y")}


@deterministic
@kernel(
    "nn.attention",
    summary="softmax(scale·q·kᵀ)·v; causal: query i sees keys 0 to i.",
    types={"T": FLOATS},
    inputs={"q": "T[..., s, d]", "k": "T[..., t, d]", "v": "T[..., t, e]"},
    outputs={"y": "T[..., s, e]"},
    parameters=(
        flag("causal", "hide later keys"),
        number("scale", "factor of the scores; 0: 1/√d", default=0.0, minimum=0.0),
    ),
)
def attention(xp: Namespace, inputs: Arrays, parameters: Values, out: Arrays) -> Arrays:
    """A block of queries at a time, so that the s x t scores are never all in memory."""
    q, k, v = (array.reshape(-1, *array.shape[-2:]) for array in (inputs[name] for name in "qkv"))
    shape = (*inputs["q"].shape[:-1], v.shape[-1])
    y = out["y"] if "y" in out else xp.empty(shape, dtype=q.dtype)
    target = y.reshape(-1, *shape[-2:])
    scale = parameters["scale"] or 1 / math.sqrt(q.shape[-1])
    dtype = working_dtype(q)
    heads, queries = _attention_block(xp, q.shape, k.shape[1], dtype.itemsize)
    for head in range(0, q.shape[0], heads):
        part = slice(head, head + heads)
        keys, values = k[part].astype(dtype, copy=False), v[part].astype(dtype, copy=False)
        for first in range(0, q.shape[1], queries):
            span = slice(first, min(first + queries, q.shape[1]))
            seen = min(span.stop, keys.shape[1]) if parameters["causal"] else keys.shape[1]
            rows = q[part, span].astype(dtype) * scale
            scores = xp.matmul(rows, keys[:, :seen].swapaxes(-1, -2))
            if parameters["causal"]:
                hidden = xp.arange(seen) > xp.arange(span.start, span.stop)[:, None]
                scores = xp.where(hidden, -np.inf, scores)
            _softmax(xp, scores)
            target[part, span] = xp.matmul(scores, values[:, :seen])
    return {"y": y}


def _attention_block(
    xp: Namespace, queries: tuple[int, ...], keys: int, item_bytes: int
) -> tuple[int, int]:
    """Return how many heads, and queries of each, have scores that fit one block."""
    budget = (MATRIX_BYTES if xp is np else DEVICE_BYTES) // item_bytes
    heads, count = queries[:2]
    return max(1, min(heads, budget // (count * keys))), max(1, min(count, budget // keys))


def _softmax(xp: Namespace, x: Array) -> None:
    xp.subtract(x, x.max(axis=-1, keepdims=True), out=x)
    xp.exp(x, out=x)
    xp.divide(x, x.sum(axis=-1, keepdims=True), out=x)
