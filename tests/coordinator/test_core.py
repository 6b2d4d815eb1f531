"""What the core promises its peers, one promise per test."""

import pytest
from attrs import evolve

from attestation import limits
from attestation.errors import LocalProtocolError
from attestation.wire.control import JobListing, RefusalCode, WorkerListing
from attestation.wire.frames import Header, Kind
from coordinator.core import events
from coordinator.core.job import (
    TRANSITIONS,
    Acknowledged,
    Job,
    JobEvent,
    ResultAccepted,
    State,
)
from coordinator.core.rules import Rules
from tests.coordinator.formats import SEALED, SEGMENT, submit_record
from tests.coordinator.simulated_broker import (
    SimulatedBroker,
    SimulatedClient,
    SimulatedWorker,
)

JOB = b"j" * 16
OTHER = b"k" * 16
BODY = (b"s" * 100,)


@pytest.fixture
def broker() -> SimulatedBroker:
    return SimulatedBroker(Rules(lease_ms=5_000, heartbeat_ms=1_000))


@pytest.fixture
def client(broker: SimulatedBroker) -> SimulatedClient:
    return SimulatedClient(broker)


@pytest.fixture
def worker(broker: SimulatedBroker) -> SimulatedWorker:
    return SimulatedWorker(broker)


def submit(client: SimulatedClient, *workers: SimulatedWorker, job_id: bytes = JOB, **changes):
    record = submit_record(*(worker.worker_id for worker in workers), **changes)
    segments = changes.get("segments", BODY)
    client.submit(job_id, record, *(segments if isinstance(segments, tuple) else ()))


def upload(
    client: SimulatedClient, job_id: bytes = JOB, *, start: int = 0, most: int = 10**6
) -> int:
    """Send what the credit allows; return how many segments went."""
    sent = start
    while grants := client.take(Kind.INPUT_CREDIT):
        for header, _ in grants:
            for _ in range(min(header.count, most - sent)):
                client.input(job_id, sent, bytes([sent % 256]) * SEALED)
                sent += 1
    return sent


def jobs_known(broker: SimulatedBroker) -> dict[bytes, Job]:
    return dict(broker.core.world.jobs)


# -- the table ------------------------------------------------------------------------------------


def test_a_done_job_runs_again_only_if_its_client_rejects_the_result() -> None:
    after_done = {event.__name__ for (state, event) in TRANSITIONS if state is State.DONE}
    assert after_done == {"Acknowledged", "RecordingFailed", "ResultRejected"}


def test_nothing_leaves_the_last_state() -> None:
    assert not [state for (state, _) in TRANSITIONS if state is State.FINISHED]


def test_every_state_can_end() -> None:
    """Nothing accepted can be stuck in a state without a way out."""
    ends = {State.FINISHED}
    for _ in State:
        ends |= {state for (state, _), after in TRANSITIONS.items() if after in ends}
    assert ends == set(State)


@pytest.mark.parametrize("event", [ResultAccepted, Acknowledged, JobEvent])
def test_a_step_that_the_table_lacks_is_our_own_error(
    broker: SimulatedBroker, client: SimulatedClient, event: type[JobEvent]
) -> None:
    submit(client)
    with pytest.raises(LocalProtocolError):
        broker.core.world.jobs[JOB].apply(event)


# -- the way of a job -----------------------------------------------------------------------------


@pytest.mark.parametrize("durable", [True, False])
def test_a_small_job_goes_there_and_back(
    client: SimulatedClient, worker: SimulatedWorker, broker: SimulatedBroker, *, durable: bool
) -> None:
    submit(client, worker, durable=durable)
    assert client.take_one(Kind.ACCEPTED)[0].job_id == JOB
    header, frames = worker.take_one(Kind.ASSIGN)
    assert frames == (b"envelope", b"w" * 76, *BODY)
    assert (header.attempt, header.count, header.peer) == (1, 1, client.peer_id)
    worker.result(JOB, 1, b"o" * 64)
    assert worker.take_one(Kind.RECORDED)[0].attempt == 1
    header, frames = client.take_one(Kind.RESULT)
    assert frames == (b"header", b"receipt", b"o" * 64)
    assert (header.attempt, header.count, header.peer) == (1, 1, worker.worker_id)
    client.acknowledge(JOB)
    assert jobs_known(broker) == {}
    assert broker.core.world.budget.used == 0
    assert list(broker.store.jobs()) == []


