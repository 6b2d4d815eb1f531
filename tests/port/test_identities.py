"""Who is who: routing ids, worker instances, client proofs, roles."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from zmq.utils import z85

from attestation.encoding.digests import Label, prefix
from attestation.wire.control import (
    ClientHello,
    ClientProof,
    HelloChallenge,
    RefusalCode,
    WorkerHello,
)
from attestation.wire.frames import Header, Kind
from coordinator.broker import Broker
from coordinator.core.core import Core
from coordinator.core.rules import Rules
from tests.coordinator.sockets import RawPeer, SocketClient, SocketWorker, running
from tests.port.ground import (
    BrokerProcess,
    Curve,
    bystanders,
    new_id,
    run_once,
    submit,
    wait_until,
)
from tests.simulators.zmtp import RawConnection

# -- routing ids ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "chosen", [b"worker-1", b"\x01abcd", b"x" * 255, b"\0", b"\0abc", b"\0abcde"]
)
def test_a_chosen_routing_id_is_shown_out(tmp_path: Path, chosen: bytes) -> None:
    """Whatever it is the id of, messages to it would go to whoever chose it first."""
    with running(tmp_path) as broker, bystanders(broker.address):
        with RawConnection(broker.address) as thief:
            thief.shake_hands(identity=chosen)
            thief.send_message(Header(Kind.CLIENT_HELLO).to_bytes(), b"")
            assert thief.closed_within(2)
        assert broker.core.counters["peers.chosen_id"] == 1


def routing_id_of(broker: Broker, worker: SocketWorker) -> bytes:
    return broker.core.world.workers[worker.worker_id].peer[1]


def test_the_routing_id_of_a_connected_worker_cannot_be_taken(tmp_path: Path) -> None:
    """With ROUTER_HANDOVER the thief would get the victim's next job."""
    with (
        running(tmp_path) as broker,
        SocketClient(broker.address) as client,
        SocketWorker(broker.address) as victim,
    ):
        stolen = routing_id_of(broker, victim)
        with RawConnection(broker.address) as thief:
            thief.shake_hands(identity=stolen)
            thief.send_message(Header(Kind.HEARTBEAT).to_bytes(), b"")
            for _ in range(3):
                run_once(client, victim)
            assert broker.core.counters["peers.chosen_id"] == 0
            thief.socket.settimeout(0.3)
            with pytest.raises(TimeoutError):
                thief.read_message()


def test_a_thief_with_another_key_does_not_become_whose_routing_id_it_has(
    tmp_path: Path, curve: Curve
) -> None:
    """A peer is its CURVE key and its routing id: the id alone is nobody."""
    honest, other = curve.peers
    with (
        running(tmp_path / "state", **curve.settings) as broker,
        bystanders(broker.address, curve=curve.server_key, **honest),
    ):
        victim = SocketWorker(broker.address, **honest)
        stolen = routing_id_of(broker, victim)
        victim.close()
        with RawPeer(broker.address, ROUTING_ID=stolen, **other) as thief:
            thief.send(Header(Kind.DRAINING))
            assert thief.expect_refusal() is RefusalCode.NOT_WELCOME
        assert (z85.decode(other["CURVE_PUBLICKEY"]), stolen) not in broker.core.world.peers


_FIRST_ID = """
import sys, threading, pathlib, zmq
from coordinator.broker import Broker
from coordinator.settings import Settings
broker = Broker(Settings(listen="tcp://127.0.0.1:0", state=pathlib.Path(sys.argv[1])))
peer = zmq.Context.instance().socket(zmq.DEALER)
peer.connect(broker.address)
peer.send(b"x")
print("id", broker._router.recv().hex(), flush=True)
peer.close(0)
broker.close()
"""


