"""The worker's socket: never in clear outside the machine, never blocked by who does not read."""

from pathlib import Path

import pytest
import zmq
import zmq.auth
from zmq.auth.thread import ThreadAuthenticator

from attestation import limits
from attestation.errors import UnavailableError
from enclave_worker.transport import (
    KeyFileError,
    KeysRequiredError,
    Transport,
    is_loopback,
    load_curve_keys,
)
from tests.worker.simulated_coordinator import SimulatedCoordinator


@pytest.mark.parametrize(
    "url",
    [
        "tcp://10.0.0.1:5700",
        "tcp://example.org:5700",
        "tcp://[2001:db8::1]:5700",
        "tcp://0.0.0.0:1",
        "tcp://127.0.0.1.example.org:5700",
        "tcp://localhost.example.org:1",
        "tcp://:5700",
        "udp://x:1",
    ],
)
def test_an_address_outside_this_machine_without_keys_is_refused(url: str) -> None:
    with pytest.raises(KeysRequiredError):
        Transport(url)


@pytest.mark.parametrize(
    "url", ["tcp://127.0.0.1:5700", "tcp://127.9.9.9:1", "tcp://[::1]:5700", "tcp://localhost:1"]
)
def test_loopback_needs_no_keys(url: str) -> None:
    assert is_loopback(url)


def test_an_address_that_is_none_is_unavailable() -> None:
    with pytest.raises(UnavailableError):
        Transport("tcp://127.0.0.1:notaport")


def test_a_missing_or_broken_key_file_is_named(tmp_path: Path) -> None:
    zmq.auth.create_certificates(tmp_path, "a")
    (tmp_path / "broken").write_text("no key in here")
    public, secret = tmp_path / "a.key", tmp_path / "a.key_secret"
    for own, server in (
        (tmp_path / "missing", public),
        (secret, tmp_path / "missing"),
        (tmp_path / "broken", public),
        (public, public),
    ):
        with pytest.raises(KeyFileError):
            load_curve_keys(own, server)
    assert "secret" not in repr(load_curve_keys(secret, public))


def test_with_keys_both_sides_are_authenticated(tmp_path: Path) -> None:
    for name in ("worker", "server", "stranger"):
        zmq.auth.create_certificates(tmp_path, name)
    allowed = tmp_path / "allowed"
    allowed.mkdir()
    (tmp_path / "worker.key").rename(allowed / "worker.key")
    context = zmq.Context()
    authenticator = ThreadAuthenticator(context)
    authenticator.start()
    authenticator.configure_curve(domain="*", location=str(allowed))
    server = context.socket(zmq.ROUTER)
    server.curve_publickey, server.curve_secretkey = zmq.auth.load_certificate(
        tmp_path / "server.key_secret"
    )
    server.curve_server = True
    port = server.bind_to_random_port("tcp://127.0.0.1")
    try:
        for name, heard in (("stranger", False), ("worker", True)):
            keys = load_curve_keys(tmp_path / f"{name}.key_secret", tmp_path / "server.key")
            assert keys.secret.decode() not in repr(keys)
            transport = Transport(f"tcp://127.0.0.1:{port}", keys=keys)
            transport.send([name.encode()])
            for _ in range(20):
                transport.poll(20)
            assert bool(server.poll(500 if not heard else 5000)) is heard
            transport.close()
        assert server.recv_multipart()[1] == b"worker"
    finally:
        server.close(0)
        authenticator.stop()
        context.term()


def test_sending_to_nobody_never_blocks_and_is_bounded() -> None:
    transport = Transport("tcp://127.0.0.1:9")
    try:
        sent = [transport.send([b"x"]) for _ in range(3000)]
        assert sent.count(True) == 1024
        assert transport.congested
        transport.forget_queued()
        assert not transport.congested
    finally:
        transport.close()


def test_what_was_queued_leaves_in_order_when_the_coordinator_is_there() -> None:
    with SimulatedCoordinator() as coordinator:
        transport = Transport(coordinator.url)
        for number in range(5):
            transport.send([bytes([number])])
        received: list[bytes] = []
        for _ in range(200):
            transport.poll(10)
            while coordinator._socket.poll(0):
                received.append(coordinator._socket.recv_multipart()[1])
            if len(received) == 5:
                break
        transport.close()
    assert received == [bytes([number]) for number in range(5)]


def test_large_segments_arrive_whole() -> None:
    with SimulatedCoordinator() as coordinator:
        transport = Transport(coordinator.url)
        segment = bytearray(range(256)) * 8192
        assert transport.send([b"head", segment])
        transport.poll(50)
        for _ in range(100):
            transport.poll(10)
            if coordinator._socket.poll(10):
                break
        peer, head, data = coordinator._socket.recv_multipart()
        coordinator._socket.send_multipart([peer, head, data])
        for _ in range(100):
            transport.poll(20)
            if (message := transport.receive()) is not None:
                break
        assert [bytes(frame) for frame in message] == [b"head", bytes(segment)]
        assert isinstance(message[1], memoryview)
        transport.close()


def test_a_frame_beyond_the_limit_is_never_received() -> None:
    """9 bytes that announce 8 GiB reserve nothing (measured); the peer is dropped."""
    with SimulatedCoordinator() as coordinator:
        transport = Transport(coordinator.url)
        assert transport._socket.getsockopt(zmq.MAXMSGSIZE) == limits.FRAME_BYTES
        transport.send([b"hello"])
        for _ in range(100):
            transport.poll(10)
            if coordinator._socket.poll(10):
                break
        peer, _ = coordinator._socket.recv_multipart()
        coordinator._socket.send_multipart([peer, bytes(limits.FRAME_BYTES + 1)])
        for _ in range(20):
            transport.poll(20)
            assert transport.receive() is None
        transport.close()


def test_a_wake_up_ends_a_wait_and_after_the_end_does_nothing() -> None:
    transport = Transport("tcp://127.0.0.1:9")
    transport.wake()
    transport.poll(60_000)
    transport.close()
    transport.wake()
