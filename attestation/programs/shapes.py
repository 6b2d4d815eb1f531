"""The language in which a kernel says what it takes and makes: `T[..., m, k]`.

    pattern    = type "[" [ dims ] "]" [ "?" ]
    type       = name | "complex(" name ")" | "real(" name ")"      name: type variable or dtype
    dims       = "..." { "," dim } | dim { "," dim }
    dim        = sum | function "(" sum "," sum ")" [ ("+" | "-") integer ]
    function   = "min" | "div" | "mod"                              rounded down, as in Python
    sum        = product { ("+" | "-") product }
    product    = factor [ "*" factor ]
    factor     = integer | name                                     name: symbol or int parameter

Reading it left to right, a name met for the first time in an input, alone or with an integer added,
is bound to the size found there, and compared everywhere else. `...` stands for any number of
leading dimensions and is bound as a whole; an output that has it too is, along them, what the
kernel makes of each slice alone. An input with `?` may be left out; it binds no name that anything
else needs. Every size is at least one. The grammar is finite in depth on purpose: catalogues come
from workers, so patterns are bytes from outside and `parse` raises `DecodeError` for bad ones.
"""

import itertools
import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Final, TypeAlias

from attrs import define, field, frozen

from attestation import limits
from attestation.errors import DecodeError
from attestation.programs.errors import (
    DtypeMismatchError,
    EmptyTensorError,
    RuleBrokenError,
    ShapeMismatchError,
)
from attestation.sealing.tensor_spec import DTYPES, TensorSpec

PATTERN_CHARACTERS: Final = 256
_INTEGER_LIMIT: Final = 1 << 40

_TOKEN: Final = re.compile(
    r" *(\.\.\.|[A-Za-z][A-Za-z0-9_]*|[0-9]{1,13}|<=|==|[\[\](),+*?-])", re.ASCII
)
_COMPLEX: Final[Mapping[str, str]] = {
    "float16": "complex64",
    "float32": "complex64",
    "float64": "complex128",
    "complex64": "complex64",
    "complex128": "complex128",
}
_REAL: Final[Mapping[str, str]] = {
    "float16": "float16",
    "float32": "float32",
    "float64": "float64",
    "complex64": "float32",
    "complex128": "float64",
}
_FUNCTIONS: Final[Mapping[str, Callable[[int, int], int]]] = {
    "min": min,
    "div": operator.floordiv,
    "mod": operator.mod,
}
CONVERSIONS: Final[Mapping[str, Mapping[str, str]]] = {"complex": _COMPLEX, "real": _REAL}


@frozen
class Linear:
    """`name + offset`, or a plain number when there is no name."""

    name: str | None
    offset: int


@frozen
class Sum:
    """Products of at most two names each, with whole factors, and an offset."""

    terms: tuple[tuple[int, tuple[str, ...]], ...]
    offset: int


@frozen
class Call:
    """`function(first, second) + offset`."""

    function: str
    first: "Linear | Sum"
    second: "Linear | Sum"
    offset: int


Dim: TypeAlias = Linear | Sum | Call


@frozen
class Pattern:
    """A parsed pattern: dtype, optional conversion of it, and dimensions."""

    dtype: str
    conversion: str | None
    batched: bool
    dims: tuple[Dim, ...]
    optional: bool = False


@frozen
class Rule:
    """`left <= right` or `left == right` over sizes and parameters."""

    left: Dim
    relation: str
    right: Dim


def names_in(dim: Dim) -> Iterator[str]:
    """Yield the symbols and parameters that `dim` mentions."""
    if isinstance(dim, Linear):
        return iter(() if dim.name is None else (dim.name,))
    if isinstance(dim, Sum):
        return (name for _, names in dim.terms for name in names)
    return itertools.chain(names_in(dim.first), names_in(dim.second))


@lru_cache(maxsize=4096)
def parse(text: str) -> Pattern:
    """Parse a pattern, or raise `DecodeError`."""
    tokens = _Tokens(text)
    first = tokens.name()
    conversion = None
    if first in CONVERSIONS and tokens.accept("("):
        conversion, first = first, tokens.name()
        tokens.expect(")")
    tokens.expect("[")
    batched, dims = False, []
    if not tokens.accept("]"):
        if tokens.accept("..."):
            batched = True
        else:
            dims.append(_dim(tokens))
        while tokens.accept(","):
            dims.append(_dim(tokens))
        tokens.expect("]")
    optional = tokens.accept("?")
    tokens.finish()
    if len(dims) > limits.TENSOR_RANK:
        raise DecodeError(f"pattern {text!r} has more than {limits.TENSOR_RANK} dimensions")
    return Pattern(first, conversion, batched, tuple(dims), optional)


