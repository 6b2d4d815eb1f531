"""What libzmq does not bound: messages without an end, and connections that never say hello.

A multipart message reaches us when its last frame has come. Until then libzmq keeps it, counts
nothing, and tells nobody: one peer that goes on sending `more` takes all memory there is. So the
TCP connections are looked at from outside. The kernel knows how many bytes came in on each; what
came since a connection last delivered a message is unfinished. The connection is then shut down,
which libzmq, that has no call for it, takes for a broken one, and frees what it held.

Nothing here is exact, and need not be: the bounds are far above what an honest peer does.
"""

import os
import socket
import struct
from collections.abc import Container, Iterator
from typing import Final, TypeAlias
from urllib.parse import urlsplit

import structlog
from attrs import define, frozen

from attestation import limits

LOOK_MS: Final = 100
"""Between two looks a sender of endless messages gets as far as the line carries it."""
UNFINISHED_BYTES: Final = limits.FRAME_BYTES + 8 * limits.MIB
"""Of one connection: the largest message we read, and what may wait in the kernel behind it."""
STRANGERS: Final = 1024
"""Connections without a hello; the oldest go first."""

_TCP_INFO_BYTES: Final = 136
_BYTES_RECEIVED: Final = struct.Struct("=Q")
_BYTES_RECEIVED_AT: Final = 128
"""`tcpi_bytes_received` of `struct tcp_info` (Linux 4.1 and later)."""

Remote: TypeAlias = tuple[str, int]
_Place: TypeAlias = tuple[int, Remote]
"""A file descriptor and who is at its other end: a reused descriptor is another place."""

log = structlog.get_logger("coordinator.connections")


@frozen(kw_only=True)
class Observed:
    """One TCP connection of our port, as the kernel describes it."""

    descriptor: int
    remote: Remote
    received: int


@define(kw_only=True, eq=False)
class _Connection:
    place: _Place
    since_ms: int
    received: int = 0
    settled: int = 0
    """Bytes that had come when it last delivered a message."""
    routing_id: bytes = b""

    @property
    def unfinished(self) -> int:
        return self.received - self.settled


class Connections:
    """The connections behind one ROUTER, and which of them to end."""

    def __init__(self, address: str, *, hello_ms: int, memory_limit: int) -> None:
        """Watch the port of `address`; for an ipc address there is nothing to see."""
        self._port = urlsplit(address).port if address.startswith("tcp:") else None
        self._hello_ms = hello_ms
        self._memory_limit = memory_limit
        self._places: dict[bytes, _Place | None] = {}
        self._connections: dict[_Place, _Connection] = {}
        self._looked_ms = 0
        self.spoke: set[bytes] = set()
        """Routing ids that delivered a message since the last look."""

    def __contains__(self, routing_id: bytes) -> bool:
        """Whether there is nothing to learn about a routing id."""
        return self._port is None or routing_id in self._places

    def __len__(self) -> int:
        """Return how many routing ids have spoken."""
        return len(self._places)

    def note(self, routing_id: bytes, descriptor: int) -> None:
        """Remember where the first message of a routing id came from."""
        self._places[routing_id] = None
        try:
            with socket.socket(fileno=os.dup(descriptor)) as connection:
                self._places[routing_id] = (descriptor, _remote(connection))
        except OSError:
            return  # closed already; another connection gets another routing id

    def due(self, now_ms: int) -> bool:
        """Whether it is time for another look."""
        return now_ms - self._looked_ms >= LOOK_MS

    def look(self, now_ms: int, welcome: Container[bytes]) -> None:
        """End the connections that break a bound. Call it when complete messages were all taken.

        `welcome` are the routing ids of peers that said hello.
        """
        self._looked_ms = now_ms
        self.update(now_ms, list(observe(self._port)) if self._port else [])
        for connection, code in self.offenders(now_ms, welcome):
            log.warning("connection.cut", code=code, bytes=connection.unfinished)
            _shut_down(connection.place)

    def update(self, now_ms: int, observed: list[Observed]) -> None:
        """Take in what the kernel says about every connection there is."""
        before, self._connections = self._connections, {}
        for each in observed:
            place = (each.descriptor, each.remote)
            connection = before.get(place) or _Connection(place=place, since_ms=now_ms)
            connection.received = each.received
            self._connections[place] = connection
        for routing_id, where in list(self._places.items()):
            known = self._connections.get(where) if where is not None else None
            if known is not None:
                known.routing_id = routing_id
                if routing_id in self.spoke:
                    known.settled = known.received
            elif routing_id not in self.spoke:
                del self._places[routing_id]
        self.spoke.clear()

    def offenders(
        self, now_ms: int, welcome: Container[bytes]
    ) -> Iterator[tuple[_Connection, str]]:
        """Yield the connections to end, each once, with the code of what it did."""
        by_size = sorted(self._connections.values(), key=lambda each: each.unfinished)
        total = sum(each.unfinished for each in by_size)
        while by_size and (total > self._memory_limit or by_size[-1].unfinished > UNFINISHED_BYTES):
            largest = by_size.pop()
            total -= largest.unfinished
            yield largest, "message-without-end"
        strangers = 0
        newest_first = sorted(by_size, key=lambda each: each.since_ms, reverse=True)
        for each in newest_first:
            if each.routing_id in welcome:
                continue
            strangers += 1
            if now_ms - each.since_ms > self._hello_ms or strangers > STRANGERS:
                yield each, "no-hello"

    def cut(self, routing_id: bytes, code: str) -> None:
        """End the connection of a peer, if it is still the one that we know."""
        place = self._places.get(routing_id)
        if place is not None:
            log.warning("connection.cut", code=code)
            _shut_down(place)


def observe(port: int) -> Iterator[Observed]:
    """Yield this process's accepted connections on `port`."""
    try:
        descriptors = [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:
        return  # no descriptor left to look with: the next look may have one
    for descriptor in descriptors:
        try:
            # Naming the family avoids questions to the kernel; any connected socket will do.
            connection = socket.socket(
                socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, fileno=descriptor
            )
        except OSError:
            continue
        try:
            local = connection.getsockname()
            if isinstance(local, tuple) and local[1] == port:
                yield Observed(
                    descriptor=descriptor,
                    remote=_remote(connection),
                    received=_received(connection),
                )
        except OSError:
            continue  # the listener, or a connection that just ended
        finally:
            connection.detach()  # it is libzmq's


def _remote(connection: socket.socket) -> Remote:
    name = connection.getpeername()
    if not isinstance(name, tuple):
        raise OSError("not a TCP connection")
    return (name[0], name[1])


def _received(connection: socket.socket) -> int:
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
    if len(info) < _TCP_INFO_BYTES:
        return 0
    return int(_BYTES_RECEIVED.unpack_from(info, _BYTES_RECEIVED_AT)[0])


def _shut_down(place: _Place) -> None:
    descriptor, remote = place
    try:
        # A copy cannot become another connection between the question and the act.
        with socket.socket(fileno=os.dup(descriptor)) as connection:
            if _remote(connection) == remote:
                connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # it ended by itself
