"""Frames that lie about their length, never end, or mean nothing."""

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attestation.wire.control import (
    ClientHello,
    Heartbeat,
    Refusal,
    RefusalCode,
    WorkerDescription,
    WorkerHello,
)
from attestation.wire.frames import HEADER_BYTES, Header, Kind
from coordinator.broker import Broker
from tests.coordinator.formats import submit_record
from tests.coordinator.sockets import RawPeer, SocketClient, SocketWorker, running
from tests.port.ground import MIB, BrokerProcess, bystanders, run_once
from tests.simulators.zmtp import LONG, MORE, RawConnection, command, frame

JOB = b"j" * 16
INPUT = Header(Kind.INPUT, JOB).to_bytes()
SUBMIT = Header(Kind.SUBMIT, JOB).to_bytes()

# -- lengths --------------------------------------------------------------------------------------


@pytest.mark.parametrize("announced", [18 * MIB, 1 << 33, (1 << 63) - 1, (1 << 64) - 1])
def test_nine_bytes_reserve_nothing(process: BrokerProcess, announced: int) -> None:
    """libzmq would allocate what a header announces, eight gigabytes for nine bytes."""
    with bystanders(process.address), process.memory_growth_below(16 * MIB), ExitStack() as stack:
        for _ in range(20):
            liar = stack.enter_context(RawConnection(process.address))
            liar.shake_hands()
            liar.send(frame(INPUT, flags=MORE) + frame(b"x", flags=LONG, announced=announced))
            assert liar.closed_within(2)


def test_a_message_without_an_end_is_cut_off(process: BrokerProcess) -> None:
    """Each frame is within the limit, and one more always follows: libzmq keeps them all."""
    with (
        bystanders(process.address),
        process.memory_growth_below(500 * MIB),
        RawConnection(process.address) as endless,
    ):
        endless.shake_hands()
        sent = frame(bytes(4 * MIB), flags=MORE)
        assert not all(endless.send(sent) for _ in range(500)), "2 GB were taken"


def test_what_many_leave_unfinished_is_bounded_together(process: BrokerProcess) -> None:
    """Each within the bound of one, and together more than there is."""
    with (
        bystanders(process.address),
        process.memory_growth_below(160 * MIB),
        ExitStack() as stack,
    ):
        peers = [stack.enter_context(RawConnection(process.address)) for _ in range(12)]
        for peer in peers:
            peer.shake_hands()
        for peer in peers:
            peer.send(frame(bytes(15 * MIB), flags=MORE) + frame(b"", flags=LONG, announced=MIB))
        time.sleep(0.3)
        closed = sum(peer.closed_within(0.01) for peer in peers)
        assert closed >= 9, "at most 32 MiB stay"


def test_a_whole_message_that_is_too_large_is_refused(process: BrokerProcess) -> None:
    """Three frames, each within the limit: no message of ours is so large."""
    with bystanders(process.address), RawPeer(process.address) as peer:
        with process.memory_growth_below(100 * MIB):
            peer.send(SUBMIT, bytes(7 * MIB), bytes(7 * MIB), bytes(7 * MIB))
            assert peer.expect_refusal() is RefusalCode.MALFORMED
        peer.send(INPUT, bytes(16 * MIB), bytes(7 * MIB))
        assert peer.expect_refusal() is RefusalCode.MALFORMED


@pytest.mark.parametrize("count", [65, 1_000, 50_000])
@pytest.mark.parametrize("header", [SUBMIT, INPUT, b""], ids=["SUBMIT", "INPUT", "none"])
def test_too_many_frames_are_refused(process: BrokerProcess, header: bytes, count: int) -> None:
    with bystanders(process.address), RawConnection(process.address) as peer:
        peer.shake_hands()
        peer.send_message(header, *[b"x"] * count)
        assert refusal(peer) is RefusalCode.MALFORMED


def refusal(peer: RawConnection) -> RefusalCode:
    header, body = peer.read_message()
    assert Header.from_bytes(header).kind is Kind.REFUSED
    return Refusal.from_bytes(body).code


# -- below our protocol ---------------------------------------------------------------------------

ZMTP_NOISE = {
    "pings": command(b"PING", b"\0\x64" + b"context"),
    "pongs": command(b"PONG", b""),
    "a ping with a giant context": command(b"PING", b"\0\x64" + bytes(60_000)),
    "subscriptions": command(b"SUBSCRIBE", b"everything"),
    "another READY": command(b"READY", b""),
    "an ERROR": command(b"ERROR", b"\x03bad"),
    "a command without a name": frame(b"", flags=4),
    "a command whose name is longer than itself": frame(b"\xffPING", flags=4),
    "reserved flags": frame(b"x", flags=0xF8),
    "a command with more to come": frame(b"\x04PING\0\0", flags=4 | MORE),
}