@lru_cache(maxsize=4096)
def parse_rule(text: str) -> Rule:
    """Parse a rule such as `k <= min(n, d)`, or raise `DecodeError`."""
    tokens = _Tokens(text)
    left = _dim(tokens)
    relation = "<=" if tokens.accept("<=") else "=="
    if relation == "==":
        tokens.expect("==")
    rule = Rule(left=left, relation=relation, right=_dim(tokens))
    tokens.finish()
    return rule


def _dim(tokens: "_Tokens") -> Dim:
    if tokens.peek() not in _FUNCTIONS:
        return _sum(tokens)
    function = tokens.name()
    tokens.expect("(")
    first = _sum(tokens)
    tokens.expect(",")
    second = _sum(tokens)
    tokens.expect(")")
    return Call(function, first, second, _offset(tokens))


def _sum(tokens: "_Tokens") -> Linear | Sum:
    terms, offset, sign = [], 0, 1
    while True:
        factor, names = _product(tokens)
        if names:
            terms.append((sign * factor, names))
        else:
            offset += sign * factor
        if not (plus := tokens.accept("+")) and not tokens.accept("-"):
            break
        sign = 1 if plus else -1
    if not terms:
        return Linear(None, offset)
    if len(terms) == 1 and terms[0][0] == 1 and len(terms[0][1]) == 1:
        return Linear(terms[0][1][0], offset)
    return Sum(tuple(terms), offset)


def _product(tokens: "_Tokens") -> tuple[int, tuple[str, ...]]:
    factor, names = 1, []
    for _ in range(2):
        number = tokens.accept_integer()
        if number is None:
            names.append(tokens.name())
        else:
            factor *= number
        if not tokens.accept("*"):
            return factor, tuple(names)
    raise DecodeError("a product has more than two factors")


def _offset(tokens: "_Tokens") -> int:
    sign = 1 if tokens.accept("+") else -1 if tokens.accept("-") else 0
    if sign == 0:
        return 0
    number = tokens.accept_integer()
    if number is None:
        raise DecodeError("a sign is not followed by a number")
    return sign * number


class _Tokens:
    """The words of one pattern, taken one at a time."""

    def __init__(self, text: str) -> None:
        if len(text) > PATTERN_CHARACTERS:
            raise DecodeError(f"a pattern of more than {PATTERN_CHARACTERS} characters")
        self._text = text
        self._words = list(_split(text))
        self._next = 0

    def peek(self) -> str:
        return self._words[self._next] if self._next < len(self._words) else ""

    def accept(self, word: str) -> bool:
        if self.peek() != word:
            return False
        self._next += 1
        return True

    def expect(self, word: str) -> None:
        if not self.accept(word):
            raise DecodeError(f"pattern {self._text!r}: {word!r} expected, not {self.peek()!r}")

    def name(self) -> str:
        word = self.peek()
        if not word[:1].isalpha() or len(word) > limits.NAME_CHARACTERS:
            raise DecodeError(f"pattern {self._text!r}: a name expected, not {word!r}")
        self._next += 1
        return word

    def accept_integer(self) -> int | None:
        if not self.peek().isdecimal():
            return None
        number = int(self.peek())
        if number > _INTEGER_LIMIT:
            raise DecodeError(f"pattern {self._text!r}: a number is too large")
        self._next += 1
        return number

    def finish(self) -> None:
        if self.peek():
            raise DecodeError(f"pattern {self._text!r}: nothing expected after {self.peek()!r}")


def _split(text: str) -> Iterator[str]:
    offset, end = 0, len(text.rstrip(" "))
    while offset < end:
        match = _TOKEN.match(text, offset)
        if match is None:
            raise DecodeError(f"pattern {text!r}: unexpected {text[offset]!r}")
        yield match.group(1)
        offset = match.end()