def test_routing_ids_cannot_be_foretold(tmp_path: Path) -> None:
    """libzmq takes the first from an unseeded `rand`: 0x6b8b4567 in every process there is."""
    outputs = [
        subprocess.run(
            [sys.executable, "-c", _FIRST_ID, tmp_path / str(number)],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).resolve().parents[2],
        ).stdout
        for number in range(2)
    ]
    seen = {output.split("id ", 1)[1].split()[0] for output in outputs}
    assert len(seen) == 2
    assert "006b8b4567" not in seen


def test_squatting_on_the_next_routing_id_does_not_end_the_coordinator(
    process: BrokerProcess,
) -> None:
    """libzmq 4.3.5 aborts when it assigns an id that a peer announced before, and the first ids of
    an unseeded process are known to everybody."""
    squatters = []
    for step in range(200):
        squatter = RawConnection(process.address)
        squatter.shake_hands(identity=b"\0" + (0x6B8B4567 + step).to_bytes(4, "big"))
        squatters.append(squatter)
    for _ in range(3):
        with SocketClient(process.address) as client, SocketWorker(process.address) as worker:
            run_once(client, worker)
    for squatter in squatters:
        squatter.close()
    assert process.alive


# -- worker instances -----------------------------------------------------------------------------


def test_an_instance_under_another_key_is_another_worker(tmp_path: Path, curve: Curve) -> None:
    """Even somebody who read the victim's hello cannot take its place without its CURVE key."""
    honest, other = curve.peers
    with (
        running(tmp_path / "state", **curve.settings) as broker,
        SocketClient(broker.address, curve=curve.server_key, **honest) as client,
        SocketWorker(broker.address, instance=b"v" * 16, **honest) as victim,
        SocketWorker(broker.address, instance=b"v" * 16, **other) as impostor,
    ):
        assert impostor.worker_id != victim.worker_id
        run_once(client, victim)
        assert impostor.receive(timeout_ms=100) is None


@pytest.mark.parametrize("guess", ["its public id", "nothing", "a random one"])
def test_a_worker_cannot_be_replaced_without_its_instance(tmp_path: Path, guess: str) -> None:
    """Under the same CURVE key, as other workers of the same operator are."""
    with (
        running(tmp_path) as broker,
        SocketClient(broker.address) as client,
        SocketWorker(broker.address, instance=new_id()) as victim,
    ):
        guessed = {"its public id": victim.worker_id, "nothing": bytes(16)}.get(guess, new_id())
        with SocketWorker(broker.address, instance=guessed) as impostor:
            assert impostor.worker_id != victim.worker_id
            run_once(client, victim)
        with SocketWorker(broker.address, instance=victim_instance(victim)) as again:
            assert again.worker_id == victim.worker_id, "whoever knows it does take the place"


def victim_instance(worker: SocketWorker) -> bytes:
    return WorkerHello.from_bytes(worker.hello).instance


def test_a_worker_that_was_replaced_is_no_longer_heard(tmp_path: Path) -> None:
    """Two connections of one instance: the newer one is the worker, and only it."""
    with (
        running(tmp_path) as broker,
        SocketClient(broker.address) as client,
        SocketWorker(broker.address) as old,
        SocketWorker(broker.address) as new,
    ):
        job_id = new_id()
        submit(client, new.worker_id, job_id=job_id)
        header, _ = new.expect(Kind.ASSIGN)
        old.send(Header(Kind.RESULT, job_id, header.attempt, count=1), b"h", b"r", b"o" * 40)
        assert old.expect_refusal() is RefusalCode.NOT_WELCOME
        new.send(Header(Kind.RESULT, job_id, header.attempt, count=1), b"n", b"r", b"o" * 40)
        assert client.expect(Kind.RESULT)[1][0] == b"n"


# -- hello ----------------------------------------------------------------------------------------

ROLES = Core(Rules(), random_bytes=bytes)
OF_CLIENTS, OF_WORKERS, OF_ANYONE = (
    frozenset(table) for table in (ROLES._of_client, ROLES._of_worker, ROLES._of_anyone)
)
SEGMENTS = {Kind.INPUT, Kind.OUTPUT}


