"""Convolution as matrix products: patches of the images become columns, a block of them at a time.

The columns of a whole batch would take as many times the images' memory as a filter has taps, so
they are made for as many images, or rows of one, as fit a block. The border is never stored: taps
that fall outside leave zeros in the columns.
"""

import numpy as np

from enclave_worker.kernels.blocks import FLOATS, MATRIX_BYTES, spans, working_dtype
from enclave_worker.kernels.spec import (
    Array,
    Arrays,
    Namespace,
    Values,
    deterministic,
    integer,
    kernel,
)


@deterministic
@kernel(
    "nn.conv2d",
    summary="Cross-correlation of images x with filters, plus bias; channels before rows.",
    types={"T": FLOATS},
    inputs={"x": "T[..., c, h, w]", "weight": "T[o, i, p, q]", "bias": "T[o]?"},
    outputs={
        "y": "T[..., o, div(h+2*padding-p, stride)+1, div(w+2*padding-q, stride)+1]",
    },
    parameters=(
        integer("stride", "steps between outputs, down and across", default=1, minimum=1),
        integer("padding", "zeros around each image", default=0, minimum=0),
        integer("groups", "parts of the channels with filters of their own", default=1, minimum=1),
    ),
    rules=(
        "c == groups*i",
        "mod(o, groups) == 0",
        "p <= h+2*padding",
        "q <= w+2*padding",
    ),
)
def conv2d(xp: Namespace, inputs: Arrays, parameters: Values, out: Arrays) -> Arrays:
    """Multiply filters with patches, group by group, in the working dtype."""
    x, weight, bias = inputs["x"], inputs["weight"], inputs.get("bias")
    groups, padding, stride = (parameters[name] for name in ("groups", "padding", "stride"))
    count, taps, (down, across) = weight.shape[0], weight[0].size, weight.shape[2:]
    rows, columns = (
        (size + 2 * padding - reach) // stride + 1
        for size, reach in zip(x.shape[-2:], (down, across), strict=True)
    )
    dtype = working_dtype(x)
    filters = weight.astype(dtype).reshape(groups, count // groups, taps)
    shape = (*x.shape[:-3], count, rows, columns)
    y = out["y"] if "y" in out else xp.empty(shape, dtype=x.dtype)
    images, target = x.reshape(-1, *x.shape[-3:]), y.reshape(-1, *shape[-3:])
    row_bytes = groups * taps * columns * dtype.itemsize
    for batch in spans(xp, len(images), row_bytes * rows, block_bytes=MATRIX_BYTES):
        # All rows of several images fit: that is why there are several.
        each = row_bytes if batch.stop - batch.start == 1 else 1
        for span in spans(xp, rows, each, block_bytes=MATRIX_BYTES):
            height, seen = span.stop - span.start, images[batch]
            patches = xp.zeros((*seen.shape[:2], down, across, height, columns), dtype=dtype)
            _fill(patches, seen, span.start, padding, stride)
            flat = patches.reshape(len(patches), groups, taps, -1)
            products = xp.matmul(filters, flat).reshape(len(patches), count, -1, columns)
            if bias is not None:
                xp.add(products, bias.astype(dtype)[:, None, None], out=products)
            target[batch, :, span] = products
    return {"y": y}


def _fill(patches: Array, images: Array, first: int, padding: int, stride: int) -> None:
    """Copy, for each tap of a filter, what it sees of the images from output row `first` on."""
    height, width = images.shape[-2:]
    down, across, rows, columns = patches.shape[2:]
    for tap in np.ndindex(down, across):
        top, left = tap[0] - padding + first * stride, tap[1] - padding
        above, below = _inside(top, stride, height, rows)
        before, behind = _inside(left, stride, width, columns)
        if above < below and before < behind:
            patches[:, :, tap[0], tap[1], above:below, before:behind] = images[
                :,
                :,
                top + above * stride : top + (below - 1) * stride + 1 : stride,
                left + before * stride : left + (behind - 1) * stride + 1 : stride,
            ]


def _inside(offset: int, stride: int, size: int, count: int) -> tuple[int, int]:
    """Return the range of the `count` places offset, offset + stride, ... that are in the image."""
    return max(0, -(offset // stride)), min(count, (size - 1 - offset) // stride + 1)
