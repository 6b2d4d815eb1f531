"""What users of `Client` may rely on, at a coordinator that does its job."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, wait

import numpy as np
import pytest

from attestation.client.aio import AsyncClient, AsyncJob
from attestation.client.client import MapProgress
from attestation.client.errors import (
    ClientClosedError,
    JobFailedError,
    JobTimeoutError,
    NoWorkerError,
    TooLargeError,
)
from attestation.client.jobs import Job
from attestation.errors import LocalProtocolError
from attestation.policy.policy import Policy
from attestation.programs.builder import ProgramBuilder
from attestation.programs.errors import NotDeterministicError
from attestation.wire.frames import Kind
from tests.client.conftest import Connect
from tests.client.honest import HonestCoordinator, InMemoryClient

X = np.arange(12, dtype=np.float64).reshape(4, 3)
SECONDS = 20.0


def never(_job_id: object, _record: object) -> None:
    """A dispatcher that gives the job to nobody."""


def test_a_job_is_a_future_that_the_standard_library_can_wait_for(connect: Connect) -> None:
    client = connect(HonestCoordinator())
    jobs = [client.submit("nn.softmax", {"x": X}) for _ in range(3)]
    done, left = wait(jobs, SECONDS)
    assert (len(done), len(left)) == (3, 0)
    assert all(job.result()["y"].shape == (4, 3) for job in jobs)
    assert all(job.exception() is None for job in jobs)


def test_equal_bits_are_asked_for_in_what_is_signed_or_refused_before_anything_is_sent(
    connect: Connect,
) -> None:
    client = connect(HonestCoordinator())
    job = client.submit("nn.softmax", {"x": X}, deterministic=True)
    assert job.result(SECONDS)["y"].shape == (4, 3)
    with pytest.raises(NotDeterministicError):
        client.submit("ml.kmeans", {"x": X}, parameters={"k": 2}, deterministic=True)
    with pytest.raises(NotDeterministicError):
        list(client.map("ml.kmeans", [{"x": X}], parameters={"k": 2}, deterministic=True))


def test_nothing_is_claimed_about_a_job_that_is_not_done(connect: Connect) -> None:
    coordinator = HonestCoordinator()
    coordinator.dispatch = never
    job = connect(coordinator).submit("nn.softmax", {"x": X})
    assert job.wait_accepted(SECONDS)
    assert job.running()
    for name in ("receipt", "evidence", "attestation", "claims"):
        with pytest.raises(LocalProtocolError):
            getattr(job, name)
    with pytest.raises(JobTimeoutError):
        job.result(0.05)
    with pytest.raises(JobTimeoutError):
        job.exception(0.05)


def test_cancelling_tells_the_coordinator_and_wakes_whoever_waits(connect: Connect) -> None:
    coordinator = HonestCoordinator()
    coordinator.dispatch = never
    client = connect(coordinator)
    job = client.submit("nn.softmax", {"x": X})
    threading.Timer(0.1, job.cancel).start()
    with pytest.raises(CancelledError):
        job.result(SECONDS)
    assert not job.running()
    client.jobs()  # a round trip: everything sent before has arrived
    assert Kind.CANCEL in [header.kind for header in coordinator.sent]
    assert job.cancel(), "cancelling twice is no error"


def test_a_job_that_is_done_cannot_be_cancelled(connect: Connect) -> None:
    job = connect(HonestCoordinator()).submit("nn.softmax", {"x": X})
    job.result(SECONDS)
    assert not job.cancel()
    assert not job.cancelled()


def test_closing_ends_what_is_not_done_and_refuses_what_comes_later(connect: Connect) -> None:
    coordinator = HonestCoordinator()
    coordinator.dispatch = never
    client = connect(coordinator)
    job = client.submit("nn.softmax", {"x": X})
    client.close()
    with pytest.raises(ClientClosedError):
        job.result(SECONDS)
    with pytest.raises(ClientClosedError):
        client.submit("nn.softmax", {"x": X})
    client.close()


def test_a_failure_of_the_program_is_an_error_with_the_code_of_a_verified_receipt(
    connect: Connect,
) -> None:
    job = connect(HonestCoordinator()).submit("linalg.svd", {"a": np.full((3, 3), np.nan)})
    error = job.exception(SECONDS)
    assert isinstance(error, JobFailedError)
    assert error.code == job.claims.code != ""
    assert job.attestation.insecure


def test_small_inputs_may_change_as_soon_as_submit_returned(connect: Connect) -> None:
    """Sealed at once; a streaming job keeps a copy for the case that its worker is lost."""
    client = connect(HonestCoordinator())
    for durable in (True, False):
        x = X.copy()
        job = client.submit(
            "nn.affine", {"x": x}, parameters={"scale": 1.0, "shift": 0.0}, durable=durable
        )
        x[:] = -1
        np.testing.assert_array_equal(job.result(SECONDS)["y"], X)


def test_outputs_are_arrays_of_their_own(connect: Connect) -> None:
    y = connect(HonestCoordinator()).submit("nn.softmax", {"x": X}).result(SECONDS)["y"]
    assert y.flags.writeable
    assert y.flags.c_contiguous
    assert y.dtype == np.dtype("<f8")


def test_a_program_of_several_steps_takes_its_parameters_by_step(connect: Connect) -> None:
    builder = ProgramBuilder()
    x = builder.input("x")
    clean = builder.step("stats.standardize", id="clean", x=x)
    reduced = builder.step("linalg.pca", id="reduce", x=clean["z"])
    builder.output("scores", reduced["scores"])
    client = connect(HonestCoordinator())
    job = client.submit(builder.build(), {"x": X}, parameters={"reduce": {"k": 2}})
    assert job.result(SECONDS)["scores"].shape == (4, 2)
    with pytest.raises(Exception, match="step") as refused:
        client.submit(builder.build(), {"x": X}, parameters={"k": 2})
    assert refused.value.code == "parameter-unknown"  # type: ignore[attr-defined]


def test_a_job_larger_than_every_worker_is_refused_before_it_is_sealed(connect: Connect) -> None:
    coordinator = HonestCoordinator(max_job_bytes=1000)
    with pytest.raises(TooLargeError):
        connect(coordinator).submit("nn.softmax", {"x": np.zeros((100, 100))})
    assert coordinator.submitted == []


def test_without_workers_submit_waits_and_then_says_so(connect: Connect) -> None:
    with pytest.raises(NoWorkerError):
        connect(HonestCoordinator(0), worker_timeout=0.3).submit("nn.softmax", {"x": X})


def test_a_worker_that_joins_while_submit_waits_is_used(connect: Connect) -> None:
    coordinator = HonestCoordinator(1)
    late, coordinator.workers = coordinator.workers, []
    client = connect(coordinator)

    def join() -> None:
        coordinator.workers = late
        coordinator.list_workers()

    threading.Timer(0.3, join).start()
    assert client.submit("nn.softmax", {"x": X}).result(SECONDS)


def test_map_draws_no_more_than_its_window_and_yields_in_order(connect: Connect) -> None:
    drawn, seen = 0, []

    def batches() -> Iterator[dict[str, object]]:
        nonlocal drawn
        while True:
            drawn += 1
            yield {"x": X + drawn}

    progress: list[MapProgress] = []
    client = connect(HonestCoordinator())
    for job in client.map("stats.describe", batches(), window=3, on_progress=progress.append):
        seen.append(job.result()["mean"][0])
        assert drawn <= len(seen) + 2
        if len(seen) == 5:
            break
    assert seen == sorted(seen)
    assert progress[-1].done == 5
    assert progress[-1].failed == 0


def test_a_map_that_is_given_up_cancels_what_is_in_flight(connect: Connect) -> None:
    coordinator = HonestCoordinator()
    client = connect(coordinator)
    jobs = client.map("nn.softmax", [{"x": X}] * 4, window=4)
    next(jobs)
    coordinator.dispatch = never
    jobs.close()  # type: ignore[attr-defined]
    client.jobs()
    assert len(coordinator.submitted) == 4


def test_progress_counts_sealed_bytes_both_ways(connect: Connect) -> None:
    job = connect(HonestCoordinator()).submit("nn.softmax", {"x": np.ones((600, 500))})
    job.result(SECONDS)
    assert job.progress.bytes_sent == job.progress.bytes_to_send > 600 * 500 * 8
    assert job.progress.bytes_received == job.progress.bytes_to_receive


def test_an_output_of_many_megabytes_is_opened_in_parallel_and_right(connect: Connect) -> None:
    x = np.random.default_rng(3).standard_normal((3000, 500))
    job = connect(HonestCoordinator()).submit(
        "nn.affine", {"x": x}, parameters={"scale": 2.0, "shift": 0.0}, durable=False
    )
    np.testing.assert_array_equal(job.result(60)["y"], 2 * x)


class InMemoryAsyncClient(AsyncClient):
    """An `AsyncClient` around a client that is connected already."""

    def __init__(self, client: InMemoryClient) -> None:
        super().__init__("inproc://memory")
        self._client = client

    async def __aenter__(self) -> "InMemoryAsyncClient":
        return self


def test_the_asyncio_client_has_the_same_names_and_outcomes(
    connect: Connect, policy: Policy
) -> None:
    coordinator = HonestCoordinator()
    client = connect(coordinator)

    async def journey() -> None:
        async with InMemoryAsyncClient(client) as asynchronous:
            job = await asynchronous.submit("nn.softmax", {"x": X})
            assert (await job.result(SECONDS))["y"].shape == (4, 3)
            assert await job.exception() is None
            assert job.done()
            assert job.receipt
            assert job.attestation.insecure
            done: list[AsyncJob] = []
            job.add_done_callback(done.append)
            batches = [{"x": X + number} for number in range(5)]
            means = [
                (await each.result())["mean"][0]
                async for each in asynchronous.map("stats.describe", batches, window=2)
            ]
            assert means == sorted(means)
            assert done == [job]
            assert len(await asynchronous.workers()) == 1
            assert await asynchronous.jobs() == []
            failing = await asynchronous.submit("linalg.svd", {"a": np.full((3, 3), np.nan)})
            assert isinstance(await failing.exception(SECONDS), JobFailedError)
            coordinator.dispatch = never
            waiting = await asynchronous.submit("nn.softmax", {"x": X})
            with pytest.raises(JobTimeoutError):
                await waiting.result(0.05)
            assert not waiting.cancelled(), "waiting in vain does not cancel"
            assert waiting.cancel()

    asyncio.run(journey())


def test_neither_client_nor_job_shows_secrets_or_values(connect: Connect) -> None:
    client = connect(HonestCoordinator())
    job: Job = client.submit("nn.softmax", {"x": X})
    assert repr(job).startswith("Job(")
    assert len(repr(job)) < 60
    assert repr(client) == f"Client({client.key_id.hex()[:16]})"
