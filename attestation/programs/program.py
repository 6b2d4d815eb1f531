"""A program: kernels as steps, and where each reads its inputs. Canonical, hashed, never code.

A reference is the name of a program input (`x`) or of a step's output (`clean.z`). Inputs and steps
are kept in the order of their names, so that the order in which a program was put together does not
change its digest. The parameters live apart, since the program may be public while they are not.
"""

import graphlib
from collections.abc import Container, Iterable, Mapping
from functools import cached_property
from typing import Any, Final, Self, TypeAlias

from attrs import frozen

from attestation import limits
from attestation.encoding import cbor
from attestation.encoding.digests import Label, digest
from attestation.encoding.record import Record, array, item, record, table, text
from attestation.errors import DecodeError, ProgramError
from attestation.identifiers import Digest
from attestation.programs import shapes
from attestation.programs.errors import (
    CycleError,
    InputUnusedError,
    ParameterTypeError,
    ParameterUnknownError,
    ProgramTooLargeError,
    ReferenceUnknownError,
    StepInvalidError,
    StepUnusedError,
)
from attestation.programs.names import is_kernel_name, is_name
from attestation.programs.parameters import Scalar, scalar
from attestation.programs.signature import KernelSignature

Parameters: TypeAlias = Mapping[str, Mapping[str, Scalar]]
"""Step id, parameter name, value."""

SINGLE_STEP: Final = "run"
"""The id of the only step of a program made by `Program.single`."""

_REFERENCE: Final = 2 * limits.NAME_CHARACTERS + 1
_PORTS: Final = 64


@frozen(kw_only=True)
class Step(Record):
    """One use of a kernel: its input ports, and the reference each reads."""

    id: str = item(text())
    kernel: str = item(text())
    inputs: Mapping[str, str] = item(table(text(_REFERENCE), limit=_PORTS))


@frozen(kw_only=True)
class Program(Record):
    """Steps over named inputs to named outputs. Make one with `of`, `single` or a builder.

    Making one checks its names and its size and raises `ProgramError`s; whether its references
    lead anywhere is what `make_plan` checks, against a catalogue.
    """

    VERSION = 1
    LIMIT = limits.PROGRAM_BYTES

    inputs: tuple[str, ...] = item(array(text(), limit=limits.TENSORS_PER_JOB))
    steps: tuple[Step, ...] = item(array(record(Step), limit=limits.PROGRAM_STEPS))
    outputs: Mapping[str, str] = item(table(text(_REFERENCE), limit=limits.TENSORS_PER_JOB))

    def __attrs_post_init__(self) -> None:
        """Refuse malformed names, a size beyond the limits, and an order that is not canonical."""
        self._check_size()
        for names in (list(self.inputs), [step.id for step in self.steps]):
            if sorted(set(names)) != names:
                raise StepInvalidError("names are not in order, or one is used twice")
        for step in self.steps:
            if not is_kernel_name(step.kernel):
                raise StepInvalidError(f"step {step.id}: {step.kernel!r} is not a kernel name")
        ports = (port for step in self.steps for port in step.inputs)
        ids = (step.id for step in self.steps)
        for name in (*self.inputs, *ids, *ports, *self.outputs):
            if not is_name(name):
                raise StepInvalidError(f"{name!r} is not a name: a letter, then letters, digits, _")
        read = (reference for step in self.steps for reference in step.inputs.values())
        for reference in (*read, *self.outputs.values()):
            if not 1 <= len(parts := reference.split(".")) <= 2 or not all(map(is_name, parts)):
                raise ReferenceUnknownError(f"{reference!r} is neither an input nor `step.port`")

    @classmethod
    def of(
        cls, *, inputs: Iterable[str], steps: Iterable[Step], outputs: Mapping[str, str]
    ) -> Self:
        """Make the program of these parts, given in any order."""
        return cls(
            inputs=tuple(sorted(inputs)),
            steps=tuple(sorted(steps, key=lambda step: step.id)),
            outputs=dict(outputs),
        )

    @classmethod
    def single(cls, signature: KernelSignature, given: Container[str] = ()) -> Self:
        """Make the program of one step, `run`, whose inputs and outputs are the kernel's.

        Of the inputs that may be left out it has those that are `given`.
        """
        names = [
            port.name
            for port in signature.inputs
            if port.name in given or not shapes.parse(port.pattern).optional
        ]
        step = Step(id=SINGLE_STEP, kernel=signature.name, inputs={name: name for name in names})
        outputs = {port.name: f"{SINGLE_STEP}.{port.name}" for port in signature.outputs}
        return cls.of(inputs=names, steps=[step], outputs=outputs)

    @classmethod
    def from_map(cls, value: Any) -> Self:
        """Check a decoded map; raises `DecodeError` for it as for every other format."""
        try:
            return super().from_map(value)
        except ProgramError as error:
            raise DecodeError(f"not a program: {error}") from error

    def to_bytes(self) -> bytes:
        """Return the one deterministic encoding; programs are sent by the thousand."""
        return self._encoded

    def digest(self) -> Digest:
        """Return the program digest that job headers and receipts carry."""
        return self._digest

    @cached_property
    def _encoded(self) -> bytes:
        return super().to_bytes()

    @cached_property
    def _digest(self) -> Digest:
        return digest(Label.PROGRAM, self.to_bytes())

    @cached_property
    def order(self) -> tuple[Step, ...]:
        """The steps, each behind those it reads from.

        Raises `ReferenceUnknownError`, `CycleError`, and what says that something is not used.
        """
        # A misspelt reference leaves something unused as well; it is what the user should hear of.
        by_id = {step.id: step for step in self.steps}
        order = tuple(by_id[step_id] for step_id in _order(by_id, set(self.inputs)))
        _check_use(self)
        return order

    def _check_size(self) -> None:
        if not self.steps or not self.outputs:
            raise StepInvalidError("a program has at least one step and one output")
        for count, limit, what in (
            (len(self.inputs), limits.TENSORS_PER_JOB, "inputs"),
            (len(self.outputs), limits.TENSORS_PER_JOB, "outputs"),
            (len(self.steps), limits.PROGRAM_STEPS, "steps"),
            (max(len(step.inputs) for step in self.steps), _PORTS, "inputs of one step"),
        ):
            if count > limit:
                raise ProgramTooLargeError(f"{count} {what} where at most {limit} are allowed")


