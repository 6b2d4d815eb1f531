"""Whoever stops doing his part is let go of, and what waited for him is free again."""

import pytest

from attestation.wire.control import ClientHello, RefusalCode
from attestation.wire.frames import Header, Kind
from coordinator.core.rules import Rules
from tests.coordinator.formats import SEALED
from tests.coordinator.simulated_broker import SimulatedBroker, SimulatedClient, SimulatedWorker
from tests.coordinator.test_core import BODY, JOB, OTHER, jobs_known, submit, upload

STALL_MS = 60_000
WEEK_MS = 7 * 24 * 3600 * 1000


@pytest.fixture
def broker() -> SimulatedBroker:
    return SimulatedBroker(Rules(lease_ms=5_000, heartbeat_ms=1_000))


@pytest.fixture
def client(broker: SimulatedBroker) -> SimulatedClient:
    return SimulatedClient(broker)


@pytest.fixture
def worker(broker: SimulatedBroker) -> SimulatedWorker:
    return SimulatedWorker(broker)


def pass_time(
    broker: SimulatedBroker,
    ms: int,
    *here: SimulatedClient,
    working: dict[SimulatedWorker, list[tuple[bytes, int]]] | None = None,
) -> None:
    """Let time pass in steps in which everybody who is here says so."""
    for _ in range(ms // 1_000 + 1):
        for client in here:
            client.heartbeat()
        for worker, running in (working or {}).items():
            worker.heartbeat(*running)
        broker.tick(1_000)


def nothing_is_held(broker: SimulatedBroker) -> bool:
    world = broker.core.world
    return not (world.budget.used or world.bodies.used or world.spool_bytes or world.index_bytes)


def test_a_worker_that_never_takes_its_inputs_loses_the_lease(
    broker: SimulatedBroker, client: SimulatedClient, worker: SimulatedWorker
) -> None:
    """Its heartbeats keep the lease, but the memory that waits for it goes to another."""
    submit(client, worker, segments=3)
    upload(client)
    lease = worker.assigned()
    pass_time(broker, STALL_MS, client, working={worker: [lease]})
    assert Kind.REVOKE in [header.kind for header, _ in worker.take()]
    assert jobs_known(broker)[JOB].failures == 1


def test_a_worker_that_takes_its_inputs_slowly_keeps_the_lease(
    broker: SimulatedBroker, client: SimulatedClient, worker: SimulatedWorker
) -> None:
    submit(client, worker, segments=3)
    upload(client)
    lease = worker.assigned()
    for _ in range(3):
        pass_time(broker, STALL_MS - 5_000, client, working={worker: [lease]})
        worker.credit(*lease, 1)
    pass_time(broker, 2 * STALL_MS, client, working={worker: [lease]})
    assert jobs_known(broker)[JOB].failures == 0


def test_a_client_that_never_sends_its_streaming_inputs_frees_the_worker(
    broker: SimulatedBroker, client: SimulatedClient, worker: SimulatedWorker
) -> None:
    submit(client, worker, segments=3, durable=False)
    lease = worker.assigned()
    worker.credit(*lease, 3)
    pass_time(broker, STALL_MS, client, working={worker: [lease]})
    assert client.refusals() == [RefusalCode.CANCELLED]
    assert Kind.REVOKE in [header.kind for header, _ in worker.take()]
    assert nothing_is_held(broker)


def test_a_client_that_never_acknowledges_a_streaming_result_loses_it(
    broker: SimulatedBroker, client: SimulatedClient, worker: SimulatedWorker
) -> None:
    submit(client, worker, durable=False)
    worker.result(*worker.assigned(), b"o" * 40)
    assert client.take_one(Kind.RESULT)
    pass_time(broker, STALL_MS, client, working={worker: []})
    assert jobs_known(broker) == {}
    assert nothing_is_held(broker)


def test_a_client_that_stops_reading_its_result_gives_the_memory_back_and_keeps_the_result(
    broker: SimulatedBroker, client: SimulatedClient, worker: SimulatedWorker
) -> None:
    submit(client, worker, output_bytes_max=60 * SEALED)
    lease = worker.assigned()
    for index in range(8):
        worker.output(*lease, index, bytes(SEALED))
    worker.result(*lease, count=8)
    assert len(client.take(Kind.OUTPUT)) == 4
    pass_time(broker, 2 * STALL_MS, client, working={worker: []})
    assert broker.core.world.budget.used == 0
    client.reconnect()
    client.credit(JOB, 8)
    assert client.take_one(Kind.RESULT)[0].count == 8


def test_a_result_that_nobody_fetches_is_kept_for_its_time_and_no_longer(
    broker: SimulatedBroker, client: SimulatedClient, worker: SimulatedWorker
) -> None:
    submit(client, worker)
    client.vanish()
    worker.result(*worker.assigned(), b"o" * 40)
    broker.tick(WEEK_MS - 10_000)
    assert JOB in jobs_known(broker)
    broker.tick(20_000)
    assert jobs_known(broker) == {}
    assert list(broker.store.jobs()) == []


def test_a_refusal_that_nobody_hears_is_kept_for_its_time_and_no_longer(
    broker: SimulatedBroker, client: SimulatedClient
) -> None:
    submit(client, deadline_ms=broker.now_ms + 20_000)
    client.vanish()
    pass_time(broker, 17_000)
    assert broker.core.world.clients == {}
    pass_time(broker, 5_000)
    assert JOB in jobs_known(broker)
    broker.tick(WEEK_MS + 1)
    assert jobs_known(broker) == {}


def test_a_deadline_after_the_result_takes_nothing_back(
    broker: SimulatedBroker, client: SimulatedClient, worker: SimulatedWorker
) -> None:
    submit(client, worker, deadline_ms=broker.now_ms + 1_000)
    worker.result(*worker.assigned(), b"o" * 40)
    pass_time(broker, 10_000, client, working={worker: []})
    assert client.refusals() == []
    client.reconnect()
    assert client.take(Kind.RESULT)


def test_a_newcomer_that_never_proves_its_key_is_forgotten(broker: SimulatedBroker) -> None:
    peer = broker.connect()
    hello = ClientHello(client_key=bytes(32)).to_bytes()
    broker.message(peer, Header(Kind.CLIENT_HELLO), hello)
    assert peer in broker.core.world.peers
    pass_time(broker, 12_000)
    assert peer not in broker.core.world.peers


def test_a_client_that_leaves_takes_its_streaming_result_and_uploads_along(
    broker: SimulatedBroker, client: SimulatedClient, worker: SimulatedWorker
) -> None:
    submit(client, worker, durable=False)
    worker.result(*worker.assigned(), b"o" * 40)
    submit(client, job_id=OTHER, segments=3)
    client.vanish()
    pass_time(broker, 20_000, working={worker: []})
    assert jobs_known(broker) == {}
    assert nothing_is_held(broker)


def test_more_deliveries_than_a_client_may_have_at_once_wait_their_turn() -> None:
    broker = SimulatedBroker(Rules(deliveries_per_client=2))
    client, worker = SimulatedClient(broker), SimulatedWorker(broker, capacity=8)
    ids = [bytes([number]) * 16 for number in range(1, 6)]
    for job_id in ids:
        submit(client, worker, job_id=job_id, segments=BODY)
    client.vanish()
    for header, _ in worker.take(Kind.ASSIGN):
        worker.result(header.job_id, header.attempt, b"o" * 40)
    client.reconnect()
    delivered: list[bytes] = []
    while results := client.take(Kind.RESULT):
        assert len(results) <= 2
        for header, _ in results:
            delivered.append(header.job_id)
            client.acknowledge(header.job_id)
    assert sorted(delivered) == ids
