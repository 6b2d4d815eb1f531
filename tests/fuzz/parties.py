"""Whole parties under scripts of moves: what no sequence of bytes from a peer may bring about.

A script (script.py) picks who speaks, which message, about which job, and what is changed in an
honest body; so a fuzzer gets past the first check and still reaches every malformed byte. Whatever
it finds, no party raises, and each keeps its own promise:

    coordinator  its invariants hold after every event, and a result goes to its owner only
    worker       a job is refused with a code or admitted within its terms; nothing stays claimed
    client       a job ends with its true outputs, or with an error
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from attrs import evolve

from attestation.client.engine import Engine
from attestation.client.errors import ClientClosedError
from attestation.encoding.digests import Label, digest
from attestation.identifiers import JobId
from attestation.programs.program import Program, encode_parameters
from attestation.sealing.tensor_header import SealedTensorHeader
from attestation.wire.control import (
    ClientWelcome,
    Heartbeat,
    HelloChallenge,
    JobListing,
    Refusal,
    RefusalCode,
    WorkerEntry,
    WorkerHello,
    WorkerListing,
    WorkerWelcome,
)
from attestation.wire.frames import NO_JOB, NO_PEER, Frame, Header, Kind
from attestation.wire.messages import AttestationReply, Challenge, JobBody, JobEnvelope
from coordinator.broker import _event
from coordinator.core import events
from coordinator.core.instructions import PeerKey
from coordinator.core.rules import Rules
from enclave_worker.admission import JobOffer
from enclave_worker.jobs import Bench
from enclave_worker.membership import Membership
from enclave_worker.refusals import JobRefusedError
from enclave_worker.runtime import Mailbox, Runtime, RuntimeParts
from tests.coordinator.formats import SEALED, submit_record
from tests.coordinator.simulated_broker import SimulatedBroker, SimulatedClient, SimulatedWorker
from tests.fuzz import honest
from tests.fuzz.bodies import REACHED
from tests.fuzz.script import Script
from tests.worker.simulated_client import SimulatedJob

KINDS = list(Kind)
JOB_IDS = [NO_JOB, JobId(b"a" * 16), JobId(b"b" * 16), JobId(b"c" * 16)]
MOVES = 40
"""Moves of one script: enough for a job from its submission to its acknowledgement and beyond."""


# -- the coordinator ------------------------------------------------------------------------------


class _Town:
    """A coordinator with two clients, two workers and a stranger, and who owns which job."""

    def __init__(self) -> None:
        rules = Rules(
            memory_limit=8 * SEALED, window_bytes=2 * SEALED, max_jobs=3, spool_limit=1 << 20
        )
        self.broker = SimulatedBroker(rules)
        self.clients = [SimulatedClient(self.broker, seed=n) for n in (1, 2)]
        self.workers = [SimulatedWorker(self.broker, instance=n, capacity=1) for n in (1, 2)]
        self.people = [*self.clients, *self.workers]
        self.stranger = self.broker.connect()
        self.owners: set[tuple[JobId, bytes]] = set()

    def peers(self) -> list[PeerKey]:
        return [*(person.peer for person in self.people), self.stranger]

    def peer_ids(self) -> list[bytes]:
        ids = [client.peer_id for client in self.clients]
        return [NO_PEER, *ids, *(worker.worker_id for worker in self.workers), b"?" * 16]

    def say(self, peer: PeerKey, head: bytes, frames: list[bytes]) -> None:
        """Deliver a message as the broker would: through its own check of the shape."""
        self.broker.handle(_event(peer, head, frames))
        self.owners |= {(job.job_id, job.owner) for job in self.broker.core.world.jobs.values()}
        self.check_inboxes()

    def check_inboxes(self) -> None:
        """Nobody gets a piece of a result that is not its own."""
        for client in self.clients:
            key = client.key.public_key().public_bytes_raw()
            for header, _ in client.take(Kind.RESULT, Kind.OUTPUT):
                assert (header.job_id, key) in self.owners, "a result for another client's job"
                REACHED["coordinator"] += header.kind is Kind.RESULT
        assert not any(
            header.kind in (Kind.RESULT, Kind.OUTPUT)
            for header, _ in self.broker.inboxes.get(self.stranger, ())
        )


def body_coordinator(data: bytes) -> None:
    """Any messages of any peers, and any accident of the network and the disk, in any order."""
    script, town = Script(data), _Town()
    for _ in range(MOVES):
        if script.done:
            return
        match script.number() % 16:
            case 0:
                town.broker.tick(1 << script.number() % 18)
            case 1:
                script.pick(town.people).vanish()
            case 2:
                _come_back(script, town)
            case 3:
                town.broker.disk_full = not town.broker.disk_full
            case 4:
                town.broker.handle(events.PeerLost(script.pick(town.peers())))
            case 5:
                _submit(script, town)
            case 6:
                town.say(script.pick(town.peers()), script.chunk(), [script.chunk()])
            case _:
                _message(script, town)


def _come_back(script: Script, town: _Town) -> None:
    """On a new connection; the hello exchange is the honest one."""
    town.broker.disk_full = False
    if script.number() % 4 == 0:
        town.broker.restart()
        town.stranger = town.broker.connect()
        for person in town.people:
            person.reconnect()
    else:
        script.pick(town.people).reconnect()


def _submit(script: Script, town: _Town) -> None:
    client, job_id = script.pick(town.clients), script.pick(JOB_IDS)
    segments: tuple[bytes, ...] | int = script.pick([(b"s" * 100,), (), 3, 40])
    workers = [worker.worker_id for worker in town.workers]
    record = submit_record(
        *script.pick([workers, workers[:1], []]),
        segments=segments,
        durable=bool(script.number() % 2),
        output_bytes_max=script.pick([0, 1000, 3 * SEALED, 1 << 50]),
        deadline_ms=script.pick([0, 1, town.broker.now_ms + 1000]),
    )
    inline = [] if isinstance(segments, int) else list(segments)
    header = Header(Kind.SUBMIT, job_id, count=script.number() % 8)
    town.say(
        client.peer, header.to_bytes(), [script.damaged(record.to_bytes()), b"envelope", *inline]
    )


def _message(script: Script, town: _Town) -> None:
    header = Header(
        script.pick(KINDS),
        script.pick(JOB_IDS),
        script.pick([1, 0, 2, (1 << 32) - 1]),
        script.number() % 5,
        script.pick([0, 1, 2, 40, (1 << 32) - 1]),
        script.pick(town.peer_ids()),
    )
    # Lambdas, so that a body that was not picked takes no choices from the script.
    bodies: list[Callable[[], list[bytes]]] = [
        list,
        lambda: [bytes(100)],
        lambda: [bytes(SEALED)],
        lambda: [Heartbeat(running=tuple((job, 1) for job in JOB_IDS)).to_bytes()],
        lambda: [Refusal(code=script.pick(list(RefusalCode))).to_bytes()],
        lambda: [b"header", b"receipt"],
        lambda: [b"header", b"receipt", bytes(100)],
        lambda: [b"header", b"receipt", *[bytes(33)] * (script.number() % 40)],
        lambda: [script.damaged(town.workers[0].worker_hello.to_bytes())],
        lambda: [script.chunk()],
        lambda: [script.chunk(), script.chunk()],
    ]
    town.say(script.pick(town.peers()), header.to_bytes(), script.pick(bodies)())


# -- the worker -----------------------------------------------------------------------------------


def body_worker_session(data: bytes) -> None:
    """What a worker is told end to end by someone it has not met: a reply, never an exception."""
    script, site = Script(data), honest.workshop()
    true = [Challenge(nonce=b"?" * 32).to_bytes(), honest.opening().to_bytes()]
    frame = script.damaged(script.pick([*true, b""]))
    replies = site.attestations.receive(script.pick([b"q" * 16, NO_PEER]), frame, site.now_ms)
    for reply in replies:
        assert not isinstance(reply.record, AttestationReply), "an answer without collection"
    REACHED["worker_session"] += 1


def body_admission(data: bytes) -> None:
    """A job that a client signed and sealed with any contents, or that a coordinator changed."""
    script, site = Script(data), honest.workshop()
    job = honest.job()
    _hostile_client(script, job)
    envelope = job.envelope()
    parsed = JobEnvelope.from_bytes(envelope)
    match script.number() % 4:
        case 0:
            envelope = script.damaged(envelope)
        case 1:
            envelope = evolve(parsed, signature=script.damaged(parsed.signature)).to_bytes()
        case 2:
            envelope = evolve(parsed, body=script.damaged(parsed.body)).to_bytes()
        case _:
            pass
    offer = JobOffer(
        job_id=script.pick([job.job_id, NO_JOB]),
        attempt=script.number(4),
        input_segments=script.pick([2, 0, 1, 3, (1 << 32) - 1]),
        envelope=envelope,
        wrap=script.damaged(job.wrap()),
    )
    try:
        admitted = site.admission.admit(offer, now_ms=site.now_ms)
    except JobRefusedError as error:
        refusal = Refusal.from_bytes(error.refusal().to_bytes())
        REACHED[refusal.code] += 1
    else:
        REACHED["admission"] += 1
        admitted.content_key.wipe()
        admitted.claim.finish()
        assert admitted.plan.peak_bytes <= site.terms.max_job_bytes
    # Whatever became of it, its id is free: the next attempt may come back here.
    site.keystore.claim(honest.client().keyset.keyset_id(), job.job_id, now_ms=site.now_ms).finish()


def _hostile_client(script: Script, job: SimulatedJob) -> None:
    """Let the client put anything into what it signs and seals."""
    move = script.number() % 6
    if move in (1, 2):
        program, parameters = job.body.program, job.body.parameters
        if move == 1:
            program = script.damaged(script.pick([program, _other_program()]))
        else:
            parameters = script.damaged(encode_parameters({"run": {"ddof": 1}}))
        job.body = JobBody(program=program, parameters=parameters, salt=job.body.salt)
        job.change_header(
            parameters_commitment=job.body.commitment(),
            program_digest=digest(Label.PROGRAM, program),
        )
    elif move == 3:
        (sealed,) = job.header.inputs
        inner = SealedTensorHeader.from_bytes(sealed)
        changed = evolve(inner, header=script.damaged(inner.header)).to_bytes()
        job.change_header(inputs=tuple(script.pick([(changed,), (sealed, changed), ()])))
    elif move == 4:
        job.change_header(
            commitment_kind=script.pick(["sha256", "", "TAGS"]),
            segment_bytes=script.pick([1 << 20, 0, 65537]),
            not_after_ms=script.pick([0, honest.workshop().now_ms, (1 << 64) - 1]),
            price_limit=script.number(),
        )
    elif move == 5:
        job.change_header(client_key=script.damaged(job.header.client_key)[:32].ljust(32, b"\0"))


def _other_program() -> bytes:
    catalogue = honest.workshop().catalogue
    return Program.single(catalogue.signature("stats.describe")).to_bytes()


def body_executor(data: bytes) -> None:
    """Any segments in any order: the job runs on what was sealed, or does not run."""
    script, site = Script(data), honest.workshop()
    job = honest.job()
    segments = [bytes(segment) for segment in job.segments()]
    fed: list[bytes] = []
    try:
        with site.execution(job) as execution:
            for _ in range(4):
                if not script.number() % 8:
                    execution.revoke()
                index = script.pick([len(fed), 0, 1, 2, 3, (1 << 32) - 1])
                segment = script.damaged(segments[min(len(fed), len(segments) - 1)])
                if execution.inputs_complete and script.number() % 2 == 0:
                    break
                execution.add_segment(index, segment)
                fed.append(segment)
            execution.run()
            outputs = [bytes(segment) for segment in execution.segments()]
            finished = execution.finish()
    except JobRefusedError:
        pass
    else:
        REACHED["executor"] += 1
        assert fed == segments
        arrays = job.open_outputs(finished.result, outputs, attempt=1)
        np.testing.assert_allclose(arrays["mean"], job.arrays["x"].mean(axis=0))
    idle = [buffer for shelf in site.pool._idle.values() for buffer in shelf]
    for buffer in idle:
        buffer.take(buffer.capacity)
        assert not any(buffer.view()), "a buffer went back to the pool unwiped"
        assert buffer.give_up_view()


class _Line:
    """A transport whose other end is the script."""

    congested = False

    def __init__(self) -> None:
        self.receipts: dict[bytes, JobId] = {}

    def send(self, frames: Sequence[Frame]) -> bool:
        header = Header.from_bytes(frames[0])
        if header.kind is Kind.RESULT:
            self.receipts[bytes(frames[2])] = header.job_id
        return True

    def forget_queued(self) -> None:
        """Nothing is queued."""

    def wake(self) -> None:
        """Nobody sleeps."""


class _Sent:
    """A client's way to a coordinator that takes everything."""

    congested = False

    def send(self, frames: Sequence[Frame]) -> None:
        Header.from_bytes(frames[0])

    def forget_queued(self) -> None:
        """Nothing is queued."""


