"""Peers that stop, hang, come late or never: real processes, SIGSTOP, SIGKILL, one real client."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attestation.client.client import Client
from attestation.client.errors import CoordinatorUnreachableError, JobTimeoutError
from attestation.client.jobs import Job
from attestation.policy.loading import load_policy
from tests.scenarios.processes import EnclaveProcess, Site, wait_until

pytestmark = pytest.mark.scenario

SECONDS = 60.0
RNG = np.random.default_rng(3)
BIG = RNG.standard_normal((60_000, 64))
"""30 MiB: an upload that takes long enough to be interrupted."""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path, lease_seconds=1.5) as running:
        yield running


def connect(site: Site, **options: Any) -> Client:
    return Client(site.url, policy=load_policy(site.policy_file), **options)


def small(client: Client, number: int, **options: Any) -> Job:
    x = np.full((8, 4), float(number))
    parameters = {"scale": 1.0, "shift": 1.0}
    return client.submit("nn.affine", {"x": x}, parameters=parameters, **options)


def check(jobs: list[Job]) -> None:
    for number, job in enumerate(jobs):
        assert np.array_equal(job.result(SECONDS)["y"], np.full((8, 4), number + 1.0))


def wait_for(process: EnclaveProcess, event: str, job: Job) -> None:
    name = job.job_id.hex()[:16]

    def said() -> bool:
        return any(event in line and name in line for line in process.output.splitlines())

    wait_until(said, f"{process.name} did not say {event}")


def test_a_coordinator_that_hangs_for_longer_than_anybody_waits_goes_on_where_it_was(
    site: Site,
) -> None:
    """Client and worker give it up and say hello again; both hellos wait in its sockets."""
    coordinator = site.coordinator()
    worker = site.worker("--capacity", "2")
    with connect(site) as client:
        jobs = [small(client, number, durable=number % 3 != 0) for number in range(12)]
        slow = client.submit("linalg.svd", {"a": RNG.standard_normal((500, 500))})
        big = client.submit("stats.standardize", {"x": BIG})
        wait_for(worker, "job.assigned", slow)
        coordinator.pause()
        late: list[Job] = []
        submitting = threading.Thread(
            target=lambda: late.extend(small(client, 12 + number) for number in range(4))
        )
        submitting.start()
        time.sleep(9)
        coordinator.resume()
        submitting.join()
        check(jobs + late)
        assert slow.result(SECONDS)["s"].shape == (500,)
        assert big.result(SECONDS)["z"].shape == BIG.shape
        wait_until(lambda: client.jobs() == [], "the coordinator keeps acknowledged jobs")


def test_a_worker_that_comes_back_after_its_lease_is_fenced_and_its_result_not_used(
    site: Site,
) -> None:
    site.coordinator()
    workers = site.workers(2, "--capacity", "1")
    with connect(site) as client:
        slow = client.submit("linalg.svd", {"a": RNG.standard_normal((700, 700))})
        name = slow.job_id.hex()[:16]
        wait_until(lambda: any(name in worker.output for worker in workers), "nobody has it")
        first = next(worker for worker in workers if name in worker.output)
        first.pause()
        assert slow.result(SECONDS)["s"].shape == (700,)
        assert slow.claims.attempt == 2
        first.resume()
        check([small(client, number) for number in range(4)])
        wait_for(first, "job.revoked", slow)


def test_a_worker_started_before_its_coordinator_joins_it_when_it_comes(site: Site) -> None:
    worker = site.start_worker()
    time.sleep(1.5)
    assert worker.popen.poll() is None, worker.output
    with pytest.raises(CoordinatorUnreachableError):
        connect(site, connect_timeout=0.5)
    site.coordinator()
    site.wait_for(worker)
    with connect(site) as client:
        check([small(client, 0)])


def test_jobs_at_a_coordinator_that_never_comes_back_end_at_their_deadline(site: Site) -> None:
    """Running, streaming and not yet sent: none hangs, and none is given up before its time."""
    coordinator = site.coordinator()
    worker = site.worker("--capacity", "2")
    a = RNG.standard_normal((900, 900))
    with connect(site) as client:
        jobs = [
            client.submit("linalg.svd", {"a": a}, durable=durable, timeout=5.0)
            for durable in (True, False)
        ]
        for job in jobs:
            wait_for(worker, "job.assigned", job)
        coordinator.kill()
        jobs.append(small(client, 1, timeout=2.0))
        with pytest.raises(JobTimeoutError):
            jobs[0].result(0.5)
        assert not any(job.done() for job in jobs), "it may be back any moment"
        for job in jobs:
            with pytest.raises(TimeoutError):
                job.result(15)
            assert job.done()


@pytest.mark.parametrize("durable", [True, False])
def test_an_upload_that_a_crash_interrupts_is_sealed_again_and_finishes(
    site: Site, durable: bool
) -> None:
    coordinator = site.coordinator("--memory-limit", str(16 << 20))
    site.worker()
    with connect(site) as client:
        job = client.submit("stats.standardize", {"x": BIG}, durable=durable)
        first = job.job_id
        wait_until(lambda: job.progress.bytes_sent > 0, "nothing was sent")
        coordinator.kill()
        assert job.progress.bytes_sent < job.progress.bytes_to_send, "not in the middle"
        site.coordinator("--memory-limit", str(16 << 20))
        z = job.result(SECONDS)["z"]
        np.testing.assert_allclose(z.mean(axis=0), 0, atol=1e-9)
        assert job.job_id != first, "one key sealed two streams"
        wait_until(lambda: client.jobs() == [], "an unfinished upload was kept")
