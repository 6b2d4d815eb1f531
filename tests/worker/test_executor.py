"""What a worker does with a job from its inputs on: nothing runs on bytes that do not hold."""

from types import ModuleType

import numpy as np
import pytest

from attestation.errors import NotAuthenticError
from attestation.receipts.commitment import SegmentCommitment
from attestation.wire.control import RefusalCode
from enclave_worker.executor import JobExecution
from enclave_worker.refusals import JobNotAuthenticError, ReplayedError, RevokedError
from tests.worker.conftest import Workshop
from tests.worker.simulated_client import SimulatedClient


def feed(execution: JobExecution, segments: list[bytearray]) -> list[bytearray]:
    for index, segment in enumerate(segments):
        execution.add_segment(index, segment)
    return segments


def test_a_job_comes_back_sealed_to_its_client_and_committed_to(
    workshop: Workshop, client: SimulatedClient
) -> None:
    job = workshop.job(client)
    with workshop.execution(job, attempt=3) as execution:
        inputs = feed(execution, job.segments())
        execution.run()
        outputs = [bytes(segment) for segment in execution.segments()]
        finished = execution.finish()
    assert finished.result.code == ""
    arrays = job.open_outputs(finished.result, outputs, attempt=3)
    np.testing.assert_array_equal(arrays["y"], 2 * job.arrays["x"])
    draft = finished.draft
    assert draft.input_commitment == SegmentCommitment.over("tags", inputs).root()
    assert draft.output_commitment == SegmentCommitment.over("tags", outputs).root()
    assert draft.request_digest == job.header.digest()
    assert draft.metering.bytes_in == sum(map(len, inputs))


def test_outputs_of_one_attempt_do_not_open_as_those_of_another(
    workshop: Workshop, client: SimulatedClient
) -> None:
    """A coordinator that shows attempt 1's result as attempt 2's gets nothing."""
    job = workshop.job(client)
    with workshop.execution(job, attempt=1) as execution:
        feed(execution, job.segments())
        execution.run()
        outputs = [bytes(segment) for segment in execution.segments()]
        finished = execution.finish()
    with pytest.raises(NotAuthenticError):
        job.open_outputs(finished.result, outputs, attempt=2)


def test_an_empty_tensor_and_a_scalar_go_through(
    workshop: Workshop, client: SimulatedClient
) -> None:
    job = workshop.job(client, arrays={"x": np.zeros(1)})
    with workshop.execution(job) as execution:
        feed(execution, job.segments())
        execution.run()
        assert execution.inline
        outputs = [bytes(segment) for segment in execution.segments()]
        assert job.open_outputs(execution.finish().result, outputs, attempt=1)["y"][0] == 0


@pytest.mark.parametrize(
    ("attack", "change"),
    [
        ("swapped", lambda s: [s[1], s[0], *s[2:]]),
        ("repeated", lambda s: [s[0], s[0], *s[1:]]),
        ("a bit flipped in the middle", lambda s: [s[0], flipped(s[1]), *s[2:]]),
        ("cut", lambda s: [s[0], s[1][:-1], *s[2:]]),
        ("shortened to nothing", lambda s: [s[0], b"", *s[2:]]),
        ("one too many", lambda s: [*s, s[-1]]),
    ],
)
def test_changed_segments_are_refused_and_what_was_open_is_wiped(
    workshop: Workshop, client: SimulatedClient, attack: str, change: object
) -> None:
    """G4: reordered, repeated, flipped, cut or added, no kernel runs and no plaintext stays."""
    job = workshop.job(client)
    execution = workshop.execution(job)
    view = execution._inputs._held["x"].buffer.view()
    with execution, pytest.raises(JobNotAuthenticError):
        feed(execution, change(job.segments()))
    with pytest.raises(ValueError, match="released"):
        view[0]
    assert not any(bytes(pooled.view()).strip(b"\0") for pooled in idle(workshop)), attack


