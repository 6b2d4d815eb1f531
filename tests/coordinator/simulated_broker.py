"""A broker without sockets: the true core and the true store, a spool and a network in memory.

After every event the core's invariants are checked, and every instruction is checked against what
a broker could do: nothing is sent to a peer that is not connected, nothing is read that was not
written, nothing leaves before its commit.
"""

from collections import deque
from pathlib import Path
from tempfile import TemporaryDirectory

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.encoding.digests import Label, prefix
from attestation.identifiers import JobId, WorkerId
from attestation.wire.control import (
    ClientHello,
    ClientProof,
    ClientWelcome,
    Heartbeat,
    HelloChallenge,
    Refusal,
    RefusalCode,
    SubmitRecord,
    WorkerDescription,
    WorkerHello,
    WorkerWelcome,
)
from attestation.wire.frames import Header, Kind
from coordinator.body_log import BodyLog
from coordinator.core import events
from coordinator.core import instructions as do
from coordinator.core.core import Core
from coordinator.core.rules import Rules
from coordinator.core.validation import validate_state
from coordinator.store import Store
from tests.coordinator.formats import CATALOGUE

Received = tuple[Header, tuple[bytes, ...]]


class SimulatedBroker:
    """Feeds events one by one and keeps what each peer received."""

    def __init__(self, rules: Rules | None = None) -> None:
        self.rules = rules or Rules()
        self._bodies = TemporaryDirectory()
        self.store = Store(Path(":memory:"), BodyLog(Path(self._bodies.name)), row_bytes=64)
        self.files: dict[do.SpoolFile, list[bytes]] = {}
        self.sealed: set[do.SpoolFile] = set()
        self.inboxes: dict[do.PeerKey, deque[Received]] = {}
        self.now_ms = 1_000_000
        self.disk_full = False
        self.disk_broken_for: set[do.SpoolFile] = set()
        self.store_seen: set[bytes] = set()
        """Every job that was ever committed."""
        self._connections = 0
        self._drawn = 0
        self._start()

    # -- life -------------------------------------------------------------------------------------

    def _start(self) -> None:
        self.core = Core(self.rules, random_bytes=self._draw)
        self.handle(events.Tick(self.now_ms, self.now_ms))
        needed = self.store.files()
        assert needed <= self.sealed, "the store names a file that a power cut would take"
        self.files = {file: data for file, data in self.files.items() if file in needed}
        self.sealed = needed
        self.handle(events.JobsRecovered(tuple(self.store.jobs())))

    def restart(self) -> None:
        """kill -9, then a new start: the store, sealed files and nothing else remain."""
        self.inboxes.clear()
        self._start()

    def _draw(self, count: int) -> bytes:
        self._drawn += 1
        return self._drawn.to_bytes(count, "big")

    def connect(self) -> do.PeerKey:
        """A new connection, with the routing id a ROUTER would assign."""
        self._connections += 1
        peer = (b"", b"\0" + self._connections.to_bytes(4, "big"))
        self.inboxes[peer] = deque()
        return peer

    def disconnect(self, peer: do.PeerKey) -> None:
        """The connection breaks; the core hears of it when it next sends."""
        self.inboxes.pop(peer, None)

    # -- events -----------------------------------------------------------------------------------

    def tick(self, ms: int = 1) -> None:
        """Let time pass."""
        self.now_ms += ms
        self.handle(events.Tick(self.now_ms, self.now_ms))

    def message(self, peer: do.PeerKey, header: Header, *frames: bytes) -> None:
        """Deliver a message of a peer."""
        if header.kind in (Kind.INPUT, Kind.OUTPUT):
            self.handle(events.Segment(peer, header, frames[0]))
        else:
            self.handle(events.Message(peer, header, frames))

    def handle(self, event: events.Event) -> None:
        """Handle one event and everything that follows from it."""
        pending: deque[events.Event] = deque([event])
        while pending:
            instructions = self.core.handle(pending.popleft())
            validate_state(self.core.world)
            pending.extend(self._carry_out(instructions))

    def _carry_out(self, instructions: list[do.Instruction]) -> list[events.Event]:
        poisoned: set[JobId] = set()
        follow_ups: list[events.Event] = []
        for each in instructions:
            if isinstance(each, do.SpoolAppend | do.SpoolSeal) and (
                each.file.job_id not in poisoned
            ):
                if each.file in self.disk_broken_for:
                    poisoned.add(each.file.job_id)
                    follow_ups.append(events.SpoolFailed(each.file))
                else:
                    self._write(each)
        writes = [e for e in instructions if isinstance(e, do.STORED) and e.job_id not in poisoned]
        failed = writes if self.disk_full else self.store.commit(writes) if writes else []
        for write in failed:
            if isinstance(write, do.MUST_BE_STORED):
                poisoned.add(write.job_id)
            follow_ups.append(events.StoreFailed(write))
        self.store_seen |= {
            each.job_id for each in writes if isinstance(each, do.StoreJob) and each not in failed
        }
        unstored = {write.job_id for write in failed}
        for each in instructions:
            if not (isinstance(each, do.SpoolDelete) and each.file.job_id in unstored):
                follow_ups.extend(self._act(each, poisoned))
        return follow_ups

    def _write(self, write: do.SpoolAppend | do.SpoolSeal) -> None:
        if isinstance(write, do.SpoolSeal):
            assert write.file in self.files
            self.sealed.add(write.file)
        else:
            assert write.file not in self.sealed, "a sealed file is not written again"
            self.files.setdefault(write.file, []).append(bytes(write.payload))

    def _act(self, each: do.Instruction, poisoned: set[JobId]) -> list[events.Event]:
        match each:
            case do.SpoolDelete() if each.file.job_id not in poisoned:
                self.files.pop(each.file, None)
                self.sealed.discard(each.file)
            case do.Send() if each.header.job_id not in poisoned:
                return self._send(each.peer, each.header, each.frames)
            case do.SendSpooled() if each.header.job_id not in poisoned:
                data = b"".join(self.files[each.file])
                piece = data[each.offset : each.offset + each.length]
                assert len(piece) == each.length
                return self._send(each.peer, each.header, (piece,))
            case do.SendStoredAssign() if each.header.job_id not in poisoned:
                body = self.store.body(each.header.job_id)
                assert body is not None, "an assignment of a job that is not stored"
                return self._send(each.peer, each.header, (body[0], each.wrap, *body[1:]))
            case do.SendStoredResult() if each.header.job_id not in poisoned:
                result = self.store.result(each.header.job_id)
                assert result is not None, "a result that is not stored"
                announced = each.header.kind is Kind.OUTPUT_HEADERS
                return self._send(each.peer, each.header, result[:1] if announced else result)
            case _:
                pass
        return []

    def _send(self, peer: do.PeerKey, header: Header, frames: tuple) -> list[events.Event]:
        if peer not in self.inboxes:
            assert int.from_bytes(peer[1][1:], "big") <= self._connections, "an unknown peer"
            return [events.PeerLost(peer)]
        self.inboxes[peer].append((header, tuple(bytes(frame) for frame in frames)))
        return []


