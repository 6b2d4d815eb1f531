"""Floods: whoever asks for everything gets a share, and the others do not notice."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import zmq

from attestation import limits
from attestation.wire.control import ClientHello, Heartbeat, JobListing, Refusal, RefusalCode
from attestation.wire.frames import Header, Kind
from coordinator.core.rules import Rules
from tests.coordinator.formats import SEALED, submit_record
from tests.coordinator.sockets import RawPeer, SocketClient, SocketWorker, running
from tests.port.ground import (
    MIB,
    WORST_SECONDS,
    BrokerProcess,
    Curve,
    bystanders,
    new_id,
    run_once,
    submit,
    wait_until,
)

NOBODY = b"n" * 16
"""A worker that never comes: jobs for it wait."""
TIMES = {"lease_ms": 3_000, "heartbeat_ms": 300}


def say(peer: RawPeer, header: Header, *frames: bytes) -> bool:
    """Send if there is room, as a flooder that does not care for answers; return whether it went.

    A socket that nobody reads would not notice that it was cut off, and wait for ever.
    """
    try:
        peer.socket.send_multipart([header.to_bytes(), *frames], zmq.NOBLOCK)
    except zmq.Again:
        time.sleep(0.001)
        return False
    return True


def until_refused(client: SocketClient, send: Callable[[int], None], most: int) -> RefusalCode:
    """Send until the first refusal, whatever else comes."""
    for number in range(most):
        send(number)
        while (answer := client.receive(timeout_ms=20)) is not None:
            if answer[0].kind is Kind.REFUSED:
                return code_of(answer)
    raise AssertionError("never refused")


def code_of(answer: tuple[Header, list[bytes]]) -> RefusalCode:
    return Refusal.from_bytes(answer[1][0]).code


# -- what one account may take --------------------------------------------------------------------


FLOODS = {
    "jobs": (Rules(max_jobs=20, **TIMES), {}, RefusalCode.QUEUE_FULL),
    "disk, by promises": (
        Rules(spool_limit=MIB, **TIMES),
        {"output_bytes_max": 200_000},
        RefusalCode.SPOOL_FULL,
    ),
    "wrapped keys": (
        Rules(index_limit=400_000, **TIMES),
        {"wraps": tuple((os.urandom(16), bytes(256)) for _ in range(100))},
        RefusalCode.QUEUE_FULL,
    ),
    "memory, by jobs that wait": (
        Rules(memory_limit=8 * MIB, **TIMES),
        {"durable": False, "inline": 200_000},
        RefusalCode.NO_CREDIT,
    ),
}


def flood_once(client: SocketClient, inline: int = 100, **changes) -> None:
    pieces = tuple(bytes(50_000) for _ in range(inline // 50_000)) or (bytes(inline),)
    record = submit_record(NOBODY, segments=pieces, **changes).to_bytes()
    client.send(Header(Kind.SUBMIT, new_id(), count=4), record, b"envelope", *pieces)


@pytest.mark.parametrize("flood", FLOODS)
def test_a_flood_ends_at_the_share_of_one_account(tmp_path: Path, flood: str) -> None:
    rules, changes, code = FLOODS[flood]
    with (
        running(tmp_path, rules=rules) as broker,
        bystanders(broker.address, durable=rules.memory_limit > 8 * MIB),
        SocketClient(broker.address) as greedy,
        SocketClient(broker.address) as modest,
    ):
        assert until_refused(greedy, lambda _: flood_once(greedy, **changes), 60) is code
        flood_once(modest, **changes)
        assert modest.receive()[0].kind in (Kind.WORKERS, Kind.ACCEPTED)
        modest.expect(Kind.ACCEPTED)


def test_one_message_cannot_promise_the_whole_disk_away(tmp_path: Path) -> None:
    """`output_bytes_max` is a promise of the client, and reserves what it names."""
    with (
        running(tmp_path) as broker,
        bystanders(broker.address, durable=True),
        SocketClient(broker.address) as liar,
    ):
        submit(liar, NOBODY, job_id=new_id(), output_bytes_max=(64 << 30) - 1000)
        assert liar.expect_refusal() is RefusalCode.SPOOL_FULL
        submit(liar, NOBODY, job_id=new_id(), output_bytes_max=(1 << 63) - 1)
        assert liar.expect_refusal() is RefusalCode.TOO_LARGE


def test_new_client_keys_under_one_curve_key_are_one_account(tmp_path: Path, curve: Curve) -> None:
    """A client key costs nothing; a place on the allow-list does."""
    greedy, honest = curve.peers
    rules = Rules(max_jobs=20, **TIMES)
    with (
        running(tmp_path / "state", rules=rules, **curve.settings) as broker,
        bystanders(broker.address, curve=curve.server_key, durable=True, **honest),
    ):
        for _ in range(10):
            with SocketClient(broker.address, curve=curve.server_key, **greedy) as one:
                flood_once(one)
                one.expect(Kind.ACCEPTED)
        with SocketClient(broker.address, curve=curve.server_key, **greedy) as one:
            flood_once(one)
            assert one.expect_refusal() is RefusalCode.QUEUE_FULL


def test_uploads_that_nobody_continues_leave_room_for_others(tmp_path: Path) -> None:
    """Each holds a window of memory until it stalls; five hundred stand in line behind."""
    rules = Rules(memory_limit=64 * SEALED, **TIMES)
    with (
        running(tmp_path, rules=rules) as broker,
        bystanders(broker.address),
        SocketClient(broker.address) as greedy,
        SocketClient(broker.address) as honest,
    ):
        for _ in range(500):
            submit(greedy, NOBODY, job_id=new_id(), segments=500)
        greedy.expect(Kind.INPUT_CREDIT)
        wait_until(lambda: len(broker.core.world.jobs) >= 500, "the flood")
        began = time.monotonic()
        submit(honest, NOBODY, job_id=new_id(), segments=500)
        honest.expect(Kind.INPUT_CREDIT)
        assert time.monotonic() - began < WORST_SECONDS
        assert broker.core.world.budget.used <= rules.memory_limit


def test_running_jobs_of_one_account_leave_room_for_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client and a worker in league that never end hold a share of the memory, not all."""
    # With small messages the memory of the test is small too.
    monkeypatch.setattr(limits, "INLINE_BYTES", 256 * limits.KIB)
    rules = Rules(memory_limit=64 * SEALED, **TIMES)
    with (
        running(tmp_path, rules=rules) as broker,
        SocketClient(broker.address) as greedy,
        SocketWorker(broker.address, instance=new_id(), capacity=512) as partner,
        SocketClient(broker.address) as honest,
        SocketWorker(broker.address, instance=new_id()) as worker,
    ):
        large = {"segments": 500, "durable": False, "output_bytes_max": 500 * SEALED}
        for _ in range(100):
            submit(greedy, partner.worker_id, job_id=new_id(), **large)
        wait_until(lambda: len(broker.core.world.waiting) > 50, "more than there is memory for")
        submit(honest, worker.worker_id, job_id=new_id(), **large)
        worker.expect(Kind.ASSIGN)


