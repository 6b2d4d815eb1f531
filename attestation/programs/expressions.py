"""The language of elementwise expressions: `where(a > 0, a, 0.01*a) + max(b, 1)`.

    expression = value with these operators, the loosest first, from left to right
                 "or"  "and"  "not"  "<" "<=" ">" ">=" "==" "!="  "+" "-"  "*" "/"  unary "-"
    value      = number | name | function "(" expression { "," expression } ")" | "(" expression ")"
    function   = abs | ceil | clip | cos | erf | exp | expm1 | floor | log | log1p | max | min
               | sin | sqrt | tanh | where
    name       = letter { letter | digit | "_" }                  an input of the kernel
    number     = digits [ "." digits ] [ "e" [sign] digits ]

Every value is a number of the inputs' dtype or a truth (what comparisons give and `where` takes);
an expression is a number. It has no loops, no indices, no assignments and no names but the inputs,
so its cost is known from its text. Expressions are bytes from outside: `parse` raises
`ExpressionError` for every bad text and nothing else, and never quotes it: it is confidential.

The parser makes no tree but the list of its nodes, each after those it reads, equal ones once. So
whoever evaluates or translates one walks a list; no depth of nesting makes them recurse.
"""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Final

from attrs import define, field, frozen

from attestation import limits
from attestation.programs.errors import (
    DtypeMismatchError,
    ExpressionError,
    InputMissingError,
    InputUnusedError,
)

NUMBER: Final = "number"
TRUTH: Final = "truth"
INPUT: Final = "input"
CONSTANT: Final = "constant"


@frozen
class Operation:
    """What an operation takes and gives, what it costs beside an addition, and for which dtypes."""

    takes: tuple[str, ...]
    gives: str = NUMBER
    cost: int = 1
    floats_only: bool = False


_ONE: Final = (NUMBER,)
_TWO: Final = (NUMBER, NUMBER)
_PAIR: Final = (TRUTH, TRUTH)

OPERATIONS: Final[Mapping[str, Operation]] = {
    "add": Operation(_TWO),
    "subtract": Operation(_TWO),
    "multiply": Operation(_TWO),
    "divide": Operation(_TWO, cost=4, floats_only=True),
    "negative": Operation(_ONE),
    "less": Operation(_TWO, TRUTH),
    "less_equal": Operation(_TWO, TRUTH),
    "greater": Operation(_TWO, TRUTH),
    "greater_equal": Operation(_TWO, TRUTH),
    "equal": Operation(_TWO, TRUTH),
    "not_equal": Operation(_TWO, TRUTH),
    "and": Operation(_PAIR, TRUTH),
    "or": Operation(_PAIR, TRUTH),
    "not": Operation((TRUTH,), TRUTH),
    "abs": Operation(_ONE),
    "max": Operation(_TWO),
    "min": Operation(_TWO),
    "where": Operation((TRUTH, NUMBER, NUMBER)),
    "floor": Operation(_ONE, floats_only=True),
    "ceil": Operation(_ONE, floats_only=True),
    "sqrt": Operation(_ONE, cost=4, floats_only=True),
    "exp": Operation(_ONE, cost=8, floats_only=True),
    "expm1": Operation(_ONE, cost=8, floats_only=True),
    "log": Operation(_ONE, cost=8, floats_only=True),
    "log1p": Operation(_ONE, cost=8, floats_only=True),
    "sin": Operation(_ONE, cost=12, floats_only=True),
    "cos": Operation(_ONE, cost=12, floats_only=True),
    "tanh": Operation(_ONE, cost=12, floats_only=True),
    "erf": Operation(_ONE, cost=32, floats_only=True),
}
"""Every operation there is. Costs are relative and rounded up: they bound, they do not predict."""

_FLOATS_ONLY: Final = frozenset(name for name, op in OPERATIONS.items() if op.floats_only)
FUNCTIONS: Final = frozenset(
    {"abs", "ceil", "cos", "erf", "exp", "expm1", "floor", "log", "log1p", "max", "min"}
    | {"clip", "sin", "sqrt", "tanh", "where"}
)
DTYPES: Final = ("float16", "float32", "float64", "int32", "int64")
"""What an expression computes in. float16 is computed in float32 and rounded once, at the end."""

