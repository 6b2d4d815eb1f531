"""Defects that the fault tests found, each small and by itself."""

import time
from collections import deque

import attrs
import numpy as np
import pytest

from attestation.client.errors import JobRefusedError
from attestation.policy.policy import CataloguePolicy
from attestation.wire.control import ClientHello, RefusalCode
from attestation.wire.frames import NO_JOB, Header, Kind
from coordinator.core import events
from coordinator.core.instructions import SpoolFile
from coordinator.core.rules import Rules
from tests.client.honest import HonestCoordinator, InMemoryClient
from tests.coordinator.formats import SEALED, submit_record
from tests.coordinator.simulated_broker import SimulatedBroker, SimulatedClient, SimulatedWorker
from tests.simulators.evidence import insecure_policy

pytestmark = pytest.mark.usefixtures("small_messages")

JOB = b"j" * 16
SEGMENTS = 6
"""More than fits into a message: inputs and outputs lie in the spool."""


def connect(coordinator: HonestCoordinator) -> InMemoryClient:
    any_catalogue = CataloguePolicy(accept_any=True, digests=())
    policy = attrs.evolve(insecure_policy(), catalogue=any_catalogue)
    return InMemoryClient(coordinator, policy)


def acknowledged(
    client: InMemoryClient, coordinator: HonestCoordinator, job_id: bytes, times: int
) -> bool:
    """Tell whether the client acknowledges that job for the `times`-th time, and no more."""
    deadline = time.monotonic() + 5
    count = -1
    while count < times and time.monotonic() < deadline:
        # The answer to a later question: by then what came before has been looked at.
        client.jobs()
        sent = [(header.kind, header.job_id) for header in coordinator.sent]
        count = sent.count((Kind.RESULT_ACK, job_id))
        if times == 0:
            break
    return count == times


def test_a_result_that_is_delivered_again_in_segments_is_acknowledged_again() -> None:
    """Else its delivery waits for credit that nobody grants, and the coordinator keeps it."""
    coordinator = HonestCoordinator()
    with connect(coordinator) as client:
        job = client.submit("nn.affine", {"x": np.ones((2, 2))})
        job.result(30)
        assert acknowledged(client, coordinator, job.job_id, 1)
        coordinator.to_client(Header(Kind.OUTPUT, job.job_id, 1, 0), b"segment")
        assert acknowledged(client, coordinator, job.job_id, 2)
        coordinator.to_client(Header(Kind.OUTPUT, JOB, 1, 0), b"another client's")
        assert acknowledged(client, coordinator, JOB, 0), "never ours: not ours to delete"


@pytest.fixture
def broker() -> SimulatedBroker:
    return SimulatedBroker(Rules(park_ms=100, stall_ms=5_000, max_attempts=3))


@pytest.fixture
def client(broker: SimulatedBroker) -> SimulatedClient:
    return SimulatedClient(broker)


@pytest.fixture
def worker(broker: SimulatedBroker) -> SimulatedWorker:
    return SimulatedWorker(broker)


def submit(client: SimulatedClient, worker: SimulatedWorker, *, spooled: bool = False) -> None:
    segments: int | tuple[bytes, ...] = SEGMENTS if spooled else (b"s" * 100,)
    record = submit_record(worker.worker_id, segments=segments, output_bytes_max=SEGMENTS * SEALED)
    client.submit(JOB, record, *(() if spooled else (b"s" * 100,)))
    for index in range(SEGMENTS if spooled else 0):
        client.input(JOB, index, bytes(SEALED))


def give_outputs(worker: SimulatedWorker, attempt: int, count: int = SEGMENTS) -> None:
    for index in range(count):
        worker.output(JOB, attempt, index, bytes(SEALED))


def test_what_a_client_sends_while_it_says_hello_again_ends_none_of_its_jobs(
    client: SimulatedClient, worker: SimulatedWorker
) -> None:
    """After a pause it says hello, and has credit and acknowledgements under way."""
    submit(client, worker)
    worker.take(Kind.ASSIGN)
    public = client.key.public_key().public_bytes_raw()
    client.send(Header(Kind.CLIENT_HELLO), ClientHello(client_key=public).to_bytes())
    client.take()
    for kind in (Kind.OUTPUT_CREDIT, Kind.RESULT_ACK, Kind.INPUT, Kind.CANCEL):
        client.send(Header(kind, JOB, count=1), *[b"x"] * (kind is Kind.INPUT))
        refusal, _ = client.take_one(Kind.REFUSED)
        assert refusal.job_id == NO_JOB, "the client would take it for the end of its job"
    client.hello()
    give_outputs(worker, 1)
    worker.result(JOB, 1, count=SEGMENTS)
    assert worker.take(Kind.RECORDED)