# -- questions ------------------------------------------------------------------------------------


def test_listing_floods_are_answered_together(tmp_path: Path) -> None:
    """A listing of a thousand jobs takes milliseconds: asking is cheaper than answering."""
    with (
        running(tmp_path) as broker,
        bystanders(broker.address),
        SocketClient(broker.address) as curious,
    ):
        for _ in range(300):
            submit(curious, NOBODY, job_id=new_id())
        wait_until(lambda: len(broker.core.world.jobs) >= 300, "jobs to list")
        ends, asked = time.monotonic() + 0.7, 0
        while time.monotonic() < ends:
            asked += say(curious, Header(Kind.LIST_JOBS))
            asked += say(curious, Header(Kind.LIST_WORKERS))
        answers = []
        while (answer := curious.receive(timeout_ms=400)) is not None:
            answers.append(answer)
        listings = [each for each in answers if each[0].kind in (Kind.JOBS, Kind.WORKERS)]
        assert asked > 1_000
        assert 2 < len(listings) < 60
        newest = [each for each in listings if each[0].kind is Kind.JOBS][-1]
        assert len(JobListing.from_bytes(newest[1][0]).jobs) == 300, "the last answer is whole"


def test_a_few_clients_that_ask_forever_do_not_stop_the_clock(tmp_path: Path) -> None:
    with running(tmp_path) as broker, bystanders(broker.address):
        clients = [SocketClient(broker.address) for _ in range(12)]
        ends = time.monotonic() + 0.7
        while time.monotonic() < ends:
            for client in clients:
                say(client, Header(Kind.LIST_JOBS))
        for client in clients:
            while client.expect(Kind.JOBS, timeout_ms=1_000) is None:
                pass
            client.close()


