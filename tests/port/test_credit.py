"""Credit that lies, segments that do not fit it, and readers who promise to read and do not."""

import time
from pathlib import Path

import pytest

from attestation.wire.control import RefusalCode
from attestation.wire.frames import Header, Kind
from coordinator.core.rules import Rules
from tests.coordinator.formats import SEALED
from tests.coordinator.sockets import SocketClient, SocketWorker, running
from tests.port.ground import (
    MIB,
    BrokerProcess,
    bystanders,
    new_id,
    run_once,
    submit,
    wait_until,
)

MOST = 0xFFFFFFFF
SEGMENT = 1 * MIB
COUNT = 160
"""Segments of the large jobs below: five times the memory that the broker may use."""
LARGE = {
    "segments": COUNT,
    "segment_bytes": SEGMENT,
    "input_bytes": COUNT * (SEGMENT + 32),
}
SEGMENT_DATA = bytes(SEGMENT + 32)
SLACK = 64 * MIB
"""What a process that moves so much may keep beyond the 32 MiB of the rules."""

# -- readers who do not read ----------------------------------------------------------------------


def upload(client: SocketClient, job_id: bytes) -> None:
    """Send every input of a large job as credit comes."""
    sent = 0
    while sent < COUNT:
        for _ in range(client.expect(Kind.INPUT_CREDIT)[0].count):
            client.send(Header(Kind.INPUT, job_id, index=sent), SEGMENT_DATA)
            sent += 1
    client.expect(Kind.ACCEPTED)


def send_outputs(worker: SocketWorker, job_id: bytes) -> int:
    """Send every output as credit comes; return how many were wanted."""
    credit = 0
    for index in range(COUNT):
        while not credit:
            message = worker.receive(timeout_ms=1_500)
            if message is None or message[0].kind is Kind.REVOKE:
                return index
            if message[0].kind is Kind.OUTPUT_CREDIT:
                credit = message[0].count
        credit -= 1
        worker.send(Header(Kind.OUTPUT, job_id, 1, index), SEGMENT_DATA)
    worker.send(Header(Kind.RESULT, job_id, 1, count=COUNT), b"h", b"r")
    return COUNT


def unread(process: BrokerProcess) -> dict:
    """Options of a socket that takes nearly nothing off the line while nobody reads."""
    return {"RCVHWM": 1, "RCVBUF": 64 * 1024}


def test_a_worker_that_grants_everything_and_reads_nothing_costs_a_window(
    process: BrokerProcess,
) -> None:
    job_id = new_id()
    with (
        bystanders(process.address),
        SocketClient(process.address) as client,
        SocketWorker(process.address, instance=new_id(), **unread(process)) as liar,
    ):
        submit(client, liar.worker_id, job_id=job_id, **LARGE)
        upload(client, job_id)
        liar.expect(Kind.ASSIGN)
        with process.memory_growth_below(SLACK):
            for _ in range(3):
                liar.send(Header(Kind.INPUT_CREDIT, job_id, 1, count=MOST))
            time.sleep(1)
        for index in range(COUNT):
            assert liar.expect(Kind.INPUT)[0].index == index, "and it all comes when it reads"
        client.send(Header(Kind.CANCEL, job_id))


def test_a_client_that_grants_everything_and_reads_nothing_costs_a_window(
    process: BrokerProcess,
) -> None:
    job_id = new_id()
    with (
        bystanders(process.address),
        SocketClient(process.address, **unread(process)) as liar,
        SocketWorker(process.address, instance=new_id()) as worker,
    ):
        submit(
            liar,
            worker.worker_id,
            job_id=job_id,
            credit=MOST,
            segment_bytes=SEGMENT,
            output_bytes_max=COUNT * (SEGMENT + 32),
        )
        worker.expect(Kind.ASSIGN)
        with process.memory_growth_below(SLACK):
            assert send_outputs(worker, job_id) == COUNT
            worker.expect(Kind.RECORDED)
            for _ in range(3):
                liar.send(Header(Kind.OUTPUT_CREDIT, job_id, count=MOST))
            time.sleep(1)
        liar.expect(Kind.ACCEPTED)
        liar.expect(Kind.OUTPUT_HEADERS)
        for index in range(COUNT):
            assert liar.expect(Kind.OUTPUT)[0].index == index, "and it all comes when it reads"
        liar.expect(Kind.RESULT)
        liar.send(Header(Kind.RESULT_ACK, job_id))


def test_a_streaming_client_that_reads_nothing_is_cut_off(process: BrokerProcess) -> None:
    """Relayed segments cannot wait on a disk: past all credit together, the liar goes."""
    job_id = new_id()
    with (
        bystanders(process.address),
        SocketClient(process.address, **unread(process)) as liar,
        SocketWorker(process.address, instance=new_id()) as worker,
    ):
        submit(
            liar,
            worker.worker_id,
            job_id=job_id,
            credit=MOST,
            durable=False,
            segment_bytes=SEGMENT,
            output_bytes_max=COUNT * (SEGMENT + 32),
        )
        worker.expect(Kind.ASSIGN)
        with process.memory_growth_below(SLACK):
            assert send_outputs(worker, job_id) < COUNT
        with (
            SocketClient(process.address) as honest,
            SocketWorker(process.address, instance=new_id()) as another,
        ):
            run_once(honest, another)