_BINARY: Final[Mapping[str, tuple[int, str]]] = {
    "or": (1, "or"),
    "and": (2, "and"),
    "<": (4, "less"),
    "<=": (4, "less_equal"),
    ">": (4, "greater"),
    ">=": (4, "greater_equal"),
    "==": (4, "equal"),
    "!=": (4, "not_equal"),
    "+": (5, "add"),
    "-": (5, "subtract"),
    "*": (6, "multiply"),
    "/": (6, "divide"),
}
_NOT_BINDS: Final = 4
_SIGN_BINDS: Final = 7
_TOKEN: Final = re.compile(
    r"[ \t\r\n]*(?:"
    r"(?P<number>[0-9]{1,24}(?P<point>\.[0-9]{0,24})?(?P<power>[eE][+-]?[0-9]{1,4})?)"
    r"|(?P<word>[A-Za-z][A-Za-z0-9_]*)"
    r"|(?P<sign><=|>=|==|!=|[-+*/<>(),])"
    r")",
    re.ASCII,
)
_LARGEST: Final[Mapping[str, float]] = {
    "float16": (2 - 2.0**-23) * 2.0**127,
    "float32": (2 - 2.0**-23) * 2.0**127,
    "float64": math.inf,
}
_BITS: Final[Mapping[str, int]] = {"int32": 31, "int64": 63}


@frozen
class Node:
    """One operation on earlier nodes; or an input, by its name; or a constant."""

    operation: str
    operands: tuple[int, ...] = ()
    name: str = ""
    value: int | float = field(default=0, repr=False)


@frozen
class Expression:
    """A parsed expression: nodes in an order in which they can be computed, the result last."""

    nodes: tuple[Node, ...] = field(repr=False)

    @property
    def names(self) -> tuple[str, ...]:
        """The inputs it reads, in the order in which it first does."""
        return tuple(node.name for node in self.nodes if node.operation == INPUT)

    @property
    def cost(self) -> int:
        """What one element costs, in additions."""
        return sum(OPERATIONS[n.operation].cost for n in self.nodes if n.operation in OPERATIONS)

    def check(self, dtypes: Mapping[str, str]) -> None:
        """Refuse inputs that it does not fit; `dtypes` has the dtype of each that is given.

        Raises `InputMissingError`, `InputUnusedError`, `DtypeMismatchError` or `ExpressionError`.
        """
        names = self.names
        for name in names:
            if name not in dtypes:
                raise InputMissingError("the expression reads an input that is not given")
        for name in dtypes:
            if name not in names:
                raise InputUnusedError(f"the expression does not read input {name!r}")
        found = set(dtypes.values())
        if len(found) != 1 or not found <= set(DTYPES):
            raise DtypeMismatchError(f"an expression computes in one of {', '.join(DTYPES)}")
        (dtype,) = found
        for node in self.nodes:
            if node.operation == CONSTANT:
                _check_constant(node.value, dtype)
            elif dtype in _BITS and node.operation in _FLOATS_ONLY:
                raise DtypeMismatchError(f"{node.operation} is not for {dtype}")


def _check_constant(value: int | float, dtype: str) -> None:
    if dtype not in _BITS:
        if abs(value) > _LARGEST[dtype]:
            raise ExpressionError(f"a constant is too large for {dtype}")
    elif not isinstance(value, int):
        raise ExpressionError(f"a constant is not a whole number, and the inputs are {dtype}")
    elif value.bit_length() > _BITS[dtype]:
        raise ExpressionError(f"a constant is too large for {dtype}")


def parse(text: str) -> Expression:
    """Parse an expression, or raise `ExpressionError`."""
    if len(text) > limits.EXPRESSION_CHARACTERS:
        raise ExpressionError(f"more than {limits.EXPRESSION_CHARACTERS} characters")
    return _Parser(list(_split(text))).parse()


@frozen
class _Token:
    """A word of an expression: its kind (number, word, sign or end), text and place."""

    kind: str
    text: str
    at: int


def _split(text: str) -> Iterator[_Token]:
    offset, end = 0, len(text.rstrip(" \t\r\n"))
    while offset < end:
        match = _TOKEN.match(text, offset)
        if match is None:
            blank = len(text[offset:]) - len(text[offset:].lstrip(" \t\r\n"))
            raise ExpressionError(f"at place {offset + blank + 1}: an unexpected character")
        kind = next(kind for kind in ("number", "word", "sign") if match[kind] is not None)
        yield _Token(kind, match[kind], match.start(kind) + 1)
        offset = match.end()
    yield _Token("end", "", end + 1)