class SimulatedPeer:
    """What clients and workers share."""

    def __init__(self, broker: SimulatedBroker) -> None:
        self.broker = broker
        self.peer = broker.connect()

    def send(self, header: Header, *frames: bytes) -> None:
        self.broker.message(self.peer, header, *frames)

    def take(self, *kinds: Kind) -> list[Received]:
        """Take out what was received of these kinds (all, without any)."""
        inbox = self.broker.inboxes.get(self.peer, deque())
        everything = list(inbox)
        inbox.clear()
        inbox.extend(each for each in everything if kinds and each[0].kind not in kinds)
        return [each for each in everything if not kinds or each[0].kind in kinds]

    def take_one(self, kind: Kind) -> Received:
        (only,) = self.take(kind)
        return only

    def refusals(self) -> list[RefusalCode]:
        return [Refusal.from_bytes(frames[0]).code for _, frames in self.take(Kind.REFUSED)]

    def vanish(self) -> None:
        """The connection breaks unnoticed."""
        self.broker.disconnect(self.peer)


class SimulatedClient(SimulatedPeer):
    """A client key and a connection."""

    def __init__(self, broker: SimulatedBroker, *, seed: int = 1) -> None:
        super().__init__(broker)
        self.key = Ed25519PrivateKey.from_private_bytes(seed.to_bytes(32, "big"))
        self.hello()

    def hello(self) -> None:
        """Say hello (again), on the present connection."""
        public = self.key.public_key().public_bytes_raw()
        self.send(Header(Kind.CLIENT_HELLO), ClientHello(client_key=public).to_bytes())
        challenge = HelloChallenge.from_bytes(self.take_one(Kind.HELLO_CHALLENGE)[1][0])
        signature = self.key.sign(prefix(Label.CLIENT_HELLO) + challenge.nonce)
        self.send(Header(Kind.CLIENT_PROOF), ClientProof(signature=signature).to_bytes())
        self.peer_id = ClientWelcome.from_bytes(self.take_one(Kind.CLIENT_WELCOME)[1][0]).peer_id

    def reconnect(self) -> None:
        """Come back on a new connection."""
        self.broker.disconnect(self.peer)
        self.peer = self.broker.connect()
        self.hello()

    def heartbeat(self) -> None:
        self.send(Header(Kind.HEARTBEAT), Heartbeat().to_bytes())

    def submit(
        self,
        job_id: bytes,
        record: SubmitRecord,
        *segments: bytes,
        window: int = 4,
        envelope: bytes = b"envelope",
    ) -> None:
        header = Header(Kind.SUBMIT, JobId(job_id), count=window)
        self.send(header, record.to_bytes(), envelope, *segments)

    def input(self, job_id: bytes, index: int, data: bytes) -> None:
        self.send(Header(Kind.INPUT, JobId(job_id), 0, index), data)

    def credit(self, job_id: bytes, count: int) -> None:
        self.send(Header(Kind.OUTPUT_CREDIT, JobId(job_id), count=count))

    def acknowledge(self, job_id: bytes) -> None:
        self.send(Header(Kind.RESULT_ACK, JobId(job_id)))


