"""Descriptive statistics by column, in double precision whatever the dtype of the data."""

import numpy as np

from enclave_worker.errors import DomainError, NotFiniteError
from enclave_worker.kernels.blocks import FLOATS, rowwise, spans
from enclave_worker.kernels.spec import (
    Array,
    Arrays,
    Namespace,
    Values,
    choice,
    deterministic,
    integer,
    kernel,
    number,
)

NUMBERS = (*FLOATS, "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")

_DDOF = integer("ddof", "divide by n - ddof", default=0, minimum=0, maximum=1)


@deterministic
@kernel(
    "stats.describe",
    summary="Mean, deviation, extremes and quartiles of each column.",
    types={"T": NUMBERS},
    inputs={"x": "T[n, d]"},
    outputs={
        "mean": "float64[d]",
        "std": "float64[d]",
        "minimum": "T[d]",
        "lower_quartile": "float64[d]",
        "median": "float64[d]",
        "upper_quartile": "float64[d]",
        "maximum": "T[d]",
    },
    parameters=(_DDOF,),
    rules=("ddof+1 <= n",),
)
def describe(xp: Namespace, inputs: Arrays, parameters: Values, _out: Arrays) -> Arrays:
    """Two passes for the moments and one sort for the quartiles."""
    x = inputs["x"]
    mean, deviation = _moments(xp, x, parameters["ddof"])
    ordered = xp.sort(x, axis=0)
    # A column with NaN has no quartiles; sorting put its NaN last.
    whole = ordered[-1] == ordered[-1]
    lower, median, upper = (
        xp.where(whole, _quantile(xp, ordered, quarter / 4), np.nan) for quarter in (1, 2, 3)
    )
    return {
        "mean": mean,
        "std": deviation,
        "minimum": x.min(axis=0),
        "lower_quartile": lower,
        "median": median,
        "upper_quartile": upper,
        "maximum": x.max(axis=0),
    }


@deterministic
@kernel(
    "stats.histogram",
    summary="Counts of x in equal bins; each but the last excludes its upper edge.",
    types={"T": NUMBERS},
    inputs={"x": "T[...]"},
    outputs={"counts": "int64[bins]", "edges": "float64[bins+1]"},
    parameters=(
        integer("bins", "number of bins", default=10, minimum=1, maximum=1 << 24),
        choice("span", "from smallest to largest value, or as given", choices=("data", "given")),
        number("lower", "first edge when the span is given", default=0.0),
        number("upper", "last edge when the span is given", default=1.0),
    ),
)
def histogram(xp: Namespace, inputs: Arrays, parameters: Values, _out: Arrays) -> Arrays:
    """Find each value's bin among the edges; values outside a given span count nowhere."""
    x, bins = inputs["x"].reshape(-1), parameters["bins"]
    lower, upper = parameters["lower"], parameters["upper"]
    if parameters["span"] == "data":
        lower, upper = float(x.min()), float(x.max())
        if not np.isfinite(upper - lower):
            raise NotFiniteError("a histogram from smallest to largest needs finite numbers")
        if lower == upper:
            lower, upper = lower - 0.5, upper + 0.5
    if not lower < upper or not np.isfinite(upper - lower):
        raise DomainError("the histogram's upper edge is not above its lower one")
    edges = lower + xp.arange(bins + 1, dtype=np.float64) * ((upper - lower) / bins)
    edges[-1] = upper
    counts = xp.zeros(bins, dtype=np.int64)
    for span in spans(xp, x.shape[0], 8):
        block = x[span].astype(np.float64)
        block = block[(block >= lower) & (block <= upper)]
        if block.shape[0] == 0:
            continue
        index = xp.minimum(xp.searchsorted(edges, block, side="right") - 1, bins - 1)
        counts += xp.bincount(index, minlength=bins)
    return {"counts": counts, "edges": edges}


@deterministic
@kernel(
    "stats.standardize",
    summary="Columns to mean 0 and deviation 1; a constant column becomes 0 with scale 1.",
    types={"T": FLOATS},
    inputs={"x": "T[n, d]"},
    outputs={"z": "T[n, d]", "mean": "T[d]", "scale": "T[d]"},
    parameters=(_DDOF,),
    rules=("ddof+1 <= n",),
)
def standardize(xp: Namespace, inputs: Arrays, parameters: Values, out: Arrays) -> Arrays:
    """Measure, round to the dtype, then do exactly what `stats.rescale` does with the outcome."""
    x = inputs["x"]
    mean, scale = _moments(xp, x, parameters["ddof"])
    lowest = x.min(axis=0)
    # Decided by the values, not by the deviation: rounding leaves that of 0.1, 0.1, 0.1 above 0.
    constant = lowest == x.max(axis=0)
    mean = xp.where(constant, lowest, mean).astype(x.dtype)
    scale = xp.where(constant, 1, scale).astype(x.dtype)
    scale = xp.where(scale == 0, 1, scale).astype(x.dtype)
    return {"z": _rescale(xp, x, mean, scale, out), "mean": mean, "scale": scale}


@deterministic
@kernel(
    "stats.rescale",
    summary="z = (x - mean) / scale by column: new rows on the scale of stats.standardize.",
    types={"T": FLOATS},
    inputs={"x": "T[n, d]", "mean": "T[d]", "scale": "T[d]"},
    outputs={"z": "T[n, d]"},
)
def rescale(xp: Namespace, inputs: Arrays, _parameters: Values, out: Arrays) -> Arrays:
    """Shift and divide."""
    return {"z": _rescale(xp, inputs["x"], inputs["mean"], inputs["scale"], out)}


def _rescale(xp: Namespace, x: Array, mean: Array, scale: Array, out: Arrays) -> Array:
    def block(rows: Array) -> None:
        xp.subtract(rows, mean, out=rows)
        xp.divide(rows, scale, out=rows)

    return rowwise(xp, block, x, out, "z")


def _moments(xp: Namespace, x: Array, ddof: int) -> tuple[Array, Array]:
    """Return mean and deviation of each column: two passes, corrected for the mean's rounding."""
    count, width = x.shape
    total = xp.zeros(width, dtype=np.float64)
    for span in spans(xp, count, width * 8):
        total += x[span].sum(axis=0, dtype=np.float64)
    mean = total / count
    rest, squares = xp.zeros(width, dtype=np.float64), xp.zeros(width, dtype=np.float64)
    for span in spans(xp, count, width * 8):
        centred = x[span] - mean
        rest += centred.sum(axis=0)
        squares += xp.multiply(centred, centred, out=centred).sum(axis=0)
    # Chan, Golub, LeVeque 1983, (1.7): what the rounded mean left over, taken out again.
    variance = xp.maximum(squares - rest * rest / count, 0) / (count - ddof)
    # An infinite mean stays one: what it leaves over is NaN.
    return xp.where(xp.isfinite(mean), mean + rest / count, mean), xp.sqrt(variance)


def _quantile(xp: Namespace, ordered: Array, part: float) -> Array:
    """Interpolate between the two neighbours of the position, as NumPy's default method does."""
    position = part * (ordered.shape[0] - 1)
    below = int(position)
    above = min(below + 1, ordered.shape[0] - 1)
    low, high = ordered[below].astype(np.float64), ordered[above].astype(np.float64)
    # Equal neighbours are kept as they are: infinity minus infinity is not zero.
    return xp.where(low == high, low, low + (high - low) * (position - below))
