"""Many askers, many workers, little memory: each is served in turn, and nobody takes it all."""

import pytest

from attestation import limits
from attestation.identifiers import JobId
from attestation.wire.control import ClientHello, Heartbeat, RefusalCode
from attestation.wire.frames import Header, Kind
from coordinator.core import events
from coordinator.core import instructions as do
from coordinator.core.dispatch import ASKS_PER_TURN, BARRED_LEASES
from coordinator.core.listing import ANSWERS_PER_TURN
from coordinator.core.rules import Rules
from coordinator.core.scheduling import LINES_SEARCHED
from coordinator.core.welcome import CAPACITY
from tests.coordinator.formats import SEALED, submit_record
from tests.coordinator.simulated_broker import SimulatedBroker, SimulatedClient, SimulatedWorker
from tests.coordinator.test_core import JOB, OTHER, jobs_known, submit, upload


@pytest.fixture
def broker() -> SimulatedBroker:
    return SimulatedBroker(Rules(lease_ms=5_000, heartbeat_ms=1_000))


@pytest.fixture
def client(broker: SimulatedBroker) -> SimulatedClient:
    return SimulatedClient(broker)


@pytest.fixture
def worker(broker: SimulatedBroker) -> SimulatedWorker:
    return SimulatedWorker(broker)


def test_more_questions_than_a_turn_answers_wait_for_the_next(broker: SimulatedBroker) -> None:
    clients = [SimulatedClient(broker, seed=n) for n in range(1, 2 * ANSWERS_PER_TURN)]
    broker.tick(1_000)
    for each in clients:
        each.take()
        each.send(Header(Kind.LIST_JOBS))
        each.send(Header(Kind.LIST_WORKERS))
    answered = sum(len(each.take(Kind.JOBS, Kind.WORKERS)) for each in clients)
    assert answered == ANSWERS_PER_TURN
    clients[-1].vanish()
    broker.handle(events.PeerLost(clients[-1].peer))
    for _ in range(8):
        broker.tick(200)
    answered += sum(len(each.take(Kind.JOBS, Kind.WORKERS)) for each in clients[:-1])
    assert answered >= 2 * len(clients[:-1])


def test_a_client_that_asks_all_the_time_is_answered_at_a_pace(
    broker: SimulatedBroker, client: SimulatedClient
) -> None:
    broker.tick(1_000)
    client.take()
    for _ in range(50):
        client.send(Header(Kind.LIST_JOBS))
    assert len(client.take(Kind.JOBS)) == 1
    for _ in range(10):
        broker.tick(20)
    assert len(client.take(Kind.JOBS)) == 1


def test_a_stuck_job_asks_for_wraps_in_portions(broker: SimulatedBroker) -> None:
    """A thousand workers must not make one message per worker and job in one turn."""
    count = ASKS_PER_TURN + 10
    client = SimulatedClient(broker)
    for number in range(1, count + 1):
        SimulatedWorker(broker, instance=number)
    submit(client)
    submit(client, job_id=OTHER)
    client.take()
    broker.tick(10)
    first = len(client.take(Kind.WRAP_WANTED))
    assert 0 < first <= 2 * ASKS_PER_TURN
    for _ in range(4):
        broker.tick(10)
    assert first + len(client.take(Kind.WRAP_WANTED)) == 2 * count


def test_workers_that_come_and_go_do_not_fill_a_jobs_memory_of_them(
    broker: SimulatedBroker, client: SimulatedClient
) -> None:
    submit(client)
    for number in range(1, 3 * ASKS_PER_TURN):
        worker = SimulatedWorker(broker, instance=number)
        broker.tick(1)
        broker.handle(events.PeerLost(worker.peer))
        worker.vanish()
    assert len(jobs_known(broker)[JOB].asked) <= ASKS_PER_TURN + 4


def test_memory_for_one_lane_at_a_time_still_runs_every_job() -> None:
    broker = SimulatedBroker(Rules(memory_limit=4 * SEALED, window_bytes=SEALED))
    client, worker = SimulatedClient(broker), SimulatedWorker(broker, capacity=8)
    ids = [bytes([number]) * 16 for number in range(1, 6)]
    for job_id in ids:
        submit(client, worker, job_id=job_id, output_bytes_max=4 * SEALED)
    done = set()
    for _ in range(3 * len(ids)):
        for header, _ in worker.take(Kind.ASSIGN):
            lease = (header.job_id, header.attempt)
            worker.output(*lease, 0, bytes(SEALED))
            worker.result(*lease, count=1)
        for header, _ in client.take(Kind.RESULT):
            client.acknowledge(header.job_id)
            done.add(header.job_id)
        client.heartbeat()
        worker.heartbeat()
        broker.tick(500)
    assert done == set(ids)


