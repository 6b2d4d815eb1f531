"""Runs one admitted job: inputs in, kernels, outputs out, receipt draft, and nothing left behind.

No sockets and no threads of its own: a caller feeds segments, calls `run` once the inputs are
whole, takes the sealed outputs one by one, and closes. `close` wipes every buffer and the content
key, however far the job came; `revoke` may come from another thread at any time.

A failure before the kernels ran is a refusal, and the job may go elsewhere. A failure of a kernel
is a result: it is signed, so that a client can tell a program that fails from a worker that shirks.
"""

from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

from attrs import frozen

from attestation import limits
from attestation.errors import LimitError
from attestation.receipts.commitment import SegmentCommitment
from attestation.receipts.receipt import Metering
from attestation.wire.frames import Frame
from attestation.wire.messages import ResultHeader
from enclave_worker.admission import AdmittedJob
from enclave_worker.buffers import BufferPool
from enclave_worker.engine import Outcome, ProgramEngine
from enclave_worker.issuing import ReceiptDraft
from enclave_worker.refusals import RevokedError, WorkerLimitError
from enclave_worker.stacks import Failures, failure_code, run_stack
from enclave_worker.tensors import InputTensors, OutputTensors


@frozen(kw_only=True)
class Clock:
    """Unix milliseconds for what is signed, and a monotonic counter for what is metered."""

    now_ms: Callable[[], int]
    monotonic_ns: Callable[[], int]


@frozen(kw_only=True)
class FinishedJob:
    """What is left when a job is done: a result header and the draft of its receipt."""

    result: ResultHeader
    draft: ReceiptDraft


class JobExecution:
    """One attempt at one job. Use it in a `with` statement."""

    def __init__(
        self, job: AdmittedJob, *, engine: ProgramEngine, pool: BufferPool, clock: Clock
    ) -> None:
        """Allocate for the inputs of `job`; raises `WorkerLimitError` when memory is short."""
        self._job = job
        self._engine = engine
        self._pool = pool
        self._clock = clock
        self._revoked = False
        self._outputs: OutputTensors | None = None
        self._code = ""
        self._failures: Failures = ()
        self._device_ns = 0
        self._peak_device_bytes = 0
        self._started_ms = clock.now_ms()
        self._started_ns = clock.monotonic_ns()
        try:
            self._inputs = InputTensors(job.openers, kind=job.header.commitment_kind, pool=pool)
        except BaseException as error:
            job.content_key.wipe()
            job.claim.finish()
            if isinstance(error, LimitError):
                raise WorkerLimitError(str(error)) from error
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def input_segments(self) -> int:
        """Segments of all inputs together."""
        return self._inputs.segment_count

    @property
    def inputs_complete(self) -> bool:
        """Whether every input segment is here."""
        return self._inputs.complete

    def add_segment(self, index: int, segment: Frame) -> None:
        """Open input segment `index`; raises `JobNotAuthenticError` unless it is the next one."""
        self._require_wanted()
        self._inputs.add(index, segment)

    def run(self) -> None:
        """Run the program. Afterwards the inputs are wiped and the outputs wait to be sealed.

        Raises `JobNotAuthenticError` for incomplete inputs and `RevokedError` when the job was
        taken back; from then on the job is spent, and a failure is a result and not an exception.
        """
        self._inputs.finish()
        self._job.claim.spend()
        try:
            self._take(self._run_program())
        except RevokedError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a kernel raises is the job's failure
            self._code = failure_code(error)
        finally:
            self._inputs.close()

    def _run_program(self) -> Outcome:
        plan = self._job.plan
        if not plan.items:
            return self._engine.run(plan, self._inputs)
        outcome, self._failures = run_stack(
            self._engine,
            plan,
            self._inputs,
            pool=self._pool,
            require_wanted=self._require_wanted,
        )
        return outcome

    @property
    def output_segments(self) -> int:
        """Segments of all outputs together; none when the program failed."""
        return self._outputs.segment_count if self._outputs else 0

    @property
    def inline(self) -> bool:
        """Whether the outputs are small enough to travel with the result."""
        if self._outputs is None:
            return True
        return (
            self._outputs.segment_count <= limits.INLINE_SEGMENTS
            and self._outputs.sealed_length <= limits.INLINE_BYTES
        )

    def segments(self) -> Iterator[bytearray]:
        """Seal and return the output segments, one at a time, in the order they travel."""
        if self._outputs is None:
            return
        for segment in self._outputs.segments():
            self._require_wanted()
            yield segment

    def finish(self) -> FinishedJob:
        """Return what is signed and sent when every output segment is sealed."""
        outputs = self._outputs
        job, header = self._job, self._job.header
        result = ResultHeader(
            code=self._code,
            outputs=outputs.headers if outputs else (),
            failures=self._failures,
        )
        nothing = SegmentCommitment(header.commitment_kind)
        commitment = outputs.commitment() if outputs else nothing.root()
        draft = ReceiptDraft(
            job_id=header.job_id,
            client_key_id=job.client_key_id,
            attempt=job.attempt,
            code=self._code,
            request_digest=job.request_digest,
            result_digest=result.digest(),
            program_digest=header.program_digest,
            parameters_commitment=header.parameters_commitment,
            commitment_kind=nothing.kind,
            input_commitment=self._inputs.commitment(),
            output_commitment=commitment,
            started_ms=self._started_ms,
            ended_ms=self._clock.now_ms(),
            metering=Metering(
                device_ns=self._device_ns,
                wall_ns=self._clock.monotonic_ns() - self._started_ns,
                bytes_in=self._inputs.sealed_bytes,
                bytes_out=outputs.sealed_bytes if outputs else 0,
                peak_device_bytes=self._peak_device_bytes,
            ),
        )
        return FinishedJob(result=result, draft=draft)

    def revoke(self) -> None:
        """Stop at the next step. From another thread: a kernel that runs is not interrupted."""
        self._revoked = True
        self._job.claim.release()

    def close(self) -> None:
        """Wipe every buffer and the content key, and settle the claim. Safe to call twice."""
        self._inputs.close()
        if self._outputs is not None:
            self._outputs.close()
        self._job.content_key.wipe()
        self._job.claim.finish()

    def _take(self, outcome: Outcome) -> None:
        self._device_ns = outcome.device_ns
        self._peak_device_bytes = outcome.peak_device_bytes
        self._outputs = OutputTensors(
            outcome.outputs,
            content_key=self._job.content_key,
            job_id=self._job.header.job_id,
            attempt=self._job.attempt,
            segment_bytes=self._job.header.segment_bytes,
            kind=self._job.header.commitment_kind,
            pool=self._pool,
        )

    def _require_wanted(self) -> None:
        if self._revoked:
            raise RevokedError("the coordinator took the job back")
