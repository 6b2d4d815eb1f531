"""The broker's sockets, with the settings that were measured to matter on an open port."""

import ctypes
import os
import secrets
from collections.abc import Callable, Container
from typing import Any, Final

import zmq

from attestation import limits
from attestation.wire.frames import HEADER_BYTES, Header, Kind
from coordinator.connections import Connections
from coordinator.core import events
from coordinator.core import instructions as do
from coordinator.core.rules import Rules
from coordinator.errors import SettingsError
from coordinator.keys import CurveKeys
from coordinator.metrics import Traffic
from coordinator.send_queues import Forwards, SendQueues
from coordinator.zap import DOMAIN

RECEIVE_MESSAGES: Final = 128
SEND_MESSAGES: Final = 1024
ZERO_COPY_BYTES: Final = 64 * limits.KIB
"""Below, copying is cheaper than libzmq's bookkeeping of a shared buffer."""
"""libzmq counts messages, not bytes: credit bounds the bytes, these bound what ignores credit."""

NOW: Final = int(zmq.NOBLOCK)
NOW_AND_MORE: Final = int(zmq.NOBLOCK | zmq.SNDMORE)
"""As plain numbers: combining pyzmq's flags costs a microsecond each time."""

OPTIONS: Final = {
    # Bytes a stranger can announce, and seconds it may hold a file descriptor without a handshake:
    # with the default of 30 s, 700 idle connections starve everybody else.
    zmq.MAXMSGSIZE: limits.FRAME_BYTES,
    zmq.HANDSHAKE_IVL: 2_000,
    zmq.HEARTBEAT_IVL: 5_000,
    zmq.HEARTBEAT_TIMEOUT: 15_000,
    zmq.HEARTBEAT_TTL: 20_000,
    zmq.RCVHWM: RECEIVE_MESSAGES,
    zmq.SNDHWM: SEND_MESSAGES,
    # A message to nobody is an error we hear of, and no newcomer takes over a routing id.
    zmq.ROUTER_MANDATORY: 1,
    zmq.ROUTER_HANDOVER: 0,
    zmq.BACKLOG: 512,
    zmq.LINGER: 0,
}


def open_router(
    context: "zmq.Context[zmq.Socket[bytes]]", address: str, keys: CurveKeys | None
) -> "zmq.Socket[bytes]":
    """Return the bound ROUTER, or raise `SettingsError` when the address cannot be had."""
    _make_routing_ids_unpredictable()
    router = context.socket(zmq.ROUTER)
    # pyzmq would copy a small frame all the same, and call a copied frame gone at once.
    router.copy_threshold = 0
    for option, value in OPTIONS.items():
        router.setsockopt(option, value)
    if "[" in address:
        router.setsockopt(zmq.IPV6, 1)
    if keys is not None:
        router.setsockopt(zmq.ZAP_DOMAIN, DOMAIN)
        router.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        router.setsockopt(zmq.CURVE_SERVER, 1)
        router.setsockopt(zmq.CURVE_PUBLICKEY, keys.public)
        router.setsockopt(zmq.CURVE_SECRETKEY, keys.secret)
    try:
        router.bind(address)
    except zmq.ZMQError as error:
        router.close(linger=0)
        raise SettingsError(f"cannot listen on {address}: {error.strerror}") from error
    return router


def _make_routing_ids_unpredictable() -> None:
    """Seed the C library's `rand`, where a ROUTER takes the first of its routing ids from.

    Unseeded it is 0x6b8b4567 in every process, and the others follow one by one. A peer that
    announces the id which the ROUTER will assign next makes libzmq 4.3.5 abort when it does
    (`Assertion failed: ok`, socket_base.cpp).
    """
    ctypes.CDLL(None).srand(secrets.randbits(32))


