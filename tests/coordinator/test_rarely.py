"""What happens rarely: owners, disks and workers that do what they may at an odd moment."""

import pytest

from attestation import limits
from attestation.wire.control import RefusalCode
from attestation.wire.frames import Header, Kind
from coordinator.core import world
from coordinator.core.rules import Rules
from tests.coordinator.formats import SEALED, submit_record
from tests.coordinator.simulated_broker import SimulatedBroker, SimulatedClient, SimulatedWorker

JOB = b"j" * 16
OTHER = b"k" * 16
SMALL = (b"s" * 100,)
LARGE = limits.INLINE_BYTES + SEALED


@pytest.fixture
def broker() -> SimulatedBroker:
    return SimulatedBroker(Rules(lease_ms=5_000, retention_ms=60_000, memory_limit=1 << 22))


@pytest.fixture
def client(broker: SimulatedBroker) -> SimulatedClient:
    return SimulatedClient(broker)


@pytest.fixture
def worker(broker: SimulatedBroker) -> SimulatedWorker:
    return SimulatedWorker(broker)


def submit(
    client: SimulatedClient, *workers: SimulatedWorker, job_id: bytes = JOB, **changes: object
) -> None:
    record = submit_record(*(worker.worker_id for worker in workers), **changes)
    client.submit(job_id, record, *SMALL)


def finish_large(worker: SimulatedWorker, attempt: int, segments: int = 2) -> None:
    """Return a result that does not fit into one message."""
    for index in range(segments):
        worker.output(JOB, attempt, index, bytes([index]) * SEALED)
    worker.result(JOB, attempt, count=segments)


def test_a_rejected_result_is_not_kept_and_its_time_does_not_end_the_job(
    broker: SimulatedBroker, client: SimulatedClient, worker: SimulatedWorker
) -> None:
    """A result waits for its client for a week, but this one is none any more."""
    submit(client, worker, output_bytes_max=LARGE)
    worker.assigned()
    finish_large(worker, 1)
    assert len(broker.files) == 1
    client.send(Header(Kind.RESULT_REJECT, JOB, 1, peer=worker.worker_id))
    assert broker.files == {}
    client.take(Kind.RESULT)
    for _ in range(8):
        broker.tick(10_000)
        client.heartbeat()
    honest = SimulatedWorker(broker, instance=2)
    client.send(Header(Kind.WRAP, JOB, peer=honest.worker_id), b"w" * 76)
    assert honest.assigned() == (JOB, 2)
    finish_large(honest, 2)
    client.credit(JOB, 2)
    assert client.take_one(Kind.RESULT)[0].attempt == 2


def test_a_worker_that_sends_outputs_without_credit_loses_the_job(
    broker: SimulatedBroker, client: SimulatedClient, worker: SimulatedWorker
) -> None:
    submit(client, worker)
    worker.assigned()
    worker.output(JOB, 1, 0, bytes(64))
    assert worker.take_one(Kind.REVOKE)[0].job_id == JOB
    assert broker.files == {}


def test_a_worker_that_leaves_is_not_asked_for(
    client: SimulatedClient, worker: SimulatedWorker
) -> None:
    """It has the key and will not run the job; wrapping it again would not help."""
    worker.send(Header(Kind.DRAINING))
    submit(client, worker)
    assert worker.take(Kind.ASSIGN) == client.take(Kind.WRAP_WANTED) == []


def test_results_that_do_not_fit_into_the_memory_come_one_after_the_other(
    broker: SimulatedBroker, client: SimulatedClient
) -> None:
    """What waits in line holds no memory, and comes when others were taken."""
    worker = SimulatedWorker(broker, capacity=16)
    ids = [bytes([number]) * 16 for number in range(1, 13)]
    for job_id in ids:
        submit(client, worker, job_id=job_id, output_bytes_max=200_000)
    client.vanish()
    while assigned := worker.take(Kind.ASSIGN):
        for header, _ in assigned:
            worker.result(header.job_id, header.attempt, bytes(200_000))
    client.reconnect()
    first = results = client.take(Kind.RESULT)
    assert 1 < len(first) < len(ids)
    assert broker.core.world.budget.used <= broker.core.world.budget.limit
    came = []
    while results:
        for header, _ in results:
            came.append(header.job_id)
            client.acknowledge(header.job_id)
        results = client.take(Kind.RESULT)
    assert sorted(came) == ids
    assert broker.core.world.budget.used == 0


def test_a_backlog_passes_over_what_its_owner_gave_up(broker: SimulatedBroker) -> None:
    broker = SimulatedBroker(Rules(deliveries_per_client=1))
    client, worker = SimulatedClient(broker), SimulatedWorker(broker)
    ids = [bytes([number]) * 16 for number in range(1, 4)]
    for job_id in ids:
        submit(client, worker, job_id=job_id)
        worker.result(job_id, worker.assigned()[1], b"o" * 64)
    assert client.take_one(Kind.RESULT)[0].job_id == ids[0]
    client.send(Header(Kind.CANCEL, ids[1]))
    client.acknowledge(ids[0])
    assert client.take_one(Kind.RESULT)[0].job_id == ids[2]


def test_a_deletion_that_failed_waits_until_nobody_uses_the_id(
    broker: SimulatedBroker, client: SimulatedClient, worker: SimulatedWorker
) -> None:
    """A disk that was full kept what was given up; a restart must not bring it back."""
    submit(client)
    broker.disk_full = True
    client.send(Header(Kind.CANCEL, JOB))
    assert client.refusals() == [RefusalCode.CANCELLED]
    broker.disk_full = False
    submit(client, worker, durable=False)
    broker.tick(1_000)
    assert [each.job_id for each in broker.store.jobs()] == [JOB]
    worker.result(JOB, worker.assigned()[1], b"o" * 64)
    client.take_one(Kind.RESULT)
    client.acknowledge(JOB)
    broker.tick(1_000)
    assert list(broker.store.jobs()) == []


def test_an_id_whose_deletion_failed_is_not_stored_a_second_time(
    broker: SimulatedBroker, client: SimulatedClient
) -> None:
    submit(client)
    broker.disk_full = True
    client.send(Header(Kind.CANCEL, JOB))
    broker.disk_full = False
    client.take()
    submit(client)
    assert client.refusals() == [RefusalCode.SPOOL_FULL]
    assert client.take(Kind.ACCEPTED) == []
    broker.tick(1_000)
    submit(client)
    assert client.take_one(Kind.ACCEPTED)[0].job_id == JOB


def test_what_is_remembered_of_ended_jobs_is_bounded(
    client: SimulatedClient,
    worker: SimulatedWorker,
    broker: SimulatedBroker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(world, "REMEMBERED", 3)
    for number in range(1, 10):
        job_id = bytes([number]) * 16
        submit(client, worker, job_id=job_id)
        worker.result(job_id, worker.assigned()[1], b"o" * 64)
        client.take_one(Kind.RESULT)
        client.acknowledge(job_id)
    assert list(broker.core.world.finished) == [bytes([number]) * 16 for number in (7, 8, 9)]
