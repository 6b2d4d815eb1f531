"""A coordinator that lies, and a man in the middle who does. The clients and workers are real.

Every message passes a *lie* on each of four legs:

    client --FROM_CLIENT--> coordinator --TO_WORKER----> worker
    client <--TO_CLIENT---- coordinator <--FROM_WORKER-- worker

A lie takes one message and returns what goes on in its place: the same, others, or nothing.
`inject` adds a message of one's own to any leg. What arrived is kept in `seen`, as the peer sent
it, so that a lie can replay it and a test can ask what happened.

`HostileCoordinator` stands in the coordinator's place, in memory or on a socket. It routes as it
must to make jobs run, and checks nothing: no leases, no owners, no credit, no sizes.
`ManInTheMiddle` stands on the way to a coordinator that is real.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from os import urandom
from typing import Any, Protocol, Self

import zmq
from attrs import define, evolve, field, frozen

from attestation.identifiers import JobId, WorkerId
from attestation.wire.control import (
    ClientWelcome,
    Heartbeat,
    HelloChallenge,
    JobListing,
    SubmitRecord,
    WorkerEntry,
    WorkerHello,
    WorkerListing,
    WorkerWelcome,
)
from attestation.wire.frames import Frame, Header, Kind

HEARTBEAT_MS = 500
LEASE_MS = 10_000
SECONDS = 20.0
_TURN_SECONDS = 0.02


class Leg(Enum):
    """Where on its way a message is."""

    FROM_CLIENT = "from client"
    TO_CLIENT = "to client"
    FROM_WORKER = "from worker"
    TO_WORKER = "to worker"


@frozen
class Message:
    """A routing header and the frames after it."""

    header: Header
    body: tuple[bytes, ...] = field(default=(), repr=False)

    @classmethod
    def from_frames(cls, frames: Sequence[Frame]) -> Self:
        return cls(Header.from_bytes(frames[0]), tuple(bytes(frame) for frame in frames[1:]))

    @property
    def kind(self) -> Kind:
        return self.header.kind

    def frames(self) -> list[bytes]:
        return [self.header.to_bytes(), *self.body]

    def but(self, *body: bytes, **header: Any) -> "Message":
        """Return this message with fields of its header changed, and its body if one is given."""
        return Message(evolve(self.header, **header), body or self.body)


@frozen
class Seen:
    """A message as it arrived, before any lie. `peer` is the connection it came or goes by."""

    leg: Leg
    peer: bytes
    message: Message


Lie = Callable[[Leg, bytes, Message], Sequence[Message]]


def honest(_leg: Leg, _peer: bytes, message: Message) -> Sequence[Message]:
    """No lie."""
    return (message,)


class Medium(Protocol):
    """What connections are made of. Used by the relay's thread, except `wake`."""

    def receive(self, seconds: float) -> Iterator[tuple[bytes, list[bytes], bool]]:
        """Yield peer, frames, and whether they came from a coordinator further up."""

    def transmit(self, peer: bytes, frames: Sequence[bytes]) -> None:
        """Send to a client or a worker."""

    def wake(self) -> None:
        """End a `receive`."""

    def close(self) -> None:
        """Let go of everybody."""


