"""A job as its owner sees it: a future whose result is arrays that a receipt has proven."""

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from pathlib import Path
from types import MappingProxyType
from typing import Final

from attrs import field, frozen

from attestation.appraisal.result import AttestationResult
from attestation.client.errors import ItemsFailedError, JobFailedError, JobTimeoutError
from attestation.client.numpy_tensors import Array
from attestation.errors import LocalProtocolError
from attestation.evidence.bundle import EvidenceRecord
from attestation.identifiers import JobId
from attestation.receipts.receipt import Receipt, ReceiptClaims
from attestation.wire.client_session import AcceptedWorker

_NONE: Final[Mapping[int, str]] = MappingProxyType({})


@frozen(kw_only=True)
class Progress:
    """How far a job's sealed bytes have come. Outputs are counted as they arrive."""

    bytes_to_send: int
    bytes_sent: int = 0
    bytes_to_receive: int
    bytes_received: int = 0


@frozen(kw_only=True)
class Proof:
    """What was proven, by whom: kept with the result."""

    receipt: Receipt
    accepted: AcceptedWorker = field(repr=False)


class Job(Future[dict[str, Array]]):
    """One submitted job. Everything a `concurrent.futures.Future` does, and what was proven.

    Callbacks run on the client's own threads and must not wait for other jobs.
    """

    def __init__(self, job_id: JobId, progress: Progress, cancel: Callable[["Job"], None]) -> None:
        """Made by `Client.submit`; `cancel` tells the coordinator."""
        super().__init__()
        self._job_id = job_id
        self._cancel = cancel
        self._proof: Proof | None = None
        self._outputs: dict[str, Array] = {}
        self._all_ran = False
        self._accepted = threading.Event()
        self._ending = threading.Lock()
        self._ended = False
        self.progress = progress
        """How far its bytes have come."""

    def __repr__(self) -> str:
        state = "done" if self.done() else "running" if self.running() else "waiting"
        return f"Job({self._job_id.hex()[:16]}, {state})"

    @property
    def job_id(self) -> JobId:
        """The job's id. A streaming job that lost its worker was sent again under a new one."""
        return self._job_id

    @property
    def receipt(self) -> Receipt:
        """The verified receipt, also of a program that failed."""
        return self._require_proof().receipt

    @property
    def attestation(self) -> AttestationResult:
        """The appraisal of the worker that signed the receipt."""
        return self._require_proof().accepted.result

    @property
    def evidence(self) -> EvidenceRecord:
        """The evidence behind `attestation`, for anyone who wants to repeat the appraisal."""
        return self._require_proof().accepted.record

    @property
    def claims(self) -> ReceiptClaims:
        """The receipt's claims, readable."""
        return ReceiptClaims.from_bytes(self.receipt.claims)

    def save_proof(self, directory: Path | str) -> tuple[Path, Path]:
        """Write `JOB_ID.receipt` and `JOB_ID.evidence` for an auditor; return their paths."""
        proof = self._require_proof()
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        name = self._job_id.hex()
        paths = folder / f"{name}.receipt", folder / f"{name}.evidence"
        for path, data in zip(
            paths, (proof.receipt.to_bytes(), proof.accepted.record.to_bytes()), strict=True
        ):
            path.write_bytes(data)
        return paths

    def item(self, number: int, timeout: float | None = None) -> dict[str, Array]:
        """Return the outputs of one item of a stack (`submit(…, each=True)`), as views.

        Raises `JobFailedError` when that item failed, whatever became of the others, and otherwise
        like `result`.
        """
        # A stack has thousands: where each item ran, none of them needs to ask the future.
        if not self._all_ran:
            error = self.item_exception(number, timeout)
            if error is not None:
                raise error
        outputs = {}
        # As a comprehension, which is a call of its own, this takes half as long again.
        for name, stack in self._outputs.items():
            outputs[name] = stack[number, ...]
        return outputs

    def item_exception(self, number: int, timeout: float | None = None) -> BaseException | None:
        """Return what went wrong with one item of a stack, None when nothing did."""
        error = self.exception(timeout)
        if not isinstance(error, ItemsFailedError):
            return error
        code = error.failures.get(number)
        if code is None:
            return None
        proof = self._require_proof()
        return JobFailedError(code, receipt=proof.receipt, accepted=proof.accepted)

    def result(self, timeout: float | None = None) -> dict[str, Array]:
        """Return the outputs by name; raises what went wrong, or `JobTimeoutError`."""
        try:
            return super().result(timeout)
        except FutureTimeoutError as error:
            if isinstance(error, JobTimeoutError):
                raise
            raise JobTimeoutError(f"no result within {timeout} s") from None

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return what went wrong, None when nothing did; raises `JobTimeoutError`."""
        try:
            return super().exception(timeout)
        except FutureTimeoutError:
            raise JobTimeoutError(f"no result within {timeout} s") from None

    def running(self) -> bool:
        """Tell whether the coordinator has accepted the job and it is not done."""
        return self._accepted.is_set() and not self.done()

    def wait_accepted(self, timeout: float | None = None) -> bool:
        """Wait until the job is acknowledged (durable: on stable storage) or done."""
        return self._accepted.wait(timeout)

    def cancel(self) -> bool:
        """Give the job up, wherever it is; returns False when it was done already."""
        if not self._begin_end():
            return self.cancelled()
        super().cancel()
        self.set_running_or_notify_cancel()
        self._cancel(self)
        return True

    # The connection's side: called on its threads only.

    def resubmitted(self, job_id: JobId) -> None:
        """Note that the job goes under another id from now on."""
        self._job_id = job_id

    def accept(self) -> None:
        """Note the coordinator's acknowledgement."""
        self._accepted.set()

    def finish(
        self, outputs: dict[str, Array], proof: Proof, failures: Mapping[int, str] = _NONE
    ) -> None:
        """Hand out verified arrays, unless the job was cancelled meanwhile."""
        if self._begin_end():
            self._proof = proof
            self._outputs = outputs
            self.set_running_or_notify_cancel()
            if failures:
                self.set_exception(ItemsFailedError(failures))
            else:
                self.set_result(outputs)
                self._all_ran = True

    def fail(self, error: BaseException, proof: Proof | None = None) -> None:
        """Hand out an error, unless the job was cancelled meanwhile."""
        if self._begin_end():
            self._proof = proof
            self.set_running_or_notify_cancel()
            self.set_exception(error)

    def _begin_end(self) -> bool:
        # A user who cancels and a result that arrives race: one of them ends the job.
        with self._ending:
            first, self._ended = not self._ended, True
        self._accepted.set()
        return first

    def _require_proof(self) -> Proof:
        if self._proof is None:
            raise LocalProtocolError("nothing is proven about this job (yet)")
        return self._proof
