"""A program checked against a catalogue: the order of its steps and the spec of every tensor.

Client and worker both make the plan from the same bytes; the client before it seals anything, the
worker before it allocates anything.
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Final

from attrs import evolve, frozen

from attestation.errors import ProgramError
from attestation.programs.catalogue import Catalogue
from attestation.programs.errors import (
    InputMissingError,
    InputUnknownError,
    ParameterUnknownError,
    ReferenceUnknownError,
)
from attestation.programs.parameters import Scalar
from attestation.programs.program import Parameters, Program, Step
from attestation.programs.signature import KernelSignature
from attestation.sealing.tensor_spec import TensorSpec

_NO_PARAMETERS: Final[Parameters] = MappingProxyType({})


@frozen(kw_only=True)
class PlannedStep:
    """One kernel call: what it reads, with which parameters, and what it makes.

    After it ran, the tensors named in `releases` are read by no later step and are no output: their
    memory can be given back.
    """

    id: str
    signature: KernelSignature
    inputs: Mapping[str, str]
    """Port to reference."""
    parameters: Mapping[str, Scalar]
    """Every parameter, defaults filled in."""
    outputs: Mapping[str, TensorSpec]
    """Port to spec; its reference is `id.port`."""
    releases: tuple[str, ...] = ()


@frozen(kw_only=True)
class Plan:
    """Steps in an order that can be run, and the spec behind every reference.

    Inputs and outputs are in the order of their names; their segments travel in that order.
    """

    steps: tuple[PlannedStep, ...]
    tensors: Mapping[str, TensorSpec]
    """Reference to spec: program inputs and everything the steps make."""
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    output_references: Mapping[str, str]
    """Output name to the reference it hands out."""
    items: int = 0
    """Of a stack: how many items it has (`stacking.make_stacked_plan`)."""
    each: "Plan | None" = None
    """Of a stack: the plan of one item. Without steps above, the items are run one by one."""

    @property
    def input_bytes(self) -> int:
        """Bytes of all inputs, before sealing."""
        return sum(spec.nbytes for spec in self.inputs.values())

    @property
    def output_bytes(self) -> int:
        """Bytes of all outputs, before sealing."""
        return sum(spec.nbytes for spec in self.outputs.values())

    @property
    def total_bytes(self) -> int:
        """Bytes of every tensor of the program, as if none were released."""
        return sum(spec.nbytes for spec in self.tensors.values())

    @property
    def peak_bytes(self) -> int:
        """Most bytes that live at once when every step releases what it may.

        Kernels' own scratch memory is not counted: only they know it.
        """
        if self.each is not None:
            one_by_one = self.input_bytes + self.output_bytes + self.each.peak_bytes
            return max(one_by_one, self._peak_of_steps())
        return self._peak_of_steps()

    def _peak_of_steps(self) -> int:
        live = peak = self.input_bytes
        for step in self.steps:
            live += sum(spec.nbytes for spec in step.outputs.values())
            peak = max(peak, live)
            live -= sum(self.tensors[reference].nbytes for reference in step.releases)
        return peak


def make_plan(
    program: Program,
    catalogue: Catalogue,
    inputs: Mapping[str, TensorSpec],
    parameters: Parameters = _NO_PARAMETERS,
) -> Plan:
    """Order the steps and infer every tensor they make; raises the first `ProgramError`."""
    _check_inputs(program, inputs)
    step_ids = {step.id for step in program.steps}
    for step_id in parameters:
        if step_id not in step_ids:
            raise ParameterUnknownError(f"parameters for {step_id!r}, which is no step")
    tensors = {name: inputs[name] for name in program.inputs}
    planned = []
    for each in program.order:
        step = _plan_step(each, catalogue, tensors, parameters.get(each.id, {}))
        tensors |= {f"{step.id}.{port}": spec for port, spec in step.outputs.items()}
        planned.append(step)
    references = {name: program.outputs[name] for name in sorted(program.outputs)}
    for name, reference in references.items():
        if reference not in tensors or "." not in reference:
            raise ReferenceUnknownError(f"output {name!r} reads {reference!r}, which no step makes")
    return Plan(
        steps=tuple(_with_releases(planned, kept=set(references.values()))),
        tensors=tensors,
        inputs={name: inputs[name] for name in program.inputs},
        outputs={name: tensors[reference] for name, reference in references.items()},
        output_references=references,
    )


def _plan_step(
    step: Step,
    catalogue: Catalogue,
    tensors: Mapping[str, TensorSpec],
    parameters: Mapping[str, Scalar],
) -> PlannedStep:
    for port, reference in step.inputs.items():
        if reference not in tensors:
            raise ReferenceUnknownError(
                f"step {step.id}: port {port!r} reads {reference!r}, which its step does not make"
            )
    try:
        signature = catalogue.signature(step.kernel)
        values = signature.resolve(parameters)
        specs = {port: tensors[reference] for port, reference in step.inputs.items()}
        outputs = signature.infer_resolved(specs, values)
    except ProgramError as error:
        raise type(error)(f"step {step.id}: {error}") from error
    return PlannedStep(
        id=step.id, signature=signature, inputs=step.inputs, parameters=values, outputs=outputs
    )


def _check_inputs(program: Program, inputs: Mapping[str, TensorSpec]) -> None:
    for name in program.inputs:
        if name not in inputs:
            raise InputMissingError(f"the program needs input {name!r}")
    for name in inputs:
        if name not in program.inputs:
            raise InputUnknownError(
                f"the program has no input {name!r}; it takes {', '.join(program.inputs)}"
            )


def _with_releases(steps: list[PlannedStep], *, kept: set[str]) -> Iterator[PlannedStep]:
    """Tell each step which tensors nobody reads after it, its own unread outputs included."""
    last: dict[str, int] = {}
    for place, step in enumerate(steps):
        made = (f"{step.id}.{port}" for port in step.outputs)
        last |= dict.fromkeys((*made, *step.inputs.values()), place)
    for place, step in enumerate(steps):
        ended = sorted(name for name, at in last.items() if at == place and name not in kept)
        yield evolve(step, releases=tuple(ended)) if ended else step
