"""Runs one admitted job: inputs in, kernels, outputs out, receipt draft, and nothing left behind.

No sockets and no threads of its own: a caller feeds segments, calls `run` once the inputs are
whole, takes the sealed outputs one by one, and closes. Of a `streamed` job it calls `run_segment`
and `seal_segment` after each segment instead. `close` wipes every buffer and the content key,
however far the job came; `revoke` may come from another thread at any time.

A failure before the kernels ran is a refusal, and the job may go elsewhere. A failure of a kernel
is a result: it is signed, so that a client can tell a program that fails from a worker that shirks.
"""

from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self, cast

from attrs import frozen

from attestation import limits
from attestation.errors import LimitError, LocalProtocolError
from attestation.receipts.commitment import SegmentCommitment
from attestation.receipts.receipt import Metering
from attestation.wire.frames import Frame
from attestation.wire.messages import ResultHeader
from enclave_worker.admission import AdmittedJob
from enclave_worker.buffers import BufferPool
from enclave_worker.device.sealed_tensors import DeviceInputs, DeviceOutputs
from enclave_worker.engine import Outcome, ProgramEngine
from enclave_worker.issuing import ReceiptDraft
from enclave_worker.refusals import (
    ExpiredError,
    JobRefusedError,
    RevokedError,
    WorkerLimitError,
)
from enclave_worker.stacks import Failures, failure_code, run_stack
from enclave_worker.streaming import StreamedInput, StreamedOutput, cut
from enclave_worker.tensors import InputTensors, OutputTensors
from enclave_worker.timelimits import NO_LIMITS, TimeLimits


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
        self,
        job: AdmittedJob,
        *,
        engine: ProgramEngine,
        pool: BufferPool,
        clock: Clock,
        time_limits: TimeLimits = NO_LIMITS,
    ) -> None:
        """Allocate for the inputs of `job`; raises `WorkerLimitError` when memory is short."""
        self._job = job
        self._engine = engine
        self._pool = pool
        self._clock = clock
        self._time_limits = time_limits
        self._kernels_since_ns: int | None = None
        self._revoked = False
        self._outputs: OutputTensors | DeviceOutputs | StreamedOutput | None = None
        self._code = ""
        self._failures: Failures = ()
        self._device_ns = 0
        self._peak_device_bytes = 0
        self._started_ms = clock.now_ms()
        self._started_ns = clock.monotonic_ns()
        try:
            self._inputs = self._take_inputs()
        except BaseException as error:
            job.content_key.wipe()
            job.claim.finish()
            if isinstance(error, LimitError):
                raise WorkerLimitError(str(error)) from error
            raise

    def _take_inputs(self) -> InputTensors | DeviceInputs | StreamedInput:
        openers, header = self._job.openers, self._job.header
        kind, sealing = header.commitment_kind, self._engine.sealing
        if sealing is not None:
            return DeviceInputs(openers, kind=kind, device=sealing)
        pieces = cut(self._job.plan, segment_bytes=header.segment_bytes)
        if pieces is None or not self._engine.on_host:
            return InputTensors(openers, kind=kind, pool=self._pool)
        return StreamedInput(openers[0], pieces, kind=kind, prepare=self._engine.prepare)

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

    @property
    def streamed(self) -> bool:
        """Whether the program runs on each segment as it comes, and gives one back for each."""
        return isinstance(self._inputs, StreamedInput)

    def run_segment(self) -> None:
        """Run the program of a streamed job on the segment that was added last.

        The first one spends the job. A kernel that fails is a result without outputs, as in `run`,
        whatever has left before; the rest of the input is still verified, for the receipt.
        """
        inputs = self._inputs
        assert isinstance(inputs, StreamedInput)  # noqa: S101 - `streamed` was asked
        if self._code:
            return
        if self._outputs is None:
            self._job.claim.spend()
        # Of all segments together: the time between them is not the kernels'.
        self._kernels_since_ns = self._clock.monotonic_ns() - self._device_ns
        try:
            device_ns = inputs.piece.run(require_wanted=self._require_in_time)
        except JobRefusedError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a kernel raises is its failure
            self._code = failure_code(error)
            self._outputs = None
        else:
            self._device_ns += device_ns
            self._peak_device_bytes = max(self._peak_device_bytes, inputs.piece.peak_bytes)
            if self._outputs is None:
                self._outputs = StreamedOutput.of(self._job.plan.outputs, **self._sealed_as())
        finally:
            self._kernels_since_ns = None

    def seal_segment(self, memory: Frame) -> Frame | None:
        """Seal what `run_segment` made, into `memory` where that fits; none after a failure."""
        inputs, outputs = self._inputs, self._outputs
        if not isinstance(inputs, StreamedInput) or not isinstance(outputs, StreamedOutput):
            return None
        self._require_wanted()
        return outputs.seal(inputs.piece, memory)

    def run(self) -> None:
        """Run the program. Afterwards the inputs are wiped and the outputs wait to be sealed.

        Raises `JobNotAuthenticError` for incomplete inputs and `WorkerLimitError` for a program
        that the device is too small for. From then on the job is spent, and a failure is a result
        and not an exception, except that nobody wants the job any more (`RevokedError`,
        `ExpiredError`) or the device ran out of memory (`WorkerLimitError`), which says nothing of
        the job and another worker may do better at.
        """
        inputs = self._inputs
        if isinstance(inputs, StreamedInput):
            raise LocalProtocolError("a streamed job runs segment by segment")
        inputs.finish()
        with self._engine.turn(self._job.plan, require_wanted=self._require_in_time):
            self._open(inputs)
            self._job.claim.spend()
            self._kernels_since_ns = self._clock.monotonic_ns()
            try:
                self._take(self._run_program(inputs))
            except JobRefusedError:
                raise
            except Exception as error:  # noqa: BLE001 - whatever a kernel raises is its failure
                refusal = self._engine.refusal_of(self._job.plan, error)
                if refusal is not None:
                    raise refusal from None
                self._code = failure_code(error)
            finally:
                self._kernels_since_ns = None
                inputs.close()

    def _open(self, inputs: InputTensors | DeviceInputs) -> None:
        try:
            inputs.open()
        except LimitError as error:
            raise self._engine.refusal_of(self._job.plan, error) or WorkerLimitError(
                str(error)
            ) from error

    def hung(self, now_ns: int) -> bool:
        """Whether a kernel did not come back in its time and the grace after. From any thread."""
        since = self._kernels_since_ns
        return since is not None and self._time_limits.hung(since, now_ns)

    def _run_program(self, inputs: InputTensors | DeviceInputs) -> Outcome:
        plan = self._job.plan
        if not plan.items:
            return self._engine.run(plan, inputs, require_wanted=self._require_in_time)
        outcome, self._failures = run_stack(
            self._engine,
            plan,
            inputs,
            require_wanted=self._require_in_time,
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
        if self._outputs is None or isinstance(self._outputs, StreamedOutput):
            return
        for segment in self._outputs.segments():
            self._require_wanted()
            yield segment

    def expected_result(self) -> ResultHeader:
        """Return the result header as it will be unless a kernel still fails."""
        headers = self._outputs.headers if self._outputs else ()
        return ResultHeader(code=self._code, outputs=headers, failures=self._failures)

    def finish(self) -> FinishedJob:
        """Return what is signed and sent when every output segment is sealed."""
        outputs = self._outputs
        job, header = self._job, self._job.header
        result = self.expected_result()
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
        sealing, outputs = self._engine.sealing, cast("Any", outcome.outputs)
        if sealing is None:
            self._outputs = OutputTensors(outputs, pool=self._pool, **self._sealed_as())
        else:
            self._outputs = DeviceOutputs(outputs, device=sealing, **self._sealed_as())

    def _sealed_as(self) -> dict[str, Any]:
        """Return what all outputs have in common."""
        header = self._job.header
        return {
            "content_key": self._job.content_key,
            "job_id": header.job_id,
            "attempt": self._job.attempt,
            "segment_bytes": header.segment_bytes,
            "kind": header.commitment_kind,
        }

    def _require_wanted(self) -> None:
        if self._revoked:
            raise RevokedError("the coordinator took the job back")

    def _require_in_time(self) -> None:
        self._require_wanted()
        if self._clock.now_ms() >= self._job.header.not_after_ms:
            raise ExpiredError("the client no longer wants this job")

        since = self._kernels_since_ns
        if since is not None and self._time_limits.job_seconds:
            # A GPU is told what to do long before it does it; its time counts, not ours.
            self._engine.synchronize()
            self._time_limits.require_time(since, self._clock.monotonic_ns())
