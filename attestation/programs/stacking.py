"""One program over a stack of items: what travels as one job and is many.

Every input is a stack of `items` tensors along its first dimension, and so is every output. The
program means what it means for one item. Where every kernel treats the slices of leading dimensions
alone anyway (`...` in its patterns), the whole stack is one call; otherwise there is one per item.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from attrs import evolve

from attestation import limits
from attestation.errors import ProgramError, TensorError
from attestation.programs import shapes
from attestation.programs.catalogue import Catalogue
from attestation.programs.errors import NotDeterministicError, OutputTooLargeError, StackError
from attestation.programs.plan import Plan, make_plan
from attestation.programs.program import Parameters, Program
from attestation.sealing.tensor_spec import TensorSpec

_NO_PARAMETERS: Final[Parameters] = MappingProxyType({})


def plan_job(
    program: Program,
    catalogue: Catalogue,
    inputs: Mapping[str, TensorSpec],
    parameters: Parameters = _NO_PARAMETERS,
    *,
    items: int,
    deterministic: bool = False,
) -> Plan:
    """Plan one run on `inputs` as they are, or with `items` above 0 one for each item of them.

    Raises the first `ProgramError`; if it is to be `deterministic`, also for kernels that are not.
    """
    if items:
        plan = make_stacked_plan(program, catalogue, inputs, parameters, items=items)
    else:
        plan = make_plan(program, catalogue, inputs, parameters)
    if deterministic:
        for step in (plan.each or plan).steps:
            if not step.signature.deterministic:
                raise NotDeterministicError(f"step {step.id}: {step.signature.name} is not")
    return plan


def make_stacked_plan(
    program: Program,
    catalogue: Catalogue,
    inputs: Mapping[str, TensorSpec],
    parameters: Parameters = _NO_PARAMETERS,
    *,
    items: int,
) -> Plan:
    """Plan `program` for each item of `inputs`; raises the first `ProgramError`.

    The specs in the plan are those of the stacks, and `each` is the plan of one item.
    """
    if not 1 <= items <= limits.ITEMS_PER_JOB:
        raise StackError(f"a stack of {items} items; 1 to {limits.ITEMS_PER_JOB} are allowed")
    each = make_plan(
        program, catalogue, {name: _item(name, inputs[name], items) for name in inputs}, parameters
    )
    try:
        outputs = {name: spec.stacked(items) for name, spec in each.outputs.items()}
    except TensorError as error:
        raise OutputTooLargeError(f"the outputs of all items together: {error}") from error
    whole = _at_once(program, catalogue, inputs, parameters, outputs)
    if whole is not None:
        return evolve(whole, items=items, each=each)
    return Plan(
        steps=(),
        tensors=dict(inputs),
        inputs={name: inputs[name] for name in each.inputs},
        outputs=outputs,
        output_references=each.output_references,
        items=items,
        each=each,
    )


def _item(name: str, stack: TensorSpec, items: int) -> TensorSpec:
    if not stack.shape or stack.shape[0] != items:
        raise StackError(f"input {name!r} is not a stack of {items} items")
    return stack.each()


def _at_once(
    program: Program,
    catalogue: Catalogue,
    inputs: Mapping[str, TensorSpec],
    parameters: Parameters,
    outputs: Mapping[str, TensorSpec],
) -> Plan | None:
    """Return the plan that runs the whole stack in each step, if that means the same."""
    try:
        whole = make_plan(program, catalogue, inputs, parameters)
    except (ProgramError, TensorError):
        return None
    slices_alone = all(
        shapes.parse(port.pattern).batched
        for step in whole.steps
        for port in (*step.signature.inputs, *step.signature.outputs)
    )
    return whole if slices_alone and whole.outputs == outputs else None
