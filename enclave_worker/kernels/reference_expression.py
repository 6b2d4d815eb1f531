"""The plain meaning of `expr.map`: Python's own parser, one number at a time."""

import ast
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

Arrays = dict[str, np.ndarray[Any, Any]]
Array = np.ndarray[Any, Any]


def expression_map(expression: str, **inputs: Array) -> Arrays:
    """Read the expression as Python, whose grammar has it too, and compute number by number."""
    tree = ast.parse(expression, mode="eval").body
    first = next(iter(inputs.values()))
    y = np.empty(first.shape, dtype=first.dtype)
    for index in np.ndindex(first.shape):
        values = {name: array[index].item() for name, array in inputs.items()}
        with np.errstate(all="ignore"):
            y[index] = _wrapped(_meaning(tree, values), first.dtype)
    return {"y": y}


def _meaning(node: ast.AST, values: Mapping[str, Any]) -> Any:
    def of(*parts: ast.AST) -> list[Any]:
        return [_meaning(part, values) for part in parts]

    match node:
        case ast.BoolOp():
            result = (all if isinstance(node.op, ast.And) else any)(of(*node.values))
        case ast.UnaryOp():
            (operand,) = of(node.operand)
            result = not operand if isinstance(node.op, ast.Not) else -operand
        case ast.Compare():
            result = _OPERATORS[type(node.ops[0])](*of(node.left, *node.comparators))
        case ast.BinOp():
            result = _OPERATORS[type(node.op)](*of(node.left, node.right))
        case ast.Call(func=ast.Name(id=name)):
            result = _MATHEMATICS[name](*of(*node.args))
        case ast.Name():
            result = values[node.id]
        case _:
            result = ast.literal_eval(node)
    return result


def _wrapped(value: Any, dtype: Any) -> Any:
    if dtype.kind != "i":
        return value
    half = 1 << (8 * dtype.itemsize - 1)
    return (value + half) % (2 * half) - half


def _larger(first: Any, second: Any) -> Any:
    return math.nan if math.isnan(first) or math.isnan(second) else max(first, second)


def _smaller(first: Any, second: Any) -> Any:
    return math.nan if math.isnan(first) or math.isnan(second) else min(first, second)


def _of_double(function: Callable[[Any], Any]) -> Callable[[Any], float]:
    return lambda x: float(function(np.float64(x)))


_OPERATORS: Final[Mapping[type[ast.AST], Callable[[Any, Any], Any]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: lambda a, b: float(np.float64(a) / np.float64(b)),
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_MATHEMATICS: Final[Mapping[str, Callable[..., Any]]] = {
    "abs": abs,
    "max": _larger,
    "min": _smaller,
    "clip": lambda x, low, high: _smaller(_larger(x, low), high),
    "where": lambda condition, first, second: first if condition else second,
    "erf": math.erf,
    **{
        name: _of_double(getattr(np, name))
        for name in ("floor", "ceil", "sqrt", "exp", "expm1", "log", "log1p", "sin", "cos", "tanh")
    },
}
