"""Kernels that a test can hold while they have their inputs, or that fail with them in hand."""

import os
import time
from pathlib import Path

from enclave_worker.errors import DomainError
from enclave_worker.kernels.spec import Array, Arrays, Namespace, Values, kernel, number

GATE = "RESIDUE_GATE"
"""Environment variable: the file that ends every wait."""

ODD_ARRAYS, ODD_LENGTH = 20, 201

_PATTERN = {"x": "float64[n]"}
_FACTOR = (number("factor", "times", default=2.0),)


def _wait() -> None:
    gate = Path(os.environ[GATE])
    deadline = time.monotonic() + 60
    while not gate.exists() and time.monotonic() < deadline:
        time.sleep(0.01)


def _product(xp: Namespace, inputs: Arrays, parameters: Values) -> Array:
    # Large and small temporaries of its own, in the heap, as third parties' kernels make them.
    whole = inputs["x"] * parameters["factor"]
    pieces = [whole[start : start + 8] + 0.0 for start in range(0, min(len(whole), 512), 8)]
    return xp.where(xp.concatenate(pieces).sum() > 0, whole, whole)


@kernel(
    "residue.hold",
    summary="y = factor*x, when the gate opens",
    inputs=_PATTERN,
    outputs={"y": "float64[n]"},
    parameters=_FACTOR,
)
def hold(xp: Namespace, inputs: Arrays, parameters: Values, _out: Arrays) -> Arrays:
    y = _product(xp, inputs, parameters)
    _wait()
    return {"y": y}


@kernel(
    "residue.fail",
    summary="computes, waits and fails",
    inputs=_PATTERN,
    outputs={"y": "float64[n]"},
    parameters=_FACTOR,
)
def fail(xp: Namespace, inputs: Arrays, parameters: Values, _out: Arrays) -> Arrays:
    y = _product(xp, inputs, parameters)
    _wait()
    raise DomainError(f"none of {y.tolist()} will do")


@kernel(
    "residue.crash",
    summary="computes, waits and crashes",
    inputs=_PATTERN,
    outputs={"y": "float64[n]"},
    parameters=_FACTOR,
)
def crash(xp: Namespace, inputs: Arrays, parameters: Values, _out: Arrays) -> Arrays:
    y = _product(xp, inputs, parameters)
    _wait()
    raise RuntimeError(f"the values are {y.tolist()}")


@kernel(
    "residue.odd",
    summary="y = factor*x beside arrays with an odd number of elements",
    inputs=_PATTERN,
    outputs={"y": "float64[n]"},
    parameters=_FACTOR,
)
def odd(xp: Namespace, inputs: Arrays, parameters: Values, _out: Arrays) -> Arrays:
    whole = inputs["x"] * parameters["factor"]
    # Every other one first, so that freed blocks do not just grow into one.
    arrays = [whole[:ODD_LENGTH] + 0.0 for _ in range(ODD_ARRAYS)]
    del arrays[::2]
    del arrays
    return {"y": whole}