def flipped(segment: bytearray) -> bytearray:
    changed = bytearray(segment)
    changed[len(changed) // 2] ^= 1
    return changed


def idle(workshop: Workshop) -> list:
    buffers = [each for shelf in workshop.pool._idle.values() for each in shelf]
    for buffer in buffers:
        buffer.take(buffer.capacity)
    assert buffers
    return buffers


def test_a_segment_of_another_job_is_refused(workshop: Workshop, client: SimulatedClient) -> None:
    """Splicing two jobs of one client, whose tensors look alike, fails."""
    job, other = workshop.job(client), workshop.job(client)
    with workshop.execution(job) as execution, pytest.raises(JobNotAuthenticError):
        execution.add_segment(0, other.segments()[0])


def test_a_program_does_not_start_on_incomplete_inputs(
    workshop: Workshop, client: SimulatedClient
) -> None:
    """A coordinator that leaves out the last segment gets no kernel to run."""
    job = workshop.job(client)
    with workshop.execution(job) as execution:
        for index, segment in enumerate(job.segments()[:-1]):
            execution.add_segment(index, segment)
        with pytest.raises(JobNotAuthenticError):
            execution.run()
    workshop.execution(job, attempt=2).close()


@pytest.mark.parametrize(
    ("kernel", "code"),
    [("test.reject", "input-out-of-domain"), ("test.crash", RefusalCode.KERNEL_FAILED.value)],
)
def test_a_kernel_that_fails_gives_a_signed_failure_without_outputs(
    workshop: Workshop, client: SimulatedClient, kernel: str, code: str
) -> None:
    job = workshop.job(client, kernel)
    with workshop.execution(job) as execution:
        feed(execution, job.segments())
        execution.run()
        assert execution.inline
        assert list(execution.segments()) == []
        finished = execution.finish()
    assert finished.result.code == finished.draft.code == code
    assert finished.result.outputs == ()
    assert finished.draft.output_commitment == SegmentCommitment("tags").root()
    assert finished.draft.result_digest == finished.result.digest()


def test_an_array_that_a_kernel_keeps_shows_nothing_after_its_job(
    workshop: Workshop, client: SimulatedClient, kernels: ModuleType
) -> None:
    """G10: even a kernel that hoards its inputs holds zeros, and never the next job's values."""
    kernels.SEEN.clear()
    for _ in range(2):
        job = workshop.job(client, "test.hoard")
        with workshop.execution(job) as execution:
            feed(execution, job.segments())
            execution.run()
            list(execution.segments())
    assert len(kernels.SEEN) == 2
    assert not any(array.any() for array in kernels.SEEN)


def test_no_buffer_is_in_use_after_a_job(workshop: Workshop, client: SimulatedClient) -> None:
    job = workshop.job(client)
    with workshop.execution(job) as execution:
        feed(execution, job.segments())
        execution.run()
        list(execution.segments())
    for buffer in idle(workshop):
        assert not bytes(buffer.view()).strip(b"\0")
    # Input and output lay in buffers of the pool, and both are back.
    assert len(idle_sizes := [b.capacity for b in idle_again(workshop)]) == 2, idle_sizes


def idle_again(workshop: Workshop) -> list:
    return [each for shelf in workshop.pool._idle.values() for each in shelf]


def test_a_job_that_ran_does_not_run_again_whatever_its_attempt(
    workshop: Workshop, client: SimulatedClient
) -> None:
    """The coordinator chooses attempts: a higher one must not bill a client twice."""
    job = workshop.job(client)
    with workshop.execution(job, attempt=1) as execution:
        feed(execution, job.segments())
        execution.run()
        list(execution.segments())
    for attempt in (1, 2, 7):
        with pytest.raises(ReplayedError):
            workshop.execution(job, attempt=attempt)


def test_a_job_whose_kernel_failed_does_not_run_again(
    workshop: Workshop, client: SimulatedClient
) -> None:
    job = workshop.job(client, "test.crash")
    with workshop.execution(job) as execution:
        feed(execution, job.segments())
        execution.run()
    with pytest.raises(ReplayedError):
        workshop.execution(job, attempt=2)


def test_a_job_revoked_before_its_kernel_ran_may_come_back(
    workshop: Workshop, client: SimulatedClient
) -> None:
    """A lease lost while inputs were under way costs nobody anything."""
    job = workshop.job(client)
    segments = job.segments()
    first = workshop.execution(job, attempt=1)
    first.add_segment(0, segments[0])
    first.revoke()
    # The next attempt is admitted even before the thread of the first has noticed.
    with workshop.execution(job, attempt=2) as second:
        with pytest.raises(RevokedError):
            first.add_segment(1, segments[1])
        with pytest.raises((RevokedError, JobNotAuthenticError)):
            first.run()
        first.close()
        for index, segment in enumerate(segments):
            second.add_segment(index, segment)
        second.run()
        assert second.finish().result.code == ""


def test_a_job_revoked_while_its_kernel_ran_sends_nothing(
    workshop: Workshop, client: SimulatedClient
) -> None:
    job = workshop.job(client)
    with workshop.execution(job) as execution:
        feed(execution, job.segments())
        execution.run()
        execution.revoke()
        with pytest.raises(RevokedError):
            list(execution.segments())
    with pytest.raises(ReplayedError):
        workshop.execution(job, attempt=2)


def test_the_content_key_is_gone_after_a_job(workshop: Workshop, client: SimulatedClient) -> None:
    job = workshop.job(client)
    admitted = workshop.admit(job)
    JobExecution(admitted, engine=workshop.engine, pool=workshop.pool, clock=workshop.clock).close()
    with pytest.raises(Exception, match="wiped"):
        admitted.content_key.commitment(job.job_id)
