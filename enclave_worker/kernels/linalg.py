"""Matrix kernels: products, factorisations and what is built on them.

A singular vector is determined up to its sign (its phase, if complex). Ours: the first entry of
each right singular vector whose size is within one percent of the largest is real and positive.
"Within one percent", because in structured data two entries are often equal, and rounding would
then choose differently on every device.
"""

import numpy as np

from enclave_worker.errors import NotConvergedError, NotFiniteError
from enclave_worker.kernels.blocks import COMPLEX, EXACT_FLOATS, FLOATS, working_dtype
from enclave_worker.kernels.spec import (
    Array,
    Arrays,
    Namespace,
    Values,
    deterministic,
    integer,
    kernel,
    number,
)


@deterministic
@kernel(
    "linalg.matmul",
    summary="Matrix product c = a·b of each pair in the batch; half precision sums in single.",
    types={"T": (*FLOATS, *COMPLEX, "int32", "int64")},
    inputs={"a": "T[..., m, k]", "b": "T[..., k, n]"},
    outputs={"c": "T[..., m, n]"},
)
def matmul(xp: Namespace, inputs: Arrays, _parameters: Values, out: Arrays) -> Arrays:
    """Multiply in the working dtype."""
    a, b = inputs["a"], inputs["b"]
    if a.dtype == np.float16:
        dtype = working_dtype(a)
        return {"c": xp.matmul(a.astype(dtype), b.astype(dtype)).astype(np.float16)}
    if "c" in out:
        return {"c": xp.matmul(a, b, out=out["c"])}
    return {"c": xp.matmul(a, b)}


@deterministic
@kernel(
    "linalg.svd",
    summary="Thin singular value decomposition a = u·diag(s)·vh, with signs fixed.",
    types={"T": (*EXACT_FLOATS, *COMPLEX)},
    inputs={"a": "T[m, n]"},
    outputs={"u": "T[m, min(m, n)]", "s": "real(T)[min(m, n)]", "vh": "T[min(m, n), n]"},
)
def svd(xp: Namespace, inputs: Arrays, _parameters: Values, _out: Arrays) -> Arrays:
    """Factorise."""
    u, s, vh = _svd(xp, inputs["a"])
    return {"u": u, "s": s, "vh": vh}


@deterministic
@kernel(
    "linalg.pca",
    summary="Principal components of rows x: scores, components, column means, variances.",
    types={"T": EXACT_FLOATS},
    inputs={"x": "T[n, d]"},
    outputs={
        "scores": "T[n, k]",
        "components": "T[k, d]",
        "mean": "T[d]",
        "variance": "T[k]",
    },
    parameters=(integer("k", "components to keep", minimum=1),),
    rules=("2 <= n", "k <= min(n, d)"),
)
def pca(xp: Namespace, inputs: Arrays, parameters: Values, _out: Arrays) -> Arrays:
    """Factorise the centred rows: the covariance matrix would square their condition number."""
    x, k = inputs["x"], parameters["k"]
    mean = xp.mean(x, axis=0, dtype=np.float64).astype(x.dtype)
    u, s, vh = _svd(xp, x - mean)
    return {
        "scores": u[:, :k] * s[:k],
        "components": vh[:k],
        "mean": mean,
        "variance": s[:k] ** 2 / (x.shape[0] - 1),
    }


@deterministic
@kernel(
    "linalg.project",
    summary="Scores of rows x on given components: (x - mean)·componentsᵀ, as after linalg.pca.",
    types={"T": EXACT_FLOATS},
    inputs={"x": "T[n, d]", "mean": "T[d]", "components": "T[k, d]"},
    outputs={"scores": "T[n, k]"},
)
def project(xp: Namespace, inputs: Arrays, _parameters: Values, out: Arrays) -> Arrays:
    """Centre first: subtracting a projected mean would cancel digits."""
    centred = inputs["x"] - inputs["mean"]
    return {"scores": xp.matmul(centred, inputs["components"].T, out=out.get("scores"))}


@deterministic
@kernel(
    "linalg.lstsq",
    summary="Least squares x of smallest norm that minimises |a·x - b|, and the rank of a.",
    types={"T": (*EXACT_FLOATS, *COMPLEX)},
    inputs={"a": "T[m, n]", "b": "T[m, p]"},
    outputs={"x": "T[n, p]", "rank": "int64[]"},
    parameters=(
        number(
            "tolerance",
            "singular values up to this part of the largest count as zero; 0: max(m, n)·epsilon",
            default=0.0,
            minimum=0.0,
            maximum=1.0,
        ),
    ),
)
def lstsq(xp: Namespace, inputs: Arrays, parameters: Values, _out: Arrays) -> Arrays:
    """Apply the Moore-Penrose inverse, factor by factor."""
    a, b = inputs["a"], inputs["b"]
    if not bool(xp.isfinite(b).all()):
        raise NotFiniteError("the right-hand side holds NaN or infinity")
    u, s, vh = _svd(xp, a)
    tolerance = parameters["tolerance"] or max(a.shape) * float(np.finfo(a.dtype).eps)
    kept = s > tolerance * s[0]
    inverse = xp.where(kept, 1 / xp.where(kept, s, 1), 0).astype(s.dtype)
    x = vh.conj().T @ (inverse[:, None] * (u.conj().T @ b))
    return {"x": x, "rank": kept.sum().astype(np.int64)}


def _svd(xp: Namespace, a: Array) -> tuple[Array, Array, Array]:
    # NumPy raises for NaN and CuPy returns it; a decomposition of NaN means nothing in either.
    if not bool(xp.isfinite(a).all()):
        raise NotFiniteError("a factorisation needs finite numbers")
    try:
        u, s, vh = xp.linalg.svd(a, full_matrices=False)
    except np.linalg.LinAlgError:
        u = None
    if u is None:
        raise NotConvergedError("the singular value decomposition did not converge")
    sizes = xp.abs(vh)
    leader = (sizes >= 0.99 * sizes.max(axis=1, keepdims=True)).argmax(axis=1)
    entries = xp.take_along_axis(vh, leader[:, None], axis=1)
    phases = (entries / xp.abs(entries)).astype(vh.dtype)
    return u * phases[:, 0], s, vh * phases.conj()