def test_heartbeat_floods_delay_nobody(tmp_path: Path) -> None:
    """A worker's may name jobs, and each wrong one is answered."""
    running_jobs = tuple((os.urandom(16), 1) for _ in range(500))
    with (
        running(tmp_path) as broker,
        bystanders(broker.address),
        SocketClient(broker.address) as client,
        SocketWorker(broker.address, instance=new_id()) as worker,
    ):
        empty, full = Heartbeat().to_bytes(), Heartbeat(running=running_jobs).to_bytes()
        ends = time.monotonic() + 0.7
        while time.monotonic() < ends:
            say(client, Header(Kind.HEARTBEAT), empty)
            say(worker, Header(Kind.HEARTBEAT), full)


def test_a_heartbeat_of_more_jobs_than_a_worker_is_given_is_refused(tmp_path: Path) -> None:
    with running(tmp_path) as broker, SocketWorker(broker.address) as worker:
        many = tuple((os.urandom(16), 1) for _ in range(4_000))
        worker.send(Header(Kind.HEARTBEAT), Heartbeat(running=many).to_bytes())
        assert worker.expect_refusal() is RefusalCode.MALFORMED


def test_hello_floods_delay_nobody(tmp_path: Path) -> None:
    with (
        running(tmp_path) as broker,
        bystanders(broker.address),
        RawPeer(broker.address) as caller,
        SocketWorker(broker.address) as template,
        RawPeer(broker.address) as many,
    ):
        hello = ClientHello(client_key=bytes(32)).to_bytes()
        ends = time.monotonic() + 0.7
        while time.monotonic() < ends:
            say(caller, Header(Kind.CLIENT_HELLO), hello)
            named = template.hello.replace(b"i" * 16, os.urandom(16))
            say(many, Header(Kind.WORKER_HELLO), named)
        wait_until(lambda: len(broker.core.world.workers) <= 3, "one connection, one worker")


def test_dear_submissions_delay_nobody(tmp_path: Path) -> None:
    """A thousand wraps each, milliseconds to read: a turn ends in time all the same."""
    wraps = tuple((os.urandom(16), bytes(256)) for _ in range(1_000))
    record = submit_record(segments=(b"s" * 100,), wraps=wraps).to_bytes()
    with (
        running(tmp_path) as broker,
        bystanders(broker.address, durable=True),
        SocketClient(broker.address) as flooder,
    ):
        ends = time.monotonic() + 1
        while time.monotonic() < ends:
            say(flooder, Header(Kind.SUBMIT, new_id(), count=1), record, b"e", b"s" * 100)


# -- past the coordinator -------------------------------------------------------------------------


def forward_until_refused(flooder: RawPeer, to: bytes, body: bytes) -> bool:
    """Send end-to-end messages, and a hundred more after the first refusal."""
    refused_at = None
    for number in range(20_000):
        say(flooder, Header(Kind.END_TO_END, peer=to), body)
        while flooder.socket.poll(0):
            answer = flooder.receive()
            if answer is not None and answer[0].kind is Kind.REFUSED:
                assert code_of(answer) is RefusalCode.QUEUE_FULL
                assert answer[0].peer == to, "it says whose queue"
                refused_at = refused_at or number
        if refused_at is not None and number > refused_at + 100:
            return True
    return False