class SimulatedWorker(SimulatedPeer):
    """A worker instance and a connection."""

    def __init__(
        self,
        broker: SimulatedBroker,
        *,
        instance: int = 1,
        capacity: int = 4,
        price: int = 0,
        catalogue: bytes = CATALOGUE,
        max_job_bytes: int = 1 << 40,
    ) -> None:
        super().__init__(broker)
        self.worker_hello = WorkerHello(
            instance=instance.to_bytes(16, "big"),
            description=WorkerDescription(
                backend="numpy",
                device="cpu",
                evidence_kind="insecure",
                catalogue_digest=catalogue,
                capacity=capacity,
                max_job_bytes=max_job_bytes,
                price=price,
            ),
        )
        self.hello()

    def hello(self) -> None:
        """Say hello (again), on the present connection."""
        self.send(Header(Kind.WORKER_HELLO), self.worker_hello.to_bytes())
        welcome = WorkerWelcome.from_bytes(self.take_one(Kind.WORKER_WELCOME)[1][0])
        self.worker_id: WorkerId = welcome.worker_id

    def reconnect(self) -> None:
        """Come back on a new connection."""
        self.broker.disconnect(self.peer)
        self.peer = self.broker.connect()
        self.hello()

    def heartbeat(self, *running: tuple[bytes, int]) -> None:
        pairs = tuple((JobId(job_id), attempt) for job_id, attempt in running)
        self.send(Header(Kind.HEARTBEAT), Heartbeat(running=pairs).to_bytes())

    def assigned(self) -> tuple[JobId, int]:
        """Take the one ASSIGN that arrived."""
        header, _ = self.take_one(Kind.ASSIGN)
        return header.job_id, header.attempt

    def credit(self, job_id: bytes, attempt: int, count: int) -> None:
        self.send(Header(Kind.INPUT_CREDIT, JobId(job_id), attempt, count=count))

    def output(self, job_id: bytes, attempt: int, index: int, data: bytes) -> None:
        self.send(Header(Kind.OUTPUT, JobId(job_id), attempt, index), data)

    def result(
        self,
        job_id: bytes,
        attempt: int,
        *segments: bytes,
        count: int | None = None,
        header: bytes = b"header",
    ) -> None:
        count = len(segments) if count is None else count
        self.send(
            Header(Kind.RESULT, JobId(job_id), attempt, count=count), header, b"receipt", *segments
        )

    def decline(self, job_id: bytes, attempt: int, code: RefusalCode) -> None:
        body = Refusal(code=code).to_bytes()
        self.send(Header(Kind.JOB_REFUSED, JobId(job_id), attempt), body)
