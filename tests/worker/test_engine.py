"""Programs of several steps: each tensor in wiped memory, released when nobody reads it."""

import numpy as np
import pytest

from attestation.programs.builder import ProgramBuilder
from attestation.programs.plan import Plan, make_plan
from attestation.programs.program import Program
from attestation.sealing.tensor_spec import TensorSpec
from enclave_worker.engine import Outcome
from enclave_worker.errors import KernelError
from tests.worker.conftest import Workshop

SPEC = TensorSpec(dtype="float64", shape=(20_000,))


def chain(last: str = "test.twice", *, steps: int = 3) -> Program:
    builder = ProgramBuilder()
    value = builder.input("x")
    for _ in range(steps - 1):
        value = builder.step("test.twice", x=value)["y"]
    builder.output("y", builder.step(last, x=value)["y"])
    return builder.build()


class Ones:
    """Inputs of ones, which notice when they are released."""

    def __init__(self) -> None:
        self.released: list[str] = []

    def array(self, _name: str) -> np.ndarray:
        return np.ones(20_000)

    def release(self, name: str) -> None:
        self.released.append(name)


def run(workshop: Workshop, plan: Plan) -> Outcome:
    return workshop.engine.run(plan, Ones())


def give_back(workshop: Workshop, outcome: Outcome) -> None:
    for held in outcome.outputs.values():
        workshop.pool.give_back(held.buffer)


def test_steps_feed_each_other(workshop: Workshop) -> None:
    outcome = run(workshop, make_plan(chain(), workshop.catalogue, {"x": SPEC}))
    assert (outcome.outputs["y"].array() == 8).all()
    assert outcome.device_ns > 0
    give_back(workshop, outcome)


def test_a_long_chain_needs_the_memory_of_two_steps(workshop: Workshop) -> None:
    """Buffers of tensors that nobody reads any more serve the next step, wiped."""
    plan = make_plan(chain(steps=10), workshop.catalogue, {"x": SPEC})
    outcome = run(workshop, plan)
    assert outcome.peak_device_bytes == plan.peak_bytes == 2 * SPEC.nbytes
    give_back(workshop, outcome)
    assert workshop.pool.idle_bytes == 2 * outcome.outputs["y"].buffer.capacity


def test_an_input_is_released_after_the_last_step_that_reads_it(workshop: Workshop) -> None:
    inputs = Ones()
    plan = make_plan(chain(), workshop.catalogue, {"x": SPEC})
    give_back(workshop, workshop.engine.run(plan, inputs))
    assert inputs.released == ["x"]


def test_one_tensor_under_two_names_is_two_outputs(workshop: Workshop) -> None:
    builder = ProgramBuilder()
    step = builder.step("test.twice", x=builder.input("x"))
    builder.output("first", step["y"])
    builder.output("second", step["y"])
    outcome = run(workshop, make_plan(builder.build(), workshop.catalogue, {"x": SPEC}))
    first, second = outcome.outputs.values()
    assert first.buffer is not second.buffer
    assert (first.array() == second.array()).all()
    give_back(workshop, outcome)


def test_a_step_that_fails_leaves_no_buffer_in_use(workshop: Workshop) -> None:
    plan = make_plan(chain("test.crash"), workshop.catalogue, {"x": SPEC})
    with pytest.raises(KernelError) as caught:
        run(workshop, plan)
    assert "1.0" not in str(caught.value)
    del caught
    for buffer in [each for shelf in workshop.pool._idle.values() for each in shelf]:
        buffer.take(buffer.capacity)
        assert not bytes(buffer.view()).strip(b"\0")


def test_a_kernel_cannot_write_into_an_input(workshop: Workshop) -> None:
    job = workshop.job(workshop.connect())
    with workshop.execution(job) as execution:
        for index, segment in enumerate(job.segments()):
            execution.add_segment(index, segment)
        array = execution._inputs.array("x")
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
        del array
