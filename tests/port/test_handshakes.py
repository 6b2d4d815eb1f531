"""Before the first message: connections that stay silent, scream, or are not who they should be."""

import os
import socket
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
import zmq
from zmq.utils import z85

from attestation.wire.frames import Header, Kind
from coordinator import connections, zap
from coordinator.core.rules import Rules
from coordinator.keys import AllowList
from tests.coordinator.sockets import RawPeer, SocketClient, SocketWorker, running
from tests.port.ground import (
    WORST_SECONDS,
    BrokerProcess,
    Curve,
    bystanders,
    new_peer,
    run_once,
    wait_until,
)
from tests.simulators.zmtp import (
    CurveConnection,
    RawConnection,
    command,
    endpoint,
    frame,
    greeting,
    metadata,
    seal,
)

HELLO = Header(Kind.CLIENT_HELLO).to_bytes()
READY = command(b"READY", metadata({b"Socket-Type": b"DEALER", b"Identity": b""}))
HANDSHAKE_SECONDS = 3.5
"""The handshake interval of two seconds, and a slow machine."""

# -- silence and noise ----------------------------------------------------------------------------

UNFINISHED = {
    "nothing": b"",
    "half a signature": b"\xff\0\0\0",
    "a signature": greeting()[:10],
    "half a greeting": greeting()[:40],
    "a greeting without READY": greeting(),
    "half a READY": greeting() + READY[:10],
    "an unknown mechanism": greeting(b"MAGIC"),
    "a command that never ends": greeting() + frame(b"\x05READY", flags=4, announced=1 << 62),
    "a READY without end": greeting() + frame(b"\x05READY", flags=4, announced=200),
    "a server where a client should be": greeting(as_server=True),
}


def test_handshakes_that_never_end_are_ended(tmp_path: Path) -> None:
    """Each would otherwise hold a descriptor for good, or for libzmq's thirty seconds."""
    with running(tmp_path) as broker, ExitStack() as stack, bystanders(broker.address):
        waiting = {}
        for name, sent in UNFINISHED.items():
            waiting[name] = stack.enter_context(RawConnection(broker.address))
            waiting[name].send(sent)
        ends = time.monotonic() + HANDSHAKE_SECONDS
        for name, connection in waiting.items():
            assert connection.closed_within(ends - time.monotonic()), name


def test_a_handshake_in_single_bytes_is_ended_too(tmp_path: Path) -> None:
    """The interval counts from the connection, not from the last byte."""
    with running(tmp_path) as broker, RawConnection(broker.address) as slow:
        began = time.monotonic()
        for byte in greeting() + READY:
            if not slow.send(bytes([byte])) or slow.closed_within(0.05):
                break
        assert time.monotonic() - began < HANDSHAKE_SECONDS


NOISE = {"nothing": lambda: b"", "noise": lambda: os.urandom(300)}


@pytest.mark.parametrize("noise", NOISE.values(), ids=NOISE.keys())
def test_a_thousand_connections_that_mean_nothing_keep_nobody_waiting(
    process: BrokerProcess, noise
) -> None:
    with (
        bystanders(process.address),
        ExitStack() as stack,
        process.memory_growth_below(64 << 20),
    ):
        for _ in range(1_000):
            idle = stack.enter_context(socket.create_connection(endpoint(process.address), 5))
            idle.sendall(noise())
        # Somebody new, in the middle of it.
        began = time.monotonic()
        with SocketClient(process.address) as client, SocketWorker(process.address) as worker:
            run_once(client, worker)
        assert time.monotonic() - began < WORST_SECONDS
        wait_until(
            lambda: process.connections() < 50, "their descriptors free", HANDSHAKE_SECONDS + 15
        )


STRANGERS = {
    "a handshake and not a word": greeting() + READY,
    "a handshake and half a message": greeting() + READY + frame(b"", flags=1),
    "ZMTP 1, which has no end of a handshake": b"\x01\x00",
    "another protocol": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
}


def test_those_who_never_say_hello_are_shown_out(tmp_path: Path) -> None:
    rules = Rules(lease_ms=3_000, heartbeat_ms=300, hello_ms=800)
    with (
        running(tmp_path, rules=rules) as broker,
        bystanders(broker.address),
        ExitStack() as stack,
    ):
        silent = {}
        for name, sent in STRANGERS.items():
            silent[name] = stack.enter_context(RawConnection(broker.address))
            silent[name].send(sent)
        ends = time.monotonic() + 2.5
        for name, connection in silent.items():
            assert connection.closed_within(ends - time.monotonic()), name