class Outbox:
    """Sends through the ROUTER, and bounds in bytes what waits there for slow readers.

    What could not be sent is reported as an event for the core.
    """

    def __init__(
        self,
        router: "zmq.Socket[bytes]",
        connections: Connections,
        rules: Rules,
        report: Callable[[events.Event], None],
        traffic: Traffic,
    ) -> None:
        self._router = router
        self._traffic = traffic
        self._connections = connections
        self._report = report
        self._forwards = Forwards(rules.memory_limit)
        self._pace_bytes = min(rules.window_bytes, rules.memory_limit // 8)
        self._queues = SendQueues(milestone=self._pace_bytes // 2)
        self._memory_limit = rules.memory_limit

    def send(self, message: do.Send) -> None:
        """Send what is in memory."""
        if message.header.kind is Kind.END_TO_END:
            self._forward(message)
        else:
            self.transmit(message.peer, message.header, message.frames)

    def _forward(self, message: do.Send) -> None:
        """Pass on what one peer says to another. Without room its sender hears of it.

        A queue that strangers can fill must not be a reason to let go of the peer behind it.
        """
        (_, receiver), sender, body = message.peer, message.header.peer, message.frames[0]
        if not self._forwards.room(receiver, sender, len(body)):
            self._report(events.Unforwarded(message))
            return
        try:
            self._router.send(receiver, NOW_AND_MORE)
        except zmq.Again:
            self._report(events.Unforwarded(message))
        except zmq.ZMQError:
            self._report(events.PeerLost(message.peer))
        else:
            self._router.send(message.header.to_bytes(), NOW_AND_MORE)
            frame = self._router.send(buffer_of(body), NOW, copy=False, track=True)
            self._forwards.add(receiver, sender, len(body), frame)
            self._count(len(body))

    def transmit(self, peer: do.PeerKey, header: Header, frames: tuple[do.Payload, ...]) -> None:
        """Send a message, or report its receiver as lost when nobody or too much is there."""
        send, more = self._router.send, NOW_AND_MORE
        try:
            send(peer[1], more)
        except zmq.Again:
            self._lose(peer, "queue-full")
            return
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            self._report(events.PeerLost(peer))
            return
        # The first frame found the peer and room; libzmq takes the others without asking again.
        send(header.to_bytes(), more if frames else NOW)
        if not frames:
            self._count(0)
            return
        frame: Any
        *others, last = frames
        size = len(last)
        for frame in others:
            size += len(frame)
            send(frame, more, copy=isinstance(frame, bytes) and len(frame) < ZERO_COPY_BYTES)
        self._send_last(peer, last, size)

    def full(self, peer: do.PeerKey) -> bool:
        """Whether as many bytes wait for a peer as keep its line busy."""
        return self._queues.size(peer) >= self._pace_bytes

    def send_segment(self, peer: do.PeerKey, header: Header, data: bytes) -> bool:
        """Send one segment; return whether the queue had room for it."""
        try:
            self._router.send(peer[1], NOW_AND_MORE)
        except zmq.Again:
            return False
        except zmq.ZMQError:
            self._report(events.PeerLost(peer))
            return True
        self._router.send(header.to_bytes(), NOW_AND_MORE)
        self._send_last(peer, data, len(data))
        return True

    def _send_last(self, peer: do.PeerKey, frame: Any, size: int) -> None:
        """Send the last frame of a message of `size` bytes, and keep the books."""
        self._count(size)
        if not self._queues.add(peer, size):
            copy = isinstance(frame, bytes) and len(frame) < ZERO_COPY_BYTES
            self._router.send(frame, NOW, copy=copy)
            return
        watched = self._router.send(buffer_of(frame), NOW, copy=False, track=True)
        self._queues.watch(peer, watched)
        while self._queues.total(above=self._memory_limit) > self._memory_limit:
            # More than all credit together: somebody does not take what it gave credit for.
            self._lose(self._queues.largest(), "reads-too-slowly")

    def _count(self, size: int) -> None:
        self._traffic.messages_out += 1
        self._traffic.bytes_out += HEADER_BYTES + size

    def _lose(self, peer: do.PeerKey, code: str) -> None:
        """End a connection, so that libzmq frees its queue, and tell the core."""
        self._queues.forget(peer)
        self._connections.cut(peer[1], code)
        self._report(events.PeerLost(peer))

    def prune(self, welcome: Container[do.PeerKey]) -> None:
        """Forget queues of peers that are gone."""
        self._queues.prune(welcome)
        self._forwards.prune()


def buffer_of(payload: Any) -> bytes | memoryview:
    """Return the bytes of a payload, which may be a frame as it was received."""
    return payload.buffer if isinstance(payload, zmq.Frame) else payload


class Wakeup:
    """A pipe that ends a poll from a signal handler or another thread."""

    def __init__(self) -> None:
        self.descriptor, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def ring(self) -> None:
        """End the current or the next poll."""
        try:
            os.write(self._write, b"!")
        except (BlockingIOError, OSError):
            return

    def clear(self) -> None:
        """Take the rings that were heard."""
        try:
            os.read(self.descriptor, 64)
        except BlockingIOError:
            return

    def close(self) -> None:
        """Close both ends."""
        os.close(self.descriptor)
        os.close(self._write)