def test_results_that_nobody_reads_wait_on_the_disk(process: BrokerProcess) -> None:
    """Two hundred of 200 KiB for a client that only submits: it slows down nobody but itself."""
    output = bytes(200 * 1024)
    with (
        bystanders(process.address, durable=True),
        SocketClient(process.address, **unread(process)) as slow,
        SocketWorker(process.address, instance=new_id(), capacity=8) as worker,
        process.memory_growth_below(SLACK),
    ):
        for _ in range(200):
            submit(slow, worker.worker_id, job_id=new_id(), output_bytes_max=len(output))
        done = 0
        while (message := worker.receive(timeout_ms=500)) is not None:
            header, _ = message
            if header.kind is Kind.ASSIGN:
                result = Header(Kind.RESULT, header.job_id, header.attempt, count=1)
                worker.send(result, b"h", b"r", output)
            done += header.kind is Kind.RECORDED
        assert done > 30


# -- segments and credit that do not fit ----------------------------------------------------------


@pytest.fixture
def address(tmp_path: Path):
    with running(tmp_path) as broker, bystanders(broker.address):
        yield broker


def start_upload(client: SocketClient, segments: int = 200) -> tuple[bytes, int]:
    job_id = new_id()
    submit(client, b"w" * 16, job_id=job_id, segments=segments)
    return job_id, client.expect(Kind.INPUT_CREDIT)[0].count


def last_refusal(client: SocketClient, job_id: bytes) -> RefusalCode:
    code = client.expect_refusal()
    client.send(Header(Kind.CANCEL, job_id))
    assert client.expect_refusal() is RefusalCode.NO_SUCH_JOB, "the job has ended"
    return code


def test_a_segment_without_credit_ends_the_upload(address) -> None:
    with SocketClient(address.address) as client:
        job_id, credit = start_upload(client)
        assert credit < 200
        for index in range(credit + 80):
            client.send(Header(Kind.INPUT, job_id, index=index), bytes(SEALED))
            if index > credit and client.socket.poll(0):
                break
        # More credit comes while segments are taken, so that it takes a little to outrun it.
        assert len(address.core.world.jobs) <= 2


@pytest.mark.parametrize("index", [1, 2, 199, MOST])
def test_a_segment_out_of_order_ends_the_upload(address, index: int) -> None:
    with SocketClient(address.address) as client:
        job_id, _ = start_upload(client)
        client.send(Header(Kind.INPUT, job_id, index=index), bytes(SEALED))
        assert last_refusal(client, job_id) is RefusalCode.MALFORMED


def test_a_segment_twice_ends_the_upload(address) -> None:
    with SocketClient(address.address) as client:
        job_id, _ = start_upload(client)
        for _ in range(2):
            client.send(Header(Kind.INPUT, job_id, index=0), bytes(SEALED))
        assert last_refusal(client, job_id) is RefusalCode.MALFORMED


@pytest.mark.parametrize("size", [0, 31, SEALED + 1, 4 * SEALED])
def test_a_segment_of_another_size_ends_the_upload(address, size: int) -> None:
    with SocketClient(address.address) as client:
        job_id, _ = start_upload(client)
        client.send(Header(Kind.INPUT, job_id, index=0), bytes(size))
        assert last_refusal(client, job_id) is RefusalCode.MALFORMED


def test_segments_for_somebody_elses_job_change_nothing(address) -> None:
    with SocketClient(address.address) as owner, SocketClient(address.address) as thief:
        job_id, _ = start_upload(owner)
        for index in (0, 7):
            thief.send(Header(Kind.INPUT, job_id, index=index), bytes(SEALED))
        wait_until(lambda: address.core.counters["segments.stray"] == 2, "both heard")
        owner.send(Header(Kind.INPUT, job_id, index=0), bytes(SEALED))
        wait_until(lambda: address.core.world.jobs[job_id].upload.received == 1, "its own counts")


@pytest.mark.parametrize("count", [0, 1, MOST])
def test_credit_for_what_one_does_not_have_changes_nothing(address, count: int) -> None:
    with (
        SocketClient(address.address) as owner,
        SocketClient(address.address) as other,
        SocketWorker(address.address, instance=new_id()) as worker,
        SocketWorker(address.address, instance=new_id()) as idle,
    ):
        job_id = new_id()
        submit(owner, worker.worker_id, job_id=job_id, output_bytes_max=80 * SEALED, credit=0)
        worker.expect(Kind.ASSIGN)
        job = address.core.world.jobs[job_id]
        other.send(Header(Kind.OUTPUT_CREDIT, job_id, count=count))
        other.send(Header(Kind.OUTPUT_CREDIT, new_id(), count=count))
        idle.send(Header(Kind.INPUT_CREDIT, job_id, 1, count=count))
        assert idle.expect(Kind.REVOKE)[0].job_id == job_id
        other.send(Header(Kind.LIST_JOBS))
        other.expect(Kind.JOBS)
        assert job.client_credit == 0
        assert job.attempt is not None
        assert job.attempt.in_granted == 0


def test_stalled_uploads_free_their_memory(tmp_path: Path) -> None:
    rules = Rules(lease_ms=3_000, heartbeat_ms=300, stall_ms=400)
    with (
        running(tmp_path, rules=rules) as broker,
        bystanders(broker.address),
        SocketClient(broker.address) as client,
    ):
        start_upload(client)
        assert client.expect_refusal() is RefusalCode.CANCELLED
