"""The client for asyncio: the same names, awaited.

    async with AsyncClient("tcp://127.0.0.1:5700", policy=policy) as client:
        job = await client.submit("linalg.matmul", inputs={"a": a, "b": b})
        c = (await job.result())["c"]

The work happens on the threads of a `Client`; the event loop only waits.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from attestation.appraisal.result import AttestationResult
from attestation.client.client import Client, WorkerStatus
from attestation.client.errors import JobTimeoutError
from attestation.client.jobs import Job, Progress
from attestation.client.mapping import MapProgress
from attestation.client.numpy_tensors import Array
from attestation.client.planning import GivenParameters
from attestation.endorsements.collateral import Collateral
from attestation.errors import LocalProtocolError
from attestation.evidence.bundle import EvidenceRecord
from attestation.identifiers import JobId
from attestation.programs.program import Program
from attestation.receipts.receipt import Receipt, ReceiptClaims
from attestation.wire.control import JobEntry


class AsyncJob:
    """A `Job` whose outcome is awaited. Everything else is as in `Job`."""

    def __init__(self, job: Job) -> None:
        """Wrap `job`; several of these may wait for one job."""
        self.job = job

    def __repr__(self) -> str:
        return f"Async{self.job!r}"

    async def result(self, timeout: float | None = None) -> dict[str, Array]:
        """Return the outputs; raises what went wrong, or `JobTimeoutError`.

        Cancelling the task that waits leaves the job alone: `cancel` is for that.
        """
        future = asyncio.wrap_future(self.job)
        try:
            return await asyncio.wait_for(asyncio.shield(future), timeout)
        except TimeoutError as error:
            if isinstance(error, JobTimeoutError):
                raise
            raise JobTimeoutError(f"no result within {timeout} s") from None

    async def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return what went wrong, None when nothing did; raises `JobTimeoutError` when not done."""
        try:
            await self.result(timeout)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            if not self.job.done():
                raise
            return error
        return None

    def cancel(self) -> bool:
        """Give the job up."""
        return self.job.cancel()

    def done(self) -> bool:
        """Tell whether there is an outcome."""
        return self.job.done()

    def cancelled(self) -> bool:
        """Tell whether the job was given up."""
        return self.job.cancelled()

    def running(self) -> bool:
        """Tell whether the coordinator has accepted the job and it is not done."""
        return self.job.running()

    def add_done_callback(self, function: Callable[["AsyncJob"], Any]) -> None:
        """Call `function` on the running event loop when the job is done."""
        loop = asyncio.get_running_loop()
        self.job.add_done_callback(lambda _: loop.call_soon_threadsafe(function, self))

    @property
    def job_id(self) -> JobId:
        """The job's id."""
        return self.job.job_id

    @property
    def progress(self) -> Progress:
        """How far its bytes have come."""
        return self.job.progress

    @property
    def receipt(self) -> Receipt:
        """The verified receipt."""
        return self.job.receipt

    @property
    def claims(self) -> ReceiptClaims:
        """The receipt's claims."""
        return self.job.claims

    @property
    def attestation(self) -> AttestationResult:
        """The appraisal of the worker that signed the receipt."""
        return self.job.attestation

    @property
    def evidence(self) -> EvidenceRecord:
        """The evidence behind `attestation`."""
        return self.job.evidence

    def save_proof(self, directory: Path | str) -> tuple[Path, Path]:
        """Write receipt and evidence for an auditor."""
        return self.job.save_proof(directory)


WINDOW: Final = 64
"""Jobs that `AsyncClient.map` has in flight."""


class AsyncClient:
    """A `Client` for one event loop. Connects when entered."""

    def __init__(self, url: str, **options: Any) -> None:
        """Take what `Client` takes; nothing is opened before `async with`."""
        self._url = url
        self._options = options
        self._client: Client | None = None

    async def __aenter__(self) -> Self:
        """Connect; raises what `Client` raises."""
        self._client = await asyncio.to_thread(Client, self._url, **self._options)
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        """Close."""
        await self.close()

    async def submit(
        self, program: Program | str, inputs: Mapping[str, object], **options: Any
    ) -> AsyncJob:
        """Send a job; options and errors are those of `Client.submit`."""
        client = self._require()
        return AsyncJob(await asyncio.to_thread(client.submit, program, inputs, **options))

    async def map(
        self,
        program: Program | str,
        batches: Iterable[Mapping[str, object]] | AsyncIterable[Mapping[str, object]],
        *,
        parameters: GivenParameters | None = None,
        durable: bool = False,
        timeout: float | None = None,
        window: int = WINDOW,
        deterministic: bool = False,
        on_progress: Callable[[MapProgress], None] | None = None,
    ) -> AsyncIterator[AsyncJob]:
        """Submit every batch and yield the jobs, done, in order, at most `window` in flight.

        Each batch is a job of its own here; `Client.map` lets small ones travel together.
        """
        if window < 1:
            raise LocalProtocolError("a window holds at least one job")
        options = {
            "parameters": parameters,
            "durable": durable,
            "timeout": timeout,
            "deterministic": deterministic,
        }
        flying: deque[AsyncJob] = deque()
        submitted = done = failed = 0
        source = batches if isinstance(batches, AsyncIterable) else _asynchronous(batches)
        try:
            async for batch in source:
                flying.append(await self.submit(program, batch, **options))
                submitted += 1
                if len(flying) < window:
                    continue
                failed += await flying[0].exception() is not None
                done += 1
                if on_progress is not None:
                    on_progress(MapProgress(submitted=submitted, done=done, failed=failed))
                yield flying.popleft()
            while flying:
                failed += await flying[0].exception() is not None
                done += 1
                if on_progress is not None:
                    on_progress(MapProgress(submitted=submitted, done=done, failed=failed))
                yield flying.popleft()
        finally:
            for job in flying:
                job.cancel()

    def use_collateral(self, collateral: Collateral) -> None:
        """Judge workers with `collateral` from now on."""
        self._require().use_collateral(collateral)

    async def workers(self, **options: Any) -> list[WorkerStatus]:
        """List the coordinator's workers with our policy's verdict."""
        return await asyncio.to_thread(self._require().workers, **options)

    async def jobs(self, **options: Any) -> list[JobEntry]:
        """List our unfinished and unfetched jobs."""
        return await asyncio.to_thread(self._require().jobs, **options)

    async def close(self) -> None:
        """Disconnect."""
        if self._client is not None:
            await asyncio.to_thread(self._client.close)

    def _require(self) -> Client:
        if self._client is None:
            raise LocalProtocolError("use the client inside `async with`")
        return self._client


async def _asynchronous(
    batches: Iterable[Mapping[str, object]],
) -> AsyncIterator[Mapping[str, object]]:
    for batch in batches:
        yield batch
