"""Workers that lie about what they can do, what they have, and whose it is."""

import os
import time
from pathlib import Path

import pytest

from attestation.wire.control import Refusal, RefusalCode, WorkerHello, WorkerListing
from attestation.wire.frames import Header, Kind
from coordinator.broker import Broker
from coordinator.core.rules import Rules
from coordinator.core.welcome import CAPACITY
from tests.coordinator.formats import SEALED
from tests.coordinator.sockets import RawPeer, SocketClient, SocketWorker, running
from tests.port.ground import bystanders, new_id, run_once, submit, wait_until


@pytest.fixture
def broker(tmp_path: Path):
    with running(tmp_path) as made, bystanders(made.address):
        yield made


def liar(broker: Broker, **options) -> SocketWorker:
    return SocketWorker(broker.address, instance=new_id(), **options)


def instance_of(worker: SocketWorker) -> bytes:
    return WorkerHello.from_bytes(worker.hello).instance


def test_a_capacity_beyond_reason_is_cut_to_what_a_queue_holds(broker: Broker) -> None:
    with SocketClient(broker.address) as client, liar(broker, capacity=4096) as worker:
        for _ in range(CAPACITY + 40):
            submit(client, worker.worker_id, job_id=new_id(), durable=False)
        world = broker.core.world
        wait_until(lambda: len(world.waiting) == 40, "the rest waits", 10)
        assert len(world.workers[worker.worker_id].running) == CAPACITY


def test_jobs_that_a_greedy_worker_took_and_dropped_move_on(tmp_path: Path) -> None:
    """It keeps its connection alive and never mentions them again."""
    rules = Rules(lease_ms=700, heartbeat_ms=100)
    with (
        running(tmp_path, rules=rules) as broker,
        SocketClient(broker.address) as client,
        liar(broker, capacity=100) as greedy,
    ):
        jobs = {new_id() for _ in range(5)}
        for job_id in jobs:
            submit(client, greedy.worker_id, job_id=job_id)
            greedy.expect(Kind.ASSIGN)
        with liar(broker, capacity=1) as honest:
            # Of two that are as free as each other the smaller id is chosen: the liar's.
            while honest.worker_id < greedy.worker_id:
                honest.hello = honest.hello.replace(instance_of(honest), new_id())
                honest.send(Header(Kind.WORKER_HELLO), honest.hello)
                honest.expect_welcome()
            for job_id in jobs:
                client.send(Header(Kind.WRAP, job_id, peer=honest.worker_id), b"w" * 76)
            done: set[bytes] = set()
            ends = time.monotonic() + 8
            while done < jobs:
                assert time.monotonic() < ends, f"{len(done)} of {len(jobs)} jobs moved on"
                greedy.heartbeat()
                honest.heartbeat()
                message = honest.receive(timeout_ms=50)
                if message is None or message[0].kind is not Kind.ASSIGN:
                    continue
                header = message[0]
                done.add(header.job_id)
                honest.send(Header(Kind.RESULT, header.job_id, header.attempt), b"h", b"r")


def test_a_worker_that_never_takes_the_inputs_loses_the_job(tmp_path: Path) -> None:
    """It would hold the memory of a transfer for as long as it sends heartbeats."""
    rules = Rules(lease_ms=3_000, heartbeat_ms=300, stall_ms=500)
    job_id = new_id()
    with (
        running(tmp_path, rules=rules) as broker,
        SocketClient(broker.address) as client,
        liar(broker) as idle,
        liar(broker) as honest,
    ):
        # One segment, sent apart: small, and not in the ASSIGN.
        submit(client, idle.worker_id, job_id=job_id, segments=1)
        client.expect(Kind.INPUT_CREDIT)
        client.send(Header(Kind.INPUT, job_id), bytes(SEALED))
        client.expect(Kind.ACCEPTED)
        idle.expect(Kind.ASSIGN)
        client.send(Header(Kind.WRAP, job_id, peer=honest.worker_id), b"w" * 76)
        while (message := honest.receive(timeout_ms=200)) is None or (
            message[0].kind is not Kind.ASSIGN
        ):
            idle.heartbeat((job_id, 1))
            honest.heartbeat()
        assert message[0].attempt == 2
        while (message := idle.receive(timeout_ms=500)) and message[0].kind is not Kind.REVOKE:
            pass
        assert message, "it is told"
        assert broker.core.world.jobs[job_id].attempt.worker_id == honest.worker_id


