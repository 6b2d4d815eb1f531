"""A coordinator of one worker over a real socket, which a test drives message by message."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

import zmq

from attestation.encoding.record import Record
from attestation.identifiers import WorkerId
from attestation.wire.control import Heartbeat, Refusal, RefusalCode, WorkerHello, WorkerWelcome
from attestation.wire.frames import Frame, Header, Kind, check_message
from attestation.wire.messages import Message, parse

WORKER_ID = WorkerId(b"the-one-worker-!")


class SimulatedCoordinator:
    """Welcomes whoever says hello, answers heartbeats, and keeps the rest for the test."""

    def __init__(self, *, heartbeat_ms: int = 50, url: str = "tcp://127.0.0.1:*") -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind(url)
        self.url = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self._heartbeat_ms = heartbeat_ms
        self._worker = b""
        self.hellos: list[WorkerHello] = []
        self.heartbeats: list[tuple[float, Heartbeat]] = []
        self.answers_heartbeats = True
        self.kept: list[tuple[Header, list[bytes]]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()
        self._context.term()

    def send(self, header: Header, *frames: Frame) -> None:
        self._socket.send_multipart([self._worker, header.to_bytes(), *frames])

    def tell(self, header: Header, record: Record) -> None:
        self.send(header, record.to_bytes())

    def refuse(self, code: RefusalCode) -> None:
        self.tell(Header(Kind.REFUSED), Refusal(code=code))

    def pump(self, seconds: float = 0.0) -> None:
        """Read what arrives for `seconds`, at least what is there."""
        end = time.monotonic() + seconds
        while self._socket.poll(max(0, int(1000 * (end - time.monotonic())))):
            sender, *frames = self._socket.recv_multipart()
            self._take(sender, check_message(frames), frames[1:])

    def wait(self, condition: Callable[[], bool], *, seconds: float = 20.0) -> None:
        """Read until `condition` holds."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "the worker did not do it in time"
            self.pump(0.02)

    def expect(self, kind: Kind, *, seconds: float = 20.0) -> tuple[Header, list[bytes]]:
        """Return, once, the next kept message of `kind`."""
        self.wait(lambda: any(header.kind is kind for header, _ in self.kept), seconds=seconds)
        index = next(i for i, (header, _) in enumerate(self.kept) if header.kind is kind)
        return self.kept.pop(index)

    def ask(self, peer: bytes, message: Record) -> Message:
        """Relay a session message and return the worker's answer."""
        self.tell(Header(Kind.END_TO_END, peer=peer), message)
        header, (frame,) = self.expect(Kind.END_TO_END)
        assert header.peer == peer
        return parse(frame)

    def _take(self, sender: bytes, header: Header, frames: list[bytes]) -> None:
        self._worker = sender
        match header.kind:
            case Kind.WORKER_HELLO:
                self.hellos.append(WorkerHello.from_bytes(frames[0]))
                welcome = WorkerWelcome(
                    worker_id=WORKER_ID, heartbeat_ms=self._heartbeat_ms, lease_ms=10_000
                )
                self.tell(Header(Kind.WORKER_WELCOME), welcome)
            case Kind.HEARTBEAT:
                self.heartbeats.append((time.monotonic(), Heartbeat.from_bytes(frames[0])))
                if self.answers_heartbeats:
                    self.tell(Header(Kind.HEARTBEAT), Heartbeat())
            case _:
                self.kept.append((header, frames))
