"""What a plan says of a stack: the program means what it means for one item."""

import pytest

from attestation import limits
from attestation.errors import ProgramError
from attestation.programs.errors import NotDeterministicError, OutputTooLargeError, StackError
from attestation.programs.program import Program
from attestation.programs.stacking import make_stacked_plan, plan_job
from attestation.sealing.tensor_spec import TensorSpec
from enclave_worker.kernels.registry import installed_registry

CATALOGUE = installed_registry().catalogue()


def program(kernel: str) -> Program:
    return Program.single(CATALOGUE.signature(kernel))


def spec(*shape: int) -> TensorSpec:
    return TensorSpec(dtype="float32", shape=shape)


def test_a_kernel_that_treats_slices_alone_runs_once_for_the_whole_stack() -> None:
    plan = make_stacked_plan(program("nn.softmax"), CATALOGUE, {"x": spec(5, 7)}, items=5)
    assert len(plan.steps) == 1
    assert plan.outputs == {"y": spec(5, 7)}
    assert plan.each is not None
    assert plan.each.outputs == {"y": spec(7)}


def test_a_kernel_that_does_not_runs_once_for_each_item() -> None:
    stack = {"x": spec(5, 40, 3)}
    plan = make_stacked_plan(program("stats.standardize"), CATALOGUE, stack, items=5)
    assert plan.steps == ()
    assert plan.each is not None
    assert plan.outputs == {name: out.stacked(5) for name, out in plan.each.outputs.items()}


def test_a_kernel_over_all_elements_is_not_run_over_those_of_other_items() -> None:
    """`stats.histogram` takes `T[...]` and counts everything: one call would mix the items."""
    plan = make_stacked_plan(program("stats.histogram"), CATALOGUE, {"x": spec(4, 9)}, items=4)
    assert plan.steps == ()


def test_an_input_without_leading_dimensions_is_one_of_each_item() -> None:
    """`gamma` of each item is its own: the kernel takes one for all rows, so items run alone."""
    stack = {"x": spec(4, 6, 8), "gamma": spec(4, 8), "beta": spec(4, 8)}
    plan = make_stacked_plan(program("nn.layernorm"), CATALOGUE, stack, items=4)
    assert plan.steps == ()


@pytest.mark.parametrize("items", [-1, 0, limits.ITEMS_PER_JOB + 1])
def test_a_stack_of_none_or_of_too_many_is_refused(items: int) -> None:
    with pytest.raises(StackError):
        make_stacked_plan(
            program("nn.softmax"), CATALOGUE, {"x": spec(max(items, 1), 7)}, items=items
        )


@pytest.mark.parametrize("shape", [(), (4, 7), (6,)])
def test_stacks_of_another_size_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(StackError):
        make_stacked_plan(program("nn.softmax"), CATALOGUE, {"x": spec(*shape)}, items=5)


def test_an_item_that_the_kernel_refuses_is_refused_as_when_alone() -> None:
    with pytest.raises(ProgramError) as alone:
        plan_job(program("linalg.svd"), CATALOGUE, {"a": spec(7)}, items=0)
    with pytest.raises(ProgramError) as stacked:
        plan_job(program("linalg.svd"), CATALOGUE, {"a": spec(5, 7)}, items=5)
    assert stacked.value.code == alone.value.code


def test_outputs_that_are_too_large_together_are_refused() -> None:
    """Each item's attention scores fit; those of all of them would not."""
    one = spec(1 << 19, 1)
    item = {"q": one, "k": spec(1, 1), "v": spec(1, 1 << 17)}
    plan_job(program("nn.attention"), CATALOGUE, item, items=0)
    with pytest.raises(OutputTooLargeError):
        plan_job(
            program("nn.attention"),
            CATALOGUE,
            {name: tensor.stacked(4096) for name, tensor in item.items()},
            items=4096,
        )


def test_memory_is_planned_for_all_items_and_one_at_work() -> None:
    stack = {"x": spec(5, 40, 3)}
    plan = make_stacked_plan(program("stats.standardize"), CATALOGUE, stack, items=5)
    assert plan.each is not None
    assert plan.peak_bytes == plan.input_bytes + plan.output_bytes + plan.each.peak_bytes


def test_equal_bits_are_promised_by_every_kernel_of_a_program_or_refused() -> None:
    inputs = {"x": spec(4, 3)}
    plan_job(program("stats.standardize"), CATALOGUE, inputs, items=0, deterministic=True)
    for kernel, items in (("ml.kmeans", 0), ("ml.kmeans", 4), ("signal.fft", 4)):
        parameters = {"run": {"k": 1}} if kernel == "ml.kmeans" else {}
        stack = {"x": spec(4, 3, 2)} if items else inputs
        plan_job(program(kernel), CATALOGUE, stack, parameters, items=items)
        with pytest.raises(NotDeterministicError):
            plan_job(program(kernel), CATALOGUE, stack, parameters, items=items, deterministic=True)


def test_a_stack_of_expressions_is_one_call() -> None:
    once = Program.single(CATALOGUE.signature("expr.map"), {"a", "b"})
    stack = {"a": spec(5, 7), "b": spec(5, 7)}
    parameters = {"run": {"expression": "a*b"}}
    assert len(make_stacked_plan(once, CATALOGUE, stack, parameters, items=5).steps) == 1