@define
class Bindings:
    """What the names of one kernel call stand for, as far as its inputs have told."""

    types: Mapping[str, tuple[str, ...]]
    sizes: dict[str, int]
    dtypes: dict[str, str] = field(factory=dict)
    batch: tuple[int, ...] | None = None

    def match(self, port: str, text: str, spec: TensorSpec) -> None:
        """Bind or compare every name of the pattern `text` with `spec`, given for `port`."""
        pattern = parse(text)
        self._match_dtype(port, pattern, spec.dtype)
        if 0 in spec.shape:
            raise EmptyTensorError(f"{port}: shape {_show(spec.shape)} holds no element")
        leading = len(spec.shape) - len(pattern.dims)
        if leading < 0 or (leading and not pattern.batched):
            raise ShapeMismatchError(f"{port}: shape {_show(spec.shape)} does not fit {text}")
        if pattern.batched:
            self._match_batch(port, text, spec.shape[:leading])
        for dim, size in zip(pattern.dims, spec.shape[leading:], strict=True):
            self._match_dim(port, text, dim, size)

    def spec(self, text: str) -> TensorSpec:
        """Return what the pattern `text` means under these bindings; raises `ProgramError`s."""
        pattern = parse(text)
        dtype = self.dtypes.get(pattern.dtype, pattern.dtype)
        if pattern.conversion is not None:
            dtype = CONVERSIONS[pattern.conversion][dtype]
        batch = self.batch or () if pattern.batched else ()
        sizes = tuple(self.evaluate(dim) for dim in pattern.dims)
        if any(size < 1 for size in sizes):
            raise EmptyTensorError(f"{text}: shape {_show(sizes)} would hold no element")
        return TensorSpec(dtype=dtype, shape=batch + sizes)

    def holds(self, rule: Rule) -> bool:
        """Tell whether `rule` is kept; every name in it is bound."""
        left, right = self.evaluate(rule.left), self.evaluate(rule.right)
        return left <= right if rule.relation == "<=" else left == right

    def evaluate(self, dim: Dim) -> int:
        """Return the size that `dim` stands for; every name in it is bound."""
        if isinstance(dim, Linear):
            return (0 if dim.name is None else self.sizes[dim.name]) + dim.offset
        if isinstance(dim, Sum):
            products = (factor * self._product(names) for factor, names in dim.terms)
            return sum(products) + dim.offset
        first, second = self.evaluate(dim.first), self.evaluate(dim.second)
        if dim.function != "min" and second < 1:
            raise RuleBrokenError("a size or parameter that divides another is below 1")
        return _FUNCTIONS[dim.function](first, second) + dim.offset

    def _product(self, names: tuple[str, ...]) -> int:
        return math.prod(self.sizes[name] for name in names)

    def _match_dtype(self, port: str, pattern: Pattern, dtype: str) -> None:
        expected = self.dtypes.get(pattern.dtype, pattern.dtype)
        if pattern.conversion is not None:
            expected = CONVERSIONS[pattern.conversion][expected]
        elif expected in self.types:
            if dtype not in self.types[expected]:
                allowed = ", ".join(self.types[expected])
                raise DtypeMismatchError(f"{port}: {dtype} is not one of {allowed}")
            self.dtypes[expected] = dtype
            return
        if dtype != expected:
            raise DtypeMismatchError(f"{port}: {dtype} where {expected} is needed")

    def _match_batch(self, port: str, text: str, leading: tuple[int, ...]) -> None:
        if self.batch is None:
            self.batch = leading
        elif self.batch != leading:
            raise ShapeMismatchError(
                f"{port}: leading dimensions {_show(leading)} where other inputs have "
                f"{_show(self.batch)} ({text})"
            )

    def _match_dim(self, port: str, text: str, dim: Dim, size: int) -> None:
        if isinstance(dim, Linear) and dim.name is not None and dim.name not in self.sizes:
            solved = size - dim.offset
            if solved < 1:
                raise ShapeMismatchError(f"{port}: a dimension of {size} is too small for {text}")
            self.sizes[dim.name] = solved
        elif size != self.evaluate(dim):
            raise ShapeMismatchError(
                f"{port}: a dimension of {size} where {self.evaluate(dim)} is needed ({text})"
            )


def check_dtype(pattern: Pattern, types: Mapping[str, tuple[str, ...]]) -> None:
    """Refuse, with `DecodeError`, a dtype that is unknown or cannot be converted as asked."""
    candidates = types.get(pattern.dtype, (pattern.dtype,))
    for dtype in candidates:
        if dtype not in DTYPES:
            raise DecodeError(f"{dtype!r} is neither a dtype nor a declared type variable")
        if pattern.conversion is not None and dtype not in CONVERSIONS[pattern.conversion]:
            raise DecodeError(f"there is no {pattern.conversion}({dtype})")


def _show(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"
