"""The broker over real sockets: what raw peers send, what survives, who gets in."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import zmq
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from zmq.utils import z85

from attestation.wire.control import RefusalCode
from attestation.wire.frames import HEADER_BYTES, Header, Kind
from coordinator import keys
from coordinator.broker import Broker
from coordinator.core.rules import Rules
from coordinator.errors import KeyFileError, SettingsError, StoreError
from coordinator.settings import Settings
from tests.coordinator.formats import SEALED, submit_record
from tests.coordinator.sockets import RawPeer, SocketClient, SocketWorker, running

JOB = b"j" * 16
BODY = b"s" * 100


def submit(client: SocketClient, *workers: bytes, job_id: bytes = JOB, **changes) -> None:
    record = submit_record(*workers, **changes).to_bytes()
    inline = () if "segments" in changes else (BODY,)
    client.send(Header(Kind.SUBMIT, job_id, count=16), record, b"envelope", *inline)


def run_once(client: SocketClient, worker: SocketWorker, job_id: bytes = JOB) -> None:
    """One small job, there and back: the broker is alive."""
    submit(client, worker.worker_id, job_id=job_id)
    client.expect(Kind.ACCEPTED)
    header, frames = worker.expect(Kind.ASSIGN)
    assert frames == [b"envelope", b"w" * 76, BODY]
    worker.send(Header(Kind.RESULT, job_id, header.attempt, count=1), b"h", b"r", b"o" * 40)
    worker.expect(Kind.RECORDED)
    assert client.expect(Kind.RESULT)[1] == [b"h", b"r", b"o" * 40]
    client.send(Header(Kind.RESULT_ACK, job_id))


def wait_until(condition, seconds: float = 5) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.01)


# -- what raw peers send --------------------------------------------------------------------------

NOISE = {
    "no header": b"",
    "a short header": b"EW\x01\x14",
    "another magic": b"XX" + Header(Kind.SUBMIT).to_bytes()[2:],
    "another version": b"EW\x02" + Header(Kind.SUBMIT).to_bytes()[3:],
    "an unknown kind": b"EW\x01\xff" + bytes(HEADER_BYTES - 4),
    "a long header": Header(Kind.SUBMIT).to_bytes() + b"\0",
}


@pytest.mark.parametrize("noise", NOISE.values(), ids=NOISE.keys())
def test_noise_is_refused_and_harms_nobody(tmp_path: Path, noise: bytes) -> None:
    with running(tmp_path) as broker, RawPeer(broker.address) as stranger:
        stranger.send(noise, b"more")
        assert stranger.expect_refusal() is RefusalCode.MALFORMED
        with SocketClient(broker.address) as client, SocketWorker(broker.address) as worker:
            client.send(noise)
            assert client.expect_refusal() is RefusalCode.MALFORMED
            run_once(client, worker)


def test_too_many_frames_or_a_segment_of_two_are_refused(tmp_path: Path) -> None:
    with running(tmp_path) as broker, SocketClient(broker.address) as client:
        client.send(Header(Kind.SUBMIT, JOB), *[b"x"] * 200)
        assert client.expect_refusal() is RefusalCode.MALFORMED
        for frames in ((), (b"a", b"b")):
            client.send(Header(Kind.INPUT, JOB), *frames)
            assert client.expect_refusal() is RefusalCode.MALFORMED


def test_a_control_body_that_is_noise_is_refused(tmp_path: Path) -> None:
    with running(tmp_path) as broker, RawPeer(broker.address) as stranger:
        for kind in (Kind.CLIENT_HELLO, Kind.WORKER_HELLO):
            for frames in ((), (b"",), (os.urandom(50),), (b"a", b"b")):
                stranger.send(Header(kind), *frames)
                assert stranger.expect_refusal() is RefusalCode.MALFORMED


def test_a_routing_id_of_ones_own_choosing_gets_no_answer(tmp_path: Path) -> None:
    """It could be another peer's, and messages would go to the thief."""
    with running(tmp_path) as broker:
        for chosen in (b"worker", b"\x01abcd"):
            with RawPeer(broker.address, ROUTING_ID=chosen) as thief:
                thief.send(Header(Kind.CLIENT_HELLO), b"")
                assert thief.receive(timeout_ms=300) is None
        wait_until(lambda: broker.core.counters["peers.chosen_id"] == 2)


def test_an_announced_giant_frame_is_not_waited_for(tmp_path: Path) -> None:
    """Nine bytes must not reserve eight gigabytes: libzmq drops the connection instead."""
    with running(tmp_path) as broker, SocketWorker(broker.address) as worker:
        with RawPeer(broker.address) as giant:
            giant.send(Header(Kind.INPUT, JOB), bytes(18 << 20))
            assert giant.receive(timeout_ms=300) is None
        with SocketClient(broker.address) as client:
            run_once(client, worker)