@pytest.mark.parametrize("durable", [True, False])
def test_a_large_job_flows_under_credit_and_leaves_nothing(
    client: SimulatedClient, worker: SimulatedWorker, broker: SimulatedBroker, *, durable: bool
) -> None:
    count = 40
    submit(client, worker, segments=count, durable=durable, output_bytes_max=count * SEALED)
    if durable:
        assert upload(client) == count
    _, attempt = worker.assigned()
    worker.credit(JOB, attempt, 3)
    received: list[bytes] = []
    sent = 0
    for _ in range(count):
        if not durable:
            sent = upload(client, start=sent, most=count)
        inputs = worker.take(Kind.INPUT)
        received.extend(frames[0] for _, frames in inputs)
        worker.credit(JOB, attempt, len(inputs))
    assert [data[0] for data in received] == list(range(count))
    index = credit = 0
    outputs: list[int] = []
    while index < count:
        credit += sum(header.count for header, _ in worker.take(Kind.OUTPUT_CREDIT))
        assert credit > 0, "no credit: a deadlock"
        worker.output(JOB, attempt, index, b"o" * SEALED)
        index, credit = index + 1, credit - 1
        outputs += [header.index for header, _ in client.take(Kind.OUTPUT)]
        if not durable:
            client.credit(JOB, len(outputs) + 4 - index)
    worker.result(JOB, attempt, count=count)
    for _ in range(count):
        new = [header.index for header, _ in client.take(Kind.OUTPUT)]
        outputs += new
        client.credit(JOB, len(new))
    assert outputs == list(range(count))
    assert client.take_one(Kind.RESULT)[0].count == count
    client.acknowledge(JOB)
    assert broker.core.world.budget.used == 0
    assert broker.files == {}


def test_a_durable_job_is_accepted_only_after_its_commit(
    client: SimulatedClient, broker: SimulatedBroker
) -> None:
    broker.disk_full = True
    submit(client)
    assert client.take(Kind.ACCEPTED) == []
    assert client.refusals() == [RefusalCode.SPOOL_FULL]
    assert jobs_known(broker) == {}


# -- the fence ------------------------------------------------------------------------------------


def lose_lease(broker: SimulatedBroker, worker: SimulatedWorker) -> None:
    """Heartbeats go on and leave the job out: its lease ends, the worker stays."""
    while not (revoked := worker.take(Kind.REVOKE)):
        broker.tick(1_000)
        worker.heartbeat()
    assert len(revoked) == 1


def test_a_result_of_an_older_attempt_is_fenced(
    client: SimulatedClient, worker: SimulatedWorker, broker: SimulatedBroker
) -> None:
    submit(client, worker)
    worker.assigned()
    lose_lease(broker, worker)
    assert worker.assigned() == (JOB, 2)
    worker.result(JOB, 1)
    assert worker.take_one(Kind.REVOKE)[0].attempt == 1
    assert client.take(Kind.RESULT) == []


def test_a_result_of_a_worker_without_the_lease_is_fenced(
    client: SimulatedClient, worker: SimulatedWorker, broker: SimulatedBroker
) -> None:
    """One worker cannot answer for another, even if it learns job id and attempt."""
    thief = SimulatedWorker(broker, instance=2)
    submit(client, worker)
    worker.assigned()
    thief.result(JOB, 1, header=b"stolen")
    assert thief.take_one(Kind.REVOKE)
    assert client.take(Kind.RESULT) == []
    worker.result(JOB, 1)
    thief.result(JOB, 1, header=b"stolen")
    assert thief.take(Kind.RECORDED) == []
    assert [frames[0] for _, frames in client.take(Kind.RESULT)] == [b"header"]


def test_a_repeated_result_is_thanked_for_and_changes_nothing(
    client: SimulatedClient, worker: SimulatedWorker
) -> None:
    submit(client, worker)
    worker.result(JOB, 1, header=b"first")
    worker.result(JOB, 1, header=b"other")
    assert len(worker.take(Kind.RECORDED)) == 2
    assert client.take_one(Kind.RESULT)[1][0] == b"first"
    client.acknowledge(JOB)
    worker.result(JOB, 1, header=b"other")
    assert worker.take_one(Kind.RECORDED)
    assert client.take(Kind.RESULT) == []


def test_outputs_of_a_lost_attempt_never_reach_the_result(
    client: SimulatedClient, worker: SimulatedWorker, broker: SimulatedBroker
) -> None:
    submit(client, worker, output_bytes_max=8 * SEALED)
    worker.assigned()
    worker.output(JOB, 1, 0, b"1" * SEALED)
    lose_lease(broker, worker)
    _, attempt = worker.assigned()
    worker.output(JOB, 1, 1, b"1" * SEALED)
    worker.output(JOB, attempt, 0, b"2" * SEALED)
    worker.result(JOB, attempt, count=1)
    assert [frames[0][:1] for _, frames in client.take(Kind.OUTPUT)] == [b"2"]


