"""The same attacks without their defence: each succeeds, so each test beside this one tests it.

Here are those whose success shows at once. Where it shows in memory or in time, the defence was
taken out by hand and the test seen to fail.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import zmq
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.wire.control import ClientHello, ClientProof, HelloChallenge, RefusalCode
from attestation.wire.frames import Header, Kind
from coordinator import broker as broker_module
from coordinator import broker_sockets, zap
from coordinator.connections import Connections
from coordinator.core import alarms, listing, welcome
from coordinator.core.dispatch import Dispatch
from coordinator.core.rules import Rules
from coordinator.keys import AllowList
from coordinator.send_queues import Forwards
from tests.coordinator.formats import SEALED
from tests.coordinator.sockets import RawPeer, SocketClient, SocketWorker, running
from tests.port.ground import MIB, Curve, new_id, new_peer, submit, wait_until
from tests.port.test_floods import FLOODS, flood_once
from tests.simulators.zmtp import LONG, RawConnection, frame, greeting


def test_without_a_message_limit_an_announced_giant_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(broker_sockets.OPTIONS, zmq.MAXMSGSIZE, -1)
    with running(tmp_path) as broker, RawConnection(broker.address) as liar:
        liar.shake_hands()
        liar.send(frame(b"x", flags=LONG, announced=1 << 33))
        assert not liar.closed_within(0.5)


def test_without_a_handshake_interval_silent_peers_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(broker_sockets.OPTIONS, zmq.HANDSHAKE_IVL, 0)
    with running(tmp_path) as broker, RawConnection(broker.address) as silent:
        silent.send(greeting())
        assert not silent.closed_within(2.5)


def test_without_a_look_at_connections_messages_do_not_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Connections, "look", lambda *_: None)
    with running(tmp_path) as broker, RawConnection(broker.address) as endless:
        endless.shake_hands()
        for _ in range(20):
            assert endless.send(frame(bytes(4 * MIB), flags=1))
            time.sleep(0.02)
        assert not endless.closed_within(0.3)


def test_without_a_check_of_routing_ids_a_chosen_one_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker_module, "_ASSIGNED_ID_BYTES", 8)
    with running(tmp_path) as broker, RawConnection(broker.address) as thief:
        thief.shake_hands(identity=b"\0chosen!")
        thief.send_message(Header(Kind.CLIENT_HELLO).to_bytes(), b"")
        assert Header.from_bytes(thief.read_message()[0]).kind is Kind.REFUSED


_SQUAT = """
import pathlib, sys, threading
from coordinator import broker_sockets
from coordinator.broker import Broker
from coordinator.settings import Settings
from tests.simulators.zmtp import RawConnection
broker_sockets._make_routing_ids_unpredictable = lambda: None
broker = Broker(Settings(listen="tcp://127.0.0.1:0", state=pathlib.Path(sys.argv[1])))
threading.Thread(target=broker.run, daemon=True).start()
squatter = RawConnection(broker.address)
squatter.shake_hands(identity=bytes.fromhex("006b8b4567"))
honest = RawConnection(broker.address)
honest.shake_hands()
honest.send_message(b"x")
honest.read_message()
"""


def test_with_routing_ids_that_can_be_foretold_one_connection_ends_the_coordinator(
    tmp_path: Path,
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _SQUAT, tmp_path],
        capture_output=True,
        text=True,
        cwd=Path(__file__).resolve().parents[2],
        check=False,
    )
    assert done.returncode == -6, done.stderr
    assert "Assertion failed" in done.stderr


def test_without_the_allow_list_any_key_gets_in(
    tmp_path: Path, curve: Curve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zap.Authenticator, "_user", lambda _, frames: frames[6])
    stranger = new_peer(curve.peers[0]["CURVE_SERVERKEY"])
    with running(tmp_path / "state", **curve.settings) as broker:
        before = len(broker._connections)
        with RawPeer(broker.address, **stranger) as peer:
            peer.send(Header(Kind.CLIENT_HELLO), b"")
            wait_until(lambda: len(broker._connections) > before, "its message was taken")


def test_without_rereading_the_list_a_removed_key_stays(
    tmp_path: Path, curve: Curve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AllowList, "refresh", lambda _: frozenset())
    with (
        running(tmp_path / "state", **curve.settings) as broker,
        SocketWorker(broker.address, **curve.peers[1]) as removed,
    ):
        curve.allow_only(curve.peers[0])
        time.sleep(1.3)
        removed.heartbeat()
        removed.expect(Kind.HEARTBEAT)


def test_without_bounds_on_forwards_a_flooded_worker_is_driven_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Forwards, "room", lambda *_: True)
    monkeypatch.setattr(Forwards, "add", lambda *_: None)
    with (
        running(tmp_path) as broker,
        SocketClient(broker.address) as flooder,
        SocketClient(broker.address) as honest,
        SocketWorker(broker.address, RCVHWM=1, RCVBUF=64 * 1024) as victim,
    ):
        header = Header(Kind.END_TO_END, peer=victim.worker_id)
        for _ in range(20_000):
            flooder.send(header, bytes(2_000))
            if flooder.socket.poll(0) and flooder.receive()[0].kind is Kind.REFUSED:
                break
        submit(honest, victim.worker_id, job_id=new_id())
        wait_until(lambda: not broker.core.world.workers, "the victim is gone")


@pytest.mark.parametrize("flood", FLOODS)
def test_without_shares_one_account_takes_everything(tmp_path: Path, flood: str) -> None:
    rules, changes, code = FLOODS[flood]
    changed = Rules(
        **{name: getattr(rules, name) for name in ("max_jobs", "spool_limit", "index_limit")},
        memory_limit=rules.memory_limit,
        account_share=1.0,
    )
    with (
        running(tmp_path, rules=changed) as broker,
        SocketClient(broker.address) as greedy,
        SocketClient(broker.address) as modest,
    ):
        for _ in range(60):
            flood_once(greedy, **changes)
        wait_until(lambda: broker.core.counters[f"refused.{code}"], "everything is taken")
        flood_once(modest, **changes)
        assert modest.expect_refusal() is code


def test_without_a_pause_every_question_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "PUSH_MS", 0)
    monkeypatch.setattr(listing, "ANSWERS_PER_TURN", 1 << 30)
    with running(tmp_path) as broker, SocketClient(broker.address) as curious:
        for _ in range(200):
            curious.send(Header(Kind.LIST_JOBS))
        for _ in range(200):
            curious.expect(Kind.JOBS)


def test_without_its_alarm_a_worker_that_takes_no_inputs_keeps_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alarms, "_unasked", lambda *_: False)
    rules = Rules(lease_ms=3_000, heartbeat_ms=300, stall_ms=300)
    job_id = new_id()
    with (
        running(tmp_path, rules=rules) as broker,
        SocketClient(broker.address) as client,
        SocketWorker(broker.address) as idle,
    ):
        submit(client, idle.worker_id, job_id=job_id, segments=1)
        client.expect(Kind.INPUT_CREDIT)
        client.send(Header(Kind.INPUT, job_id), bytes(SEALED))
        idle.expect(Kind.ASSIGN)
        time.sleep(0.8)
        idle.heartbeat((job_id, 1))
        idle.expect(Kind.HEARTBEAT)
        assert broker.core.world.jobs[job_id].attempt_number == 1


def test_without_the_fence_anybodys_result_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Dispatch, "lease", lambda _, job, *__: job and job.attempt)
    with (
        running(tmp_path) as broker,
        SocketClient(broker.address) as client,
        SocketWorker(broker.address, instance=new_id()) as owner,
        SocketWorker(broker.address, instance=new_id()) as other,
    ):
        job_id = new_id()
        submit(client, owner.worker_id, job_id=job_id, durable=False)
        owner.expect(Kind.ASSIGN)
        other.send(Header(Kind.RESULT, job_id, 1, count=1), b"forged", b"r", b"o" * 40)
        assert client.expect(Kind.RESULT)[1][0] == b"forged"


class _AnyKey:
    @classmethod
    def from_public_bytes(cls, _: bytes) -> "_AnyKey":
        return cls()

    def verify(self, *_: bytes) -> None:
        """Believe it."""


def test_without_the_proof_anybody_is_any_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(welcome, "Ed25519PublicKey", _AnyKey)
    victim = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    with running(tmp_path) as broker, RawPeer(broker.address) as impostor:
        impostor.send(Header(Kind.CLIENT_HELLO), ClientHello(client_key=victim).to_bytes())
        HelloChallenge.from_bytes(impostor.expect(Kind.HELLO_CHALLENGE)[1][0])
        proof = ClientProof(signature=os.urandom(64)).to_bytes()
        impostor.send(Header(Kind.CLIENT_PROOF), proof)
        impostor.expect(Kind.CLIENT_WELCOME)


def test_without_a_bound_per_key_one_key_takes_every_place(tmp_path: Path, curve: Curve) -> None:
    greedy, honest = curve.peers
    with running(tmp_path / "state", rules=Rules(max_peers=4), **curve.settings) as broker:
        peers = [SocketWorker(broker.address, instance=new_id(), **greedy) for _ in range(4)]
        with RawPeer(broker.address, **honest) as late:
            late.send(Header(Kind.WORKER_HELLO), peers[0].hello)
            assert late.expect_refusal() is RefusalCode.QUEUE_FULL
        for peer in peers:
            peer.close()