def test_more_lines_than_one_search_looks_at_are_reached_in_turn(broker: SimulatedBroker) -> None:
    """Each job for a worker that is not there is a line of its own; one can run, the last."""
    client = SimulatedClient(broker)
    count = LINES_SEARCHED + 20
    for number in range(count):
        absent = number.to_bytes(16, "big")
        client.submit(absent, submit_record(absent), b"s" * 100)
    worker = SimulatedWorker(broker)
    submit(client, worker)
    for _ in range(4):
        broker.tick(300)
        client.heartbeat()
        worker.heartbeat()
    assert (JOB, 1) in [(header.job_id, header.attempt) for header, _ in worker.take(Kind.ASSIGN)]


def test_a_heartbeat_of_more_jobs_than_a_worker_is_given_is_refused(
    worker: SimulatedWorker,
) -> None:
    running = tuple((number.to_bytes(16, "big"), 1) for number in range(4 * CAPACITY))
    worker.send(Header(Kind.HEARTBEAT), Heartbeat(running=running).to_bytes())
    assert worker.refusals() == [RefusalCode.MALFORMED]
    assert worker.take(Kind.REVOKE) == []


def test_a_full_house_lets_nobody_in_and_its_guests_stay() -> None:
    broker = SimulatedBroker(Rules(max_peers=2))
    client, worker = SimulatedClient(broker), SimulatedWorker(broker)
    stranger = broker.connect()
    hello = ClientHello(client_key=bytes(32)).to_bytes()
    broker.message(stranger, Header(Kind.CLIENT_HELLO), hello)
    broker.message(stranger, Header(Kind.WORKER_HELLO), worker.worker_hello.to_bytes())
    assert [header.kind for header, _ in broker.inboxes[stranger]] == [Kind.REFUSED] * 2
    client.hello()
    worker.hello()


def test_a_full_receiver_is_told_to_the_sender_of_an_end_to_end_message(
    broker: SimulatedBroker, client: SimulatedClient, worker: SimulatedWorker
) -> None:
    for sender, receiver, sender_id, receiver_id in (
        (client, worker, client.peer_id, worker.worker_id),
        (worker, client, worker.worker_id, client.peer_id),
    ):
        unsent = do.Send(receiver.peer, Header(Kind.END_TO_END, peer=sender_id), (b"hello",))
        broker.handle(events.Unforwarded(unsent))
        header, _ = sender.take_one(Kind.REFUSED)
        assert header.peer == receiver_id
    gone = do.Send(client.peer, Header(Kind.END_TO_END, peer=b"?" * 16), (b"hello",))
    broker.handle(events.Unforwarded(gone))
    assert client.take(Kind.REFUSED) == worker.take(Kind.REFUSED) == []


def test_outputs_of_more_lengths_than_a_job_has_tensors_lose_the_lease() -> None:
    broker = SimulatedBroker()
    client, worker = SimulatedClient(broker), SimulatedWorker(broker)
    submit(client, worker, output_bytes_max=limits.MIB, durable=False)
    lease = worker.assigned()
    client.credit(JOB, 10_000)
    for index in range(2 * limits.TENSORS_PER_JOB + 8):
        worker.output(*lease, index, bytes(40 + index))
    assert client.take_one(Kind.LOST)
    assert worker.take(Kind.REVOKE)


def test_a_result_whose_outputs_already_went_needs_none_inside(
    broker: SimulatedBroker, client: SimulatedClient, worker: SimulatedWorker
) -> None:
    """A program that fails after its first outputs returns none; they are not kept either."""
    submit(client, worker, output_bytes_max=20 * SEALED)
    lease = worker.assigned()
    worker.output(*lease, 0, bytes(SEALED))
    worker.result(*lease, count=0)
    assert client.take_one(Kind.RESULT)[0].count == 0
    assert broker.files == {}


def test_a_large_job_whose_client_left_is_uploaded_by_its_next_connection(
    broker: SimulatedBroker, client: SimulatedClient, worker: SimulatedWorker
) -> None:
    submit(client, worker, segments=4)
    upload(client, most=2)
    client.reconnect()
    submit(client, worker, segments=4)
    assert upload(client) == 4
    assert client.take(Kind.ACCEPTED)
    assert worker.assigned()[0] == JOB


def test_a_repeated_submission_may_bring_wraps_for_more_workers(
    broker: SimulatedBroker, client: SimulatedClient
) -> None:
    submit(client)
    worker = SimulatedWorker(broker)
    submit(client, worker)
    assert worker.assigned() == (JOB, 1)


