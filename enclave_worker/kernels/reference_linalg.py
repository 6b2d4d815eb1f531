"""The plain meaning of the matrix kernels (`reference` says how such a meaning is written)."""

import math
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray[Any, Any]]
Array = np.ndarray[Any, Any]


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


def solve(a: Array, b: Array) -> Arrays:
    """Gauss's elimination with the largest pivot of each column, matrix by matrix."""
    x = np.empty(b.shape, dtype=_wide(a))
    for index in np.ndindex(a.shape[:-2]):
        rows = np.concatenate([a[index], b[index]], axis=1).astype(_wide(a))
        size = len(rows)
        for column in range(size):
            pivot = max(range(column, size), key=lambda row: abs(rows[row, column]))
            rows[[column, pivot]] = rows[[pivot, column]]
            for row in range(size):
                if row != column:
                    rows[row] -= rows[column] * (rows[row, column] / rows[column, column])
        x[index] = rows[:, size:] / np.diagonal(rows)[:, None]
    return {"x": x.astype(a.dtype)}


def cholesky(a: Array) -> Arrays:
    """Entry by entry: each from those above and left of it."""
    factor = np.zeros(a.shape, dtype=_wide(a))
    for index in np.ndindex(a.shape[:-2]):
        one = factor[index]
        for i in range(a.shape[-1]):
            for j in range(i + 1):
                rest = complex(a[index][i, j]) - sum(one[i, k] * one[j, k].conj() for k in range(j))
                entry = math.sqrt(rest.real) if i == j else rest / one[j, j]
                one[i, j] = entry if a.dtype.kind == "c" else complex(entry).real
    return {"l": factor.astype(a.dtype)}


def qr(a: Array) -> Arrays:
    """Gram and Schmidt's process, twice for each column; what is left over is r."""
    rank = min(a.shape[-2:])
    q = np.zeros((*a.shape[:-1], rank), dtype=_wide(a))
    for index in np.ndindex(a.shape[:-2]):
        for column in range(rank):
            vector = a[index][:, column].astype(_wide(a))
            for earlier in [*range(column), *range(column)]:
                axis = q[index][:, earlier]
                vector = vector - axis * (axis.conj() @ vector)
            q[index][:, column] = vector / math.sqrt((abs(vector) ** 2).sum())
    r = np.triu(np.einsum("...mk,...mn->...kn", q.conj(), a.astype(_wide(a))))
    return {"q": q.astype(a.dtype), "r": r.astype(a.dtype)}


def eigh(a: Array) -> Arrays:
    """The eigenvector of the largest value is what a high power of a leaves; then the next one."""
    size = a.shape[-1]
    values, vectors = np.zeros(a.shape[:-1]), np.zeros(a.shape, dtype=_wide(a))
    for index in np.ndindex(a.shape[:-2]):
        lower = np.tril(a[index].astype(_wide(a)))
        whole = lower + np.tril(lower, -1).conj().T
        # Shifted, every eigenvalue is positive, and the largest is the largest in size.
        shift = abs(whole).sum() + 1
        rest = whole + shift * np.eye(size)
        for place in reversed(range(size)):
            power = rest
            for _ in range(60):
                power = power @ power / abs(power @ power).max()
            vector = power[:, abs(power).max(axis=0).argmax()]
            vector = vector / math.sqrt((abs(vector) ** 2).sum())
            values[index][place] = (vector.conj() @ rest @ vector).real - shift
            vectors[index][:, place] = vector / _phase(vector)
            rest = rest - (values[index][place] + shift) * np.outer(vector, vector.conj())
    return {"values": values.astype(a.real.dtype), "vectors": vectors.astype(a.dtype)}


def _wide(array: Array) -> Any:
    if array.dtype.kind in "iub":
        return np.int64
    return np.complex128 if array.dtype.kind == "c" else np.float64


def _phase(vector: Array) -> Any:
    """The sign or phase of the first entry that is within one percent of the largest."""
    sizes = [abs(value) for value in vector]
    leader = next(v for v, size in zip(vector, sizes, strict=True) if size >= 0.99 * max(sizes))
    return leader / abs(leader)