def test_a_worker_that_floods_a_client_does_not_drive_it_out(process: BrokerProcess) -> None:
    """A full queue is the sender's fault here: it is told so, and the receiver stays."""
    with (
        bystanders(process.address),
        SocketClient(process.address, RCVHWM=1, RCVBUF=64 * 1024) as victim,
        SocketWorker(process.address, instance=new_id()) as flooder,
        SocketWorker(process.address, instance=new_id()) as worker,
    ):
        job_id = new_id()
        submit(victim, worker.worker_id, job_id=job_id, durable=False)
        worker.expect(Kind.ASSIGN)
        with process.memory_growth_below(64 * MIB):
            for size in (2_000, 200_000):
                assert forward_until_refused(flooder, victim.peer_id, bytes(size))
        worker.send(Header(Kind.RESULT, job_id, 1, count=1), b"h", b"r", b"o" * 40)
        worker.expect(Kind.RECORDED)
        kinds = []
        while Kind.RESULT not in kinds:
            message = victim.receive()
            assert message is not None, "the result did not come"
            assert message[0].kind is not Kind.REFUSED
            kinds.append(message[0].kind)


def test_a_client_that_floods_a_worker_does_not_drive_it_out(process: BrokerProcess) -> None:
    """Its leases, and the jobs of others under them, would go with it."""
    with (
        bystanders(process.address),
        SocketClient(process.address) as flooder,
        SocketClient(process.address) as honest,
        SocketWorker(process.address, instance=new_id(), RCVHWM=1, RCVBUF=64 * 1024) as victim,
    ):
        assert forward_until_refused(flooder, victim.worker_id, b"challenge" * 200)
        # Another's message still finds its place, and so does a job.
        honest.send(Header(Kind.END_TO_END, peer=victim.worker_id), b"a question")
        job_id = new_id()
        submit(honest, victim.worker_id, job_id=job_id)
        honest.expect(Kind.ACCEPTED)
        bodies = []
        while (message := victim.receive(timeout_ms=2_000)) is not None:
            if message[0].kind is Kind.ASSIGN:
                break
            bodies.append(message[1][0])
        assert message is not None, "the job did not come"
        assert bodies.count(b"a question") == 1
        honest.send(Header(Kind.CANCEL, job_id))


@pytest.mark.parametrize("to", [bytes(16), b"x" * 16])
def test_a_message_for_nobody_is_refused(tmp_path: Path, to: bytes) -> None:
    with running(tmp_path) as broker, SocketClient(broker.address) as client:
        client.send(Header(Kind.END_TO_END, peer=to), b"hello?")
        assert client.expect_refusal() is RefusalCode.NO_SUCH_WORKER


def test_a_giant_end_to_end_message_is_refused(tmp_path: Path) -> None:
    with (
        running(tmp_path) as broker,
        SocketClient(broker.address) as client,
        SocketWorker(broker.address) as worker,
    ):
        client.send(Header(Kind.END_TO_END, peer=worker.worker_id), bytes(3 * MIB))
        assert client.expect_refusal() is RefusalCode.MALFORMED
        assert worker.receive(timeout_ms=100) is None


def test_jobs_that_come_and_go_leave_nothing(tmp_path: Path) -> None:
    """A deadline in a hundred years must not keep a cancelled job's timer for as long."""
    with (
        running(tmp_path) as broker,
        bystanders(broker.address),
        SocketClient(broker.address) as client,
    ):
        far = (1 << 42) - 1
        record = submit_record(NOBODY, deadline_ms=far, durable=False).to_bytes()
        for _ in range(6_000):
            job_id = os.urandom(16)
            client.send(Header(Kind.SUBMIT, job_id), record, b"e", b"s" * 100)
            client.send(Header(Kind.CANCEL, job_id))
            while client.socket.poll(0):
                client.socket.recv_multipart()
        world = broker.core.world
        wait_until(lambda: len(world.jobs) <= 1, "all of them gone", 10)
        assert world.bodies.used < 1_000
        assert world.places.used <= 1


def test_served_after_every_flood(process: BrokerProcess) -> None:
    with SocketClient(process.address) as client, SocketWorker(process.address) as worker:
        for _ in range(3):
            run_once(client, worker, durable=True)
