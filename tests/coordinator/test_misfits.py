"""Messages that are well-formed and do not fit: answered with a code, and nothing moves."""

import pytest

from attestation import limits
from attestation.wire.control import JobListing, RefusalCode
from attestation.wire.frames import Header, Kind
from coordinator.core import events
from coordinator.core.core import END_TO_END_BYTES
from coordinator.core.rules import Rules
from tests.coordinator.formats import SEALED, submit_record
from tests.coordinator.simulated_broker import SimulatedBroker, SimulatedClient, SimulatedWorker
from tests.coordinator.test_core import JOB, OTHER, jobs_known, submit, upload

NOBODY = b"?" * 16


@pytest.fixture
def broker() -> SimulatedBroker:
    return SimulatedBroker(Rules(lease_ms=5_000, heartbeat_ms=1_000))


@pytest.fixture
def client(broker: SimulatedBroker) -> SimulatedClient:
    return SimulatedClient(broker)


@pytest.fixture
def worker(broker: SimulatedBroker) -> SimulatedWorker:
    return SimulatedWorker(broker)


@pytest.mark.parametrize("envelope", [b"", bytes(limits.JOB_ENVELOPE_BYTES + 1)])
def test_an_envelope_that_is_empty_or_too_large_is_refused(
    client: SimulatedClient, envelope: bytes
) -> None:
    client.submit(JOB, submit_record(), b"s" * 100, envelope=envelope)
    assert client.refusals() == [RefusalCode.TOO_LARGE]


@pytest.mark.parametrize("segment_bytes", [0, 1 << 15, 1 << 25, 100_000])
def test_segments_of_a_size_that_no_sealer_makes_are_refused(
    client: SimulatedClient, segment_bytes: int
) -> None:
    client.send(
        Header(Kind.SUBMIT, JOB),
        submit_record(segment_bytes=min(segment_bytes, limits.SEGMENT_BYTES_MAX + 1)).to_bytes(),
        b"envelope",
        b"s" * 100,
    )
    assert client.refusals() == [RefusalCode.MALFORMED]


def test_a_segment_shorter_than_its_tag_is_refused(client: SimulatedClient) -> None:
    submit(client, segments=(b"s" * 100, b"s" * 31))
    assert client.refusals() == [RefusalCode.MALFORMED]


def test_a_submission_by_another_owner_under_a_known_id_is_refused_and_changes_nothing(
    broker: SimulatedBroker, client: SimulatedClient
) -> None:
    """Two clients with one job id: the second is told, the first does not notice."""
    submit(client)
    other = SimulatedClient(broker, seed=9)
    submit(other)
    assert other.refusals() == [RefusalCode.DUPLICATE_JOB]
    assert client.refusals() == []
    assert jobs_known(broker)[JOB].owner == client.key.public_key().public_bytes_raw()


def test_an_upload_begins_again_when_its_submission_is_repeated(
    client: SimulatedClient, broker: SimulatedBroker
) -> None:
    submit(client, segments=3)
    upload(client, most=1)
    client.take()
    submit(client, segments=3)
    assert upload(client) == 3
    assert client.take_one(Kind.ACCEPTED)
    assert len(broker.files[jobs_known(broker)[JOB].input_file]) == 3


def test_a_job_that_is_repeated_after_its_end_does_not_run_again(
    client: SimulatedClient, worker: SimulatedWorker
) -> None:
    submit(client, worker)
    worker.result(*worker.assigned(), b"o" * 40)
    client.acknowledge(JOB)
    client.take()
    submit(client, worker)
    assert client.refusals() == [RefusalCode.DUPLICATE_JOB]
    assert worker.take(Kind.ASSIGN) == []


def test_an_end_to_end_message_that_is_too_large_or_for_nobody_is_refused(
    client: SimulatedClient, worker: SimulatedWorker
) -> None:
    header = Header(Kind.END_TO_END, peer=worker.worker_id)
    client.send(header, bytes(END_TO_END_BYTES + 1))
    assert client.refusals() == [RefusalCode.MALFORMED]
    client.send(Header(Kind.END_TO_END, peer=NOBODY), b"hello")
    refused, _ = client.take_one(Kind.REFUSED)
    assert refused.peer == NOBODY
    assert worker.take(Kind.END_TO_END) == []


def test_a_wrap_of_another_size_for_no_job_or_no_worker_is_refused(
    client: SimulatedClient, worker: SimulatedWorker, broker: SimulatedBroker
) -> None:
    submit(client)
    client.take()
    for header, wrap, code in (
        (Header(Kind.WRAP, JOB, peer=worker.worker_id), b"", RefusalCode.MALFORMED),
        (Header(Kind.WRAP, JOB, peer=worker.worker_id), bytes(257), RefusalCode.MALFORMED),
        (Header(Kind.WRAP, OTHER, peer=worker.worker_id), bytes(76), RefusalCode.NO_SUCH_JOB),
        (Header(Kind.WRAP, JOB, peer=NOBODY), bytes(76), RefusalCode.NO_SUCH_WORKER),
    ):
        client.send(header, wrap)
        assert client.refusals() == [code]
    assert jobs_known(broker)[JOB].wraps == {}


