"""An expression on a processor: node after node, a block that fits the cache at a time.

Blocks of intermediate results are few (as many as are needed at once, not one per node), made once
and zeroed at the end: they hold what inputs become.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from attestation.programs.expressions import (
    CONSTANT,
    INPUT,
    NUMBER,
    OPERATIONS,
    TRUTH,
    Expression,
    Node,
)
from enclave_worker.kernels.blocks import CACHE_BYTES, spans, working_dtype
from enclave_worker.kernels.normal import erfc
from enclave_worker.kernels.spec import Array, Arrays, Namespace

_UFUNCS: Final[Mapping[str, Callable[..., Any]]] = {
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "divide": np.divide,
    "negative": np.negative,
    "less": np.less,
    "less_equal": np.less_equal,
    "greater": np.greater,
    "greater_equal": np.greater_equal,
    "equal": np.equal,
    "not_equal": np.not_equal,
    "and": np.logical_and,
    "or": np.logical_or,
    "not": np.logical_not,
    "abs": np.absolute,
    "max": np.maximum,
    "min": np.minimum,
    "floor": np.floor,
    "ceil": np.ceil,
    "sqrt": np.sqrt,
    "exp": np.exp,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "sin": np.sin,
    "cos": np.cos,
    "tanh": np.tanh,
}


_COPIES: Final = frozenset(["where", "erf"])
"""Computed in two steps, so that the result cannot lie where an operand does."""


_Place = tuple[str, int]
"""Kind and number of a block of intermediate results."""


def evaluate(xp: Namespace, expression: Expression, inputs: Arrays, out: Array) -> None:
    """Write the expression of the flat arrays `inputs` into `out`."""
    dtype = working_dtype(out)
    places = _places(expression, converted=dtype != out.dtype)
    length = min(len(out), max(1, CACHE_BYTES // dtype.itemsize))
    scratch = {
        place: np.empty(length, dtype=np.bool_ if place[0] == TRUTH else dtype)
        for place in set(places)
        if place is not None
    }
    try:
        for span in spans(xp, len(out), dtype.itemsize):
            values: list[Any] = []
            for node, place in zip(expression.nodes, places, strict=True):
                if node.operation == CONSTANT:
                    values.append(dtype.type(node.value))
                elif place is None:
                    values.append(inputs[node.name][span])
                else:
                    block = scratch[place][: span.stop - span.start]
                    _compute(node, values, inputs, span, block)
                    values.append(block)
            out[span] = values[-1]
    finally:
        for block in scratch.values():
            block.fill(0)


def _compute(node: Node, values: list[Any], inputs: Arrays, span: slice, block: Array) -> None:
    operands = [values[index] for index in node.operands]
    if node.operation == INPUT:
        block[...] = inputs[node.name][span]
    elif node.operation == "where":
        np.copyto(block, operands[2])
        np.copyto(block, operands[1], where=operands[0])
    elif node.operation == "erf":
        np.subtract(1, erfc(np, np.asarray(np.abs(operands[0]))), out=block)
        np.copysign(block, operands[0], out=block)
    else:
        _UFUNCS[node.operation](*operands, out=block)


def _places(expression: Expression, *, converted: bool) -> list[_Place | None]:
    """Give each node that is computed a block, one that no later node reads any more.

    Inputs need one only where they are `converted` to another dtype, constants never.
    """
    last = {operand: at for at, node in enumerate(expression.nodes) for operand in node.operands}
    places: list[_Place | None] = []
    free: dict[str, list[_Place]] = {NUMBER: [], TRUTH: []}
    made = 0
    for at, node in enumerate(expression.nodes):
        if node.operation == CONSTANT or (node.operation == INPUT and not converted):
            places.append(None)
            continue
        ended = [places[operand] for operand in set(node.operands) if last[operand] == at]
        given_back = [place for place in ended if place is not None]
        if node.operation not in _COPIES:
            _give_back(free, given_back)
        kind = TRUTH if _is_truth(node) else NUMBER
        if free[kind]:
            places.append(free[kind].pop())
        else:
            places.append((kind, made))
            made += 1
        if node.operation in _COPIES:
            _give_back(free, given_back)
    return places


def _give_back(free: dict[str, list[_Place]], places: list[_Place]) -> None:
    for place in places:
        free[place[0]].append(place)


def _is_truth(node: Node) -> bool:
    return node.operation != INPUT and OPERATIONS[node.operation].gives == TRUTH