class Relay:
    """Takes messages off a medium, lies, and passes them on. Runs on a thread of its own."""

    def __init__(self, medium: Medium) -> None:
        self.medium = medium
        self.lie: Lie = honest
        self.seen: list[Seen] = []
        self.clients: list[bytes] = []
        """Connections that said hello as a client, in order."""
        self.workers: dict[WorkerId, bytes] = {}
        """Connections by the id that clients know the worker by."""
        self._roles: dict[bytes, Kind] = {}
        self._injected: deque[tuple[Leg, bytes, Message]] = deque()
        self._news = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, daemon=True, name="relay")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing = True
        self.medium.wake()
        self._thread.join(SECONDS)
        self.medium.close()

    def inject(self, leg: Leg, peer: bytes, message: Message) -> None:
        """Put a message on a leg, past the lie. From any thread, also from within a lie."""
        self._injected.append((leg, peer, message))
        self.medium.wake()

    def find(self, leg: Leg, kind: Kind) -> list[Seen]:
        """Return what was seen so far."""
        return [each for each in tuple(self.seen) if (each.leg, each.message.kind) == (leg, kind)]

    def wait_for(self, leg: Leg, kind: Kind, *, count: int = 1) -> list[Seen]:
        """Wait until `count` such messages were seen, and return all of them."""
        found = self.wait_until(lambda: len(self.find(leg, kind)) >= count)
        assert found, f"{kind.name} {leg.value} was not seen {count} times"
        return self.find(leg, kind)

    def wait_until(self, condition: Callable[[], bool], seconds: float = SECONDS) -> bool:
        """Wait until something seen makes `condition` true; false when it takes too long."""
        with self._news:
            return self._news.wait_for(condition, seconds)

    # -- inside -----------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closing:
            for peer, frames, from_above in self.medium.receive(_TURN_SECONDS):
                # What was injected before a message came is on its way before it.
                self._carry_out_injections()
                self._take(peer, Message.from_frames(frames), from_above=from_above)
            self._carry_out_injections()

    def _carry_out_injections(self) -> None:
        while self._injected:
            self._pass_on(*self._injected.popleft())

    def _take(self, peer: bytes, message: Message, *, from_above: bool) -> None:
        if message.kind in (Kind.CLIENT_HELLO, Kind.WORKER_HELLO):
            self._roles[peer] = message.kind
            if message.kind is Kind.CLIENT_HELLO and peer not in self.clients:
                self.clients.append(peer)
        client = self._roles.get(peer) is Kind.CLIENT_HELLO
        if from_above:
            self.lie_about(Leg.TO_CLIENT if client else Leg.TO_WORKER, peer, message)
        else:
            self.lie_about(Leg.FROM_CLIENT if client else Leg.FROM_WORKER, peer, message)

    def lie_about(self, leg: Leg, peer: bytes, message: Message) -> None:
        """Note a message and pass on what the lie makes of it."""
        if message.kind is Kind.WORKER_WELCOME:
            self.workers[WorkerWelcome.from_bytes(message.body[0]).worker_id] = peer
        with self._news:
            self.seen.append(Seen(leg, peer, message))
            self._news.notify_all()
        for each in self.lie(leg, peer, message):
            self._pass_on(leg, peer, each)

    def _pass_on(self, leg: Leg, peer: bytes, message: Message) -> None:
        if leg in (Leg.TO_CLIENT, Leg.TO_WORKER):
            self.medium.transmit(peer, message.frames())
        else:
            self._handle(peer, message)

    def _handle(self, peer: bytes, message: Message) -> None:
        """Do what a client or a worker asked for."""
        raise NotImplementedError


# -- in the coordinator's place -------------------------------------------------------------------


@define
class _Placed:
    """Where a job went."""

    client: bytes
    worker: bytes
    attempt: int