def test_wraps_beyond_the_index_are_not_kept(worker: SimulatedWorker) -> None:
    """A client that wraps for every worker that it makes up fills its share and no more."""
    broker = SimulatedBroker(Rules(index_limit=6_000))
    client = SimulatedClient(broker)
    workers = [SimulatedWorker(broker, instance=n) for n in range(1, 12)]
    submit(client)
    for each in workers:
        client.send(Header(Kind.WRAP, JOB, peer=each.worker_id), bytes(76))
    assert broker.core.world.index_bytes <= 6_000
    assert len(jobs_known(broker)[JOB].wraps) < len(workers)


def test_the_same_wrap_again_changes_nothing(
    client: SimulatedClient, worker: SimulatedWorker, broker: SimulatedBroker
) -> None:
    submit(client)
    header = Header(Kind.WRAP, JOB, peer=worker.worker_id)
    client.send(header, b"w" * 76)
    held = broker.core.world.index_bytes
    client.send(header, b"w" * 76)
    assert broker.core.world.index_bytes == held
    assert worker.assigned() == (JOB, 1)


def test_cancelling_what_is_over_or_unknown_says_so(
    client: SimulatedClient, worker: SimulatedWorker, broker: SimulatedBroker
) -> None:
    submit(client, worker)
    worker.result(*worker.assigned(), b"o" * 40)
    client.send(Header(Kind.CANCEL, JOB))
    assert client.refusals() == [RefusalCode.CANCELLED]
    client.send(Header(Kind.CANCEL, JOB))
    assert client.refusals() == [RefusalCode.NO_SUCH_JOB]
    assert jobs_known(broker) == {}


def test_a_refusal_by_a_worker_that_does_not_parse_counts_against_the_attempt(
    client: SimulatedClient, worker: SimulatedWorker, broker: SimulatedBroker
) -> None:
    submit(client, worker)
    job_id, attempt = worker.assigned()
    worker.send(Header(Kind.JOB_REFUSED, job_id, attempt), b"not a refusal")
    assert jobs_known(broker)[JOB].failures == 1


def test_a_refusal_by_a_worker_without_the_lease_is_ignored(
    client: SimulatedClient, worker: SimulatedWorker, broker: SimulatedBroker
) -> None:
    submit(client, worker)
    worker.assigned()
    other = SimulatedWorker(broker, instance=2)
    other.decline(JOB, 1, RefusalCode.PROGRAM_INVALID)
    worker.decline(JOB, 2, RefusalCode.PROGRAM_INVALID)
    worker.decline(OTHER, 1, RefusalCode.PROGRAM_INVALID)
    assert client.refusals() == []
    assert jobs_known(broker)[JOB].attempt_number == 1


def test_a_streaming_job_refused_after_its_inputs_moved_is_lost_to_its_client(
    client: SimulatedClient, worker: SimulatedWorker, broker: SimulatedBroker
) -> None:
    submit(client, worker, segments=3, durable=False)
    lease = worker.assigned()
    worker.credit(*lease, 1)
    client.input(JOB, 0, bytes(SEALED))
    worker.decline(*lease, RefusalCode.UNKNOWN_SESSION)
    assert client.take_one(Kind.LOST)[0].job_id == JOB
    assert jobs_known(broker) == {}


def test_streaming_inputs_out_of_order_or_beyond_what_was_announced_end_the_job(
    broker: SimulatedBroker, client: SimulatedClient, worker: SimulatedWorker
) -> None:
    for number, (index, size) in enumerate([(1, SEALED), (0, 10), (0, SEALED + 1)], start=1):
        job_id = bytes([number]) * 16
        submit(client, worker, job_id=job_id, segments=2, durable=False)
        lease = worker.assigned()
        worker.credit(*lease, 2)
        client.take()
        client.input(job_id, index, bytes(size))
        assert client.refusals() == [RefusalCode.MALFORMED]
        assert job_id not in jobs_known(broker)


def test_streaming_input_bytes_beyond_the_announced_end_the_job(
    client: SimulatedClient, worker: SimulatedWorker
) -> None:
    record = submit_record(worker.worker_id, segments=2, durable=False, input_bytes=SEALED + 40)
    client.submit(JOB, record)
    worker.credit(*worker.assigned(), 2)
    client.take()
    client.input(JOB, 0, bytes(SEALED))
    client.input(JOB, 1, bytes(SEALED))
    assert client.refusals() == [RefusalCode.MALFORMED]


