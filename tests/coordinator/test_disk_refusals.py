"""Whatever the disk refuses and when: no accepted job is lost, and no byte is left over."""

from collections.abc import Callable

import attrs
import pytest

from attestation.wire.control import RefusalCode
from attestation.wire.frames import Header, Kind
from coordinator.core import events
from coordinator.core import instructions as do
from coordinator.core.job import State
from coordinator.core.rules import Rules
from tests.coordinator.formats import SEALED
from tests.coordinator.simulated_broker import SimulatedBroker, SimulatedClient, SimulatedWorker
from tests.coordinator.test_core import JOB, jobs_known, submit, upload


@pytest.fixture
def broker() -> SimulatedBroker:
    return SimulatedBroker(Rules(lease_ms=5_000, heartbeat_ms=1_000))


@pytest.fixture
def client(broker: SimulatedBroker) -> SimulatedClient:
    return SimulatedClient(broker)


@pytest.fixture
def worker(broker: SimulatedBroker) -> SimulatedWorker:
    return SimulatedWorker(broker)


def no_bytes_are_left(broker: SimulatedBroker) -> bool:
    world = broker.core.world
    return not (broker.files or world.budget.used or world.bodies.used or world.spool_bytes)


def test_a_job_that_cannot_be_stored_is_refused_at_once(
    broker: SimulatedBroker, client: SimulatedClient, worker: SimulatedWorker
) -> None:
    broker.disk_full = True
    submit(client, worker)
    assert client.refusals() == [RefusalCode.SPOOL_FULL]
    assert client.take(Kind.ACCEPTED) == []
    assert worker.take(Kind.ASSIGN) == []
    assert no_bytes_are_left(broker)


def test_an_upload_whose_record_cannot_be_stored_leaves_no_file(
    broker: SimulatedBroker, client: SimulatedClient
) -> None:
    submit(client, segments=3)
    broker.disk_full = True
    upload(client)
    assert client.refusals() == [RefusalCode.SPOOL_FULL]
    assert client.take(Kind.ACCEPTED) == []
    broker.disk_full = False
    broker.tick(1_000)
    assert no_bytes_are_left(broker)


def test_a_lease_that_cannot_be_stored_reaches_no_worker_and_is_tried_again(
    broker: SimulatedBroker, client: SimulatedClient
) -> None:
    """The fence must survive a crash, so an attempt that is not stored must not begin."""
    submit(client)
    assert client.take(Kind.ACCEPTED)
    broker.disk_full = True
    worker = SimulatedWorker(broker)
    client.send(Header(Kind.WRAP, JOB, peer=worker.worker_id), b"w" * 76)
    assert worker.take(Kind.ASSIGN) == []
    broker.disk_full = False
    broker.tick(1_500)
    worker.heartbeat()
    worker.result(*worker.assigned(), b"o" * 40)
    assert client.take_one(Kind.RESULT)


def test_outputs_that_cannot_be_written_cost_the_worker_nothing(
    broker: SimulatedBroker, client: SimulatedClient, worker: SimulatedWorker
) -> None:
    submit(client, worker, output_bytes_max=4 * SEALED)
    job_id, attempt = worker.assigned()
    broker.disk_broken_for.add(jobs_known(broker)[JOB].output_file(attempt))
    worker.output(job_id, attempt, 0, bytes(SEALED))
    assert Kind.REVOKE in [header.kind for header, _ in worker.take()]
    assert jobs_known(broker)[JOB].failures == 0
    broker.tick(1_500)
    job_id, attempt = worker.assigned()
    for index in range(2):
        worker.output(job_id, attempt, index, bytes(SEALED))
    worker.result(job_id, attempt, count=2)
    assert client.take_one(Kind.RESULT)[0].attempt == attempt


def test_a_spooled_result_that_cannot_be_recorded_runs_again(
    broker: SimulatedBroker, client: SimulatedClient, worker: SimulatedWorker
) -> None:
    submit(client, worker, output_bytes_max=4 * SEALED)
    job_id, attempt = worker.assigned()
    worker.output(job_id, attempt, 0, bytes(SEALED))
    broker.disk_full = True
    worker.result(job_id, attempt, count=1)
    assert worker.take(Kind.RECORDED) == []
    assert client.take(Kind.RESULT, Kind.OUTPUT) == []
    assert jobs_known(broker)[JOB].state is State.QUEUED
    broker.disk_full = False
    broker.tick(1_500)
    assert worker.assigned() == (JOB, attempt + 1)
    assert jobs_known(broker)[JOB].output_file(attempt) not in broker.files


