"""A kernel's parameters: their kinds, bounds and defaults, and the values users give them."""

import math
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any, Final, TypeAlias

from attrs import frozen

from attestation import limits
from attestation.encoding.record import Codec, Record, array, boolean, item, text, word
from attestation.errors import DecodeError
from attestation.programs import expressions
from attestation.programs.errors import (
    ExpressionError,
    ParameterMissingError,
    ParameterOutOfRangeError,
    ParameterTypeError,
    ParameterUnknownError,
)
from attestation.programs.names import is_name

Scalar: TypeAlias = int | float | bool | str

_INT64_MIN: Final = -(1 << 63)
_INT64_MAX: Final = (1 << 63) - 1
_CHOICES: Final = 64


class ParameterKind(StrEnum):
    """What a parameter's value is."""

    INT = "int"
    FLOAT = "float"
    BOOL = "bool"
    CHOICE = "choice"
    EXPRESSION = "expression"
    """A text in the language of `programs.expressions`, over the kernel's inputs."""


def scalar() -> Codec:
    """A parameter value: a 64-bit signed integer, a float, a boolean, a word or an expression."""

    def decode(value: Any) -> Scalar:
        if isinstance(value, bool | float):
            return value
        if isinstance(value, int) and _INT64_MIN <= value <= _INT64_MAX:
            return value
        # In bytes: an expression is ASCII, and what else there is must fit a text string too.
        if (
            isinstance(value, str)
            and len(value.encode("utf-8", "replace")) <= limits.EXPRESSION_CHARACTERS
        ):
            return value
        raise DecodeError("not a 64-bit number, a boolean or a short text")

    return Codec(lambda value: value, decode)


def _scalar_or_null() -> Codec:
    inner = scalar()
    return Codec(inner.encode, lambda value: None if value is None else inner.decode(value))


@frozen(kw_only=True)
class Parameter(Record):
    """One parameter. Without a default it must be given; bounds are inclusive.

    Integers have 64 bits. Floats are finite unless `finite` is false; an integer given for one
    becomes a float. `choices` are the texts that a parameter of kind `choice` may have.
    """

    name: str = item(text())
    kind: ParameterKind = item(word(ParameterKind))
    default: Scalar | None = item(_scalar_or_null(), default=None)
    minimum: int | float | None = item(_scalar_or_null(), default=None)
    maximum: int | float | None = item(_scalar_or_null(), default=None)
    choices: tuple[str, ...] = item(array(text(), limit=_CHOICES), default=())
    finite: bool = item(boolean(), default=True)
    summary: str = item(text(200), default="")

    def __attrs_post_init__(self) -> None:
        """Refuse, with `DecodeError`, a declaration that contradicts itself."""
        if not is_name(self.name):
            raise DecodeError(f"{self.name!r} is not a parameter name")
        if (self.kind is ParameterKind.CHOICE) != bool(self.choices):
            raise DecodeError(f"{self.name}: a choice, and nothing else, lists its choices")
        for bound in (self.minimum, self.maximum):
            if bound is not None and not self._is_bound(bound):
                raise DecodeError(f"{self.name}: {bound!r} cannot bound a {self.kind}")
        if self.default is not None:
            try:
                self.check(self.default)
            except (ParameterTypeError, ParameterOutOfRangeError, ExpressionError) as error:
                raise DecodeError(f"the default is not allowed: {error}") from error

    def check(self, value: object) -> Scalar:
        """Return `value` as the kernel will get it; raises when its kind or range is wrong."""
        match self.kind, value:
            case ParameterKind.BOOL, bool():
                return value
            case ParameterKind.CHOICE, str():
                if value in self.choices:
                    return value
                raise self._out_of_range(f"is not one of {', '.join(self.choices)}")
            case ParameterKind.EXPRESSION, str():
                expressions.parse(value)
                return value
            case ((ParameterKind.INT | ParameterKind.FLOAT), bool()):
                pass
            case ParameterKind.INT, int():
                return self._check_bounds(value)
            case ParameterKind.FLOAT, (int() | float()):
                return self._check_bounds(self._as_float(value))
        raise ParameterTypeError(f"{self.name} takes a {self.kind}, not a {type(value).__name__}")

    def _as_float(self, value: int | float) -> float:
        try:
            number = float(value)
        except OverflowError as error:
            raise self._out_of_range("is too large for a float") from error
        if self.finite and not math.isfinite(number):
            raise self._out_of_range("is not finite")
        return number

    def _check_bounds(self, value: int | float) -> int | float:
        if isinstance(value, int) and not _INT64_MIN <= value <= _INT64_MAX:
            raise self._out_of_range("does not fit 64 bits")
        # Written so that NaN, where it is allowed at all, is outside every bound.
        if self.minimum is not None and not value >= self.minimum:
            raise self._out_of_range(f"is below {self.minimum}")
        if self.maximum is not None and not value <= self.maximum:
            raise self._out_of_range(f"is above {self.maximum}")
        return value

    def _out_of_range(self, problem: str) -> ParameterOutOfRangeError:
        # The value itself stays out of the message: parameters are confidential, and messages of
        # the worker's errors could reach a log.
        return ParameterOutOfRangeError(f"{self.name} {problem}")

    def _is_bound(self, bound: Scalar) -> bool:
        if isinstance(bound, bool | str) or not math.isfinite(bound):
            return False
        return self.kind is ParameterKind.FLOAT or (
            self.kind is ParameterKind.INT and isinstance(bound, int)
        )


def resolve(declared: Iterable[Parameter], given: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Return every declared parameter's value, defaults filled in, in the order declared.

    Raises `ParameterUnknownError`, `ParameterMissingError`, `ParameterTypeError` or
    `ParameterOutOfRangeError`.
    """
    rest = dict(given)
    values: dict[str, Scalar] = {}
    for parameter in declared:
        value = rest.pop(parameter.name, parameter.default)
        if value is None:
            raise ParameterMissingError(f"{parameter.name} has no default; give it a value")
        values[parameter.name] = parameter.check(value)
    if rest:
        raise ParameterUnknownError(f"there is no parameter {next(iter(rest))!r}")
    return values
