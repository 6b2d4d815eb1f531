"""The Relying Party's client: submit programs over arrays, get arrays and proofs back.

with Client("tcp://127.0.0.1:5700", policy=load_policy("policy.toml")) as client:
    c = client.submit("linalg.matmul", inputs={"a": a, "b": b}).result(timeout=30)["c"]
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

from attrs import frozen
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation import limits
from attestation.client.active import Active
from attestation.client.connection import Connection
from attestation.client.errors import CoordinatorUnreachableError
from attestation.client.jobs import Job, Progress
from attestation.client.keys import ClientKey
from attestation.client.mapping import WINDOW, Item, Mapper, MapProgress
from attestation.client.numpy_tensors import Array, to_tensor
from attestation.client.planning import GivenParameters
from attestation.client.requests import (
    JobSpec,
    choose,
    seal_request,
    suited_segment_bytes,
    travel_inline,
)
from attestation.client.tracing import JobTrace
from attestation.client.transport import CurveKeys, DealerTransport, Transport
from attestation.client.workers import Reason, Surroundings
from attestation.endorsements.collateral import NO_COLLATERAL, Collateral
from attestation.observability.tracing import from_environment
from attestation.policy.policy import Policy
from attestation.programs.errors import InputMissingError
from attestation.programs.program import Program
from attestation.receipts.commitment import CommitmentKind
from attestation.sealing.tensor_spec import TensorSpec
from attestation.wire.control import JobEntry, JobListing, WorkerEntry, WorkerListing

_T = TypeVar("_T")

DEADLINE_SECONDS: Final = 24 * 3600.0
"""A job without a timeout of its own is refused after this long."""


@frozen(kw_only=True)
class WorkerStatus:
    """A worker as the coordinator lists it, and what our own policy says of it."""

    entry: WorkerEntry
    accepted: bool
    insecure: bool
    refusals: tuple[Reason, ...]


class Client:
    """One client at one coordinator. Use it from any thread; close it, or use `with`."""

    def __init__(
        self,
        url: str,
        *,
        policy: Policy,
        key: Ed25519PrivateKey | ClientKey | Path | str | None = None,
        curve: CurveKeys | None = None,
        collateral: Collateral = NO_COLLATERAL,
        connect_timeout: float = 5.0,
        worker_timeout: float = 30.0,
    ) -> None:
        """Connect and begin to appraise the coordinator's workers under `policy`.

        `key` signs our jobs: a key, the path of its PEM file, or None for one that lives with this
        object. `curve` is needed for addresses outside loopback. `collateral` is what vendors sign
        beside the Evidence (`enclave collateral`). `worker_timeout` is how long `submit` waits for
        a first accepted worker. Raises `CoordinatorUnreachableError`,
        `KeyFileError` and `TransportKeysMissingError`.
        """
        self._key = ClientKey.of(key)
        self._tracer = from_environment("enclave-client")
        self._worker_timeout = worker_timeout
        self._connection = Connection(
            self._transport(url, curve), policy=policy, key=self._key, collateral=collateral
        )
        self._connection.start(connect_timeout)

    def __enter__(self) -> Self:
        """Return the client, connected already."""
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()

    def __repr__(self) -> str:
        return f"Client({self.key_id.hex()[:16]})"

    @property
    def key_id(self) -> bytes:
        """The id of our signing key, as receipts name it."""
        return self._key.key_id

    @property
    def surroundings(self) -> Surroundings:
        """What is known of the workers at this moment."""
        return self._connection.surroundings

    def submit(  # noqa: PLR0913 - one per wish, each by name
        self,
        program: Program | str,
        inputs: Mapping[str, object],
        *,
        parameters: GivenParameters | None = None,
        durable: bool = True,
        timeout: float | None = None,
        price_limit: int = 0,
        commitment: str = CommitmentKind.TAGS,
        segment_bytes: int | None = None,
        deterministic: bool = False,
    ) -> Job:
        """Send a program (or a kernel, by name) over arrays; returns at once with a `Job`.

        Only the wait for a first accepted worker blocks. What cannot work is refused before
        anything is sent: `TensorError`, `ProgramError`, `TooLargeError`, `NoWorkerError`,
        `PolicyUnmetError`. A durable job survives crashes of everybody but us; a streaming one
        (`durable=False`) is relayed at once and sent again if its worker is lost. Inputs of more
        than 2 MiB together are not copied: leave them alone until the job is accepted (durable)
        or done (streaming). A `deterministic` job gives the same bits again on the same class of
        device (docs/kernels.md); a program with a kernel that cannot promise that is refused.
        """
        if not inputs:
            raise InputMissingError("a job needs at least one input")
        specs, arrays = {}, {}
        for name, value in inputs.items():
            specs[name], arrays[name] = to_tensor(name, value)
        segment_bytes = segment_bytes or suited_segment_bytes(specs.values())
        if not durable and travel_inline(specs.values(), segment_bytes):
            # It may have to be sealed again after we returned.
            arrays = {name: array.copy() for name, array in arrays.items()}
        spec = JobSpec(
            program=program,
            parameters=parameters or {},
            arrays=arrays,
            specs=specs,
            durable=durable,
            deadline_ms=_deadline_ms(timeout),
            price_limit=price_limit,
            commitment=CommitmentKind(commitment),
            segment_bytes=segment_bytes,
            deterministic=deterministic,
        )
        return self._submit(spec, timeout)

    def map(
        self,
        program: Program | str,
        batches: Iterable[Mapping[str, object]],
        *,
        parameters: GivenParameters | None = None,
        durable: bool = False,
        timeout: float | None = None,
        window: int = WINDOW,
        deterministic: bool = False,
        on_progress: Callable[[MapProgress], None] | None = None,
    ) -> Iterator[Item]:
        """Run the program on every batch and yield the items, done, in order.

        `Item.result()` tells how each ended. Small batches of one shape travel together as one job
        under one receipt (docs/clients.md); none waits for company while the workers are idle. At
        most `window` are in flight, so `batches` may be endless. What is left when the iteration is
        given up is cancelled.
        """

        def send(specs: Mapping[str, TensorSpec], arrays: Mapping[str, Array], items: int) -> Job:
            spec = JobSpec(
                program=program,
                parameters=parameters or {},
                arrays=arrays,
                specs=specs,
                durable=durable,
                deadline_ms=_deadline_ms(timeout),
                items=items,
                deterministic=deterministic,
            )
            return self._submit(spec, timeout)

        mapper = Mapper(iter(batches), send, window=window, on_progress=on_progress)
        return mapper.run()

    def use_collateral(self, collateral: Collateral) -> None:
        """Judge workers with `collateral` from now on; those refused before are asked again.

        For a client that lives longer than its collateral: lists of revoked certificates end after
        weeks, answers about one certificate after a day.
        """
        self._connection.call(lambda _now: self._connection.engine.book.use_collateral(collateral))

    def workers(self, timeout: float = 10.0, *, settle: float = 3.0) -> list[WorkerStatus]:
        """List the coordinator's workers with our policy's verdict, waiting `settle` s for it."""
        answer: Future[WorkerListing] = Future()
        self._connection.call(lambda _now: self._connection.engine.ask_workers(answer))
        listing = self._answer(answer, timeout)
        state = self._connection.wait_decided(settle)
        ready = {worker.worker_id: worker for worker in state.ready}
        return [
            WorkerStatus(
                entry=entry,
                accepted=entry.worker_id in ready,
                insecure=entry.worker_id in ready
                and ready[entry.worker_id].accepted.result.insecure,
                refusals=tuple(state.refusals.get(entry.worker_id, ())),
            )
            for entry in listing.workers
        ]

    def jobs(self, timeout: float = 10.0) -> list[JobEntry]:
        """List our unfinished and unfetched jobs, as the coordinator tells it."""
        answer: Future[JobListing] = Future()
        self._connection.call(lambda _now: self._connection.engine.ask_jobs(answer))
        return list(self._answer(answer, timeout).jobs)

    def close(self) -> None:
        """Disconnect. What is not done ends with `ClientClosedError`; durable jobs run on."""
        self._connection.close()
        if self._tracer is not None:
            self._tracer.close()

    def _submit(self, spec: JobSpec, timeout: float | None) -> Job:
        ready = self._connection.wait_ready(
            self._worker_timeout if timeout is None else min(timeout, self._worker_timeout)
        )
        trace = None if self._tracer is None else JobTrace(self._tracer)
        choice = choose(spec, ready, self._max_job_bytes())
        request = seal_request(spec, choice, self._key)
        progress = Progress(
            bytes_to_send=request.record.input_bytes,
            bytes_to_receive=request.record.output_bytes_max,
        )
        make_job = Job if trace is None else trace.job
        job = make_job(request.job_id, progress, self._cancel)
        active = Active.of(job, spec, request)
        self._connection.call(lambda _now: self._connection.engine.submit(active))
        return job

    def _max_job_bytes(self) -> int:
        welcome = self._connection.engine.link.welcome
        return limits.TENSOR_BYTES if welcome is None else welcome.max_job_bytes

    def _cancel(self, job: Job) -> None:
        self._connection.call(lambda _now: self._connection.engine.cancel(job))

    @staticmethod
    def _answer(answer: Future[_T], timeout: float) -> _T:
        try:
            return answer.result(timeout)
        except TimeoutError:
            raise CoordinatorUnreachableError(f"no answer within {timeout:g} s") from None

    @staticmethod
    def _transport(url: str, curve: CurveKeys | None) -> Transport:
        return DealerTransport(url, curve)


def _deadline_ms(timeout: float | None) -> int:
    seconds = DEADLINE_SECONDS if timeout is None else timeout
    return int((time.time() + seconds) * 1000)
