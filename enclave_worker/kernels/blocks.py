"""Cutting large arrays into pieces that stay in a cache, and the dtypes that pieces are worked in.

On a processor an elementwise kernel is bound by memory, and its second operation finds the first
one's result in the cache only if the piece is small; on a GPU a launch costs more than that, so
pieces there are as large as temporary memory allows.
"""

from collections.abc import Callable, Iterator
from typing import Final

import numpy as np

from enclave_worker.kernels.spec import Array, Arrays, Namespace

CACHE_BYTES: Final = 256 * 1024
"""A piece for elementwise work on a processor: a few of them fit the L2. NumPy gives up the
interpreter's lock for each operation, and the smaller the pieces, the more often it is waited for.
Temporaries of this size are cheap where malloc keeps freed memory (`attestation.heap`)."""
MATRIX_BYTES: Final = 4 * 1024 * 1024
"""A piece for matrix products on a processor: large enough that BLAS runs at its full rate."""
DEVICE_BYTES: Final = 256 * 1024 * 1024
"""A piece on a GPU: far above what hides a launch, far below the memory of any we use."""

FLOATS: Final = ("float16", "float32", "float64")
EXACT_FLOATS: Final = ("float32", "float64")
COMPLEX: Final = ("complex64", "complex128")


def spans(
    xp: Namespace, count: int, item_bytes: int, *, block_bytes: int = CACHE_BYTES
) -> Iterator[slice]:
    """Yield slices that cover `count` items of `item_bytes` each, a block of bytes at a time."""
    target = block_bytes if xp is np else DEVICE_BYTES
    step = max(1, target // max(1, item_bytes))
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


def working_dtype(array: Array) -> np.dtype[np.generic]:
    """Return the dtype to compute in: half precision stores, single precision computes."""
    dtype: np.dtype[np.generic] = array.dtype
    return np.dtype(np.float32) if dtype == np.float16 else dtype


def elementwise(
    xp: Namespace, function: Callable[[Array], None], x: Array, out: Arrays, name: str
) -> Array:
    """Apply `function`, which changes its argument in place, to every element of `x`."""
    return rowwise(xp, function, x.reshape(-1, 1), out, name, shape=x.shape)


def elementwise_into(
    xp: Namespace, function: Callable[[Array, Array], None], x: Array, out: Arrays, name: str
) -> Array:
    """Apply `function`, which reads its first argument and fills its second, to every element.

    Saves the pass that `elementwise` takes to copy. Half precision is computed in single.
    """
    if working_dtype(x) != x.dtype:
        return elementwise(xp, lambda block: function(block, block), x, out, name)
    result = out.get(name)
    if result is None:
        result = xp.empty(x.shape, dtype=x.dtype)
    source, target = x.reshape(-1), result.reshape(-1)
    for span in spans(xp, len(source), x.dtype.itemsize):
        function(source[span], target[span])
    return result


def rowwise(
    xp: Namespace,
    function: Callable[[Array], None],
    x: Array,
    out: Arrays,
    name: str,
    *,
    shape: tuple[int, ...] | None = None,
) -> Array:
    """Apply `function`, which changes its argument in place, to blocks of whole rows of `x`.

    Rows run along the last axis. The result goes to the buffer `out[name]` if there is one.
    """
    result = out.get(name)
    if result is None:
        result = xp.empty(x.shape if shape is None else shape, dtype=x.dtype)
    width = x.shape[-1]
    source, target = x.reshape(-1, width), result.reshape(-1, width)
    dtype = working_dtype(x)
    for span in spans(xp, len(source), width * dtype.itemsize):
        if dtype == x.dtype:
            xp.copyto(target[span], source[span])
            function(target[span])
        else:
            block = source[span].astype(dtype)
            function(block)
            target[span] = block
    return result