def result(job_id: bytes, attempt: int) -> tuple:
    return Header(Kind.RESULT, job_id, attempt, count=1), b"forged", b"r", b"o" * 40


def test_a_result_for_a_job_it_never_had_is_fenced(broker: Broker) -> None:
    with (
        SocketClient(broker.address) as client,
        liar(broker) as owner,
        liar(broker) as other,
    ):
        job_id = new_id()
        submit(client, owner.worker_id, job_id=job_id)
        owner.expect(Kind.ASSIGN)
        for stolen, attempt in ((job_id, 1), (job_id, 0), (job_id, 2), (new_id(), 1)):
            other.send(*result(stolen, attempt))
            assert other.expect(Kind.REVOKE)[0].job_id == stolen
        owner.send(Header(Kind.RESULT, job_id, 1, count=1), b"true", b"r", b"o" * 40)
        owner.expect(Kind.RECORDED)
        assert client.expect(Kind.RESULT)[1][0] == b"true"


def test_a_result_of_a_lost_attempt_is_fenced(tmp_path: Path) -> None:
    rules = Rules(lease_ms=600, heartbeat_ms=100)
    with running(tmp_path, rules=rules) as broker, SocketClient(broker.address) as client:
        job_id = new_id()
        slow = liar(broker)
        submit(client, slow.worker_id, job_id=job_id)
        assert slow.expect(Kind.ASSIGN)[0].attempt == 1
        # Silent for a lease: the same worker gets it again, as another attempt.
        while (message := slow.receive(timeout_ms=1_500)) is not None:
            if message[0].kind is Kind.REFUSED or message[0].attempt > 1:
                break
        slow.send(Header(Kind.WORKER_HELLO), slow.hello)
        slow.expect_welcome()
        assert slow.expect(Kind.ASSIGN)[0].attempt == 2
        slow.send(*result(job_id, 1))
        assert slow.expect(Kind.REVOKE)[0].attempt == 1
        slow.send(Header(Kind.RESULT, job_id, 2, count=1), b"new", b"r", b"o" * 40)
        slow.expect(Kind.RECORDED)
        assert client.expect(Kind.RESULT)[1][0] == b"new"
        slow.close()


def test_a_second_result_does_not_replace_the_first(broker: Broker) -> None:
    with SocketClient(broker.address) as client, liar(broker) as worker:
        job_id = new_id()
        submit(client, worker.worker_id, job_id=job_id)
        worker.expect(Kind.ASSIGN)
        worker.send(Header(Kind.RESULT, job_id, 1, count=1), b"first", b"r", b"o" * 40)
        worker.expect(Kind.RECORDED)
        worker.send(*result(job_id, 1))
        worker.expect(Kind.RECORDED)
        assert client.expect(Kind.RESULT)[1][0] == b"first"
        while (message := client.receive(timeout_ms=100)) is not None:
            assert message[0].kind is Kind.WORKERS


BAD_RESULTS = {
    "no frames": (Header(Kind.RESULT, attempt=1), ()),
    "no receipt": (Header(Kind.RESULT, attempt=1), (b"h",)),
    "an empty receipt": (Header(Kind.RESULT, attempt=1), (b"h", b"")),
    "a giant receipt": (Header(Kind.RESULT, attempt=1), (b"h", bytes(70_000))),
    "a giant header": (Header(Kind.RESULT, attempt=1), (bytes(1_100_000), b"r")),
    "fewer outputs than it says": (
        Header(Kind.RESULT, attempt=1, count=2),
        (b"h", b"r", b"o" * 40),
    ),
    "outputs that it never sent": (Header(Kind.RESULT, attempt=1, count=7), (b"h", b"r")),
    "more than was promised": (Header(Kind.RESULT, attempt=1, count=1), (b"h", b"r", bytes(2_000))),
    "an output too short to be sealed": (
        Header(Kind.RESULT, attempt=1, count=1),
        (b"h", b"r", b"o"),
    ),
}


@pytest.mark.parametrize("bad", BAD_RESULTS.values(), ids=BAD_RESULTS.keys())
def test_a_result_of_the_wrong_shape_costs_the_lease(broker: Broker, bad: tuple) -> None:
    header, frames = bad
    with SocketClient(broker.address) as client, liar(broker) as worker:
        job_id = new_id()
        submit(client, worker.worker_id, job_id=job_id)
        worker.expect(Kind.ASSIGN)
        worker.send(Header(Kind.RESULT, job_id, 1, count=header.count), *frames)
        assert worker.expect(Kind.REVOKE)[0].attempt == 1
        assert worker.expect(Kind.ASSIGN)[0].attempt == 2, "the job goes on"
        client.send(Header(Kind.CANCEL, job_id))