class _AtOnce:
    """Runs a job where a worker would give it to a thread."""

    def submit(self, run: Callable[[], None]) -> None:
        run()


def body_worker_runtime(data: bytes) -> None:
    """A coordinator that says anything to a worker: no job runs twice, and nothing is raised."""
    script, site, line = Script(data), honest.workshop(), _Line()
    mailbox = Mailbox(line.wake)
    bench = Bench(
        admission=site.admission,
        engine=site.engine,
        pool=site.pool,
        clock=site.clock,
        stall_seconds=0.0,
    )
    hello = WorkerHello(instance=b"i" * 16, description=honest.description())
    parts = RuntimeParts(
        transport=line,
        membership=Membership(hello),
        attestations=site.attestations,
        bench=bench,
        capacity=2,
        clock=site.clock,
    )
    runtime = Runtime(parts, mailbox, ready=lambda _: None)
    runtime._threads = _AtOnce()
    job = honest.job()
    assign = [job.envelope(), job.wrap(), *map(bytes, job.segments())]
    for _ in range(MOVES):
        if script.done:
            break
        runtime._receive(_to_worker(script, job, assign), site.now_ms)
        runtime._handle_events(mailbox.take())
        runtime._send_outputs()
    # A result may be sent again, to a coordinator that forgot us; each run has its own receipt.
    jobs = list(line.receipts.values())
    assert len(jobs) == len(set(jobs)), "a job ran twice under one key set"
    REACHED["worker_runtime"] += len(jobs)