# -- losing workers -------------------------------------------------------------------------------


def test_a_silent_workers_durable_job_moves_without_its_client(
    client: SimulatedClient, worker: SimulatedWorker, broker: SimulatedBroker
) -> None:
    submit(client, worker)
    second = SimulatedWorker(broker, instance=2)
    client.send(Header(Kind.WRAP, JOB, peer=second.worker_id), b"w" * 76)
    worker.assigned()
    client.vanish()
    for _ in range(8):
        broker.tick(1_000)
        second.heartbeat()
    header, frames = second.take_one(Kind.ASSIGN)
    assert header.attempt == 2
    assert frames[2:] == BODY


def test_a_streaming_jobs_client_hears_of_the_loss(
    client: SimulatedClient, worker: SimulatedWorker, broker: SimulatedBroker
) -> None:
    submit(client, worker, durable=False)
    worker.vanish()
    for _ in range(8):
        broker.tick(1_000)
        client.heartbeat()
    assert client.take_one(Kind.LOST)[0].job_id == JOB
    submit(client, durable=False)
    assert len(client.take(Kind.ACCEPTED)) == 2
    again = SimulatedWorker(broker)
    client.send(Header(Kind.WRAP, JOB, peer=again.worker_id), b"w" * 76)
    # The first attempt may still be under way somewhere: its number is not used again.
    assert again.assigned() == (JOB, 2)


def test_a_job_that_kills_workers_is_given_up(
    client: SimulatedClient, broker: SimulatedBroker
) -> None:
    worker = SimulatedWorker(broker)
    submit(client, worker)
    for attempt in range(1, 6):
        assert worker.assigned() == (JOB, attempt)
        lose_lease(broker, worker)
        client.heartbeat()
    assert client.refusals() == [RefusalCode.ATTEMPTS_EXHAUSTED]
    assert worker.take(Kind.ASSIGN) == []


def test_a_worker_that_comes_back_keeps_its_lease(
    client: SimulatedClient, worker: SimulatedWorker, broker: SimulatedBroker
) -> None:
    submit(client, worker)
    worker.assigned()
    known = worker.worker_id
    worker.reconnect()
    assert worker.worker_id == known
    worker.result(JOB, 1)
    assert worker.take_one(Kind.RECORDED)


def test_another_instance_is_another_worker(
    client: SimulatedClient, worker: SimulatedWorker, broker: SimulatedBroker
) -> None:
    """The instance is known to the coordinator alone: naming a worker id takes nothing over."""
    assert SimulatedWorker(broker, instance=2).worker_id != worker.worker_id


def test_a_silent_worker_gets_nothing_new(
    client: SimulatedClient, worker: SimulatedWorker, broker: SimulatedBroker
) -> None:
    for _ in range(4):
        broker.tick(1_000)
    submit(client, worker)
    assert worker.take(Kind.ASSIGN) == []
    worker.heartbeat()
    assert worker.assigned() == (JOB, 1)


@pytest.mark.parametrize(
    "code", [RefusalCode.SIGNATURE_INVALID, RefusalCode.NOT_AUTHENTIC, RefusalCode.PROGRAM_INVALID]
)
def test_what_every_worker_would_refuse_is_final(
    client: SimulatedClient, worker: SimulatedWorker, code: RefusalCode, broker: SimulatedBroker
) -> None:
    submit(client, worker)
    worker.decline(JOB, 1, code)
    assert client.refusals() == [code]
    assert worker.take(Kind.ASSIGN)
    client.acknowledge(JOB)
    assert jobs_known(broker) == {}


def test_a_worker_that_lost_its_session_is_passed_over_and_a_wrap_is_asked_for(
    client: SimulatedClient, worker: SimulatedWorker, broker: SimulatedBroker
) -> None:
    submit(client, worker)
    worker.assigned()
    worker.decline(JOB, 1, RefusalCode.UNKNOWN_SESSION)
    broker.tick()
    assert worker.take(Kind.ASSIGN) == []
    assert client.take_one(Kind.WRAP_WANTED)[0].peer == worker.worker_id
    client.send(Header(Kind.WRAP, JOB, peer=worker.worker_id), b"v" * 76)
    header, frames = worker.take_one(Kind.ASSIGN)
    assert (header.attempt, frames[1]) == (2, b"v" * 76)


def test_a_worker_that_joins_later_is_offered_to_stuck_jobs_once(
    client: SimulatedClient, broker: SimulatedBroker
) -> None:
    submit(client)
    late = SimulatedWorker(broker)
    SimulatedWorker(broker, instance=2, catalogue=b"x" * 32)
    broker.tick()
    broker.tick()
    assert [header.peer for header, _ in client.take(Kind.WRAP_WANTED)] == [late.worker_id]