@pytest.mark.parametrize("noise", ZMTP_NOISE.values(), ids=ZMTP_NOISE.keys())
def test_a_flood_below_our_protocol_delays_nobody(process: BrokerProcess, noise: bytes) -> None:
    with (
        bystanders(process.address),
        process.memory_growth_below(32 * MIB),
        RawConnection(process.address) as peer,
    ):
        peer.shake_hands()
        # After some of this libzmq reads no more, and never says so.
        peer.socket.settimeout(0.5)
        ends = time.monotonic() + 0.3
        flood = noise * max(1, 60_000 // len(noise))
        while time.monotonic() < ends and peer.send(flood):
            pass


# -- messages that mean nothing -------------------------------------------------------------------

_DESCRIPTION = WorkerDescription(
    backend="numpy",
    device="cpu",
    evidence_kind="insecure",
    catalogue_digest=b"c" * 32,
    capacity=4,
    max_job_bytes=1 << 40,
)
_BODIES = [
    ClientHello(client_key=bytes(32)).to_bytes(),
    WorkerHello(instance=b"g" * 16, description=_DESCRIPTION).to_bytes(),
    Heartbeat(running=((JOB, 1),)).to_bytes(),
    Refusal(code=RefusalCode.INTERNAL).to_bytes(),
    submit_record(b"w" * 16).to_bytes(),
    b"envelope",
]


@st.composite
def bent(draw: st.DrawFn, whole: st.SearchStrategy[bytes]) -> bytes:
    """Bytes that were right before something was cut, changed or added."""
    data = bytearray(draw(whole))
    for _ in range(draw(st.integers(0, 2))):
        place = draw(st.integers(0, len(data)))
        match draw(st.integers(0, 2)):
            case 0:
                del data[place:]
            case 1:
                data[place : place + 1] = draw(st.binary(max_size=4))
            case _:
                data[place:place] = draw(st.binary(max_size=40))
    return bytes(data)


ids = st.sampled_from([bytes(16), JOB, b"w" * 16]) | st.binary(min_size=16, max_size=16)
numbers = st.sampled_from([0, 1, 2, 0xFFFFFFFF]) | st.integers(0, 0xFFFFFFFF)
headers = st.builds(
    lambda *fields: Header(*fields).to_bytes(),
    st.sampled_from(Kind),
    ids,
    numbers,
    numbers,
    numbers,
    ids,
)
messages = st.builds(
    lambda head, rest: [head, *rest],
    bent(headers) | st.binary(max_size=2 * HEADER_BYTES),
    st.lists(bent(st.sampled_from(_BODIES)) | st.binary(max_size=200), max_size=4),
)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with running(tmp_path_factory.mktemp("garbage")) as made:
        yield made


def said_hello(broker: Broker, role: str) -> RawPeer:
    match role:
        case "stranger":
            return RawPeer(broker.address)
        case "client":
            return SocketClient(broker.address, key=Ed25519PrivateKey.generate())
        case _:
            return SocketWorker(broker.address, instance=os.urandom(16))


@pytest.mark.parametrize("role", ["stranger", "client", "worker"])
@given(garbage=st.lists(messages, min_size=1, max_size=6))
@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_whatever_a_peer_says_the_coordinator_goes_on(
    broker: Broker, role: str, garbage: list[list[bytes]]
) -> None:
    """Any frames, from anybody, in any order: answered or not, and the same peer is heard after."""
    with said_hello(broker, role) as peer:
        for message in garbage:
            peer.send(message[0], *message[1:])
        peer.send(Header(Kind.CLIENT_HELLO), ClientHello(client_key=bytes(32)).to_bytes())
        kinds = []
        while Kind.HELLO_CHALLENGE not in kinds:
            answer = peer.receive(timeout_ms=3_000)
            assert answer is not None, "nobody answers"
            kinds.append(answer[0].kind)


def test_after_all_that_garbage_honest_peers_are_served(broker: Broker) -> None:
    with SocketClient(broker.address) as client, SocketWorker(broker.address) as worker:
        for _ in range(5):
            run_once(client, worker)


def test_a_flood_of_garbage_delays_nobody(tmp_path: Path) -> None:
    with running(tmp_path) as broker, bystanders(broker.address), RawPeer(broker.address) as peer:
        ends = time.monotonic() + 1
        while time.monotonic() < ends:
            peer.send(os.urandom(HEADER_BYTES), os.urandom(50))
