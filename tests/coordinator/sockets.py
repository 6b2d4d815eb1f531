"""Raw peers on real DEALER sockets, and a broker in a thread."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import zmq
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.encoding.digests import Label, prefix
from attestation.wire.control import (
    ClientHello,
    ClientProof,
    ClientWelcome,
    Heartbeat,
    HelloChallenge,
    Refusal,
    RefusalCode,
    WorkerDescription,
    WorkerHello,
    WorkerWelcome,
)
from attestation.wire.frames import Header, Kind
from coordinator.broker import Broker
from coordinator.core.rules import Rules
from coordinator.settings import Settings
from tests.coordinator.formats import CATALOGUE

TIMEOUT_MS = 20_000

UNASKED = {Kind.WORKERS, Kind.HEARTBEAT, Kind.INPUT_CREDIT, Kind.OUTPUT_CREDIT, Kind.ACCEPTED}
"""Messages that may come between those a test waits for."""


@contextmanager
def running(state: Path, **options: Any) -> Iterator[Broker]:
    """A broker that is drained at the end, unless the test stopped it.

    Its peers are raw sockets that send no heartbeats of their own: unless a test is about silence
    and says so in its rules, a machine that is held up makes nobody suspect.
    """
    options.setdefault("rules", Rules(lease_ms=300_000, heartbeat_ms=60_000))
    options.setdefault("listen", "tcp://127.0.0.1:0")
    broker = Broker(Settings(state=state, drain_seconds=0, **options))
    thread = threading.Thread(target=broker.run, daemon=True)
    thread.start()
    try:
        yield broker
    finally:
        broker.stop()
        broker.stop()
        thread.join(10)
        assert not thread.is_alive()


class RawPeer:
    """A DEALER that can say anything."""

    def __init__(self, address: str, **options: Any) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        for name, value in options.items():
            self.socket.setsockopt(getattr(zmq, name), value)
        self.socket.connect(address)

    def send(self, header: Header | bytes, *frames: bytes) -> None:
        first = header.to_bytes() if isinstance(header, Header) else header
        self.socket.send_multipart([first, *frames])

    def receive(self, *, timeout_ms: int = TIMEOUT_MS) -> tuple[Header, list[bytes]] | None:
        if not self.socket.poll(timeout_ms):
            return None
        first, *frames = self.socket.recv_multipart()
        return Header.from_bytes(first), frames

    def expect(self, kind: Kind, *, timeout_ms: int = TIMEOUT_MS) -> tuple[Header, list[bytes]]:
        """Return the next message of `kind`, past pushes and heartbeats."""
        while (message := self.receive(timeout_ms=timeout_ms)) is not None:
            if message[0].kind is kind:
                return message
            assert message[0].kind in UNASKED - {kind}, message
        raise AssertionError(f"no {kind.name} came")

    def expect_refusal(self) -> RefusalCode:
        return Refusal.from_bytes(self.expect(Kind.REFUSED)[1][0]).code

    def close(self) -> None:
        self.socket.close()
        self.context.term()

    def __enter__(self) -> "RawPeer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class SocketClient(RawPeer):
    """A client that is welcome."""

    def __init__(
        self,
        address: str,
        *,
        key: Ed25519PrivateKey | None = None,
        curve: bytes = b"",
        **options: Any,
    ) -> None:
        super().__init__(address, **options)
        self.key = key or Ed25519PrivateKey.generate()
        self.send(
            Header(Kind.CLIENT_HELLO),
            ClientHello(client_key=self.key.public_key().public_bytes_raw()).to_bytes(),
        )
        nonce = HelloChallenge.from_bytes(self.expect(Kind.HELLO_CHALLENGE)[1][0]).nonce
        signature = self.key.sign(prefix(Label.CLIENT_HELLO) + curve + nonce)
        self.send(Header(Kind.CLIENT_PROOF), ClientProof(signature=signature).to_bytes())
        welcome = ClientWelcome.from_bytes(self.expect(Kind.CLIENT_WELCOME)[1][0])
        self.peer_id = welcome.peer_id


class SocketWorker(RawPeer):
    """A worker that is welcome."""

    def __init__(
        self,
        address: str,
        *,
        instance: bytes = b"i" * 16,
        capacity: int = 4,
        catalogue: bytes = CATALOGUE,
        **options: Any,
    ) -> None:
        super().__init__(address, **options)
        description = WorkerDescription(
            backend="numpy",
            device="cpu",
            evidence_kind="insecure",
            catalogue_digest=catalogue,
            capacity=capacity,
            max_job_bytes=1 << 40,
        )
        self.hello = WorkerHello(instance=instance, description=description).to_bytes()
        self.send(Header(Kind.WORKER_HELLO), self.hello)
        self.expect_welcome()

    def expect_welcome(self) -> None:
        welcome = WorkerWelcome.from_bytes(self.expect(Kind.WORKER_WELCOME)[1][0])
        self.worker_id = welcome.worker_id

    def heartbeat(self, *running: tuple[bytes, int]) -> None:
        self.send(Header(Kind.HEARTBEAT), Heartbeat(running=running).to_bytes())