# -- refusals of submissions ----------------------------------------------------------------------

MALFORMED = {
    "segment size is no power of two": {"segment_bytes": SEGMENT + 1},
    "segment size is too small": {"segment_bytes": 32 * 1024},
    "fewer bytes than frames": {"input_bytes": 99},
    "more bytes than segments can hold": {"input_bytes": SEALED + 1},
    "two wraps for one worker": {"wraps": ((b"a" * 16, b"w"), (b"a" * 16, b"v"))},
    "an empty wrap": {"wraps": ((b"a" * 16, b""),)},
}


@pytest.mark.parametrize("changes", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_submission_that_contradicts_itself_is_malformed(
    client: SimulatedClient, broker: SimulatedBroker, changes: dict
) -> None:
    client.submit(JOB, submit_record(**changes), *BODY)
    assert client.refusals() == [RefusalCode.MALFORMED]
    assert jobs_known(broker) == {}


@pytest.mark.parametrize(
    "frames",
    [(), (b"x",), (b"", b"e"), (b"\xff" * 100, b"e")],
    ids=["none", "one", "empty", "noise"],
)
def test_a_submission_of_another_shape_is_malformed(
    client: SimulatedClient, frames: tuple[bytes, ...]
) -> None:
    client.send(Header(Kind.SUBMIT, JOB), *frames)
    assert client.refusals() == [RefusalCode.MALFORMED]


def refused(rules: Rules, *, before: int = 0, **changes) -> RefusalCode:
    # Nobody else is here: tests/port/test_floods.py keeps what one account may take of each.
    broker = SimulatedBroker(evolve(rules, account_share=1.0))
    client = SimulatedClient(broker)
    for number in range(before):
        submit(client, job_id=(number + 1).to_bytes(16, "big"))
    submit(client, **changes)
    (code,) = client.refusals()
    return code


def test_every_limit_has_its_refusal() -> None:
    assert refused(Rules(max_jobs=2), before=2) is RefusalCode.QUEUE_FULL
    assert refused(Rules(max_jobs_per_client=2), before=2) is RefusalCode.QUEUE_FULL
    assert refused(Rules(index_limit=3_000), before=1) is RefusalCode.QUEUE_FULL
    assert refused(Rules(max_job_bytes=1_000)) is RefusalCode.TOO_LARGE
    assert refused(Rules(spool_limit=1_000)) is RefusalCode.SPOOL_FULL
    assert refused(Rules(memory_limit=SEALED)) is RefusalCode.TOO_LARGE
    body = (b"s" * 60_000,) * 3
    code = refused(Rules(memory_limit=SEALED * 8), durable=False, segments=body)
    assert code is RefusalCode.NO_CREDIT
    assert refused(Rules(), deadline_ms=1) is RefusalCode.DEADLINE_PASSED
    too_many = (b"s" * 40,) * (limits.INLINE_SEGMENTS + 1)
    assert refused(Rules(), segments=too_many) is RefusalCode.TOO_LARGE


def test_too_many_peers_are_refused() -> None:
    broker = SimulatedBroker(Rules(max_peers=2))
    worker, client = SimulatedWorker(broker), SimulatedClient(broker)
    worker.peer = broker.connect()
    worker.send(Header(Kind.WORKER_HELLO), worker.worker_hello.to_bytes())
    assert worker.refusals() == [RefusalCode.QUEUE_FULL]
    submit(client)
    assert client.take_one(Kind.ACCEPTED)


def test_the_same_submission_again_is_idempotent_and_another_is_refused(
    client: SimulatedClient, broker: SimulatedBroker
) -> None:
    submit(client)
    submit(client)
    assert len(client.take(Kind.ACCEPTED)) == 2
    client.submit(JOB, submit_record(), *BODY, envelope=b"another")
    stranger = SimulatedClient(broker, seed=2)
    submit(stranger)
    assert client.refusals() == stranger.refusals() == [RefusalCode.DUPLICATE_JOB]
    assert len(jobs_known(broker)) == 1


def test_another_clients_job_cannot_be_touched(
    client: SimulatedClient, worker: SimulatedWorker, broker: SimulatedBroker
) -> None:
    thief = SimulatedClient(broker, seed=2)
    submit(client, worker)
    worker.result(JOB, 1)
    thief.send(Header(Kind.CANCEL, JOB))
    thief.send(Header(Kind.WRAP, JOB, peer=worker.worker_id), b"w")
    thief.acknowledge(JOB)
    thief.credit(JOB, 5)
    assert thief.refusals() == [RefusalCode.NO_SUCH_JOB] * 2
    assert JOB in jobs_known(broker)
    thief.send(Header(Kind.LIST_JOBS))
    assert JobListing.from_bytes(thief.take_one(Kind.JOBS)[1][0]).jobs == ()


def test_a_deadline_ends_a_waiting_and_a_running_job(
    client: SimulatedClient, worker: SimulatedWorker, broker: SimulatedBroker
) -> None:
    deadline = broker.now_ms + 2_000
    submit(client, worker, deadline_ms=deadline)
    submit(client, deadline_ms=deadline, job_id=OTHER)
    worker.assigned()
    broker.tick(2_000)
    assert client.refusals() == [RefusalCode.DEADLINE_PASSED] * 2
    assert worker.take_one(Kind.REVOKE)[0].job_id == JOB


def test_a_cancelled_job_is_revoked(client: SimulatedClient, worker: SimulatedWorker) -> None:
    submit(client, worker)
    client.send(Header(Kind.CANCEL, JOB))
    assert worker.take_one(Kind.REVOKE)[0].job_id == JOB
    assert client.refusals() == [RefusalCode.CANCELLED]


def test_a_draining_coordinator_takes_and_gives_nothing_new(
    client: SimulatedClient, worker: SimulatedWorker, broker: SimulatedBroker
) -> None:
    submit(client, worker)
    assert not broker.core.idle
    broker.handle(events.DrainRequested())
    submit(client, worker, job_id=OTHER)
    assert client.refusals() == [RefusalCode.DRAINING]
    worker.result(JOB, 1)
    assert client.take_one(Kind.RESULT)
    assert broker.core.idle


# -- segments -------------------------------------------------------------------------------------


@pytest.mark.parametrize("durable", [True, False])
@pytest.mark.parametrize(
    ("index", "size"), [(1, SEALED), (0, SEALED + 1), (0, 31)], ids=["gap", "long", "short"]
)
def test_an_input_out_of_order_or_size_ends_the_job(
    client: SimulatedClient, worker: SimulatedWorker, index: int, size: int, *, durable: bool
) -> None:
    submit(client, worker, segments=4, durable=durable)
    if not durable:
        worker.credit(JOB, 1, 4)
    client.input(JOB, index, bytes(size))
    assert client.refusals() == [RefusalCode.MALFORMED]
    assert worker.take(Kind.INPUT) == []


@pytest.mark.parametrize("durable", [True, False])
def test_an_input_without_credit_ends_the_job(
    client: SimulatedClient, worker: SimulatedWorker, broker: SimulatedBroker, *, durable: bool
) -> None:
    submit(client, worker, segments=400, durable=durable)
    granted = sum(header.count for header, _ in client.take(Kind.INPUT_CREDIT))
    world = broker.core.world
    if durable:
        world.jobs[JOB].upload.granted = 1
        granted = 1
    for index in range(granted + 1):
        client.input(JOB, index, bytes(SEALED))
        client.take(Kind.INPUT_CREDIT)
        if durable and JOB in world.jobs:
            world.jobs[JOB].upload.granted = 1
    assert client.refusals() == [RefusalCode.NO_CREDIT]


def test_input_bytes_that_do_not_add_up_are_refused(client: SimulatedClient) -> None:
    submit(client, segments=2)
    client.input(JOB, 0, bytes(SEALED))
    client.input(JOB, 1, bytes(SEALED - 1))
    assert client.refusals() == [RefusalCode.MALFORMED]


@pytest.mark.parametrize(
    ("index", "size"), [(1, SEALED), (0, SEALED + 1), (0, 16)], ids=["gap", "long", "short"]
)
def test_a_worker_whose_outputs_break_the_rules_loses_the_lease(
    client: SimulatedClient, worker: SimulatedWorker, index: int, size: int
) -> None:
    submit(client, worker, output_bytes_max=4 * SEALED)
    worker.take(Kind.ASSIGN)
    worker.output(JOB, 1, index, bytes(size))
    assert worker.take_one(Kind.REVOKE)[0].attempt == 1
    assert worker.assigned() == (JOB, 2)


def test_more_output_than_announced_loses_the_lease(
    client: SimulatedClient, worker: SimulatedWorker
) -> None:
    submit(client, worker, output_bytes_max=limits.INLINE_BYTES + SEALED)
    worker.take(Kind.ASSIGN)
    for index in range(6):
        worker.output(JOB, 1, index, bytes(SEALED))
    assert worker.take_one(Kind.REVOKE)[0].attempt == 1


@pytest.mark.parametrize(
    "frames",
    [(), (b"h",), (b"", b"r"), (b"h", b"r" * (limits.RECEIPT_BYTES + 1)), (b"h", b"r", b"o" * 8)],
    ids=["none", "no receipt", "no header", "large receipt", "short segment"],
)
def test_a_result_of_another_shape_loses_the_lease(
    client: SimulatedClient, worker: SimulatedWorker, frames: tuple[bytes, ...]
) -> None:
    submit(client, worker)
    worker.take(Kind.ASSIGN)
    header = Header(Kind.RESULT, JOB, 1, count=max(0, len(frames) - 2))
    worker.send(header, *frames)
    assert worker.take_one(Kind.REVOKE)
    assert client.take(Kind.RESULT) == []


# -- memory ---------------------------------------------------------------------------------------


def test_a_tiny_budget_is_slow_and_never_stuck() -> None:
    """Ten large uploads share memory for a few segments; a dead client's share comes back."""
    rules = Rules(memory_limit=8 * SEALED, window_bytes=2 * SEALED, client_silence_ms=4_000)
    broker = SimulatedBroker(rules)
    clients = [SimulatedClient(broker, seed=number + 1) for number in range(10)]
    for number, client in enumerate(clients):
        submit(client, job_id=bytes([number + 1]) * 16, segments=20)
    clients[0].vanish()
    done: set[int] = set()
    sent = [0] * len(clients)
    for _ in range(60):
        broker.tick(500)
        for number, client in enumerate(clients[1:], start=1):
            client.heartbeat()
            sent[number] = upload(client, bytes([number + 1]) * 16, start=sent[number])
            if client.take(Kind.ACCEPTED):
                done.add(number)
        assert broker.core.world.budget.used <= rules.memory_limit
    assert done == set(range(1, 10))


def test_a_client_that_stalls_gives_its_memory_back(
    client: SimulatedClient, broker: SimulatedBroker
) -> None:
    submit(client, segments=4)
    assert broker.core.world.budget.used > 0
    for _ in range(14):
        broker.tick(5_000)
        client.heartbeat()
    assert client.refusals() == [RefusalCode.CANCELLED]
    assert broker.core.world.budget.used == 0


def test_credit_of_a_streaming_job_is_what_its_worker_granted(
    client: SimulatedClient, worker: SimulatedWorker
) -> None:
    submit(client, worker, segments=40, durable=False)
    assert client.take(Kind.INPUT_CREDIT) == []
    worker.credit(JOB, 1, 3)
    assert client.take_one(Kind.INPUT_CREDIT)[0].count == 3


def test_output_credit_of_a_streaming_worker_is_what_the_client_granted(
    client: SimulatedClient, worker: SimulatedWorker
) -> None:
    """A slow client holds its worker back; the segments do not pile up here."""
    submit(client, worker, durable=False, output_bytes_max=60 * SEALED)
    assert sum(header.count for header, _ in worker.take(Kind.OUTPUT_CREDIT)) == 4
    for index in range(4):
        worker.output(JOB, 1, index, bytes(SEALED))
    assert worker.take(Kind.OUTPUT_CREDIT) == []
    client.credit(JOB, 2)
    assert worker.take_one(Kind.OUTPUT_CREDIT)[0].count == 2


def test_a_result_waits_in_the_store_until_it_is_acknowledged(
    client: SimulatedClient, worker: SimulatedWorker
) -> None:
    submit(client, worker)
    worker.result(JOB, 1, b"o" * 40)
    assert client.take_one(Kind.RESULT)
    for _ in range(3):
        client.reconnect()
        assert client.take_one(Kind.RESULT)[1] == (b"header", b"receipt", b"o" * 40)
    client.acknowledge(JOB)
    client.reconnect()
    assert client.take(Kind.RESULT) == []


# -- turns ----------------------------------------------------------------------------------------


def test_one_client_cannot_starve_another(broker: SimulatedBroker) -> None:
    worker = SimulatedWorker(broker, capacity=1)
    greedy, modest = (SimulatedClient(broker, seed=number) for number in (1, 2))
    for number in range(50):
        submit(greedy, worker, job_id=bytes([1, number]) * 8)
    submit(modest, worker, job_id=OTHER)
    order = []
    for _ in range(3):
        job_id, attempt = worker.assigned()
        order.append(job_id)
        worker.result(job_id, attempt)
    assert OTHER in order


def test_jobs_of_one_client_run_in_their_order(broker: SimulatedBroker) -> None:
    worker = SimulatedWorker(broker, capacity=1)
    client = SimulatedClient(broker)
    submitted = [bytes([number]) * 16 for number in range(9, 1, -1)]
    for job_id in submitted:
        submit(client, worker, job_id=job_id)
    order = []
    for _ in submitted:
        job_id, attempt = worker.assigned()
        order.append(job_id)
        worker.result(job_id, attempt)
    assert order == submitted


def test_a_job_that_cannot_run_does_not_block_those_behind_it(
    client: SimulatedClient, worker: SimulatedWorker, broker: SimulatedBroker
) -> None:
    for number in range(100):
        record = submit_record(bytes([number]) * 16)
        client.submit(bytes([number]) * 16, record, *BODY, envelope=b"stuck")
    submit(client, worker)
    for _ in range(3):
        broker.tick(300)
        worker.heartbeat()
    assert worker.assigned() == (JOB, 1)


def test_the_cheaper_of_two_idle_workers_is_chosen_and_load_is_spread(
    client: SimulatedClient, broker: SimulatedBroker
) -> None:
    dear = SimulatedWorker(broker, instance=1, price=9)
    cheap = SimulatedWorker(broker, instance=2, price=1)
    submit(client, dear, cheap)
    submit(client, dear, cheap, job_id=OTHER)
    assert cheap.assigned()[0] == JOB
    assert dear.assigned()[0] == OTHER


@pytest.mark.parametrize(
    ("offer", "changes"),
    [
        ({"price": 5}, {"price_limit": 4}),
        ({"max_job_bytes": 500}, {}),
        ({"catalogue": b"x" * 32}, {}),
        ({"capacity": 0}, {}),
    ],
    ids=["dear", "small", "other kernels", "full"],
)
def test_an_unsuitable_worker_is_not_used(
    client: SimulatedClient, broker: SimulatedBroker, offer: dict, changes: dict
) -> None:
    worker = SimulatedWorker(broker, **offer)
    submit(client, worker, **changes)
    assert worker.take(Kind.ASSIGN) == []


def test_a_draining_worker_gets_no_new_job(
    client: SimulatedClient, worker: SimulatedWorker, broker: SimulatedBroker
) -> None:
    worker.send(Header(Kind.DRAINING))
    submit(client, worker)
    assert worker.take(Kind.ASSIGN) == []
    broker.tick(200)
    listing = WorkerListing.from_bytes(client.take(Kind.WORKERS)[-1][1][0])
    assert [entry.state for entry in listing.workers] == ["draining"]


# -- restarts and the disk ------------------------------------------------------------------------


def test_an_accepted_job_survives_a_crash_with_its_attempt(
    client: SimulatedClient, worker: SimulatedWorker, broker: SimulatedBroker
) -> None:
    submit(client, worker)
    submit(client, job_id=OTHER)
    worker.assigned()
    broker.restart()
    assert jobs_known(broker)[JOB].state is State.LEASED
    assert jobs_known(broker)[OTHER].state is State.QUEUED
    worker.reconnect()
    worker.result(JOB, 1)
    assert worker.take_one(Kind.RECORDED)
    client.reconnect()
    assert client.take_one(Kind.RESULT)


def test_a_large_job_survives_a_crash_between_upload_and_result(
    client: SimulatedClient, worker: SimulatedWorker, broker: SimulatedBroker
) -> None:
    submit(client, worker, segments=5, output_bytes_max=4 * SEALED)
    upload(client)
    worker.assigned()
    worker.credit(JOB, 1, 2)
    broker.restart()
    worker.reconnect()
    assert worker.assigned() == (JOB, 2)
    worker.credit(JOB, 2, 5)
    assert [frames[0][0] for _, frames in worker.take(Kind.INPUT)] == [0, 1, 2, 3, 4]


def test_an_upload_that_was_cut_off_leaves_nothing(
    client: SimulatedClient, broker: SimulatedBroker
) -> None:
    submit(client, segments=5)
    client.input(JOB, 0, bytes(SEALED))
    broker.restart()
    assert (broker.files, jobs_known(broker)) == ({}, {})
    client.reconnect()
    submit(client, segments=5)
    assert upload(client) == 5
    assert client.take_one(Kind.ACCEPTED)


def test_an_absent_client_hears_of_the_refusal_when_it_returns(
    client: SimulatedClient, broker: SimulatedBroker
) -> None:
    submit(client, deadline_ms=broker.now_ms + 30_000)
    client.vanish()
    broker.tick(20_000)
    broker.tick(20_000)
    broker.restart()
    for _ in range(2):
        # Again and again: the connection on which it was said may have been broken already.
        client.reconnect()
        assert set(client.refusals()) == {RefusalCode.DEADLINE_PASSED}
    client.acknowledge(JOB)
    assert list(broker.store.jobs()) == []


def test_a_full_disk_keeps_the_job_and_runs_it_again(
    client: SimulatedClient, worker: SimulatedWorker, broker: SimulatedBroker
) -> None:
    """A result that cannot be recorded is not acknowledged, and the job is not lost."""
    submit(client, worker)
    broker.disk_full = True
    worker.result(JOB, 1)
    assert worker.take(Kind.RECORDED) == []
    assert client.take(Kind.RESULT) == []
    broker.disk_full = False
    worker.take(Kind.ASSIGN)
    broker.tick(1_000)
    _, attempt = worker.assigned()
    worker.result(JOB, attempt)
    assert client.take_one(Kind.RESULT)


def test_a_spool_that_cannot_be_written_refuses_the_upload(
    client: SimulatedClient, broker: SimulatedBroker
) -> None:
    submit(client, segments=3)
    broker.disk_broken_for.add(jobs_known(broker)[JOB].input_file)
    upload(client)
    assert client.refusals() == [RefusalCode.SPOOL_FULL]
    assert jobs_known(broker) == {}
    assert broker.core.world.budget.used == 0


def test_a_full_queue_of_a_peer_is_no_gap_in_its_segments(
    client: SimulatedClient, worker: SimulatedWorker, broker: SimulatedBroker
) -> None:
    submit(client, worker, segments=6)
    upload(client)
    worker.assigned()
    worker.credit(JOB, 1, 3)
    (third,) = [each for each in worker.take(Kind.INPUT) if each[0].index == 2]
    from coordinator.core import instructions as do  # noqa: PLC0415

    unsent = do.SendSpooled(
        peer=worker.peer,
        header=third[0],
        file=do.SpoolFile(JOB),
        offset=0,
        length=SEALED,
    )
    broker.handle(events.Congested(unsent))
    broker.tick()
    assert [header.index for header, _ in worker.take(Kind.INPUT)] == [2]


# -- strangers ------------------------------------------------------------------------------------


def test_a_stranger_is_told_to_say_hello(broker: SimulatedBroker, worker: SimulatedWorker) -> None:
    stranger = SimulatedClient.__new__(SimulatedClient)
    stranger.broker, stranger.peer = broker, broker.connect()
    for kind in (Kind.SUBMIT, Kind.HEARTBEAT, Kind.RESULT, Kind.INPUT, Kind.CLIENT_PROOF):
        stranger.send(Header(kind, JOB), b"x")
        assert stranger.refusals() == [RefusalCode.NOT_WELCOME]


@pytest.mark.parametrize("kind", [Kind.RESULT, Kind.JOB_REFUSED, Kind.ASSIGN, Kind.WORKERS])
def test_a_client_cannot_speak_as_a_worker(client: SimulatedClient, kind: Kind) -> None:
    client.send(Header(kind, JOB, 1), b"h", b"r")
    assert client.refusals() == [RefusalCode.MALFORMED]


def test_a_client_without_the_key_it_names_is_refused(broker: SimulatedBroker) -> None:
    client = SimulatedClient(broker)
    client.key = SimulatedClient(broker, seed=2).key
    client.take()
    from attestation.wire.control import ClientHello, ClientProof  # noqa: PLC0415

    client.send(Header(Kind.CLIENT_HELLO), ClientHello(client_key=b"\x01" * 32).to_bytes())
    client.send(Header(Kind.CLIENT_PROOF), ClientProof(signature=bytes(64)).to_bytes())
    assert client.refusals() == [RefusalCode.BAD_PROOF]


def test_end_to_end_messages_go_through_unread_with_the_true_sender(
    client: SimulatedClient, worker: SimulatedWorker
) -> None:
    client.send(Header(Kind.END_TO_END, peer=worker.worker_id), b"question")
    header, frames = worker.take_one(Kind.END_TO_END)
    assert (header.peer, frames) == (client.peer_id, (b"question",))
    worker.send(Header(Kind.END_TO_END, peer=client.peer_id), b"answer")
    header, frames = client.take_one(Kind.END_TO_END)
    assert (header.peer, frames) == (worker.worker_id, (b"answer",))
    client.send(Header(Kind.END_TO_END, peer=b"n" * 16), b"question")
    header, _ = client.take_one(Kind.REFUSED)
    assert header.peer == b"n" * 16


@pytest.mark.parametrize("verbose", [True, False])
def test_debug_notes_are_made_for_who_listens_only(*, verbose: bool) -> None:
    broker = SimulatedBroker()
    world = broker.core.world
    world.verbose = verbose
    world.out = []
    world.note("job.accepted", level="debug", job_id=JOB)
    world.note("job.refused", job_id=JOB)
    assert len(world.out) == 1 + verbose