def test_idle_connections_are_closed_soon(tmp_path: Path) -> None:
    """A connection that never shakes hands costs a file descriptor for two seconds, not thirty."""
    with running(tmp_path) as broker:
        host, port = broker.address.removeprefix("tcp://").split(":")
        with socket.create_connection((host, int(port)), timeout=5) as idle:
            idle.settimeout(5)
            began = time.monotonic()
            while idle.recv(64):
                pass
            assert time.monotonic() - began < 4


def test_a_peer_whose_connection_broke_is_found_out_by_its_next_message(tmp_path: Path) -> None:
    # Long before its lease ends: a probe to who is suspect meets the closed connection.
    rules = Rules(heartbeat_ms=300, lease_ms=300_000)
    with running(tmp_path, rules=rules) as broker, SocketClient(broker.address) as client:
        worker = SocketWorker(broker.address)
        submit(client, worker.worker_id, durable=False)
        worker.expect(Kind.ASSIGN)
        worker.close()
        client.expect(Kind.ACCEPTED)
        assert client.expect(Kind.LOST)[0].job_id == JOB


def test_time_in_which_it_could_not_listen_is_nobodys_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that takes longer than a lease to commit must not cost the workers their jobs."""
    rules = Rules(heartbeat_ms=300, lease_ms=1_000, client_silence_ms=1_000)
    with (
        running(tmp_path, rules=rules) as broker,
        SocketClient(broker.address) as client,
        SocketWorker(broker.address) as worker,
    ):
        submit(client, worker.worker_id, durable=False)
        worker.expect(Kind.ASSIGN)
        held, commit = threading.Event(), broker._store.commit

        def slow_commit(writes):
            held.set()
            time.sleep(2.5)
            return commit(writes)

        monkeypatch.setattr(broker._store, "commit", slow_commit)
        submit(client, worker.worker_id, job_id=b"d" * 16)
        assert held.wait(20)
        worker.heartbeat((JOB, 1))
        worker.send(Header(Kind.RESULT, JOB, 1, count=1), b"h", b"r", b"o" * 40)
        worker.expect(Kind.ASSIGN)
        worker.expect(Kind.RECORDED)
        assert client.expect(Kind.RESULT)[0].job_id == JOB
        assert broker.core.counters["leases.lost"] == 0


# -- durable jobs ---------------------------------------------------------------------------------


def test_large_jobs_travel_through_the_spool_and_leave_it_empty(tmp_path: Path) -> None:
    count = 60
    with (
        running(tmp_path, rules=Rules(memory_limit=24 * SEALED)) as broker,
        SocketClient(broker.address) as client,
        SocketWorker(broker.address) as worker,
    ):
        big = {"segments": count, "output_bytes_max": count * SEALED}
        submit(client, worker.worker_id, **big)
        sent = 0
        while sent < count:
            header, _ = client.expect(Kind.INPUT_CREDIT)
            for _ in range(header.count):
                client.send(Header(Kind.INPUT, JOB, 0, sent), bytes([sent]) * SEALED)
                sent += 1
        client.expect(Kind.ACCEPTED)
        header, _ = worker.expect(Kind.ASSIGN)
        credit = worker.expect(Kind.OUTPUT_CREDIT)[0].count
        worker.send(Header(Kind.INPUT_CREDIT, JOB, 1, count=count))
        for index in range(count):
            header, frames = worker.expect(Kind.INPUT)
            assert (header.index, frames[0]) == (index, bytes([index]) * SEALED)
        for index in range(count):
            if not credit:
                credit += worker.expect(Kind.OUTPUT_CREDIT)[0].count
            credit -= 1
            worker.send(Header(Kind.OUTPUT, JOB, 1, index), bytes([255 - index]) * SEALED)
        worker.send(Header(Kind.RESULT, JOB, 1, count=count), b"h", b"r")
        header, frames = client.expect(Kind.OUTPUT_HEADERS)
        assert (header.attempt, header.peer, frames) == (1, worker.worker_id, [b"h"])
        for index in range(count):
            header, frames = client.expect(Kind.OUTPUT)
            assert (header.index, frames[0]) == (index, bytes([255 - index]) * SEALED)
            client.send(Header(Kind.OUTPUT_CREDIT, JOB, count=1))
        client.expect(Kind.RESULT)
        client.send(Header(Kind.RESULT_ACK, JOB))
        wait_until(lambda: not list((tmp_path / "spool").iterdir()))
        assert broker.core.world.budget.used == 0


def test_streamed_segments_pass_unchanged(tmp_path: Path) -> None:
    count = 60
    with (
        running(tmp_path) as broker,
        SocketClient(broker.address) as client,
        SocketWorker(broker.address) as worker,
    ):
        submit(
            client,
            worker.worker_id,
            segments=count,
            durable=False,
            output_bytes_max=count * SEALED,
        )
        client.expect(Kind.ACCEPTED)
        worker.expect(Kind.ASSIGN)
        data = [os.urandom(SEALED) for _ in range(count)]
        sent = 0
        for index in range(count):
            if index % 5 == 0:
                worker.send(Header(Kind.INPUT_CREDIT, JOB, 1, count=5))
            while sent <= index:
                for _ in range(client.expect(Kind.INPUT_CREDIT)[0].count):
                    client.send(Header(Kind.INPUT, JOB, 0, sent), data[sent])
                    sent += 1
            message = worker.receive()
            while message is not None and message[0].kind is Kind.OUTPUT_CREDIT:
                message = worker.receive()
            assert message is not None
            assert (message[0].index, message[1]) == (index, [data[index]])
        assert not list((tmp_path / "spool").iterdir())


COORDINATOR = """
import sys
from pathlib import Path
from coordinator.cli import coordinator
coordinator(["--listen", sys.argv[1], "--state", sys.argv[2], "--ready-file", sys.argv[3],
             "--lease-seconds", "2"])
