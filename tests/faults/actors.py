"""A client and a worker that behave as the real ones do, without sockets and clocks.

How they find and lose their coordinator is the real code (`Link`, `Membership`); what they do with
jobs is written again here, small, after the client's engine and the worker's runtime.
Both keep a book and fail the test when the coordinator breaks a promise: a job that was accepted
must end with one result, a result must be what the worker made of exactly these inputs, and what is
handed to the client's code is handed over once. The sealed bytes are stand-ins, so that a run costs
milliseconds; the coordinator cannot tell.
"""

import hashlib
from collections import Counter, deque
from collections.abc import Iterable
from typing import Final

from attrs import define, field, frozen
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.client.keys import ClientKey
from attestation.client.link import Link, LinkState
from attestation.errors import RemoteProtocolError
from attestation.wire.control import (
    Refusal,
    RefusalCode,
    WorkerDescription,
    WorkerHello,
    WorkerListing,
    WorkerWelcome,
)
from attestation.wire.frames import Frame, Header, Kind
from enclave_worker.membership import Membership, Outgoing
from tests.coordinator.formats import CATALOGUE, SEALED, submit_record

Message = list[bytes]

HASTE: Final = 10
"""How much faster the client's own timers run here, so that a test need not wait for them."""
RETRY_MS: Final = 50
WINDOW: Final = 3
"""Segments that a worker or client takes at once: several rounds of credit per job."""

SPOOLED_SEGMENTS: Final = 5
"""More than 256 KiB, so that these bytes go through the spool."""