def test_inputs_of_many_different_lengths_end_the_job(client: SimulatedClient) -> None:
    """Each tensor has one short segment; a list of lengths is no way to our memory."""
    count = 2 * limits.TENSORS_PER_JOB + 8
    total = sum(range(100, 100 + count))
    record = submit_record(input_segments=count, input_bytes=total)
    client.submit(JOB, record)
    sent = 0
    while not (refusals := client.refusals()):
        for header, _ in client.take(Kind.INPUT_CREDIT):
            for _ in range(header.count):
                client.input(JOB, sent, bytes(100 + sent))
                sent += 1
    assert refusals == [RefusalCode.MALFORMED]


def test_segments_and_credit_for_what_is_not_there_are_dropped(
    broker: SimulatedBroker, client: SimulatedClient, worker: SimulatedWorker
) -> None:
    client.input(OTHER, 0, bytes(SEALED))
    client.credit(OTHER, 4)
    client.acknowledge(OTHER)
    assert broker.core.counters["segments.stray"] == 1
    worker.credit(OTHER, 1, 4)
    worker.output(OTHER, 1, 0, bytes(SEALED))
    worker.output(OTHER, 1, 1, bytes(SEALED))
    # A whole window is on its way when a lease ends: one answer per sixteen segments is enough.
    assert len(worker.take(Kind.REVOKE)) == 2
    broker.handle(events.PeerLost((b"", b"\0\xff\xff\xff\xff")))


def test_credit_for_the_inputs_of_an_inline_job_sends_nothing(
    client: SimulatedClient, worker: SimulatedWorker
) -> None:
    submit(client, worker)
    worker.credit(*worker.assigned(), 10)
    assert worker.take(Kind.INPUT) == []


def test_a_segment_from_a_wrong_peer_is_malformed(
    client: SimulatedClient, worker: SimulatedWorker
) -> None:
    client.send(Header(Kind.OUTPUT, JOB, 1, 0), b"x")
    assert client.refusals() == [RefusalCode.MALFORMED]
    worker.send(Header(Kind.INPUT, JOB, 1, 0), b"x")
    assert worker.refusals() == [RefusalCode.MALFORMED]


def test_a_listing_names_the_askers_own_jobs_only(
    broker: SimulatedBroker, client: SimulatedClient
) -> None:
    submit(client)
    other = SimulatedClient(broker, seed=5)
    for each, count in ((client, 1), (other, 0)):
        each.take()
        each.send(Header(Kind.LIST_JOBS))
        broker.tick(1_000)
        _, (body,) = each.take_one(Kind.JOBS)
        assert len(JobListing.from_bytes(body).jobs) == count


def test_inline_submissions_that_find_no_memory_are_told_to_come_again() -> None:
    """A streaming job has nowhere to be but in memory; a small durable one has the disk."""
    broker = SimulatedBroker(Rules(memory_limit=4 * SEALED))
    client = SimulatedClient(broker)
    large = (b"s" * 60_000,)
    codes: list[RefusalCode] = []
    for number in range(1, 12):
        submit(client, job_id=bytes([number]) * 16, segments=large, durable=False)
        codes += client.refusals()
    assert set(codes) == {RefusalCode.NO_CREDIT}
    submit(client, job_id=OTHER, segments=large, durable=True)
    assert client.refusals() == []
    assert client.take(Kind.ACCEPTED)


@pytest.mark.parametrize("kind", [Kind.INPUT, Kind.OUTPUT])
def test_a_segment_from_a_stranger_is_told_to_say_hello(
    broker: SimulatedBroker, client: SimulatedClient, kind: Kind
) -> None:
    submit(client, segments=3)
    stranger = broker.connect()
    broker.message(stranger, Header(kind, JOB, 1, 0), bytes(SEALED))
    assert [header.kind for header, _ in broker.inboxes[stranger]] == [Kind.REFUSED]
    assert jobs_known(broker)[JOB].lengths.count == 0


@pytest.mark.parametrize("frames", [[], [b"", b""]])
def test_a_control_message_of_more_or_less_than_one_frame_is_refused(
    client: SimulatedClient, worker: SimulatedWorker, frames: list[bytes]
) -> None:
    client.send(Header(Kind.HEARTBEAT), *frames)
    assert client.refusals() == [RefusalCode.MALFORMED]
    worker.send(Header(Kind.END_TO_END, peer=client.peer_id), *frames)
    assert worker.refusals() == [RefusalCode.MALFORMED]