def misplaced(own: frozenset[Kind], segment: Kind) -> list[Kind]:
    return [kind for kind in Kind if kind not in own | OF_ANYONE and kind is not segment]


def refused_kind(peer: RawPeer, kind: Kind) -> RefusalCode:
    peer.send(Header(kind, b"j" * 16, 1, 0, 1, b"w" * 16), b"body")
    return peer.expect_refusal()


def test_kinds_of_another_role_are_refused(tmp_path: Path) -> None:
    with (
        running(tmp_path) as broker,
        bystanders(broker.address),
        SocketClient(broker.address) as client,
        SocketWorker(broker.address, instance=new_id()) as worker,
    ):
        for kind in misplaced(OF_CLIENTS, Kind.INPUT):
            assert refused_kind(client, kind) is RefusalCode.MALFORMED, kind
        for kind in misplaced(OF_WORKERS, Kind.OUTPUT):
            assert refused_kind(worker, kind) is RefusalCode.MALFORMED, kind


def test_nothing_is_heard_before_hello(tmp_path: Path) -> None:
    with running(tmp_path) as broker, RawPeer(broker.address) as stranger:
        for kind in set(Kind) - OF_ANYONE:
            assert refused_kind(stranger, kind) is RefusalCode.NOT_WELCOME, kind
        assert refused_kind(stranger, Kind.CLIENT_PROOF) is RefusalCode.NOT_WELCOME
        assert not broker.core.world.peers


def test_half_a_hello_is_no_hello(tmp_path: Path) -> None:
    """Between challenge and proof a client may do what a stranger may."""
    with running(tmp_path) as broker, RawPeer(broker.address) as half:
        challenge(half, Ed25519PrivateKey.generate())
        for kind in set(Kind) - OF_ANYONE:
            assert refused_kind(half, kind) is RefusalCode.NOT_WELCOME, kind


def challenge(peer: RawPeer, key: Ed25519PrivateKey) -> bytes:
    hello = ClientHello(client_key=key.public_key().public_bytes_raw())
    peer.send(Header(Kind.CLIENT_HELLO), hello.to_bytes())
    return HelloChallenge.from_bytes(peer.expect(Kind.HELLO_CHALLENGE)[1][0]).nonce


def prove(peer: RawPeer, key: Ed25519PrivateKey, signed: bytes) -> None:
    peer.send(Header(Kind.CLIENT_PROOF), ClientProof(signature=key.sign(signed)).to_bytes())


def test_a_proof_by_another_key_is_refused(tmp_path: Path) -> None:
    owner, attacker = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    with running(tmp_path) as broker, RawPeer(broker.address) as peer:
        nonce = challenge(peer, owner)
        prove(peer, attacker, prefix(Label.CLIENT_HELLO) + nonce)
        assert peer.expect_refusal() is RefusalCode.BAD_PROOF
        assert refused_kind(peer, Kind.LIST_JOBS) is RefusalCode.NOT_WELCOME


def test_a_proof_is_good_once(tmp_path: Path) -> None:
    """Neither again on its own connection, nor on another, nor for an older challenge."""
    key = Ed25519PrivateKey.generate()
    with running(tmp_path) as broker, RawPeer(broker.address) as peer:
        old = prefix(Label.CLIENT_HELLO) + challenge(peer, key)
        newer = prefix(Label.CLIENT_HELLO) + challenge(peer, key)
        prove(peer, key, old)
        assert peer.expect_refusal() is RefusalCode.BAD_PROOF
        newest = prefix(Label.CLIENT_HELLO) + challenge(peer, key)
        prove(peer, key, newest)
        peer.expect(Kind.CLIENT_WELCOME)
        prove(peer, key, newest)
        assert peer.expect_refusal() is RefusalCode.NOT_WELCOME
        with RawPeer(broker.address) as thief:
            for captured in (old, newer, newest):
                challenge(thief, key)
                prove(thief, key, captured)
                assert thief.expect_refusal() is RefusalCode.BAD_PROOF


