"""What a kernel promises about its inputs, outputs and parameters, checkable without running it.

A client checks a whole program against these before it sends a byte, and a worker before it
allocates one. The signatures travel in the worker's catalogue, so everything here is parsed from
outside: making or parsing one that contradicts itself raises `DecodeError`.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Final

from attrs import frozen

from attestation.encoding.record import Record, array, boolean, item, record, table, text, uint
from attestation.errors import DecodeError, TensorError
from attestation.programs import expressions, shapes
from attestation.programs.errors import (
    InputMissingError,
    InputUnknownError,
    OutputTooLargeError,
    RuleBrokenError,
)
from attestation.programs.names import is_kernel_name, is_name
from attestation.programs.parameters import Parameter, ParameterKind, Scalar, resolve
from attestation.sealing.tensor_spec import DTYPES, TensorSpec

_PORTS: Final = 64
_TYPES: Final = 8
_RULES: Final = 16


@frozen(kw_only=True)
class Port(Record):
    """A named input or output, and the pattern of tensors it takes or makes."""

    name: str = item(text())
    pattern: str = item(text(shapes.PATTERN_CHARACTERS))


@frozen(kw_only=True)
class KernelSignature(Record):
    """A kernel's name and version, and the language of `shapes` filled in for it.

    `types` says which dtypes each type variable stands for; `rules` are comparisons over sizes and
    parameters, such as `k <= min(n, d)`, for what patterns alone cannot say. A `deterministic`
    kernel gives the same bits for the same input on one class of device.
    """

    name: str = item(text())
    version: int = item(uint((1 << 32) - 1))
    summary: str = item(text(400))
    types: Mapping[str, tuple[str, ...]] = item(
        table(array(text(), limit=len(DTYPES)), limit=_TYPES)
    )
    inputs: tuple[Port, ...] = item(array(record(Port), limit=_PORTS))
    outputs: tuple[Port, ...] = item(array(record(Port), limit=_PORTS))
    parameters: tuple[Parameter, ...] = item(array(record(Parameter), limit=_PORTS), default=())
    rules: tuple[str, ...] = item(array(text(shapes.PATTERN_CHARACTERS), limit=_RULES), default=())
    deterministic: bool = item(boolean(), default=False)

    def __attrs_post_init__(self) -> None:
        """Refuse, with `DecodeError`, what `infer` could not make sense of for every input."""
        if not is_kernel_name(self.name):
            raise DecodeError(f"{self.name!r} is not a kernel name such as linalg.matmul")
        try:
            self._check_names()
            _check_bound(self)
        except DecodeError as error:
            raise DecodeError(f"kernel {self.name}: {error}") from error

    def resolve(self, parameters: Mapping[str, Scalar]) -> dict[str, Scalar]:
        """Return all parameters with defaults filled in; raises `ProgramError`s."""
        return resolve(self.parameters, parameters)

    def infer(
        self, inputs: Mapping[str, TensorSpec], parameters: Mapping[str, Scalar]
    ) -> dict[str, TensorSpec]:
        """Return the specs of the outputs for these inputs; raises the first `ProgramError`."""
        return self.infer_resolved(inputs, self.resolve(parameters))

    def infer_resolved(
        self, inputs: Mapping[str, TensorSpec], values: Mapping[str, Scalar]
    ) -> dict[str, TensorSpec]:
        """Do as `infer` does, with parameters that `resolve` returned."""
        bindings = shapes.Bindings(
            types=self.types,
            sizes={name: value for name, value in values.items() if type(value) is int},
        )
        self._check_inputs(inputs)
        for port in self.inputs:
            if port.name in inputs:
                bindings.match(port.name, port.pattern, inputs[port.name])
        for parameter in self.parameters:
            if parameter.kind is ParameterKind.EXPRESSION:
                expression = expressions.parse(str(values[parameter.name]))
                expression.check({name: spec.dtype for name, spec in inputs.items()})
        for rule in self.rules:
            if not bindings.holds(shapes.parse_rule(rule)):
                raise RuleBrokenError(f"{self.name} needs {rule}")
        try:
            return {port.name: bindings.spec(port.pattern) for port in self.outputs}
        except TensorError as error:
            raise OutputTooLargeError(f"{self.name}: {error}") from error

    def _check_inputs(self, inputs: Mapping[str, TensorSpec]) -> None:
        if inputs.keys() == self._input_names:
            return
        for port in self.inputs:
            if port.name not in inputs and not shapes.parse(port.pattern).optional:
                raise InputMissingError(f"{self.name} needs input {port.name!r}")
        for name in inputs:
            if name not in self._input_names:
                raise InputUnknownError(
                    f"{self.name} has no input {name!r}; it takes {self._listed_inputs()}"
                )

    @cached_property
    def _input_names(self) -> frozenset[str]:
        return frozenset(port.name for port in self.inputs)

    def _listed_inputs(self) -> str:
        return ", ".join(port.name for port in self.inputs)

    def _check_names(self) -> None:
        if not self.inputs or not self.outputs:
            raise DecodeError("a kernel has at least one input and one output")
        for ports in (self.inputs, self.outputs, self.parameters):
            _check_unique([port.name for port in ports])
        for variable, dtypes in self.types.items():
            if not is_name(variable) or variable in DTYPES or variable in shapes.CONVERSIONS:
                raise DecodeError(f"{variable!r} cannot be a type variable")
            if not dtypes or any(dtype not in DTYPES for dtype in dtypes):
                raise DecodeError(f"type variable {variable!r} does not list known dtypes")


def _check_unique(names: Sequence[str]) -> None:
    if not all(is_name(name) for name in names) or len(set(names)) != len(names):
        raise DecodeError("a name is malformed or used twice")


def _check_bound(signature: KernelSignature) -> None:
    """Refuse a pattern that mentions a name before an input has told its value."""
    known = {p.name for p in signature.parameters if p.kind is ParameterKind.INT}
    others = {p.name for p in signature.parameters} - known
    typed: set[str] = set()
    batched = False
    for port in signature.inputs:
        pattern = shapes.parse(port.pattern)
        shapes.check_dtype(pattern, signature.types)
        # What an input that may be missing tells, nothing else may depend on.
        told, types = (set(known), set(typed)) if pattern.optional else (known, typed)
        if pattern.conversion is None:
            types.add(pattern.dtype)
        _check_type_known(pattern, types, signature)
        for dim in pattern.dims:
            if isinstance(dim, shapes.Linear):
                _check_known(set(shapes.names_in(dim)) & others, told)
                told.update(shapes.names_in(dim))
            else:
                _check_known(shapes.names_in(dim), told)
        batched = batched or (pattern.batched and not pattern.optional)
    for port in signature.outputs:
        pattern = shapes.parse(port.pattern)
        shapes.check_dtype(pattern, signature.types)
        _check_type_known(pattern, typed, signature)
        if pattern.optional:
            raise DecodeError(f"output {port.name!r} cannot be left out")
        if pattern.batched and not batched:
            raise DecodeError(f"output {port.name!r} is batched, and no input is")
        for dim in pattern.dims:
            _check_known(shapes.names_in(dim), known)
    for text_of_rule in signature.rules:
        rule = shapes.parse_rule(text_of_rule)
        _check_known([*shapes.names_in(rule.left), *shapes.names_in(rule.right)], known)


def _check_known(names: Iterable[str], known: set[str]) -> None:
    for name in names:
        if name not in known:
            raise DecodeError(f"no input before it tells the size {name!r}")


def _check_type_known(pattern: shapes.Pattern, typed: set[str], signature: KernelSignature) -> None:
    if pattern.dtype in signature.types and pattern.dtype not in typed:
        raise DecodeError(f"no input before it tells the type {pattern.dtype!r}")
