"""What a worker does with a stack: each item counts by itself, none is lost with another."""

from types import ModuleType

import numpy as np
import pytest

from attestation.wire.control import RefusalCode
from attestation.wire.messages import ResultHeader
from enclave_worker.refusals import ProgramRefusedError, RevokedError, WorkerLimitError
from tests.worker.conftest import Workshop
from tests.worker.simulated_client import SimulatedClient, SimulatedJob


def stack_job(
    workshop: Workshop, client: SimulatedClient, kernel: str, x: np.ndarray, items: int
) -> SimulatedJob:
    job = workshop.job(client, kernel, arrays={"x": x})
    job.change_header(items=items)
    return job


def run(workshop: Workshop, job: SimulatedJob) -> tuple[ResultHeader, dict[str, np.ndarray]]:
    with workshop.execution(job) as execution:
        for index, segment in enumerate(job.segments()):
            execution.add_segment(index, segment)
        execution.run()
        outputs = [bytes(segment) for segment in execution.segments()]
        result = execution.finish().result
    return result, job.open_outputs(result, outputs, attempt=1) if not result.code else {}


@pytest.mark.parametrize("kernel", ["test.twice", "test.root"])
def test_every_item_gets_its_own_result(
    kernel: str, workshop: Workshop, client: SimulatedClient
) -> None:
    """`test.twice` runs item by item, `test.root` over the whole stack."""
    x = np.arange(15, dtype=np.float64).reshape(5, 3)
    result, outputs = run(workshop, stack_job(workshop, client, kernel, x, 5))
    assert result.failures == ()
    np.testing.assert_array_equal(outputs["y"], 2 * x if kernel == "test.twice" else np.sqrt(x))


def test_an_item_that_fails_is_named_and_the_others_are_computed(
    workshop: Workshop, client: SimulatedClient
) -> None:
    x = np.arange(15, dtype=np.float64).reshape(5, 3)
    x[1, 2] = x[4, 0] = -1
    result, outputs = run(workshop, stack_job(workshop, client, "test.root", x, 5))
    assert [number for number, _ in result.failures] == [1, 4]
    np.testing.assert_array_equal(outputs["y"][[0, 2, 3]], np.sqrt(x[[0, 2, 3]]))
    assert not outputs["y"][[1, 4]].any()


def test_a_kernel_that_crashes_says_nothing_but_that_it_failed(
    workshop: Workshop, client: SimulatedClient
) -> None:
    x = np.ones((2, 3))
    result, _ = run(workshop, stack_job(workshop, client, "test.crash", x, 2))
    failed = RefusalCode.KERNEL_FAILED.value
    assert result.failures == ((0, failed), (1, failed))


def test_numbers_are_items_too(workshop: Workshop, client: SimulatedClient) -> None:
    x = np.array([4.0, 9.0, -1.0])
    result, outputs = run(workshop, stack_job(workshop, client, "test.root", x, 3))
    assert [number for number, _ in result.failures] == [2]
    np.testing.assert_array_equal(outputs["y"], [2.0, 3.0, 0.0])


@pytest.mark.parametrize("items", [1, 4, 6])
def test_a_stack_of_another_size_than_signed_is_refused(
    items: int, workshop: Workshop, client: SimulatedClient
) -> None:
    job = stack_job(workshop, client, "test.twice", np.ones((5, 3)), items)
    with pytest.raises(ProgramRefusedError, match="stack-invalid"):
        workshop.admit(job)


def test_memory_for_all_outputs_is_reserved_before_anything_runs(
    workshop: Workshop, client: SimulatedClient
) -> None:
    x = np.ones((4000, 700))
    workshop.terms = type(workshop.terms)(max_job_bytes=x.nbytes + 8 * 700)
    with pytest.raises(WorkerLimitError):
        workshop.admit(stack_job(workshop, client, "test.twice", x, 4000))


def test_a_revoked_stack_ends_between_two_items(
    workshop: Workshop, client: SimulatedClient, kernels: ModuleType
) -> None:
    kernels.SEEN.clear()
    job = stack_job(workshop, client, "test.hoard", np.ones((5, 3)), 5)
    with workshop.execution(job) as execution:
        for index, segment in enumerate(job.segments()):
            execution.add_segment(index, segment)
        execution.revoke()
        with pytest.raises(RevokedError):
            execution.run()
    assert kernels.SEEN == []
