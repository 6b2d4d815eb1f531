"""An expression as one CUDA kernel: CUDA C made from the parsed nodes, never from the text.

Every word of the code comes from a table below or is a letter and a number that are counted here;
constants are arguments, so that the code holds nothing that a client wrote but the structure. Tests
read the code back with a grammar of a few words, and run it on the processor against NumPy.

Two things are C's and not NumPy's, and are written around: the overflow of signed integers is
undefined in C, so integers are computed as unsigned; and `--fmad=false` keeps a·b+c two roundings,
as on the processor: with one, `a*b - a*b` is not zero. The kernel waits for memory either way.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from threading import Lock
from typing import Any, Final

from attrs import frozen

from attestation.programs.expressions import (
    CONSTANT,
    INPUT,
    OPERATIONS,
    TRUTH,
    Expression,
    Node,
)
from enclave_worker.kernels.blocks import working_dtype
from enclave_worker.kernels.spec import Array, Arrays, Namespace

OPTIONS: Final = ("--fmad=false",)
"""For the compiler. Exact division and roots, and subnormal numbers are its default."""

_KEPT: Final = 64
"""Compiled expressions that a process keeps: whoever sends ever new ones pays for each himself."""

_TYPES: Final[Mapping[str, tuple[str, str]]] = {
    "float16": ("float", "float"),
    "float32": ("float", "float"),
    "float64": ("double", "double"),
    "int32": ("int", "unsigned int"),
    "int64": ("long long", "unsigned long long"),
}
"""Dtype to the C type of its numbers, and the one that they are added and multiplied in."""

_WRAPPING: Final[Mapping[str, str]] = {"add": "+", "subtract": "-", "multiply": "*"}
_SIGNS: Final[Mapping[str, str]] = {
    "divide": "/",
    "less": "<",
    "less_equal": "<=",
    "greater": ">",
    "greater_equal": ">=",
    "equal": "==",
    "not_equal": "!=",
    "and": "&&",
    "or": "||",
}
_FUNCTIONS: Final[Mapping[str, str]] = {
    name: name
    for name in (
        *("floor", "ceil", "sqrt", "exp", "expm1", "log", "log1p", "sin", "cos", "tanh", "erf"),
    )
} | {"abs": "fabs"}
"""Of the C library, which CUDA has in double precision, and in single with an `f` at the end."""


@frozen
class Source:
    """What an `ElementwiseKernel` is made of: its parameters, its result and the code between."""

    inputs: str
    output: str
    code: str


def evaluate(xp: Namespace, expression: Expression, inputs: Arrays, out: Array) -> None:
    """Write the expression of the flat device arrays `inputs` into `out`."""
    run = _COMPILED.find(xp, source(expression, out.dtype.name))
    number = working_dtype(out).type
    constants = [number(n.value) for n in expression.nodes if n.operation == CONSTANT]
    run(*(inputs[name] for name in expression.names), *constants, out)


def source(expression: Expression, dtype: str) -> Source:
    """Return the kernel of an expression that was checked for inputs of `dtype`."""
    number, unsigned = _TYPES[dtype]
    lines: list[str] = []
    inputs: list[str] = []
    constants: list[str] = []
    for at, node in enumerate(expression.nodes):
        if node.operation == INPUT:
            body = f"static_cast<{number}>(x{len(inputs)})"
            inputs.append(f"{dtype} x{len(inputs)}")
        elif node.operation == CONSTANT:
            body = f"k{len(constants)}"
            constants.append(f"{'float32' if dtype == 'float16' else dtype} {body}")
        else:
            body = _body(node, number, unsigned)
        lines.append(f"const {'bool' if _is_truth(node) else number} v{at} = {body};")
    lines.append(f"y = v{len(expression.nodes) - 1};")
    return Source(", ".join(inputs + constants), f"{dtype} y", "\n".join(lines))


class _Compiled:
    """The kernels compiled last. What falls out is unloaded: CuPy keeps nothing else of it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._kernels: OrderedDict[tuple[int, Source], Callable[..., Any]] = OrderedDict()

    def find(self, xp: Namespace, made: Source) -> Callable[..., Any]:
        """Return the kernel of `made`, for any device: CuPy compiles at the first call on each."""
        key = (id(xp), made)
        with self._lock:
            if key not in self._kernels:
                self._kernels[key] = xp.ElementwiseKernel(
                    made.inputs, made.output, made.code, "expression", options=OPTIONS
                )
            self._kernels.move_to_end(key)
            while len(self._kernels) > _KEPT:
                self._kernels.popitem(last=False)
            return self._kernels[key]


_COMPILED: Final = _Compiled()


def _body(node: Node, number: str, unsigned: str) -> str:
    operation, operands = node.operation, [f"v{operand}" for operand in node.operands]
    first, second, third = (*operands, "", "")[:3]
    if operation in _WRAPPING:
        if number != unsigned:
            first, second = (f"static_cast<{unsigned}>({each})" for each in (first, second))
        sum_or_product = f"{first} {_WRAPPING[operation]} {second}"
        return sum_or_product if number == unsigned else f"static_cast<{number}>({sum_or_product})"
    if operation in _SIGNS:
        return f"{first} {_SIGNS[operation]} {second}"
    if operation == "where":
        return f"{first} ? {second} : {third}"
    if operation == "not":
        return f"!{first}"
    return _ordered(operation, first, second, number) or _signed(operation, first, number, unsigned)


def _ordered(operation: str, first: str, second: str, number: str) -> str:
    """Return `max` and `min`, which in NumPy are NaN where either is."""
    if operation not in ("max", "min"):
        return ""
    sign = ">" if operation == "max" else "<"
    either = f"{first} {sign} {second} ? {first} : {second}"
    if number not in ("float", "double"):
        return either
    # A sum is NaN if one of its parts is.
    return f"({first} != {first} || {second} != {second}) ? {first} + {second} : ({either})"


def _signed(operation: str, first: str, number: str, unsigned: str) -> str:
    if number != unsigned:
        # Of the functions only these two are left for integers. The smallest has no positive twin
        # and stays what it is, as in NumPy.
        negative = f"static_cast<{number}>(-static_cast<{unsigned}>({first}))"
        return negative if operation == "negative" else f"{first} < 0 ? {negative} : {first}"
    if operation == "negative":
        return f"-{first}"
    return f"{_FUNCTIONS[operation]}{'f' if number == 'float' else ''}({first})"


def _is_truth(node: Node) -> bool:
    return node.operation in OPERATIONS and OPERATIONS[node.operation].gives == TRUTH