@define
class _Parser:
    """Precedence climbing over the tokens, into a list of nodes."""

    _tokens: list[_Token]
    _next: int = 0
    _depth: int = 0
    _cost: int = 0
    _nodes: dict[tuple[str, tuple[int, ...], str], int] = field(factory=dict)
    _made: list[Node] = field(factory=list)
    _kinds: list[str] = field(factory=list)

    def parse(self) -> Expression:
        """Return the whole text's expression."""
        root = self._expression(0)
        if self._peek().kind != "end":
            raise self._wrong("nothing more was expected")
        if self._kinds[root] != NUMBER:
            raise ExpressionError("a comparison is no number; write where(a > b, 1, 0)")
        return Expression(tuple(self._made))

    def _expression(self, loosest: int) -> int:
        self._depth += 1
        if self._depth > limits.EXPRESSION_DEPTH:
            raise self._wrong(f"nested deeper than {limits.EXPRESSION_DEPTH}")
        left = self._operand()
        while (binding := _BINARY.get(self._peek().text)) and binding[0] >= loosest:
            self._next += 1
            left = self._make(binding[1], left, self._expression(binding[0] + 1))
        self._depth -= 1
        return left

    def _operand(self) -> int:
        token = self._peek()
        self._next += 1
        if token.kind == "number":
            return self._constant(token, 1)
        if token.text == "-" and self._peek().kind == "number":
            self._next += 1
            return self._constant(self._tokens[self._next - 1], -1)
        if token.text == "-":
            return self._make("negative", self._expression(_SIGN_BINDS))
        if token.text == "not":
            return self._make("not", self._expression(_NOT_BINDS))
        if token.text == "(":
            inner = self._expression(0)
            self._expect(")")
            return inner
        if token.kind == "word" and token.text not in _BINARY:
            return self._call(token) if self._accept("(") else self._input(token)
        self._next -= 1
        raise self._wrong("a number, a name or a function was expected")

    def _call(self, function: _Token) -> int:
        if function.text not in FUNCTIONS:
            raise self._wrong("there is no such function", function)
        operands = [self._expression(0)]
        while self._accept(","):
            operands.append(self._expression(0))
        self._expect(")")
        if function.text == "clip":
            if len(operands) != 3:
                raise self._wrong("clip takes a number, a lower and an upper bound", function)
            return self._make("min", self._make("max", *operands[:2]), operands[2])
        return self._make(function.text, *operands)

    def _input(self, token: _Token) -> int:
        if token.text in FUNCTIONS or len(token.text) > limits.NAME_CHARACTERS:
            raise self._wrong("this is not the name of an input", token)
        return self._intern(Node(INPUT, name=token.text), NUMBER)

    def _constant(self, token: _Token, sign: int) -> int:
        value = int(token.text) if token.text.isdecimal() else float(token.text)
        if not math.isfinite(value):
            raise self._wrong("a number is too large", token)
        return self._intern(Node(CONSTANT, value=sign * value), NUMBER)

    def _make(self, operation: str, *operands: int) -> int:
        meaning = OPERATIONS[operation]
        if len(operands) != len(meaning.takes):
            raise self._wrong(f"{operation} takes {len(meaning.takes)}, not {len(operands)}")
        for operand, kind in zip(operands, meaning.takes, strict=True):
            if self._kinds[operand] != kind:
                raise self._wrong(f"{operation} takes a {kind} here")
        return self._intern(Node(operation, operands), meaning.gives)

    def _intern(self, node: Node, kind: str) -> int:
        # By its text: 1 equals 1.0, and 0.0 equals -0.0, but they are not the same constant.
        key = (node.operation, node.operands, node.name or repr(node.value))
        if key not in self._nodes:
            if len(self._made) >= limits.EXPRESSION_NODES:
                raise self._wrong(f"more than {limits.EXPRESSION_NODES} operations and operands")
            self._nodes[key] = len(self._made)
            self._made.append(node)
            self._kinds.append(kind)
            self._charge(node)
        return self._nodes[key]

    def _charge(self, node: Node) -> None:
        if node.operation == CONSTANT:
            constants = sum(each.operation == CONSTANT for each in self._made)
            if constants > limits.EXPRESSION_CONSTANTS:
                raise self._wrong(f"more than {limits.EXPRESSION_CONSTANTS} different constants")
        elif node.operation != INPUT:
            self._cost += OPERATIONS[node.operation].cost
            if self._cost > limits.EXPRESSION_COST:
                raise self._wrong(f"it costs more than {limits.EXPRESSION_COST} additions")

    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _accept(self, sign: str) -> bool:
        if self._peek().text != sign:
            return False
        self._next += 1
        return True

    def _expect(self, sign: str) -> None:
        if not self._accept(sign):
            raise self._wrong(f"{sign!r} was expected")

    def _wrong(self, problem: str, token: _Token | None = None) -> ExpressionError:
        return ExpressionError(f"at place {(token or self._peek()).at}: {problem}")