def test_a_peer_that_says_hello_as_something_else_stops_being_what_it_was(
    broker: SimulatedBroker, client: SimulatedClient, worker: SimulatedWorker
) -> None:
    """One connection is one party: a client's rights do not come along to the worker's side."""
    submit(client, worker, durable=False)
    client.send(Header(Kind.WORKER_HELLO), worker.worker_hello.to_bytes().replace(b"\1", b"\2"))
    assert client.take(Kind.WORKER_WELCOME)
    assert jobs_known(broker) == {}
    client.heartbeat()
    assert broker.core.world.clients == {}


def test_a_worker_that_comes_back_begins_again_what_had_begun_to_move(
    broker: SimulatedBroker, client: SimulatedClient, worker: SimulatedWorker
) -> None:
    """Segments on the old connection may be lost; a gap must not look like an output."""
    submit(client, worker, output_bytes_max=20 * SEALED)
    worker.output(*worker.assigned(), 0, bytes(SEALED))
    worker.reconnect()
    header, _ = worker.take_one(Kind.ASSIGN)
    assert header.attempt == 2
    assert jobs_known(broker)[JOB].failures == 0
    assert broker.files == {}


@pytest.mark.parametrize(
    "segments",
    [(b"o" * 31,), (b"o" * 600, b"o" * 600), (b"o" * 40,) * (limits.INLINE_SEGMENTS + 1)],
)
def test_an_inline_result_of_impossible_segments_loses_the_lease(
    broker: SimulatedBroker,
    client: SimulatedClient,
    worker: SimulatedWorker,
    segments: tuple[bytes, ...],
) -> None:
    submit(client, worker)
    worker.result(*worker.assigned(), *segments)
    assert client.take(Kind.RESULT) == []
    assert jobs_known(broker)[JOB].failures == 1


def test_the_broker_sleeps_until_something_is_due_and_no_longer(
    broker: SimulatedBroker, client: SimulatedClient, worker: SimulatedWorker
) -> None:
    idle = broker.core.wait_ms()
    submit(client, worker, segments=40, deadline_ms=broker.now_ms + 30)
    assert broker.core.wait_ms() <= 30 < idle
    client.take()
    other = SimulatedBroker(Rules(window_bytes=2 * SEALED))
    busy, slow = SimulatedClient(other), SimulatedWorker(other)
    submit(busy, slow, segments=40)
    upload(busy)
    slow.credit(*slow.assigned(), 40)
    assert other.core.wait_ms() < 5, "a transfer that has credit left gets its next turn soon"
    for _ in range(20):
        other.tick()
    assert len(slow.take(Kind.INPUT)) == 40


def test_a_delivery_that_finds_no_memory_waits_for_it() -> None:
    broker = SimulatedBroker(Rules(memory_limit=8 * SEALED, window_bytes=2 * SEALED))
    client, worker = SimulatedClient(broker), SimulatedWorker(broker, capacity=8)
    ids = [bytes([number]) * 16 for number in range(1, 7)]
    for job_id in ids:
        submit(client, worker, job_id=job_id, output_bytes_max=4 * SEALED)
    arrived: set[bytes] = set()
    fresh: list[bytes] = []
    for _ in range(40):
        # A round late: meanwhile their lanes are taken, and the other results wait.
        for job_id in fresh:
            client.acknowledge(job_id)
        fresh = [header.job_id for header, _ in client.take(Kind.RESULT)]
        arrived.update(fresh)
        for header, _ in worker.take(Kind.ASSIGN):
            for index in range(2):
                worker.output(header.job_id, header.attempt, index, bytes(SEALED))
            worker.result(header.job_id, header.attempt, count=2)
        client.heartbeat()
        worker.heartbeat()
        broker.tick(2_000)
    assert arrived == set(ids)
    assert broker.core.world.budget.used == 0


def test_a_result_is_delivered_where_its_owner_is_now(
    broker: SimulatedBroker, client: SimulatedClient, worker: SimulatedWorker
) -> None:
    """Also when the connection that brought the job is gone and the owner has another."""
    submit(client, worker)
    old = client.peer
    client.peer = broker.connect()
    client.hello()
    broker.disconnect(old)
    broker.handle(events.PeerLost(old))
    worker.result(*worker.assigned(), b"o" * 40)
    assert client.take_one(Kind.RESULT)


def test_credit_for_a_lease_that_another_worker_holds_is_fenced(
    broker: SimulatedBroker, client: SimulatedClient, worker: SimulatedWorker
) -> None:
    submit(client, worker, segments=3)
    upload(client)
    lease = worker.assigned()
    other = SimulatedWorker(broker, instance=2)
    other.credit(*lease, 3)
    assert other.take(Kind.INPUT) == []
    assert other.take_one(Kind.REVOKE)
    worker.credit(*lease, 3)
    assert len(worker.take(Kind.INPUT)) == 3