def test_a_stored_result_that_cannot_be_read_is_delivered_when_the_disk_works_again(
    broker: SimulatedBroker, client: SimulatedClient, worker: SimulatedWorker
) -> None:
    submit(client, worker, output_bytes_max=20 * SEALED)
    lease = worker.assigned()
    for index in range(8):
        worker.output(*lease, index, bytes(SEALED))
    worker.result(*lease, count=8)
    broker.handle(events.SpoolFailed(jobs_known(broker)[JOB].output_file(1), reading=True))
    assert jobs_known(broker)[JOB].delivery is None
    client.take()
    client.reconnect()
    client.credit(JOB, 8)
    assert len(client.take(Kind.OUTPUT)) == 8
    assert client.take_one(Kind.RESULT)


@pytest.mark.parametrize("end", ["acknowledge", "cancel"])
def test_what_could_not_be_deleted_is_deleted_later(
    broker: SimulatedBroker, client: SimulatedClient, worker: SimulatedWorker, end: str
) -> None:
    submit(client, worker, segments=3, output_bytes_max=4 * SEALED)
    upload(client)
    lease = worker.assigned()
    worker.credit(*lease, 3)
    worker.output(*lease, 0, bytes(SEALED))
    worker.result(*lease, count=1)
    broker.disk_full = True
    if end == "acknowledge":
        client.acknowledge(JOB)
    else:
        client.send(Header(Kind.CANCEL, JOB))
    assert [job.job_id for job in broker.store.jobs()] == [JOB]
    broker.disk_full = False
    broker.tick(1_000)
    assert list(broker.store.jobs()) == []
    assert no_bytes_are_left(broker)


@pytest.mark.parametrize(
    "event",
    [
        lambda: events.SpoolFailed(do.SpoolFile(b"?" * 16)),
        lambda: events.SpoolFailed(do.SpoolFile(b"?" * 16, 3)),
        lambda: events.SpoolFailed(do.SpoolFile(JOB, 9)),
        lambda: events.SpoolFailed(do.SpoolFile(JOB, 9), reading=True),
        lambda: events.StoreFailed(
            do.StoreLease(job_id=JOB, attempt=1, failures=0, worker_id=b"w" * 16)
        ),
        lambda: events.Congested(
            do.SendStoredResult(peer=(b"", b"\0"), header=Header(Kind.RESULT, JOB))
        ),
        lambda: events.Congested(
            do.SendStoredResult(peer=(b"", b"\0"), header=Header(Kind.INPUT, JOB, 9))
        ),
        lambda: events.StoreFailed(do.StoreWrap(job_id=b"?" * 16, worker_id=b"w" * 16, wrap=b"w")),
        lambda: events.StoreFailed(do.DeleteJob(job_id=b"?" * 16)),
        lambda: events.Congested(
            do.SendStoredResult(peer=(b"", b"\0"), header=Header(Kind.RESULT, b"?" * 16))
        ),
    ],
)
def test_a_fault_about_a_job_or_attempt_that_has_ended_disturbs_nobody(
    broker: SimulatedBroker, client: SimulatedClient, event: Callable[[], events.Event]
) -> None:
    submit(client)
    before = dict(jobs_known(broker))
    broker.handle(event())
    broker.tick(1_000)
    assert jobs_known(broker) == before


def test_a_wrap_that_could_not_be_stored_is_still_used(
    broker: SimulatedBroker, client: SimulatedClient
) -> None:
    submit(client)
    worker = SimulatedWorker(broker, capacity=1)
    client.send(Header(Kind.WRAP, JOB, peer=worker.worker_id), b"w" * 76)
    job = jobs_known(broker)[JOB]
    wrap = do.StoreWrap(job_id=JOB, worker_id=worker.worker_id, wrap=b"w" * 76)
    broker.handle(events.StoreFailed(wrap))
    assert job.state is State.LEASED
    assert worker.assigned() == (JOB, 1)