def test_two_connections_of_one_key_each_keep_their_own_jobs(
    broker: SimulatedBroker, client: SimulatedClient, worker: SimulatedWorker
) -> None:
    submit(client, worker, durable=False)
    second = SimulatedClient(broker)
    submit(second, worker, job_id=OTHER, durable=False)
    second.vanish()
    broker.handle(events.PeerLost(second.peer))
    assert list(jobs_known(broker)) == [JOB]
    worker.take(Kind.ASSIGN)
    worker.result(JOB, 1, b"o" * 40)
    assert client.take_one(Kind.RESULT)


def test_streaming_outputs_and_credit_after_their_client_left_end_nowhere(
    broker: SimulatedBroker, client: SimulatedClient, worker: SimulatedWorker
) -> None:
    submit(client, worker, durable=False, output_bytes_max=20 * SEALED)
    lease = worker.assigned()
    worker.output(*lease, 0, bytes(SEALED))
    client.vanish()
    worker.output(*lease, 1, bytes(SEALED))
    assert jobs_known(broker) == {}
    worker.take()
    worker.output(*lease, 16, bytes(SEALED))
    worker.credit(*lease, 1)
    assert [header.kind for header, _ in worker.take()] == [Kind.REVOKE] * 2


def test_inputs_of_another_connection_of_the_same_key_are_taken(
    broker: SimulatedBroker, client: SimulatedClient
) -> None:
    submit(client, segments=3)
    (grant, _) = client.take_one(Kind.INPUT_CREDIT)
    second = SimulatedClient(broker)
    for index in range(grant.count):
        second.input(JOB, index, bytes(SEALED))
    assert client.take(Kind.ACCEPTED)
    client.credit(JOB, 5)
    second.credit(JOB, 5)
    assert jobs_known(broker)[JOB].client_credit == 9


def test_an_inline_job_takes_no_inputs(
    broker: SimulatedBroker, client: SimulatedClient, worker: SimulatedWorker
) -> None:
    submit(client, worker, durable=False)
    worker.assigned()
    client.input(JOB, 0, bytes(SEALED))
    assert worker.take(Kind.INPUT) == []
    assert JOB in jobs_known(broker)


def test_a_transfer_whose_worker_left_gets_no_further_turn() -> None:
    broker = SimulatedBroker(Rules(window_bytes=2 * SEALED))
    client, worker = SimulatedClient(broker), SimulatedWorker(broker)
    submit(client, worker, segments=12)
    upload(client)
    worker.credit(*worker.assigned(), 12)
    assert broker.core.world.pumping
    broker.handle(events.PeerLost(worker.peer))
    worker.vanish()
    broker.tick()
    assert not broker.core.world.pumping
    assert jobs_known(broker)[JOB].attempt is None


def test_a_worker_with_endless_room_does_not_have_every_attempt_of_what_it_drops() -> None:
    """G11: jobs wait for the honest worker's one place, and are not given back to who lost them.

    After a while they are: it may have been an accident, and the other may be busy for long.
    """
    broker = SimulatedBroker(Rules(lease_ms=1_000, heartbeat_ms=100))
    client = SimulatedClient(broker)
    greedy = SimulatedWorker(broker, instance=1, capacity=100)
    jobs = [bytes([number]) * 16 for number in range(1, 4)]
    for job_id in jobs:
        submit(client, greedy, job_id=job_id)
    assert len(greedy.take(Kind.ASSIGN)) == 3
    honest = SimulatedWorker(broker, instance=2, capacity=1)
    for job_id in jobs:
        client.send(Header(Kind.WRAP, JobId(job_id), peer=honest.worker_id), b"w" * 76)
    _live(broker, 1_100, greedy, honest)
    running = honest.assigned()
    _live(broker, BARRED_LEASES * 1_000 - 500, greedy, honest, running=running)
    assert not greedy.take(Kind.ASSIGN), "the others wait"
    honest.result(*running, b"o" * 40)
    second = honest.assigned()
    _live(broker, 1_000, greedy, honest, running=second)
    assert len(greedy.take(Kind.ASSIGN)) == 1, "it gets what nobody else has taken for so long"


def _live(
    broker: SimulatedBroker,
    ms: int,
    *workers: SimulatedWorker,
    running: tuple[bytes, int] | None = None,
) -> None:
    """Let time pass; the last of the workers keeps `running` alive."""
    for _ in range(ms // 50):
        for worker in workers:
            worker.heartbeat(*([running] if running and worker is workers[-1] else []))
        broker.tick(50)
