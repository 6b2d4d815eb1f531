"""Workers that lie (G11): a client's word moves its job on, one worker's word does not end it."""

import pytest

from attestation.wire.control import RefusalCode
from attestation.wire.frames import Header, Kind
from coordinator.core.rules import Rules
from tests.coordinator.formats import SEALED, submit_record
from tests.coordinator.simulated_broker import SimulatedBroker, SimulatedClient, SimulatedWorker

JOB = b"j" * 16


@pytest.fixture
def broker() -> SimulatedBroker:
    return SimulatedBroker(Rules(lease_ms=60_000))


@pytest.fixture
def client(broker: SimulatedBroker) -> SimulatedClient:
    return SimulatedClient(broker)


@pytest.fixture
def workers(broker: SimulatedBroker) -> dict[bytes, SimulatedWorker]:
    found = [SimulatedWorker(broker, instance=number) for number in (11, 12)]
    return {worker.worker_id: worker for worker in found}


def submit(client: SimulatedClient, workers: dict[bytes, SimulatedWorker], **changes) -> None:
    segments = () if "segments" in changes else (b"s" * 100,)
    client.submit(JOB, submit_record(*workers, **changes), *segments)


def holder(workers: dict[bytes, SimulatedWorker]) -> SimulatedWorker:
    """Return the worker that was just given the job."""
    (found,) = [worker for worker in workers.values() if worker.take(Kind.ASSIGN)]
    return found


def reject(client: SimulatedClient, attempt: int, worker: SimulatedWorker) -> None:
    client.send(Header(Kind.RESULT_REJECT, JOB, attempt, peer=worker.worker_id))


def test_a_rejected_job_goes_to_another_worker_from_storage(
    broker: SimulatedBroker, client: SimulatedClient, workers: dict[bytes, SimulatedWorker]
) -> None:
    submit(client, workers)
    liar = holder(workers)
    liar.result(JOB, 1, b"lies" * 16)
    client.take_one(Kind.RESULT)
    reject(client, 1, liar)
    other = holder(workers)
    assert other is not liar
    other.result(JOB, 2, b"true" * 16)
    header, frames = client.take_one(Kind.RESULT)
    assert (header.attempt, header.peer, frames[2]) == (2, other.worker_id, b"true" * 16)
    client.acknowledge(JOB)
    assert list(broker.store.jobs()) == []
    assert broker.core.world.budget.used == 0


def test_a_rejected_large_job_needs_nothing_from_its_client_again(
    broker: SimulatedBroker, client: SimulatedClient, workers: dict[bytes, SimulatedWorker]
) -> None:
    """Inputs stay in the spool until the client says that it has the result."""
    submit(client, workers, segments=2, output_bytes_max=100)
    client.take(Kind.INPUT_CREDIT)
    for index in range(2):
        client.input(JOB, index, bytes([index]) * SEALED)
    liar = holder(workers)
    liar.credit(JOB, 1, 2)
    liar.result(JOB, 1, b"lies" * 16)
    client.take_one(Kind.RESULT)
    reject(client, 1, liar)
    other = holder(workers)
    assert other is not liar
    other.credit(JOB, 2, 2)
    assert [frames[0][0] for _, frames in other.take(Kind.INPUT)] == [0, 1]
    other.result(JOB, 2, b"true" * 16)
    client.take_one(Kind.RESULT)
    client.acknowledge(JOB)
    assert broker.files == {}


def test_a_rejection_of_another_attempt_or_by_another_client_changes_nothing(
    broker: SimulatedBroker, client: SimulatedClient, workers: dict[bytes, SimulatedWorker]
) -> None:
    stranger = SimulatedClient(broker, seed=99)
    submit(client, workers)
    worker = holder(workers)
    worker.result(JOB, 1, b"true" * 16)
    reject(client, 2, worker)
    reject(stranger, 1, worker)
    assert [each for each in workers.values() if each.take(Kind.ASSIGN)] == []
    (stored,) = broker.store.jobs()
    assert stored.result is not None


def test_a_job_that_is_always_rejected_ends(
    broker: SimulatedBroker, client: SimulatedClient
) -> None:
    rules = broker.core.world.rules
    workers = [SimulatedWorker(broker, instance=20 + n) for n in range(rules.max_attempts + 1)]
    by_id = {worker.worker_id: worker for worker in workers}
    submit(client, by_id)
    for attempt in range(1, rules.max_attempts + 1):
        liar = holder(by_id)
        liar.result(JOB, attempt, b"lies" * 16)
        reject(client, attempt, liar)
    assert client.refusals() == [RefusalCode.ATTEMPTS_EXHAUSTED]


@pytest.mark.parametrize(
    "code", [RefusalCode.NOT_AUTHENTIC, RefusalCode.PROGRAM_INVALID, RefusalCode.MALFORMED]
)
def test_one_worker_that_calls_a_good_job_bad_does_not_end_it(
    client: SimulatedClient, workers: dict[bytes, SimulatedWorker], code: RefusalCode
) -> None:
    submit(client, workers)
    liar = holder(workers)
    liar.decline(JOB, 1, code)
    other = holder(workers)
    assert other is not liar
    assert client.refusals() == []
    other.decline(JOB, 2, code)
    assert client.refusals() == [code]
