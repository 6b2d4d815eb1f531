"""Factorisations and solutions of every matrix in a stack.

What is determined up to signs or phases has ours: the diagonal of `r` is not negative, and the
first entry of each eigenvector that is within one percent of its largest is real and positive.
One matrix that has no answer fails the whole call; in a stack of jobs, only its own item.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from enclave_worker.errors import NotConvergedError, NotFiniteError, SingularMatrixError
from enclave_worker.kernels.blocks import COMPLEX, EXACT_FLOATS
from enclave_worker.kernels.spec import Array, Arrays, Namespace, Values, deterministic, kernel

_TYPES = (*EXACT_FLOATS, *COMPLEX)


@deterministic
@kernel(
    "linalg.solve",
    summary="The x with a·x = b for each matrix of the batch; an exactly singular a fails.",
    types={"T": _TYPES},
    inputs={"a": "T[..., n, n]", "b": "T[..., n, p]"},
    outputs={"x": "T[..., n, p]"},
)
def solve(xp: Namespace, inputs: Arrays, _parameters: Values, _out: Arrays) -> Arrays:
    """Eliminate with pivots."""
    a, b = inputs["a"], inputs["b"]
    _check_finite(xp, a, b)
    x = _answer(lambda: xp.linalg.solve(a, b))
    # NumPy raises where CuPy returns what is not finite.
    if x is None or not bool(xp.isfinite(x).all()):
        raise SingularMatrixError("a matrix of the batch is singular")
    return {"x": x}


@deterministic
@kernel(
    "linalg.cholesky",
    summary="The lower triangular l with l·lᴴ = a; reads the lower triangle of a only.",
    types={"T": _TYPES},
    inputs={"a": "T[..., n, n]"},
    outputs={"l": "T[..., n, n]"},
)
def cholesky(xp: Namespace, inputs: Arrays, _parameters: Values, _out: Arrays) -> Arrays:
    """Factorise, then see that it worked: cuSOLVER leaves half a factor and says nothing."""
    a = inputs["a"]
    lower = xp.tril(a)
    _check_finite(xp, lower)
    factor = _answer(lambda: xp.linalg.cholesky(a))
    if factor is None or not _is_factor(xp, factor, lower):
        raise SingularMatrixError("a matrix of the batch is not positive definite")
    return {"l": factor}


@deterministic
@kernel(
    "linalg.qr",
    summary="Thin a = q·r with orthonormal columns in q and no negative diagonal entry in r.",
    types={"T": _TYPES},
    inputs={"a": "T[..., m, n]"},
    outputs={"q": "T[..., m, min(m, n)]", "r": "T[..., min(m, n), n]"},
)
def qr(xp: Namespace, inputs: Arrays, _parameters: Values, _out: Arrays) -> Arrays:
    """Factorise by reflections and turn the diagonal."""
    a = inputs["a"]
    _check_finite(xp, a)
    q, r = xp.linalg.qr(a)
    diagonal = xp.diagonal(r, axis1=-2, axis2=-1)
    sizes = xp.abs(diagonal)
    phases = xp.where(sizes > 0, diagonal / xp.where(sizes > 0, sizes, 1), 1).astype(a.dtype)
    return {"q": q * phases[..., None, :], "r": phases.conj()[..., :, None] * r}


@deterministic
@kernel(
    "linalg.eigh",
    summary="Eigenvalues, ascending, and vectors of Hermitian a; reads its lower triangle only.",
    types={"T": _TYPES},
    inputs={"a": "T[..., n, n]"},
    outputs={"values": "real(T)[..., n]", "vectors": "T[..., n, n]"},
)
def eigh(xp: Namespace, inputs: Arrays, _parameters: Values, _out: Arrays) -> Arrays:
    """Factorise and turn the vectors."""
    a = inputs["a"]
    _check_finite(xp, xp.tril(a))
    found = _answer(lambda: xp.linalg.eigh(a))
    if found is None or not bool(xp.isfinite(found[0]).all()):
        raise NotConvergedError("the eigenvalues did not converge")
    values, vectors = found
    sizes = xp.abs(vectors)
    leader = (sizes >= 0.99 * sizes.max(axis=-2, keepdims=True)).argmax(axis=-2)
    entries = xp.take_along_axis(vectors, leader[..., None, :], axis=-2)
    phases = (entries / xp.abs(entries)).astype(vectors.dtype)
    return {"values": values, "vectors": vectors * phases.conj()}


def _answer(function: Callable[[], Any]) -> Any:
    try:
        return function()
    except np.linalg.LinAlgError:
        return None


def _check_finite(xp: Namespace, *matrices: Array) -> None:
    if not all(bool(xp.isfinite(matrix).all()) for matrix in matrices):
        raise NotFiniteError("a factorisation needs finite numbers")


def _is_factor(xp: Namespace, factor: Array, lower: Array) -> bool:
    diagonal = xp.diagonal(factor, axis1=-2, axis2=-1).real
    if not bool(xp.isfinite(factor).all() & (diagonal > 0).all()):
        return False
    # l·(lᴴ·1) against a·1: a factor that stops half-way misses it by the size of the rest of a.
    conjugate = factor.swapaxes(-1, -2).conj()
    made = xp.matmul(factor, conjugate.sum(axis=-1)[..., None])
    upper = lower.swapaxes(-1, -2).conj()
    beside = xp.diagonal(lower, axis1=-2, axis2=-1)
    wanted = (lower.sum(axis=-1) + upper.sum(axis=-1) - beside)[..., None]
    # The largest of a positive definite matrix is on its diagonal: that bounds every sum.
    size = factor.shape[-1]
    allowed = 64 * size * size * float(np.finfo(factor.dtype).eps)
    bound = allowed * xp.abs(beside).max(axis=-1)[..., None, None]
    return bool((xp.abs(made - wanted) <= bound).all())