"""


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


class Process:
    """A coordinator in a process of its own, to be killed."""

    def __init__(self, directory: Path, listen: str = "tcp://127.0.0.1:0") -> None:
        ready = directory / "ready"
        ready.unlink(missing_ok=True)
        self.popen = subprocess.Popen(
            [sys.executable, "-c", COORDINATOR, listen, str(directory / "state"), str(ready)],
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        wait_until(lambda: ready.exists() or self.popen.poll() is not None, 20)
        self.address = ready.read_text().strip()


@pytest.mark.scenario
def test_what_was_accepted_survives_kill_9(tmp_path: Path, stack: ExitStack) -> None:
    first = Process(tmp_path)
    key = Ed25519PrivateKey.generate()
    jobs = [bytes([number + 1]) * 16 for number in range(20)]
    worker = stack.enter_context(SocketWorker(first.address, capacity=2))
    with SocketClient(first.address, key=key) as client:
        for job_id in jobs:
            submit(client, worker.worker_id, job_id=job_id)
        for _ in jobs:
            client.expect(Kind.ACCEPTED)
        header, _ = worker.expect(Kind.ASSIGN)
        first.popen.kill()
        first.popen.wait()
    second = Process(tmp_path, first.address)
    try:
        with SocketClient(second.address, key=key) as client:
            # The worker lives on: its socket reconnects, it is told to say hello and does.
            worker.heartbeat((header.job_id, 1))
            while worker.receive()[0].kind is not Kind.REFUSED:
                pass
            worker.send(Header(Kind.WORKER_HELLO), worker.hello)
            worker.expect_welcome()
            worker.send(Header(Kind.RESULT, header.job_id, 1), b"kept", b"r")
            done = {}
            while len(done) < len(jobs):
                # What it was given before the crash and forgot comes again with the next attempt.
                worker.heartbeat()
                while (message := worker.receive(timeout_ms=20)) is not None:
                    given, _ = message
                    if given.kind is Kind.ASSIGN:
                        again = Header(Kind.RESULT, given.job_id, given.attempt)
                        worker.send(again, b"again", b"r")
                while (message := client.receive(timeout_ms=20)) is not None:
                    came, frames = message
                    if came.kind is Kind.RESULT:
                        assert came.job_id not in done
                        done[came.job_id] = frames[0]
                        client.send(Header(Kind.RESULT_ACK, came.job_id))
            assert done[header.job_id] == b"kept"
    finally:
        second.popen.terminate()
        assert second.popen.wait(10) == 0


def test_a_second_coordinator_on_the_same_state_does_not_start(tmp_path: Path) -> None:
    with running(tmp_path), pytest.raises(StoreError):
        Broker(Settings(listen="tcp://127.0.0.1:0", state=tmp_path))


def test_an_address_in_use_is_an_error_with_a_reason(tmp_path: Path) -> None:
    with running(tmp_path / "a") as broker, pytest.raises(SettingsError, match="cannot listen"):
        Broker(Settings(listen=broker.address, state=tmp_path / "b"))


def test_a_drain_lets_running_jobs_finish_and_refuses_new_ones(tmp_path: Path) -> None:
    settings = Settings(listen="tcp://127.0.0.1:0", state=tmp_path, drain_seconds=20)
    broker = Broker(settings)
    thread = threading.Thread(target=broker.run, daemon=True)
    thread.start()
    with SocketClient(broker.address) as client, SocketWorker(broker.address) as worker:
        submit(client, worker.worker_id)
        client.expect(Kind.ACCEPTED)
        worker.expect(Kind.ASSIGN)
        broker.stop()
        while not broker.core.world.draining:  # a submit of the same turn is still taken
            time.sleep(0.01)
        submit(client, worker.worker_id, job_id=b"k" * 16)
        assert client.expect_refusal() is RefusalCode.DRAINING
        worker.send(Header(Kind.RESULT, JOB, 1), b"h", b"r")
        worker.expect(Kind.RECORDED)
        client.expect(Kind.RESULT)
    thread.join(5)
    assert not thread.is_alive()


# -- CURVE ----------------------------------------------------------------------------------------


@pytest.fixture
def curve(tmp_path: Path) -> tuple[dict, dict, bytes]:
    """Settings of a coordinator, socket options of an allowed peer, the public key."""
    secret, public = keys.generate(tmp_path / "keys")
    own_public, own_secret = zmq.curve_keypair()
    allow = tmp_path / "allow"
    allow.write_text(f"# who may connect\n\n{own_public.decode()} laboratory\n")
    server = zmq.auth.load_certificate(public)[0]
    peer = {"CURVE_PUBLICKEY": own_public, "CURVE_SECRETKEY": own_secret, "CURVE_SERVERKEY": server}
    return {"curve_key": secret, "allow": allow}, peer, z85.decode(server)


def test_an_allowed_key_gets_in_and_is_who_it_is(tmp_path: Path, curve: tuple) -> None:
    settings, peer, public = curve
    with (
        running(tmp_path / "state", **settings) as broker,
        SocketClient(broker.address, curve=public, **peer) as client,
        SocketWorker(broker.address, **peer) as worker,
    ):
        run_once(client, worker)
        users = {key[0] for key in broker.core.world.peers}
        assert users == {z85.decode(peer["CURVE_PUBLICKEY"])}


def test_the_same_instance_under_another_key_is_another_worker(
    tmp_path: Path, curve: tuple
) -> None:
    settings, peer, _ = curve
    with running(tmp_path / "a") as plain, SocketWorker(plain.address) as worker:
        unkeyed = worker.worker_id
    with (
        running(tmp_path / "b", **settings) as broker,
        SocketWorker(broker.address, **peer) as worker,
    ):
        assert worker.worker_id != unkeyed


def strangers(peer: dict) -> dict[str, dict]:
    public, secret = zmq.curve_keypair()
    return {
        "a key that is not on the list": peer
        | {"CURVE_PUBLICKEY": public, "CURVE_SECRETKEY": secret},
        "another server's key": peer | {"CURVE_SERVERKEY": public},
        "no key": {},
        "a PLAIN password": {"PLAIN_USERNAME": b"admin", "PLAIN_PASSWORD": b"admin"},
    }


def test_nobody_else_gets_in(tmp_path: Path, curve: tuple) -> None:
    settings, peer, _ = curve
    with running(tmp_path / "state", **settings) as broker:
        for who, options in strangers(peer).items():
            with RawPeer(broker.address, **options) as stranger:
                stranger.send(Header(Kind.CLIENT_HELLO), b"")
                assert stranger.receive(timeout_ms=400) is None, who


def test_a_proof_for_another_coordinator_is_refused(tmp_path: Path, curve: tuple) -> None:
    """A dishonest coordinator that passes on our challenge cannot pose as its client here."""
    settings, peer, _ = curve
    with (
        running(tmp_path / "state", **settings) as broker,
        pytest.raises(AssertionError, match="REFUSED"),
    ):
        SocketClient(broker.address, curve=b"another coordinator's key.......", **peer)


def test_a_secret_key_file_is_private_and_never_overwritten(tmp_path: Path) -> None:
    secret, public = keys.generate(tmp_path)
    assert secret.stat().st_mode & 0o777 == 0o600
    assert b"secret" not in public.read_bytes().split(b"curve\n")[1]
    with pytest.raises(KeyFileError):
        keys.generate(tmp_path)
    assert repr(keys.load(secret).secret)[2:-1] not in repr(keys.load(secret))


@pytest.mark.parametrize(
    "text", ["", "# nobody\n", "tooshort name\n", "x" * 41 + " name", "\xff" * 40 + " name"]
)
def test_an_unclear_allow_list_allows_nobody(tmp_path: Path, text: str) -> None:
    path = tmp_path / "allow"
    path.write_text(text)
    with pytest.raises(KeyFileError):
        keys.load_allowed(path)


def test_a_public_key_file_is_no_secret_key(tmp_path: Path) -> None:
    _, public = keys.generate(tmp_path)
    for path in (public, tmp_path / "missing"):
        with pytest.raises(KeyFileError):
            keys.load(path)
