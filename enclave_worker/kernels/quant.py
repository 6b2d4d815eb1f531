"""Eight-bit integers with scales. The integer part is exact, so it is equal on every device."""

from typing import Final

import numpy as np

from enclave_worker.errors import NotFiniteError
from enclave_worker.kernels.blocks import FLOATS, spans
from enclave_worker.kernels.int8_gemm import LONGEST, multiply
from enclave_worker.kernels.spec import Arrays, Namespace, Values, deterministic, kernel

_LARGEST: Final = 127


@deterministic
@kernel(
    "quant.matmul_int32",
    summary="The product of int8 matrices, summed in int32: exact, equal on every device.",
    inputs={"a": "int8[..., m, k]", "b": "int8[..., k, n]"},
    outputs={"c": "int32[..., m, n]"},
    rules=(f"k <= {LONGEST}",),
)
def matmul_int32(xp: Namespace, inputs: Arrays, _parameters: Values, _out: Arrays) -> Arrays:
    """Multiply."""
    return {"c": multiply(xp, inputs["a"], inputs["b"])}


@deterministic
@kernel(
    "quant.matmul",
    summary="The int32 product of int8 matrices, times the scale of its row and of its column.",
    inputs={
        "a": "int8[..., m, k]",
        "b": "int8[..., k, n]",
        "a_scale": "float32[..., m]",
        "b_scale": "float32[..., n]",
    },
    outputs={"c": "float32[..., m, n]"},
    rules=(f"k <= {LONGEST}",),
)
def matmul(xp: Namespace, inputs: Arrays, _parameters: Values, out: Arrays) -> Arrays:
    """Multiply exactly, then scale by rows and by columns, in this order."""
    c = multiply(xp, inputs["a"], inputs["b"]).astype(np.float32)
    xp.multiply(c, inputs["a_scale"][..., :, None], out=c)
    return {"c": xp.multiply(c, inputs["b_scale"][..., None, :], out=out.get("c", c))}


@deterministic
@kernel(
    "quant.quantize",
    summary="Rows of x as int8 and one scale each: x ≈ q·scale, the largest entry becomes ±127.",
    types={"T": FLOATS},
    inputs={"x": "T[..., n]"},
    outputs={"q": "int8[..., n]", "scale": "float32[...]"},
)
def quantize(xp: Namespace, inputs: Arrays, _parameters: Values, _out: Arrays) -> Arrays:
    """Divide in double precision by the scale as it is returned, and round halves to even."""
    x = inputs["x"].reshape(-1, inputs["x"].shape[-1])
    if not bool(xp.isfinite(x).all()):
        raise NotFiniteError("only finite numbers have a scale")
    largest = xp.abs(x).max(axis=-1).astype(np.float64)
    scale = (largest / _LARGEST).astype(np.float32)
    if not bool(xp.isfinite(scale).all()):
        raise NotFiniteError("a scale is too large for single precision")
    # A row of zeros has the scale 0, and so have rows too small for single precision.
    divisor = xp.where(scale > 0, scale, np.inf).astype(np.float64)[:, None]
    q = xp.empty(x.shape, dtype=np.int8)
    for span in spans(xp, len(x), x.shape[-1] * 8):
        rounded = xp.rint(x[span].astype(np.float64) / divisor[span])
        q[span] = xp.clip(rounded, -_LARGEST, _LARGEST).astype(np.int8)
    leading = inputs["x"].shape[:-1]
    return {"q": q.reshape(inputs["x"].shape), "scale": scale.reshape(leading)}