class HostileCoordinator(Relay):
    """The least that a coordinator must do. Everything else is up to the lie."""

    def __init__(self, medium: Medium) -> None:
        super().__init__(medium)
        self._peer_ids: dict[bytes, bytes] = {}
        self._entries: dict[WorkerId, WorkerEntry] = {}
        self._placed: dict[JobId, _Placed] = {}
        self._handlers: dict[Kind, Callable[[bytes, Message], None]] = {
            Kind.CLIENT_HELLO: self._client_hello,
            Kind.CLIENT_PROOF: self._client_proof,
            Kind.WORKER_HELLO: self._worker_hello,
            Kind.HEARTBEAT: self._heartbeat,
            Kind.LIST_WORKERS: lambda peer, _: self._list(peer),
            Kind.LIST_JOBS: lambda peer, _: self._say(
                Leg.TO_CLIENT, peer, Header(Kind.JOBS), JobListing(jobs=()).to_bytes()
            ),
            Kind.END_TO_END: self._end_to_end,
            Kind.SUBMIT: self._submit,
            Kind.INPUT: self._to_worker,
            Kind.OUTPUT_CREDIT: self._to_worker,
            Kind.INPUT_CREDIT: self._to_client,
            Kind.OUTPUT_HEADERS: self._to_client,
            Kind.OUTPUT: self._to_client,
            Kind.RESULT: self._result,
            Kind.JOB_REFUSED: self._refused,
        }

    def _handle(self, peer: bytes, message: Message) -> None:
        handler = self._handlers.get(message.kind)
        if handler is not None:
            handler(peer, message)

    def _say(self, leg: Leg, peer: bytes, header: Header, *body: bytes) -> None:
        self.lie_about(leg, peer, Message(header, body))

    # -- peers ------------------------------------------------------------------------------------

    def _client_hello(self, peer: bytes, _: Message) -> None:
        challenge = HelloChallenge(nonce=urandom(32)).to_bytes()
        self._say(Leg.TO_CLIENT, peer, Header(Kind.HELLO_CHALLENGE), challenge)

    def _client_proof(self, peer: bytes, _: Message) -> None:
        self._peer_ids[peer] = urandom(16)
        welcome = ClientWelcome(peer_id=self._peer_ids[peer], max_job_bytes=1 << 40)
        self._say(Leg.TO_CLIENT, peer, Header(Kind.CLIENT_WELCOME), welcome.to_bytes())
        self._list(peer)

    def _worker_hello(self, peer: bytes, message: Message) -> None:
        hello = WorkerHello.from_bytes(message.body[0])
        worker_id = WorkerId(urandom(16))
        self._entries[worker_id] = WorkerEntry(
            worker_id=worker_id, state="ready", running=0, description=hello.description
        )
        welcome = WorkerWelcome(worker_id=worker_id, heartbeat_ms=HEARTBEAT_MS, lease_ms=LEASE_MS)
        self._say(Leg.TO_WORKER, peer, Header(Kind.WORKER_WELCOME), welcome.to_bytes())
        for client in self._peer_ids:
            self._list(client)

    def _heartbeat(self, peer: bytes, _: Message) -> None:
        leg = Leg.TO_CLIENT if peer in self.clients else Leg.TO_WORKER
        self._say(leg, peer, Header(Kind.HEARTBEAT), Heartbeat().to_bytes())

    def _list(self, peer: bytes) -> None:
        listing = WorkerListing(workers=tuple(self._entries.values()))
        self._say(Leg.TO_CLIENT, peer, Header(Kind.WORKERS), listing.to_bytes())

    def _end_to_end(self, peer: bytes, message: Message) -> None:
        if peer in self._peer_ids:
            worker = self.workers.get(WorkerId(message.header.peer))
            if worker is not None:
                header = Header(Kind.END_TO_END, peer=self._peer_ids[peer])
                self._say(Leg.TO_WORKER, worker, header, *message.body)
            return
        for client, peer_id in self._peer_ids.items():
            if peer_id == message.header.peer:
                header = Header(Kind.END_TO_END, peer=self._name_of(peer))
                self._say(Leg.TO_CLIENT, client, header, *message.body)

    def _name_of(self, worker: bytes) -> WorkerId:
        return next(name for name, peer in self.workers.items() if peer == worker)

    # -- jobs -------------------------------------------------------------------------------------

    def _submit(self, peer: bytes, message: Message) -> None:
        record, job_id = SubmitRecord.from_bytes(message.body[0]), message.header.job_id
        wraps = dict(record.wraps)
        name = next((each for each in self._entries if each in wraps), None)
        self._say(Leg.TO_CLIENT, peer, Header(Kind.ACCEPTED, job_id))
        if name is None:
            return
        worker = self.workers[name]
        self._placed[job_id] = _Placed(client=peer, worker=worker, attempt=1)
        header = Header(Kind.ASSIGN, job_id, 1, 0, record.input_segments, self._peer_ids[peer])
        envelope, *segments = message.body[1:]
        self._say(Leg.TO_WORKER, worker, header, envelope, wraps[name], *segments)
        credit = Header(Kind.OUTPUT_CREDIT, job_id, 1, count=message.header.count)
        self._say(Leg.TO_WORKER, worker, credit)

    def _to_worker(self, _peer: bytes, message: Message) -> None:
        placed = self._placed.get(message.header.job_id)
        if placed is not None:
            onward = message.but(attempt=placed.attempt)
            self.lie_about(Leg.TO_WORKER, placed.worker, onward)

    def _to_client(self, peer: bytes, message: Message) -> None:
        placed = self._placed.get(message.header.job_id)
        if placed is not None:
            onward = message.but(peer=self._name_of(peer))
            self.lie_about(Leg.TO_CLIENT, placed.client, onward)

    def _result(self, peer: bytes, message: Message) -> None:
        self._to_client(peer, message)
        recorded = Header(Kind.RECORDED, message.header.job_id, message.header.attempt)
        self._say(Leg.TO_WORKER, peer, recorded)

    def _refused(self, _peer: bytes, message: Message) -> None:
        placed = self._placed.get(message.header.job_id)
        if placed is not None:
            header = Header(Kind.REFUSED, message.header.job_id)
            self._say(Leg.TO_CLIENT, placed.client, header, *message.body)


# -- on the way to a real one ---------------------------------------------------------------------


class ManInTheMiddle(Relay):
    """Every client and worker connects here, and gets a connection further up of its own."""

    def __init__(self, upstream: str) -> None:
        self._network = Sockets(upstream)
        super().__init__(self._network)

    @property
    def url(self) -> str:
        return self._network.url

    def _handle(self, peer: bytes, message: Message) -> None:
        self._network.send_up(peer, message.frames())


# -- media ----------------------------------------------------------------------------------------


