"""Actors on real sockets at a real broker, in one thread: `pump` until something is true."""

import time
from collections.abc import Callable
from typing import Any, Final

import zmq

from attestation.errors import DecodeError
from attestation.wire.frames import check_message
from tests.faults.actors import Actor

TURN_MS: Final = 5


class Wires:
    """One DEALER per actor. Breaking them loses what is under way, as a broken connection does."""

    def __init__(self, address: str, *actors: Actor) -> None:
        self.address = address
        self.actors = list(actors)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._poller = zmq.Poller()
        self._sockets: dict[Any, Actor] = {}

    def __enter__(self) -> "Wires":
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()
        self._context.term()

    def connect(self) -> None:
        """Connect every actor anew."""
        self.cut()
        for actor in self.actors:
            socket = self._context.socket(zmq.DEALER)
            socket.setsockopt(zmq.LINGER, 0)
            socket.setsockopt(zmq.RECONNECT_IVL, 5)
            socket.connect(self.address)
            self._poller.register(socket, zmq.POLLIN)
            self._sockets[socket] = actor
            actor.connected()

    def cut(self) -> None:
        """Break every connection."""
        for socket in self._sockets:
            self._poller.unregister(socket)
            socket.close()
        self._sockets.clear()

    def pump(self, finished: Callable[[], bool], seconds: float) -> bool:
        """Carry messages until `finished`, or return False after `seconds`."""
        ends = time.monotonic() + seconds
        while not finished():
            now = time.monotonic()
            if now > ends:
                return False
            for socket, actor in self._sockets.items():
                actor.tick(int(now * 1000))
                while actor.outbox:
                    socket.send_multipart(actor.outbox.popleft(), zmq.NOBLOCK)
            for socket, _ in self._poller.poll(TURN_MS):
                self._receive(socket)
        return True

    def _receive(self, socket: Any) -> None:
        for _ in range(64):
            try:
                message = socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                header = check_message(message)
            except DecodeError as error:
                raise AssertionError("the coordinator sent a malformed message") from error
            self._sockets[socket].receive(header, message[1:])
