"""The client's socket at a coordinator that grants everything and reads nothing."""

import time
from collections.abc import Iterator

import pytest
import zmq

from attestation.client.transport import DealerTransport
from attestation.wire.frames import Header, Kind
from tests.properties.test_client_engine import Sent, a_job, be_welcome, grant, new_engine

SEGMENTS = 512
"""32 MiB in segments of 64 KiB, of which a kernel's own buffers hold a few."""


class Deaf:
    """A socket that listens to one client, when it is told to."""

    def __init__(self) -> None:
        self._context = zmq.Context()
        self.socket = self._context.socket(zmq.ROUTER)
        self.socket.setsockopt(zmq.RCVHWM, 1)
        self.socket.setsockopt(zmq.RCVBUF, 1 << 16)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.SNDHWM, 0)
        self.socket.bind("tcp://127.0.0.1:*")
        self.peer = b""
        self.url = self.socket.getsockopt_string(zmq.LAST_ENDPOINT)

    def read(self, transport: DealerTransport, seconds: float = 10.0) -> list[bytes]:
        """Return the next message, and let the client go on meanwhile."""
        deadline = time.monotonic() + seconds
        while not self.socket.poll(0):
            assert time.monotonic() < deadline, "nothing came"
            transport.wait(0.005)
        self.peer, *frames = self.socket.recv_multipart()
        return frames

    def close(self) -> None:
        self.socket.close()
        self._context.term()


@pytest.fixture
def deaf() -> Iterator[Deaf]:
    peer = Deaf()
    yield peer
    peer.close()


@pytest.fixture
def transport(deaf: Deaf) -> Iterator[DealerTransport]:
    transport = DealerTransport(deaf.url)
    transport.send([b"hello"])
    assert deaf.read(transport) == [b"hello"]
    yield transport
    transport.close()


def until_full(transport: DealerTransport) -> None:
    """Let leave what can."""
    for _ in range(20):
        transport.wait(0.01)


def test_a_client_seals_what_its_coordinator_reads_whatever_that_grants(
    deaf: Deaf, transport: DealerTransport
) -> None:
    """Forged credit does not fill the client's memory, and nothing is lost when reading goes on."""
    engine = new_engine(Sent())
    be_welcome(engine)
    active = a_job(durable=True, size=1448)
    engine.submit(active)
    engine._uploads._outgoing = transport
    for _ in range(3):
        grant(engine, active, (1 << 32) - 1)
    while engine.upload():
        until_full(transport)
    assert transport.congested
    sealed = active.request.segments_sealed
    assert 16 < sealed < SEGMENTS // 2
    for index in range(active.request.record.input_segments):
        header, segment = deaf.read(transport)
        assert Header.from_bytes(header) == Header(Kind.INPUT, active.request.job_id, index=index)
        assert segment
        engine.upload()
    assert active.request.complete
    assert active.request.record.input_segments >= SEGMENTS


def test_who_does_not_take_our_answers_is_not_listened_to(
    deaf: Deaf, transport: DealerTransport
) -> None:
    """Each message of a hostile coordinator may need an answer: it must not grow our memory."""
    questions, heard, silences = 3000, 0, 0
    for _ in range(questions):
        deaf.socket.send_multipart([deaf.peer, b"question"])
    while silences < 10:
        if transport.receive() is None:
            transport.wait(0.02)
            silences += 1
        else:
            transport.send([b"answer", bytes(1 << 14)])
            heard, silences = heard + 1, 0
    assert 1024 <= heard < questions
    deadline = time.monotonic() + 10
    while transport.receive() is None:
        assert time.monotonic() < deadline, "who reads again is not heard again"
        deaf.read(transport)


def test_what_waits_for_a_coordinator_that_forgot_us_is_dropped(
    deaf: Deaf, transport: DealerTransport
) -> None:
    while not transport.congested:
        transport.send([bytes(1 << 16)])
    transport.forget_queued()
    assert not transport.congested


def test_messages_leave_in_the_order_in_which_they_were_sent(
    deaf: Deaf, transport: DealerTransport
) -> None:
    for number in range(2000):
        transport.send([number.to_bytes(2, "big"), bytes(1 << 12)])
    assert transport.congested
    assert [deaf.read(transport)[0] for _ in range(2000)] == [
        number.to_bytes(2, "big") for number in range(2000)
    ]