def content(job_id: bytes, what: bytes, index: int, length: int = SEALED) -> bytes:
    """Return the stand-in for a sealed segment: any other bytes in its place are noticed."""
    mark = hashlib.sha256(job_id + what + index.to_bytes(4, "big")).digest()
    return mark * (length // 32) + mark[: length % 32]


def proof_of(envelope: bytes, inputs: Iterable[bytes]) -> bytes:
    """Return what only a worker that saw these very inputs can say."""
    digest = hashlib.sha256(envelope)
    for segment in inputs:
        digest.update(segment)
    return digest.digest()


@frozen
class Shape:
    """How a job travels."""

    spooled_in: bool = False
    spooled_out: bool = False
    durable: bool = True

    @property
    def inputs(self) -> int:
        return SPOOLED_SEGMENTS if self.spooled_in else 1

    @property
    def outputs(self) -> int:
        return SPOOLED_SEGMENTS if self.spooled_out else 1


MIXED: Final = (Shape(), Shape(spooled_in=True), Shape(spooled_out=True), Shape(True, True))


@define(eq=False)
class Wanted:
    """One job as its client sees it."""

    number: int
    shape: Shape
    job_id: bytes
    sent: bool = False
    accepted: bool = False
    uploaded: int = 0
    retry_ms: int | None = None
    deadline_ms: int = 0
    outputs: list[bytes] = field(factory=list)
    attempt: int = 0
    delivered: int = 0
    result: tuple[int, bytes] | None = None
    refusals: list[RefusalCode] = field(factory=list)

    @property
    def envelope(self) -> bytes:
        # A real worker reads inside how many segments it has to return; here the last byte says it.
        return b"envelope of " + self.job_id + bytes([self.shape.outputs])

    def inputs(self) -> list[bytes]:
        length = SEALED if self.shape.spooled_in else 100
        return [content(self.job_id, b"in", i, length) for i in range(self.shape.inputs)]


class Actor:
    """A peer whose messages somebody else carries."""

    def __init__(self) -> None:
        self.outbox: deque[Message] = deque()
        self.now_ms = 0

    def say(self, header: Header, *frames: bytes) -> None:
        self.outbox.append([header.to_bytes(), *frames])

    def connected(self) -> None:
        """A new connection, which the peer learns of from what the coordinator says.

        Whatever was under way on the old one is lost, as libzmq loses it.
        """
        self.outbox.clear()

    def tick(self, now_ms: int) -> None:
        self.now_ms = now_ms

    def receive(self, header: Header, frames: list[bytes]) -> None:
        raise NotImplementedError


class HonestClient(Actor):
    """Sends jobs, sends again what may be lost, takes every result once."""

    def __init__(
        self, shapes: Iterable[Shape] = (), *, seed: int = 1, lifetime_ms: int = 0
    ) -> None:
        super().__init__()
        self.lifetime_ms = lifetime_ms
        key = Ed25519PrivateKey.from_private_bytes(seed.to_bytes(32, "big"))
        self.link = Link(ClientKey.of(key), b"")
        self.wanted: list[Wanted] = []
        self.jobs: dict[bytes, Wanted] = {}
        self.workers: tuple[bytes, ...] = ()
        self.given_up = 0
        self.resealed: Counter[bytes] = Counter()
        self._seed = seed
        self._drawn = 0
        for shape in shapes:
            self.want(shape)

    @property
    def done(self) -> bool:
        return all(wanted.delivered or self.ended(wanted) for wanted in self.wanted)

    def ended(self, wanted: Wanted) -> bool:
        """Whether the job is over without a result."""
        return wanted.job_id not in self.jobs and not wanted.delivered

    def want(self, shape: Shape, *, deadline_ms: int = 0) -> Wanted:
        wanted = Wanted(len(self.wanted), shape, self._new_id(), deadline_ms=deadline_ms)
        self.wanted.append(wanted)
        self.jobs[wanted.job_id] = wanted
        self._begin()
        return wanted

    def _new_id(self) -> bytes:
        self._drawn += 1
        return hashlib.sha256(b"job %d %d" % (self._seed, self._drawn)).digest()[:16]

    @property
    def welcome(self) -> bool:
        return self.link.state is LinkState.WELCOME

    def tick(self, now_ms: int) -> None:
        super().tick(now_ms)
        self._say_all(self.link.tick(self._seconds))
        if not self.welcome:
            return
        for wanted in list(self.jobs.values()):
            if wanted.retry_ms is not None and wanted.retry_ms <= now_ms:
                wanted.retry_ms = None
                self.submit(wanted)

    @property
    def _seconds(self) -> float:
        return self.now_ms * HASTE / 1000

    def _say_all(self, messages: list[list[Frame]]) -> None:
        self.outbox.extend([bytes(frame) for frame in message] for message in messages)

    def submit(self, wanted: Wanted) -> None:
        wanted.sent, wanted.uploaded = True, 0
        if self.lifetime_ms and not wanted.deadline_ms:
            wanted.deadline_ms = self.now_ms + self.lifetime_ms
        shape, inputs = wanted.shape, wanted.inputs()
        segments = shape.inputs if shape.spooled_in else tuple(inputs)
        record = submit_record(
            *self.workers,
            segments=segments,
            durable=shape.durable,
            output_bytes_max=shape.outputs * SEALED + 1000,
            deadline_ms=wanted.deadline_ms,
        )
        inline = () if shape.spooled_in else inputs
        header = Header(Kind.SUBMIT, wanted.job_id, count=WINDOW)
        self.say(header, record.to_bytes(), wanted.envelope, *inline)

    def renew(self, wanted: Wanted) -> None:
        """Give the present sealing up and make another: nothing is sealed twice under one key."""
        del self.jobs[wanted.job_id]
        self.given_up += 1
        wanted.job_id = self._new_id()
        wanted.deadline_ms = 0
        wanted.sent = wanted.accepted = False
        wanted.outputs.clear()
        wanted.retry_ms = self.now_ms + RETRY_MS
        self.jobs[wanted.job_id] = wanted

    # -- mail -------------------------------------------------------------------------------------

    def receive(self, header: Header, frames: list[bytes]) -> None:
        self.link.heard(self._seconds)
        try:
            self._receive(header, frames)
        except RemoteProtocolError:
            # A late answer to a hello that we have said again since: dropped, as the SDK does.
            return

    def _receive(self, header: Header, frames: list[bytes]) -> None:
        match header.kind:
            case Kind.HELLO_CHALLENGE:
                self._say_all(self.link.prove(frames[0], self._seconds))
            case Kind.CLIENT_WELCOME:
                self.link.welcomed(frames[0])
                self._resume()
            case Kind.WORKERS:
                listing = WorkerListing.from_bytes(frames[0])
                self.workers = tuple(worker.worker_id for worker in listing.workers)
                self._begin()
            case Kind.REFUSED:
                self._refused(header, Refusal.from_bytes(frames[0]))
            case _ if header.job_id in self.jobs:
                self._about(self.jobs[header.job_id], header, frames)
            case Kind.RESULT | Kind.OUTPUT if header.index == 0:
                # Done here long ago, or given up: acknowledged again, handed to nobody.
                self.say(Header(Kind.RESULT_ACK, header.job_id))

    def _resume(self) -> None:
        for wanted in list(self.jobs.values()):
            wanted.outputs.clear()
            if (wanted.accepted and wanted.shape.durable) or not wanted.sent:
                continue
            if wanted.shape.spooled_in or not wanted.shape.durable:
                self.say(Header(Kind.CANCEL, wanted.job_id))
                self.renew(wanted)
            else:
                self.submit(wanted)
        self._begin()

    def _begin(self) -> None:
        if self.welcome and self.workers:
            for wanted in [each for each in self.jobs.values() if not each.sent]:
                wanted.retry_ms = None
                self.submit(wanted)

    def _about(self, wanted: Wanted, header: Header, frames: list[bytes]) -> None:
        match header.kind:
            case Kind.ACCEPTED:
                wanted.accepted = True
            case Kind.INPUT_CREDIT:
                inputs = wanted.inputs()
                for _ in range(header.count):
                    if wanted.uploaded < len(inputs):
                        index, wanted.uploaded = wanted.uploaded, wanted.uploaded + 1
                        self.say(Header(Kind.INPUT, wanted.job_id, 0, index), inputs[index])
            case Kind.OUTPUT:
                self._output(wanted, header, frames[0])
            case Kind.RESULT:
                self._result(wanted, header, frames)
            case Kind.WRAP_WANTED:
                self.resealed[wanted.job_id] += 1
                wrap = self.resealed[wanted.job_id].to_bytes(4, "big") * 19
                self.say(Header(Kind.WRAP, wanted.job_id, peer=header.peer), wrap)
            case Kind.LOST:
                self.renew(wanted)

    def _output(self, wanted: Wanted, header: Header, segment: bytes) -> None:
        if header.index == 0:
            wanted.outputs.clear()
            wanted.attempt = header.attempt
        if header.attempt != wanted.attempt or header.index != len(wanted.outputs):
            return
        wanted.outputs.append(segment)
        self.say(Header(Kind.OUTPUT_CREDIT, wanted.job_id, count=1))

    def _result(self, wanted: Wanted, header: Header, frames: list[bytes]) -> None:
        segments = frames[2:] or wanted.outputs
        if len(segments) != header.count:
            return
        expected = [
            content(wanted.job_id, b"out%d" % header.attempt, index, len(segment))
            for index, segment in enumerate(segments)
        ]
        assert frames[0] == proof_of(wanted.envelope, wanted.inputs()), "of other inputs"
        assert frames[1] == b"receipt of attempt %d" % header.attempt, "another attempt's receipt"
        assert segments == expected, "outputs that no worker made"
        del self.jobs[wanted.job_id]
        wanted.delivered += 1
        assert wanted.delivered == 1, "handed to the client's code twice"
        wanted.result = (header.attempt, frames[0])
        self.say(Header(Kind.RESULT_ACK, wanted.job_id))

    def _refused(self, header: Header, refusal: Refusal) -> None:
        if refusal.code is RefusalCode.NOT_WELCOME:
            if self.welcome:
                self._say_all(self.link.start(self._seconds))
            return
        wanted = self.jobs.get(header.job_id)
        if wanted is None or wanted.accepted:
            # Heard, now or before: until it is, the coordinator keeps the end of an accepted job.
            self.say(Header(Kind.RESULT_ACK, header.job_id))
        if wanted is None:
            return
        if wanted.accepted and refusal.code is RefusalCode.DUPLICATE_JOB:
            # Our own SUBMIT, delivered twice by the network, after the job had ended.
            return
        wanted.refusals.append(refusal.code)
        if wanted.accepted and wanted.shape.durable:
            # It ends, said clearly; whether it may is for the test to judge.
            del self.jobs[wanted.job_id]
        else:
            self.renew(wanted)


@define(eq=False)
class Held:
    """One assignment in a worker's hands."""

    job_id: bytes
    attempt: int
    envelope: bytes
    wrap: bytes
    segments: int
    inputs: list[bytes] = field(factory=list)
    granted: int = 0
    credit: int = 0
    sent: int = 0
    ready_ms: int | None = None
    since_ms: int = 0

    @property
    def outputs(self) -> int:
        return self.envelope[-1]


class HonestWorker(Actor):
    """Runs what it is assigned, once per wrap, and keeps inline results until recorded."""

    STALL_MS: Final = 3_000

    def __init__(self, *, instance: int = 1, capacity: int = 2, run_ms: int = 0) -> None:
        super().__init__()
        description = WorkerDescription(
            backend="numpy",
            device="cpu",
            evidence_kind="insecure",
            catalogue_digest=CATALOGUE,
            capacity=capacity,
            max_job_bytes=1 << 40,
        )
        hello = WorkerHello(instance=instance.to_bytes(16, "big"), description=description)
        self.membership = Membership(hello)
        self.run_ms = run_ms
        self.held: dict[tuple[bytes, int], Held] = {}
        self.unrecorded: dict[tuple[bytes, int], Message] = {}
        self.spent: set[tuple[bytes, bytes]] = set()
        self.recorded: dict[bytes, int] = {}

    def _say_all(self, messages: list[Outgoing]) -> None:
        self.outbox.extend(message.frames() for message in messages)

    def tick(self, now_ms: int) -> None:
        super().tick(now_ms)
        running = tuple(dict.fromkeys([*self.held, *self.unrecorded]))
        self._say_all(self.membership.tick(now_ms, running))
        for held in list(self.held.values()):
            if now_ms - held.since_ms > self.STALL_MS:
                self._decline(held, RefusalCode.WORKER_LIMIT)
            elif held.ready_ms is not None and held.ready_ms <= now_ms:
                self._pump(held)

    def receive(self, header: Header, frames: list[bytes]) -> None:
        self.membership.heard(self.now_ms)
        held = self.held.get((header.job_id, header.attempt))
        match header.kind:
            case Kind.WORKER_WELCOME:
                again = self.membership.worker_id is not None
                welcome = WorkerWelcome.from_bytes(frames[0])
                self._say_all(self.membership.welcomed(welcome, self.now_ms))
                # What was under way to the coordinator that forgot us may be lost.
                if again:
                    self.outbox.extend(self.unrecorded.values())
            case Kind.ASSIGN:
                self._assigned(header, frames)
            case Kind.INPUT if held is not None:
                self._input(held, header, frames[0])
            case Kind.OUTPUT_CREDIT if held is not None:
                held.credit += header.count
                held.since_ms = self.now_ms
            case Kind.REVOKE:
                self.held.pop((header.job_id, header.attempt), None)
                self.unrecorded.pop((header.job_id, header.attempt), None)
            case Kind.RECORDED:
                self._note_recorded(header)
            case Kind.REFUSED:
                if Refusal.from_bytes(frames[0]).code is RefusalCode.NOT_WELCOME:
                    self.membership.not_welcome(self.now_ms)

    def _note_recorded(self, header: Header) -> None:
        self.unrecorded.pop((header.job_id, header.attempt), None)
        first = self.recorded.setdefault(header.job_id, header.attempt)
        assert first == header.attempt, "two attempts of one job were recorded"

    def _assigned(self, header: Header, frames: list[bytes]) -> None:
        envelope, wrap, *inline = frames
        key = (header.job_id, header.attempt)
        if key in self.held or key in self.unrecorded:
            return
        held = Held(header.job_id, header.attempt, envelope, wrap, header.count)
        held.since_ms = self.now_ms
        busy = any(job_id == header.job_id for job_id, _ in self.held)
        if busy or (header.job_id, wrap) in self.spent:
            self._decline(held, RefusalCode.REPLAYED)
            return
        self.held[key] = held
        if inline:
            held.inputs = inline
            self._run(held)
        else:
            self._grant(held, min(WINDOW, held.segments))

    def _grant(self, held: Held, count: int) -> None:
        held.granted += count
        self.say(Header(Kind.INPUT_CREDIT, held.job_id, held.attempt, count=count))

    def _input(self, held: Held, header: Header, segment: bytes) -> None:
        if header.index != len(held.inputs):
            self._decline(held, RefusalCode.NOT_AUTHENTIC)
            return
        held.inputs.append(segment)
        held.since_ms = self.now_ms
        if len(held.inputs) == held.segments:
            self._run(held)
        elif held.granted < held.segments:
            self._grant(held, 1)

    def _run(self, held: Held) -> None:
        self.spent.add((held.job_id, held.wrap))
        held.ready_ms = self.now_ms + self.run_ms
        if not self.run_ms:
            self._pump(held)

    def _pump(self, held: Held) -> None:
        out = b"out%d" % held.attempt
        segments = []
        if held.outputs > 1:
            while held.sent < held.outputs and held.credit:
                head = Header(Kind.OUTPUT, held.job_id, held.attempt, held.sent)
                self.say(head, content(held.job_id, out, held.sent))
                held.sent += 1
                held.credit -= 1
            if held.sent < held.outputs:
                return
        else:
            segments = [content(held.job_id, out, 0, 40)]
        header = Header(Kind.RESULT, held.job_id, held.attempt, count=held.outputs)
        receipt = b"receipt of attempt %d" % held.attempt
        result = [header.to_bytes(), proof_of(held.envelope, held.inputs), receipt, *segments]
        del self.held[(held.job_id, held.attempt)]
        if segments:
            self.unrecorded[(held.job_id, held.attempt)] = result
        self.outbox.append(result)

    def _decline(self, held: Held, code: RefusalCode) -> None:
        self.held.pop((held.job_id, held.attempt), None)
        head = Header(Kind.JOB_REFUSED, held.job_id, held.attempt)
        self.say(head, Refusal(code=code).to_bytes())