def _to_worker(script: Script, job: SimulatedJob, assign: list[bytes]) -> list[Frame]:
    move = script.number() % 8
    if move == 0:
        return [script.chunk() for _ in range(script.number() % 4)]
    if move in (1, 2):
        frames = [script.damaged(frame) for frame in assign]
        frames = frames[: len(frames) - script.number() % 5]
        header = Header(Kind.ASSIGN, job.job_id, script.number() % 3, 0, script.pick([2, 0, 3]))
        return [header.to_bytes(), *frames]
    header = Header(
        script.pick(KINDS),
        script.pick([job.job_id, NO_JOB, JobId(b"?" * 16)]),
        script.number() % 3,
        script.number() % 4,
        script.pick([0, 1, 40, (1 << 32) - 1]),
        script.pick([NO_PEER, honest.PEER]),
    )
    records: list[Callable[[], bytes]] = [
        WorkerWelcome(worker_id=honest.WORKER_ID, heartbeat_ms=1, lease_ms=1).to_bytes,
        Heartbeat().to_bytes,
        lambda: Refusal(code=script.pick(list(RefusalCode))).to_bytes(),
        honest.opening().to_bytes,
        lambda: assign[2],
        script.chunk,
    ]
    return [header.to_bytes(), script.damaged(script.pick(records)())]