def test_the_end_of_an_accepted_job_is_said_until_it_was_heard(
    broker: SimulatedBroker, client: SimulatedClient, worker: SimulatedWorker
) -> None:
    """The connection breaks while it is said: else the client waits until its deadline, a day."""
    submit(client, worker, spooled=True)
    client.vanish()
    broker.inboxes[client.peer] = deque()
    worker.decline(JOB, 1, RefusalCode.NOT_AUTHENTIC)
    assert SpoolFile(JOB) not in broker.files, "its inputs are of no more use"
    for _ in range(2):
        broker.restart()
        client.reconnect()
        assert client.refusals() == [RefusalCode.NOT_AUTHENTIC]
    client.acknowledge(JOB)
    assert not list(broker.store.jobs())


def test_a_refusal_that_is_said_again_is_acknowledged_again() -> None:
    """The other half: without it the coordinator would keep and repeat it for days."""
    coordinator = HonestCoordinator()
    coordinator.dispatch = lambda _job_id, _record: None
    with connect(coordinator) as client:
        job = client.submit("nn.affine", {"x": np.ones((2, 2))})
        assert job.wait_accepted(5)
        for times in (1, 2):
            coordinator.refuse(job.job_id, RefusalCode.ATTEMPTS_EXHAUSTED)
            assert acknowledged(client, coordinator, job.job_id, times)
        with pytest.raises(JobRefusedError):
            job.result(5)


def test_a_lease_that_cannot_be_stored_leaves_no_outputs_of_the_one_before(
    broker: SimulatedBroker, client: SimulatedClient, worker: SimulatedWorker
) -> None:
    """Space is what a full disk needs most."""
    submit(client, worker)
    give_outputs(worker, 1, count=2)
    broker.disk_full = True
    # Out of order: the lease is lost, the next one begins in the same turn and cannot be stored.
    worker.output(JOB, 1, 5, bytes(SEALED))
    broker.disk_full = False
    assert SpoolFile(JOB, 1) not in broker.files


def test_outputs_that_cannot_be_synced_make_the_job_run_again(
    broker: SimulatedBroker, client: SimulatedClient, worker: SimulatedWorker
) -> None:
    """Its delivery had begun in the same breath, which must not hide that nothing is stored."""
    submit(client, worker)
    worker.take(Kind.ASSIGN)
    give_outputs(worker, 1)
    broker.disk_broken_for = {SpoolFile(JOB, 1)}
    worker.result(JOB, 1, count=SEGMENTS)
    assert not worker.take(Kind.RECORDED), "told that it is stored"
    assert not client.take(Kind.RESULT)
    broker.tick(200)
    assert worker.assigned() == (JOB, 2)
    give_outputs(worker, 2)
    worker.result(JOB, 2, count=SEGMENTS)
    client.credit(JOB, SEGMENTS)
    broker.tick()
    assert client.take_one(Kind.RESULT)[0].attempt == 2


def test_inputs_that_cannot_be_read_for_a_moment_do_not_end_the_job(
    broker: SimulatedBroker, client: SimulatedClient, worker: SimulatedWorker
) -> None:
    submit(client, worker, spooled=True)
    assert worker.assigned() == (JOB, 1)
    broker.handle(events.SpoolFailed(SpoolFile(JOB), reading=True))
    assert not client.take(Kind.REFUSED)
    broker.tick(200)
    assert worker.assigned() == (JOB, 2)


def test_inputs_that_stay_unreadable_end_the_job_with_a_reason(
    broker: SimulatedBroker, client: SimulatedClient, worker: SimulatedWorker
) -> None:
    submit(client, worker, spooled=True)
    for _ in range(3):
        worker.take(Kind.ASSIGN)
        broker.handle(events.SpoolFailed(SpoolFile(JOB), reading=True))
        broker.tick(200)
    assert client.refusals() == [RefusalCode.ATTEMPTS_EXHAUSTED]
    assert not broker.files


def test_outputs_that_cannot_be_read_for_a_moment_are_delivered_later(
    broker: SimulatedBroker, client: SimulatedClient, worker: SimulatedWorker
) -> None:
    submit(client, worker)
    give_outputs(worker, 1)
    worker.result(JOB, 1, count=SEGMENTS)
    broker.handle(events.SpoolFailed(SpoolFile(JOB, 1), reading=True))
    client.take()
    for _ in range(6):
        broker.tick(1_000)
        client.heartbeat()
    client.credit(JOB, 2 * SEGMENTS)
    broker.tick()
    assert [header.index for header, _ in client.take(Kind.OUTPUT)] == list(range(SEGMENTS))
    assert client.take_one(Kind.RESULT)[0].count == SEGMENTS