def test_of_more_strangers_than_the_port_holds_the_oldest_make_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole handshakes, well before anybody would have to have said hello."""
    monkeypatch.setattr(connections, "STRANGERS", 20)
    with running(tmp_path) as broker, bystanders(broker.address), ExitStack() as stack:
        idle = []
        for late in (False, True):
            idle.append([stack.enter_context(RawConnection(broker.address)) for _ in range(20)])
            for each in idle[late]:
                each.send(greeting() + READY)
            time.sleep(0.3)
        assert all(each.closed_within(1) for each in idle[False])
        assert not any(each.closed_within(0.01) for each in idle[True])


# -- a CURVE port ---------------------------------------------------------------------------------


def raw(curve: Curve, address: str, peer: dict) -> CurveConnection:
    secret = z85.decode(peer["CURVE_SECRETKEY"])
    return CurveConnection(address, server_key=curve.server_key, secret_key=secret)


def test_plaintext_peers_of_any_protocol_version_get_nothing_from_a_curve_port(
    tmp_path: Path, curve: Curve
) -> None:
    """ZMTP 1 and 2 know no mechanisms: falling back to them would go around every key."""
    hello = frame(HELLO, flags=0)
    tries = {
        "ZMTP 3 NULL": greeting() + READY + hello,
        "ZMTP 3 PLAIN": greeting(b"PLAIN") + command(b"HELLO", b"\x05admin\x05admin") + hello,
        "ZMTP 2": b"\xff" + bytes(8) + b"\x7f\x01\x05\x00\x00" + hello,
        "ZMTP 1": b"\x01\x00" + bytes([len(HELLO) + 1]) + b"\x00" + HELLO,
        "CURVE and then not": greeting(b"CURVE") + READY + hello,
        "CURVE as its server": greeting(b"CURVE", as_server=True) + hello,
    }
    with (
        running(tmp_path / "state", **curve.settings) as broker,
        bystanders(broker.address, curve=curve.server_key, **curve.peers[0]),
    ):
        before = broker.core.counters.copy()
        with ExitStack() as stack:
            opened = {}
            for name, sent in tries.items():
                opened[name] = stack.enter_context(RawConnection(broker.address))
                opened[name].send(sent)
            ends = time.monotonic() + HANDSHAKE_SECONDS
            for name, connection in opened.items():
                assert connection.closed_within(ends - time.monotonic()), name
        assert broker.core.counters["refused.malformed"] == before["refused.malformed"]
        assert len(broker.core.world.peers) == 2, "only the bystanders were ever heard"


def test_an_unknown_key_does_not_finish_its_handshake(tmp_path: Path, curve: Curve) -> None:
    stranger = new_peer(z85.encode(curve.server_key))
    with (
        running(tmp_path / "state", **curve.settings) as broker,
        bystanders(broker.address, curve=curve.server_key, **curve.peers[0]),
    ):
        with (
            raw(curve, broker.address, stranger) as attack,
            pytest.raises((OSError, AssertionError)),
        ):
            attack.shake_hands()
        with raw(curve, broker.address, curve.peers[1]) as allowed:
            allowed.shake_hands()


CORRUPTIONS = {
    "a cookie of another connection": lambda cookie, other: other,
    "a changed cookie": lambda cookie, other: cookie[:50] + bytes([cookie[50] ^ 1]) + cookie[51:],
    "no cookie": lambda cookie, other: bytes(96),
}


@pytest.mark.parametrize("corrupt", CORRUPTIONS.values(), ids=CORRUPTIONS.keys())
def test_a_handshake_that_does_not_hang_together_is_dropped(
    tmp_path: Path, curve: Curve, corrupt
) -> None:
    with (
        running(tmp_path / "state", **curve.settings) as broker,
        raw(curve, broker.address, curve.peers[0]) as one,
        raw(curve, broker.address, curve.peers[0]) as two,
    ):
        cookie = corrupt(one.hello(), two.hello())
        with pytest.raises((OSError, AssertionError)):
            one.initiate(cookie, {b"Socket-Type": b"DEALER"})


def test_a_false_proof_of_the_server_key_is_dropped(tmp_path: Path, curve: Curve) -> None:
    with (
        running(tmp_path / "state", **curve.settings) as broker,
        RawConnection(broker.address) as attack,
    ):
        attack.send(greeting(b"CURVE"))
        box = seal(bytes(64), bytes(24), bytes(32))
        attack.send(command(b"HELLO", b"\x01\x00" + bytes(72 + 32 + 8) + box))
        assert attack.closed_within(HANDSHAKE_SECONDS)


def test_nobody_names_himself_to_be_another_user(tmp_path: Path, curve: Curve) -> None:
    """A client's handshake may carry any property; who it is comes from its key alone."""
    honest, attacker = curve.peers
    victim = honest["CURVE_PUBLICKEY"]
    with (
        running(tmp_path / "state", **curve.settings) as broker,
        SocketWorker(broker.address, **honest),
        raw(curve, broker.address, attacker) as attack,
    ):
        attack.shake_hands(properties={b"User-Id": z85.decode(victim).hex().encode()})
        attack.send_message(Header(Kind.CLIENT_HELLO).to_bytes(), b"")
        wait_until(lambda: broker.core.counters["refused.malformed"], "the attacker heard")
        users = {user for user, _ in broker.core.world.peers}
        assert users == {z85.decode(victim)}, "the worker, and only it"