# -- the client -----------------------------------------------------------------------------------

_OPENERS = ThreadPoolExecutor(1, thread_name_prefix="never-started")


def body_client(data: bytes) -> None:
    """A coordinator that says anything: the job's true outputs come out, or an error."""
    script = Script(data)
    request = honest.finished_request(durable=bool(script.number() % 2))
    engine = Engine(
        policy=honest.any_catalogue(),
        key=request.key,
        channel_binding=b"",
        outgoing=_Sent(),
        changed=lambda _: None,
        openers=_OPENERS,
        later=lambda command: command(0.0),
    )
    active, now = request.fresh(), 0.0
    engine.submit(active)
    for _ in range(MOVES):
        if script.done:
            break
        move = script.number()
        if move % 8 == 0:
            now += move / 4
            engine.tick(now)
        else:
            engine.receive(_to_client(script, request, move), now)
        engine.upload()
    job = active.job
    if job.done() and job.exception() is None:
        REACHED["client"] += 1
        outputs = {name: array.tobytes() for name, array in job.result(0).items()}
        assert outputs == request.outputs, "a result that the worker did not make"
    engine.abandon(ClientClosedError("the end of the script"))
    assert job.done()


def _to_client(script: Script, request: honest.FinishedRequest, move: int) -> list[Frame]:
    job_id = request.active.request.job_id
    if move % 8 == 1:
        return [script.chunk() for _ in range(script.number() % 4)]
    if move % 8 in (2, 3):
        frames = [script.damaged(frame) for frame in request.result]
        header = Header(Kind.RESULT, job_id, script.pick([1, 2]), 0, len(frames) - 2)
        return [header.to_bytes(), *frames]
    if move % 8 == 4:
        index = script.number() % 4
        header = Header(Kind.OUTPUT, job_id, 1, index)
        return [header.to_bytes(), request.result[2 + index % 3]]
    header = Header(
        script.pick(KINDS),
        script.pick([NO_JOB, job_id]),
        script.number() % 3,
        script.number() % 4,
        script.pick([0, 1, 3, 40, (1 << 32) - 1]),
        script.pick([NO_PEER, honest.WORKER_ID, b"v" * 16]),
    )
    entry = WorkerEntry(
        worker_id=script.pick([honest.WORKER_ID, b"v" * 16]),
        state="ready",
        running=0,
        description=honest.description(),
    )
    records: list[Callable[[], bytes]] = [
        HelloChallenge(nonce=bytes(32)).to_bytes,
        ClientWelcome(peer_id=b"p" * 16, max_job_bytes=1 << 40).to_bytes,
        WorkerListing(workers=(entry,)).to_bytes,
        JobListing(jobs=()).to_bytes,
        lambda: Refusal(code=script.pick(list(RefusalCode))).to_bytes(),
        honest.session_reply,
        script.chunk,
    ]
    return [
        header.to_bytes(),
        script.damaged(script.pick(records)()),
        *[b""] * (script.number() // 200),
    ]
