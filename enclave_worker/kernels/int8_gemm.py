"""Products of int8 matrices, summed in int32, exactly.

On a GPU cuBLAS does it on tensor cores. Where it cannot, and on a processor, whose BLAS has no
integers, floats do: a product of two int8 is at most 2^14, so 1024 of them sum to at most 2^24, up
to which single precision has every integer. Whatever the order of the sum, it is exact.
"""

from typing import Any, Final

import numpy as np

from enclave_worker.kernels.spec import Array, Namespace

LONGEST: Final = (1 << 17) - 1
"""Longest sum: one more could be 2^31, which int32 has not."""

_EXACT: Final = 1024
_ALIGNMENT: Final = 16
"""cuBLAS uses tensor cores for int8 only where rows are multiples of this many bytes."""

# cublas_api.h and library_types.h
_OP_N: Final = 0
_R_8I: Final = 3
_R_32I: Final = 10
_COMPUTE_32I: Final = 70
_DEFAULT_ALGORITHM: Final = -1


def multiply(xp: Namespace, a: Array, b: Array) -> Array:
    """Return the int32 product of int8 `a[..., m, k]` and `b[..., k, n]`; k is at most LONGEST."""
    if xp is not np and hasattr(xp, "cuda"):
        product = _by_cublas(xp, a, b)
        if product is not None:
            return product
    return _by_floats(xp, a, b)


def _by_floats(xp: Namespace, a: Array, b: Array) -> Array:
    total = xp.zeros((*a.shape[:-1], b.shape[-1]), dtype=np.int32)
    for start in range(0, a.shape[-1], _EXACT):
        part = slice(start, start + _EXACT)
        product = xp.matmul(a[..., part].astype(np.float32), b[..., part, :].astype(np.float32))
        xp.add(total, product.astype(np.int32), out=total)
    return total


def _by_cublas(xp: Any, a: Array, b: Array) -> Array | None:
    """Return the product, or None where cuBLAS has no such routine for this device."""
    from cupy.cuda import cublas, device  # noqa: PLC0415 - there is CuPy where `xp` is it

    (m, k), n = a.shape[-2:], b.shape[-1]
    wide, deep = (-(-size // _ALIGNMENT) * _ALIGNMENT for size in (n, k))
    left = _padded(xp, a.reshape(-1, m, k), (m, deep))
    right = _padded(xp, b.reshape(-1, k, n), (deep, wide))
    product = xp.empty((len(left), m, wide), dtype=np.int32)
    one, zero = np.ones(1, dtype=np.int32), np.zeros(1, dtype=np.int32)
    handle = device.get_cublas_handle()
    try:
        for x, y, z in zip(left, right, product, strict=True):
            # cuBLAS counts columns first: the transposed product of what it sees transposed.
            cublas.gemmEx(
                *(handle, _OP_N, _OP_N, wide, m, deep, one.ctypes.data),
                *(y.data.ptr, _R_8I, wide, x.data.ptr, _R_8I, deep, zero.ctypes.data),
                *(z.data.ptr, _R_32I, wide, _COMPUTE_32I, _DEFAULT_ALGORITHM),
            )
    except cublas.CUBLASError:
        return None
    return product[:, :, :n].reshape(*a.shape[:-1], n)


def _padded(xp: Namespace, matrices: Array, shape: tuple[int, int]) -> Array:
    """Return the matrices with zeros after their rows and columns, up to `shape`."""
    if matrices.shape[1:] == shape:
        return matrices
    wider = xp.zeros((len(matrices), *shape), dtype=matrices.dtype)
    wider[:, : matrices.shape[1], : matrices.shape[2]] = matrices
    return wider