class MemoryPort:
    """A peer's end of a connection in memory: what `Client` and `Runtime` each call a transport."""

    channel_binding = b""

    def __init__(self, peer: bytes, medium: "Memory") -> None:
        self.room = 1 << 32
        """Segments that the other end takes."""
        self._peer = peer
        self._medium = medium
        self._inbox: deque[list[bytes]] = deque()
        self._woken = threading.Event()

    def deliver(self, frames: Sequence[bytes]) -> None:
        self._inbox.append(list(frames))
        self._woken.set()

    @property
    def congested(self) -> bool:
        return self.room <= 0

    def send(self, frames: Sequence[Frame]) -> bool:
        self.room -= Header.from_bytes(frames[0]).kind in (Kind.INPUT, Kind.OUTPUT)
        self._medium.arrive(self._peer, [bytes(frame) for frame in frames])
        return True

    def receive(self) -> list[Frame] | None:
        return list(self._inbox.popleft()) if self._inbox else None

    def wait(self, seconds: float) -> None:
        if not self._inbox:
            self._woken.wait(seconds)
        self._woken.clear()

    def poll(self, timeout_ms: int) -> None:
        self.wait(timeout_ms / 1000)

    def wake(self) -> None:
        self._woken.set()

    def forget_queued(self) -> None:
        """Nothing is ever queued."""

    def close(self, *, linger_ms: int = 0) -> None:
        self._medium.disconnect(self._peer)


class Memory:
    """Connections in this process."""

    def __init__(self) -> None:
        self._ports: dict[bytes, MemoryPort] = {}
        self._arrived: deque[tuple[bytes, list[bytes]]] = deque()
        self._news = threading.Event()

    def connect(self) -> MemoryPort:
        """Return the peer's end of a new connection."""
        peer = urandom(8)
        port = self._ports[peer] = MemoryPort(peer, self)
        return port

    def disconnect(self, peer: bytes) -> None:
        self._ports.pop(peer, None)

    def arrive(self, peer: bytes, frames: list[bytes]) -> None:
        self._arrived.append((peer, frames))
        self._news.set()

    def receive(self, seconds: float) -> Iterator[tuple[bytes, list[bytes], bool]]:
        if not self._arrived:
            self._news.wait(seconds)
        self._news.clear()
        while self._arrived:
            peer, frames = self._arrived.popleft()
            yield peer, frames, False

    def transmit(self, peer: bytes, frames: Sequence[bytes]) -> None:
        port = self._ports.get(peer)
        if port is not None:
            port.deliver(frames)

    def wake(self) -> None:
        self._news.set()

    def close(self) -> None:
        self._ports.clear()


class Sockets:
    """A ROUTER for the peers, and a DEALER for each of them towards a real coordinator."""

    def __init__(self, upstream: str | None = None) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._upstream = upstream
        self._router = self._context.socket(zmq.ROUTER)
        self._router.setsockopt(zmq.LINGER, 0)
        self._router.bind("tcp://127.0.0.1:*")
        self.url = self._router.getsockopt_string(zmq.LAST_ENDPOINT)
        self._above: dict[bytes, zmq.Socket[bytes]] = {}
        self._poller = zmq.Poller()
        self._poller.register(self._router, zmq.POLLIN)

    def receive(self, seconds: float) -> Iterator[tuple[bytes, list[bytes], bool]]:
        # Injections of other threads are noticed at the next turn, which is soon.
        ready = dict(self._poller.poll(int(1000 * seconds)))
        if self._router in ready:
            for peer, *frames in _messages(self._router):
                yield peer, frames, False
        for peer, dealer in list(self._above.items()):
            if dealer in ready:
                for frames in _messages(dealer):
                    yield peer, frames, True

    def send_up(self, peer: bytes, frames: Sequence[bytes]) -> None:
        """Send to the real coordinator, as the peer would."""
        assert self._upstream is not None
        dealer = self._above.get(peer)
        if dealer is None:
            dealer = self._above[peer] = self._context.socket(zmq.DEALER)
            dealer.setsockopt(zmq.LINGER, 0)
            dealer.connect(self._upstream)
            self._poller.register(dealer, zmq.POLLIN)
        dealer.send_multipart(frames)

    def transmit(self, peer: bytes, frames: Sequence[bytes]) -> None:
        self._router.send_multipart([peer, *frames])

    def wake(self) -> None:
        """Nothing to do: turns are short."""

    def close(self) -> None:
        self._context.destroy(linger=0)


def _messages(socket: "zmq.Socket[bytes]") -> Iterator[list[bytes]]:
    deadline = time.monotonic() + _TURN_SECONDS
    while time.monotonic() < deadline:
        try:
            yield socket.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return