BAD_OUTPUTS = {
    "without credit": [(0, SEALED)] * 2 + [(index, SEALED) for index in range(1, 200)],
    "out of order": [(1, SEALED)],
    "twice": [(0, SEALED), (0, SEALED)],
    "too large": [(0, SEALED + 1)],
    "too small": [(0, 31)],
}


@pytest.mark.parametrize("bad", BAD_OUTPUTS.values(), ids=BAD_OUTPUTS.keys())
def test_outputs_that_break_the_rules_cost_the_lease(broker: Broker, bad: list) -> None:
    with SocketClient(broker.address) as client, liar(broker) as worker:
        job_id = new_id()
        submit(client, worker.worker_id, job_id=job_id, output_bytes_max=300 * SEALED)
        worker.expect(Kind.ASSIGN)
        worker.expect(Kind.OUTPUT_CREDIT)
        for index, size in bad:
            worker.send(Header(Kind.OUTPUT, job_id, 1, index), bytes(size))
        assert worker.expect(Kind.REVOKE)[0].attempt == 1
        client.send(Header(Kind.CANCEL, job_id))


def test_heartbeats_for_the_jobs_of_others_renew_nothing(broker: Broker) -> None:
    with (
        SocketClient(broker.address) as client,
        liar(broker) as owner,
        liar(broker) as other,
    ):
        job_id = new_id()
        submit(client, owner.worker_id, job_id=job_id)
        owner.expect(Kind.ASSIGN)
        expires = broker.core.world.jobs[job_id].attempt.expires_ms
        for attempt in (1, 2, 0xFFFFFFFF):
            other.heartbeat((job_id, attempt))
            assert other.expect(Kind.REVOKE)[0].job_id == job_id
        assert broker.core.world.jobs[job_id].attempt.expires_ms == expires


@pytest.mark.parametrize("code", [RefusalCode.SIGNATURE_INVALID, RefusalCode.KERNEL_FAILED])
def test_refusing_the_jobs_of_others_ends_nothing(broker: Broker, code: RefusalCode) -> None:
    with (
        SocketClient(broker.address) as client,
        liar(broker) as owner,
        liar(broker) as other,
    ):
        job_id = new_id()
        submit(client, owner.worker_id, job_id=job_id)
        owner.expect(Kind.ASSIGN)
        refusal = Refusal(code=code).to_bytes()
        other.send(Header(Kind.JOB_REFUSED, job_id, 1), refusal)
        owner.send(Header(Kind.JOB_REFUSED, job_id, 9), refusal)
        other.heartbeat()
        other.expect(Kind.HEARTBEAT)
        owner.send(Header(Kind.RESULT, job_id, 1, count=1), b"h", b"r", b"o" * 40)
        client.expect(Kind.RESULT)


LIES = {
    "a capacity beyond the format": {"capacity": 4097},
    "a device with a name of a kilobyte": {"device": "x" * 1_000},
    "a negative number of bytes": {"max_job_bytes": -1},
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
def test_a_description_beyond_its_limits_is_no_hello(broker: Broker, lie: dict) -> None:
    with liar(broker) as template, RawPeer(broker.address) as worker:
        honest = WorkerHello.from_bytes(template.hello)
        fields = honest.description.to_map() | lie
        from attestation.encoding import cbor  # noqa: PLC0415

        worker.send(
            Header(Kind.WORKER_HELLO),
            cbor.encode({"instance": os.urandom(16), "description": fields}),
        )
        assert worker.expect_refusal() is RefusalCode.MALFORMED


def test_claims_of_a_worker_are_listed_as_claims(broker: Broker) -> None:
    """The coordinator passes on what workers say and adds nothing that sounds like a check."""
    with liar(broker) as worker, SocketClient(broker.address) as client:
        client.send(Header(Kind.LIST_WORKERS))
        listing = WorkerListing.from_bytes(client.expect(Kind.WORKERS)[1][0])
        (entry,) = [each for each in listing.workers if each.worker_id == worker.worker_id]
        assert entry.description == WorkerHello.from_bytes(worker.hello).description
        assert "verif" not in entry.state
        run_once(client, worker)