@pytest.mark.parametrize("label", [Label.SESSION_OPEN, Label.JOB_SIGNATURE, Label.RECEIPT])
def test_a_signature_made_for_something_else_is_no_proof(tmp_path: Path, label: Label) -> None:
    key = Ed25519PrivateKey.generate()
    with running(tmp_path) as broker, RawPeer(broker.address) as peer:
        nonce = challenge(peer, key)
        prove(peer, key, prefix(label) + nonce)
        assert peer.expect_refusal() is RefusalCode.BAD_PROOF


def test_hello_twice_under_two_keys_leaves_one_client(tmp_path: Path) -> None:
    """And what the first key has is out of reach of the second."""
    with running(tmp_path) as broker, SocketClient(broker.address) as client:
        job_id, second = new_id(), Ed25519PrivateKey.generate()
        submit(client, b"n" * 16, job_id=job_id)
        client.expect(Kind.ACCEPTED)
        prove(client, second, prefix(Label.CLIENT_HELLO) + challenge(client, second))
        client.expect(Kind.CLIENT_WELCOME)
        client.send(Header(Kind.CANCEL, job_id))
        assert client.expect_refusal() is RefusalCode.NO_SUCH_JOB
        assert job_id in broker.core.world.jobs
        assert len(broker.core.world.clients) == 1


def test_a_connection_is_a_client_or_a_worker_and_not_both(tmp_path: Path) -> None:
    with (
        running(tmp_path) as broker,
        SocketWorker(broker.address) as other,
        SocketClient(broker.address) as peer,
    ):
        peer.send(Header(Kind.WORKER_HELLO), other.hello.replace(b"i" * 16, b"z" * 16))
        peer.expect(Kind.WORKER_WELCOME)
        assert refused_kind(peer, Kind.LIST_JOBS) is RefusalCode.MALFORMED
        assert not broker.core.world.clients


# -- how many -------------------------------------------------------------------------------------


def test_one_curve_key_cannot_take_every_place(tmp_path: Path, curve: Curve) -> None:
    greedy, honest = curve.peers
    rules = Rules(max_peers=8, max_peers_per_key=4, lease_ms=3_000, heartbeat_ms=300)
    with (
        running(tmp_path / "state", rules=rules, **curve.settings) as broker,
        bystanders(broker.address, curve=curve.server_key, **honest),
    ):
        peers = [SocketWorker(broker.address, instance=new_id(), **greedy) for _ in range(4)]
        with RawPeer(broker.address, **greedy) as fifth:
            fifth.send(Header(Kind.WORKER_HELLO), peers[0].hello)
            assert fifth.expect_refusal() is RefusalCode.QUEUE_FULL
        with SocketWorker(broker.address, instance=new_id(), **honest):
            assert len(broker.core.world.workers) == 6
        for peer in peers:
            peer.close()


def test_a_full_house_refuses_and_serves_on(tmp_path: Path) -> None:
    rules = Rules(max_peers=6, lease_ms=3_000, heartbeat_ms=300)
    with running(tmp_path, rules=rules) as broker, bystanders(broker.address):
        peers = [RawPeer(broker.address) for _ in range(12)]
        hello = ClientHello(client_key=os.urandom(32)).to_bytes()
        answers = []
        for peer in peers:
            peer.send(Header(Kind.CLIENT_HELLO), hello)
            answer = peer.receive()
            assert answer is not None
            answers.append(answer[0].kind)
        assert answers.count(Kind.HELLO_CHALLENGE) == 4
        assert answers.count(Kind.REFUSED) == 8
        for peer in peers:
            peer.close()
        wait_until(lambda: len(broker.core.world.peers) <= 6, "no more than allowed")