def _order(by_id: Mapping[str, Step], inputs: set[str]) -> list[str]:
    """Return the step ids so that each comes after those it reads from."""
    graph: dict[str, list[str]] = {}
    for step in by_id.values():
        graph[step.id] = []
        for port, reference in step.inputs.items():
            source, dot, _ = reference.partition(".")
            if source not in (by_id if dot else inputs):
                raise ReferenceUnknownError(
                    f"step {step.id}: port {port!r} reads {reference!r}, "
                    f"and there is no {'step' if dot else 'input'} {source!r}"
                )
            if dot:
                graph[step.id].append(source)
    try:
        return list(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        raise CycleError(f"steps wait for each other: {' -> '.join(error.args[1])}") from error


def _check_use(program: Program) -> None:
    read = {reference for step in program.steps for reference in step.inputs.values()}
    for name in program.inputs:
        if name not in read:
            raise InputUnusedError(f"no step reads input {name!r}")
    sources = {reference.partition(".")[0] for reference in read | set(program.outputs.values())}
    for step in program.steps:
        if step.id not in sources:
            raise StepUnusedError(f"nothing reads what step {step.id!r} makes")


_SCALAR: Final = scalar()
_PARAMETERS: Final = table(table(_SCALAR, limit=_PORTS), limit=limits.PROGRAM_STEPS)


def encode_parameters(parameters: Parameters) -> bytes:
    """Return the canonical encoding; a step without parameters is left out of it."""
    if len(parameters) > limits.PROGRAM_STEPS:
        raise ProgramTooLargeError("parameters for more steps than a program has")
    for step, values in parameters.items():
        if len(values) > _PORTS:
            raise ProgramTooLargeError(f"step {step}: more than {_PORTS} parameters")
        for name, value in values.items():
            # What is sealed must be what the worker parses; so a name that could not be, neither.
            if not is_name(step) or not is_name(name):
                raise ParameterUnknownError(f"step {step!r}: {name!r} cannot be a parameter")
            try:
                _SCALAR.decode(value)
            except DecodeError as error:
                raise ParameterTypeError(f"step {step}: {name}: {error}") from error
    encoded = cbor.encode({step: dict(values) for step, values in parameters.items() if values})
    if len(encoded) > limits.PROGRAM_BYTES:
        raise ProgramTooLargeError(f"parameters of more than {limits.PROGRAM_BYTES} bytes")
    return encoded


def decode_parameters(data: bytes) -> dict[str, dict[str, Scalar]]:
    """Parse what `encode_parameters` made, or raise `DecodeError`."""
    parameters: dict[str, dict[str, Scalar]] = _PARAMETERS.decode(
        cbor.decode(data, limit=limits.PROGRAM_BYTES)
    )
    for step, values in parameters.items():
        if not values or not is_name(step) or not all(map(is_name, values)):
            raise DecodeError("parameters of a step are empty, or a name is malformed")
    return parameters