def test_a_result_that_did_not_fit_the_clients_queue_is_sent_again(
    broker: SimulatedBroker, client: SimulatedClient, worker: SimulatedWorker
) -> None:
    submit(client, worker, output_bytes_max=20 * SEALED)
    lease = worker.assigned()
    for index in range(2):
        worker.output(*lease, index, bytes(SEALED))
    worker.result(*lease, count=2)
    (output,) = [each for each in client.take(Kind.OUTPUT) if each[0].index == 1]
    result, _ = client.take_one(Kind.RESULT)
    for unsent in (
        do.SendSpooled(
            peer=client.peer,
            header=output[0],
            file=do.SpoolFile(JOB, 1),
            offset=SEALED,
            length=SEALED,
        ),
        do.SendStoredResult(peer=client.peer, header=result),
    ):
        broker.handle(events.Congested(unsent))
    broker.tick()
    assert [header.index for header, _ in client.take(Kind.OUTPUT)] == [1]
    assert client.take_one(Kind.RESULT)


def test_a_stored_job_that_cannot_be_read_is_reported_and_left_alone(
    broker: SimulatedBroker, client: SimulatedClient, worker: SimulatedWorker
) -> None:
    """A disk that lies about one job takes no other job with it, and does not stop the start."""
    submit(client, worker)
    worker.result(*worker.assigned(), b"o" * 40)
    (stored,) = broker.store.jobs()
    assert stored.result is not None
    found = [
        attrs.evolve(stored, job_id=b"1" * 16, record=b"?"),
        attrs.evolve(stored, job_id=b"2" * 16, lengths=b"?"),
        attrs.evolve(stored, job_id=b"3" * 16, result=attrs.evolve(stored.result, lengths=b"?")),
        attrs.evolve(stored, job_id=b"4" * 16),
    ]
    fresh = SimulatedBroker()
    fresh.handle(events.JobsRecovered(tuple(found)))
    assert list(jobs_known(fresh)) == [b"4" * 16]


def test_results_and_refusals_are_there_after_a_restart(
    broker: SimulatedBroker, client: SimulatedClient, worker: SimulatedWorker
) -> None:
    submit(client, worker, output_bytes_max=4 * SEALED)
    lease = worker.assigned()
    worker.output(*lease, 0, bytes(SEALED))
    worker.result(*lease, count=1)
    other = SimulatedClient(broker, seed=2)
    submit(other, job_id=b"o" * 16, deadline_ms=broker.now_ms + 60_000)
    broker.restart()
    broker.tick(90_000)
    other.reconnect()
    assert other.refusals() == [RefusalCode.DEADLINE_PASSED]
    client.reconnect()
    assert len(client.take(Kind.OUTPUT)) == 1
    assert client.take_one(Kind.RESULT)[0].count == 1


def test_inputs_that_the_disk_does_not_give_back_end_the_job_after_its_attempts(
    broker: SimulatedBroker, client: SimulatedClient, worker: SimulatedWorker
) -> None:
    submit(client, worker, segments=3)
    upload(client)
    for _ in range(broker.rules.max_attempts):
        lease = worker.assigned()
        worker.credit(*lease, 3)
        broker.handle(events.SpoolFailed(jobs_known(broker)[JOB].input_file, reading=True))
        client.heartbeat()
        worker.heartbeat()
        broker.tick(1_500)
    assert client.refusals() == [RefusalCode.ATTEMPTS_EXHAUSTED]
    assert no_bytes_are_left(broker)


def test_a_result_whose_file_could_not_be_sealed_runs_again(
    broker: SimulatedBroker, client: SimulatedClient, worker: SimulatedWorker
) -> None:
    submit(client, worker, output_bytes_max=4 * SEALED)
    lease = worker.assigned()
    worker.output(*lease, 0, bytes(SEALED))
    broker.disk_broken_for.add(jobs_known(broker)[JOB].output_file(1))
    worker.result(*lease, count=1)
    assert client.take(Kind.RESULT, Kind.OUTPUT) == []
    broker.tick(1_500)
    assert worker.assigned() == (JOB, 2)


def test_a_delivery_that_the_disk_interrupted_is_begun_again_without_a_reconnect(
    broker: SimulatedBroker, client: SimulatedClient, worker: SimulatedWorker
) -> None:
    submit(client, worker, output_bytes_max=20 * SEALED)
    lease = worker.assigned()
    for index in range(2):
        worker.output(*lease, index, bytes(SEALED))
    worker.result(*lease, count=2)
    client.take()
    broker.handle(events.SpoolFailed(jobs_known(broker)[JOB].output_file(1), reading=True))
    for _ in range(62):
        client.heartbeat()
        worker.heartbeat()
        broker.tick(1_000)
    assert len(client.take(Kind.OUTPUT)) == 2
    assert client.take_one(Kind.RESULT)