# -- the authentication handler -------------------------------------------------------------------

QUESTION = [b"1.0", b"1", b"enclave", b"127.0.0.1", b"", b"CURVE"]
WRONG_QUESTIONS = {
    "another domain": {2: b"elsewhere"},
    "no domain": {2: b""},
    "another mechanism": {5: b"NULL"},
    "another version": {0: b"2.0"},
}


@pytest.mark.parametrize("changes", WRONG_QUESTIONS.values(), ids=WRONG_QUESTIONS.keys())
def test_an_allowed_key_in_a_wrong_question_is_not_allowed(curve: Curve, changes: dict) -> None:
    key = z85.decode(curve.peers[0]["CURVE_PUBLICKEY"])
    assert ask(curve, [*QUESTION, key]) == b"200", "the test would see a yes"
    frames = [*QUESTION, key]
    for place, value in changes.items():
        frames[place] = value
    assert ask(curve, frames) == b"400"


@pytest.mark.parametrize("key", [b"", b"k" * 32, b"k" * 31, b"k" * 33], ids=len)
def test_any_other_key_is_not_allowed(curve: Curve, key: bytes) -> None:
    assert ask(curve, [*QUESTION, key]) == b"400"


@pytest.mark.parametrize("count", [2, 6, 8])
def test_a_question_of_another_shape_is_not_allowed(curve: Curve, count: int) -> None:
    key = z85.decode(curve.peers[0]["CURVE_PUBLICKEY"])
    assert ask(curve, [*QUESTION, key, key][:count]) == b"400"


def ask(curve: Curve, frames: list[bytes]) -> bytes:
    """Put one question to the real handler, and return the status it answers with."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    handler = zap.Authenticator(context, AllowList(curve.allow))
    asker = context.socket(zmq.REQ)
    asker.linger = 0
    try:
        asker.connect(zap.ENDPOINT)
        asker.send_multipart(frames)
        handler.answer()
        return asker.recv_multipart()[2]
    finally:
        asker.close()
        handler.close()
        context.term()


def test_without_its_handler_a_curve_port_lets_nobody_in(tmp_path: Path, curve: Curve) -> None:
    """ZAP_ENFORCE_DOMAIN: no answer is a no, also for a key that is on the list."""
    with running(tmp_path / "state", **curve.settings) as broker:
        assert broker._authenticator is not None
        broker._authenticator.answer = lambda: None  # type: ignore[method-assign]
        with RawPeer(broker.address, **curve.peers[0]) as peer:
            peer.send(Header(Kind.CLIENT_HELLO), b"")
            assert peer.receive(timeout_ms=800) is None


# -- a key that is taken off the list -------------------------------------------------------------


def test_a_key_taken_off_the_list_loses_its_connections(tmp_path: Path, curve: Curve) -> None:
    """Without a restart: whoever lost his key does not want to wait for one."""
    stays, leaves = curve.peers
    with (
        running(tmp_path / "state", **curve.settings) as broker,
        bystanders(broker.address, curve=curve.server_key, **stays),
        SocketWorker(broker.address, instance=b"l" * 16, **leaves) as removed,
    ):
        curve.allow_only(stays)
        wait_until(lambda: removed.worker_id not in broker.core.world.workers, "it is let go of")
        removed.send(Header(Kind.WORKER_HELLO), removed.hello)
        with RawPeer(broker.address, **leaves) as again:
            again.send(Header(Kind.WORKER_HELLO), removed.hello)
            assert again.receive(timeout_ms=800) is None
        assert removed.worker_id not in broker.core.world.workers
        curve.allow_only(stays, leaves)
        wait_until(lambda: len(broker._allowed.welcome) == 2, "allowed again")
        with SocketWorker(broker.address, instance=b"l" * 16, **leaves) as back:
            assert back.worker_id == removed.worker_id


def test_a_list_that_cannot_be_read_lets_nobody_new_in_and_ends_nothing(
    tmp_path: Path, curve: Curve
) -> None:
    with (
        running(tmp_path / "state", **curve.settings) as broker,
        bystanders(broker.address, curve=curve.server_key, **curve.peers[0]),
    ):
        whole = curve.allow.read_text()
        curve.allow.write_text(whole[:30])
        wait_until(lambda: not broker._allowed.welcome, "the change is noticed")
        with RawPeer(broker.address, **curve.peers[1]) as late:
            late.send(Header(Kind.CLIENT_HELLO), b"")
            assert late.receive(timeout_ms=500) is None
        curve.allow.write_text(whole)
        wait_until(lambda: broker._allowed.welcome, "the list is read again")
        with SocketClient(broker.address, curve=curve.server_key, **curve.peers[1]):
            pass
