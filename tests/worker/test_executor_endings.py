"""However a job ends in the executor, its claim is settled and its key is gone."""

from contextlib import AbstractContextManager, nullcontext

import numpy as np
import pytest

from attestation import limits
from attestation.errors import LimitError, LocalProtocolError
from attestation.programs.plan import Plan
from attestation.wire.control import RefusalCode
from enclave_worker.admission import AdmittedJob
from enclave_worker.buffers import BufferPool, SecretBuffer
from enclave_worker.engine import Outcome
from enclave_worker.errors import EnclaveWorkerError
from enclave_worker.executor import JobExecution
from enclave_worker.refusals import WorkerLimitError
from tests.worker.conftest import Workshop
from tests.worker.simulated_client import SimulatedClient


class FullPool(BufferPool):
    """The pool of a host without memory, or with another trouble."""

    def __init__(self, error: Exception) -> None:
        super().__init__(keep_bytes=0)
        self._error = error

    def take(self, size: int) -> SecretBuffer:
        raise self._error


class FailingEngine:
    """An engine whose programs end as a test says."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    sealing = None

    def turn(self, _plan: Plan, **_: object) -> AbstractContextManager[None]:
        return nullcontext()

    def run(self, *_: object, **__: object) -> Outcome:
        raise self._error

    def refusal_of(self, _plan: Plan, _error: Exception) -> None:
        return None


def key_is_gone(admitted: AdmittedJob) -> bool:
    """Whether nothing can be opened with what the execution held."""
    try:
        admitted.content_key.body_key(admitted.request_digest)
    except LocalProtocolError:
        return True
    return False


@pytest.mark.parametrize(
    ("error", "refusal"),
    [(LimitError("no memory"), WorkerLimitError), (RuntimeError("a defect"), RuntimeError)],
)
def test_a_job_that_finds_no_memory_is_refused_and_may_go_elsewhere(
    workshop: Workshop, client: SimulatedClient, error: Exception, refusal: type[Exception]
) -> None:
    job = workshop.job(client)
    admitted = workshop.admit(job)
    assert not key_is_gone(admitted)
    with pytest.raises(refusal):
        JobExecution(admitted, engine=workshop.engine, pool=FullPool(error), clock=workshop.clock)
    assert key_is_gone(admitted)
    workshop.execution(job, attempt=2).close()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (LimitError("no memory for what the program makes"), RefusalCode.WORKER_LIMIT),
        (EnclaveWorkerError("not the kernel's fault"), RefusalCode.KERNEL_FAILED),
        (RuntimeError("the device's library, in its own words"), RefusalCode.KERNEL_FAILED),
    ],
)
def test_a_program_that_the_worker_cannot_finish_ends_in_a_signed_failure(
    workshop: Workshop, client: SimulatedClient, error: Exception, code: RefusalCode
) -> None:
    """Spent and signed: a worker cannot shirk by saying that it had no memory."""
    job = workshop.job(client)
    admitted = workshop.admit(job)
    with JobExecution(
        admitted, engine=FailingEngine(error), pool=workshop.pool, clock=workshop.clock
    ) as execution:
        for index, segment in enumerate(job.segments()):
            execution.add_segment(index, segment)
        execution.run()
        assert execution.output_segments == 0
        assert list(execution.segments()) == []
        finished = execution.finish()
    assert finished.result.code == finished.draft.code == code.value
    assert finished.draft.metering.bytes_out == 0
    assert key_is_gone(admitted)


def test_an_execution_says_how_many_segments_it_waits_for_and_makes(
    workshop: Workshop, client: SimulatedClient
) -> None:
    job = workshop.job(client)
    segments = job.segments()
    with workshop.execution(job) as execution:
        assert execution.input_segments == len(segments)
        for index, segment in enumerate(segments):
            assert not execution.inputs_complete
            execution.add_segment(index, segment)
        assert execution.inputs_complete
        assert execution.output_segments == 0
        execution.run()
        assert execution.output_segments == len(list(execution.segments()))
        # 160 kB of outputs still travel with the result; the limit has a test of its own.
        assert execution.inline


def test_outputs_beyond_the_inline_limit_are_streamed(
    workshop: Workshop, client: SimulatedClient
) -> None:
    job = workshop.job(client, arrays={"x": np.arange(limits.INLINE_BYTES // 8, dtype=np.float64)})
    with workshop.execution(job) as execution:
        for index, segment in enumerate(job.segments()):
            execution.add_segment(index, segment)
        assert execution.inline, "before a program has outputs, there is nothing to stream"
        execution.run()
        assert not execution.inline
