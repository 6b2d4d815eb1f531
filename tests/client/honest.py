"""A coordinator and its workers in this process: no sockets, everything else is the real thing.

Each worker has its own key store, draws key sets after the challenges, runs jobs through the same
admission, executor and receipt issuer as `enclave worker`. The coordinator in the middle relays
honestly; a test makes it hostile with `tamper`, which sees every message towards the client.
"""

import queue
import threading
from collections.abc import Callable, Sequence
from os import urandom

from attestation.client.client import Client
from attestation.client.transport import CurveKeys
from attestation.identifiers import JobId, WorkerId
from attestation.policy.policy import Policy
from attestation.wire.control import (
    ClientWelcome,
    Heartbeat,
    HelloChallenge,
    JobListing,
    Refusal,
    RefusalCode,
    SubmitRecord,
    WorkerDescription,
    WorkerEntry,
    WorkerListing,
)
from attestation.wire.frames import Frame, Header, Kind
from enclave_worker.admission import Admission, JobOffer, Terms
from enclave_worker.attester.insecure import InsecureAttester
from enclave_worker.attesting import Attestations, Collected
from enclave_worker.buffers import BufferPool
from enclave_worker.device.backend import select_device
from enclave_worker.engine import ProgramEngine
from enclave_worker.jobs import (
    Bench,
    CreditGranted,
    JobDone,
    JobEnded,
    JobEvent,
    OutputsBegin,
    OutputSealed,
    RunningJob,
    system_clock,
)
from enclave_worker.kernels.registry import installed_registry
from enclave_worker.keystore import Keystore
from enclave_worker.sessions import SessionTable

PEER = b"client-peer-0001"
Message = list[Frame]
Tamper = Callable[[Header, Message], "Message | None"]


class InMemoryWorker:
    """One worker: real keys, real sessions, real kernels on NumPy."""

    def __init__(
        self, post: Callable[["InMemoryWorker", JobEvent | Collected], None], max_job_bytes: int
    ) -> None:
        self.worker_id = WorkerId(urandom(16))
        self.max_job_bytes = max_job_bytes
        self.post = lambda event: post(self, event)
        self.clock = system_clock()
        self.registry = installed_registry()
        self.catalogue = self.registry.catalogue()
        keystore, sessions, pool = Keystore(), SessionTable(), BufferPool(keep_bytes=0)
        engine = ProgramEngine(select_device("cpu"), self.registry, pool=pool)
        self.attestations = Attestations(
            keystore=keystore,
            sessions=sessions,
            attester=InsecureAttester(),
            catalogue=self.catalogue,
            device=engine.device,
            now_ms=self.clock.now_ms,
            post=self.post,
        )
        self.bench = Bench(
            admission=Admission(
                keystore=keystore,
                find_session=sessions.find,
                catalogue=self.catalogue,
                terms=Terms(max_job_bytes=max_job_bytes),
            ),
            engine=engine,
            pool=pool,
            clock=self.clock,
            stall_seconds=5.0,
        )

    @property
    def entry(self) -> WorkerEntry:
        return WorkerEntry(
            worker_id=self.worker_id,
            state="ready",
            running=0,
            description=WorkerDescription(
                backend="numpy",
                device="cpu",
                evidence_kind="insecure",
                catalogue_digest=self.catalogue.digest(),
                capacity=2,
                max_job_bytes=self.max_job_bytes,
            ),
        )


class HonestCoordinator:
    """A `Transport` whose other end is in memory. `dispatch` decides which worker gets a job."""

    channel_binding = b""
    congested = False

    def __init__(
        self, workers: int = 1, *, tamper: Tamper | None = None, max_job_bytes: int = 1 << 30
    ) -> None:
        self.workers = [InMemoryWorker(self._event, max_job_bytes) for _ in range(workers)]
        self.tamper = tamper
        self.submitted: list[tuple[JobId, SubmitRecord]] = []
        self.envelopes: list[bytes] = []
        self.sent: list[Header] = []
        self.dispatch: Callable[[JobId, SubmitRecord], InMemoryWorker | None] = self._first
        self.silent = False
        self._jobs: dict[JobId, tuple[RunningJob, InMemoryWorker, SubmitRecord]] = {}
        self._bodies: dict[JobId, tuple[int, SubmitRecord, list[bytes]]] = {}
        self._liars: set[tuple[JobId, bytes]] = set()
        self._outbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._events: queue.SimpleQueue[tuple[InMemoryWorker, JobEvent | Collected]] = (
            queue.SimpleQueue()
        )
        self._wake = threading.Event()

    # -- Transport ---------------------------------------------------------------------------------

    def send(self, frames: Sequence[Frame]) -> None:
        if self.silent:
            return
        header = Header.from_bytes(frames[0])
        self.sent.append(header)
        body = [bytes(frame) for frame in frames[1:]]
        match header.kind:
            case Kind.CLIENT_HELLO:
                challenge = HelloChallenge(nonce=urandom(32))
                self.to_client(Header(Kind.HELLO_CHALLENGE), challenge.to_bytes())
            case Kind.CLIENT_PROOF:
                welcome = ClientWelcome(peer_id=PEER, max_job_bytes=1 << 40)
                self.to_client(Header(Kind.CLIENT_WELCOME), welcome.to_bytes())
            case Kind.HEARTBEAT:
                self.to_client(Header(Kind.HEARTBEAT), Heartbeat().to_bytes())
            case Kind.LIST_WORKERS:
                self.list_workers()
            case Kind.LIST_JOBS:
                self.to_client(Header(Kind.JOBS), JobListing(jobs=()).to_bytes())
            case Kind.END_TO_END:
                self._end_to_end(header, body)
            case Kind.SUBMIT:
                self._submit(header, body)
            case Kind.RESULT_REJECT:
                self._reject(header)
            case Kind.INPUT:
                self._jobs[header.job_id][0].feed(header.index, body[0])
            case Kind.OUTPUT_CREDIT:
                self._jobs[header.job_id][0].grant(header.count)
            case _:
                pass

    def forget_queued(self) -> None:
        """Nothing is ever queued."""

    def receive(self) -> Message | None:
        self._work()
        try:
            return self._outbox.get_nowait()
        except queue.Empty:
            return None

    def wait(self, seconds: float) -> None:
        self._wake.wait(min(seconds, 0.01))
        self._wake.clear()

    def wake(self) -> None:
        self._wake.set()

    def close(self) -> None:
        for worker in self.workers:
            worker.attestations.close()

    # -- what tests use ----------------------------------------------------------------------------

    def to_client(self, header: Header, *body: Frame) -> None:
        message: Message | None = [header.to_bytes(), *body]
        if self.tamper is not None:
            message = self.tamper(header, message)
        if message is not None:
            self._outbox.put(message)
        self._wake.set()

    def list_workers(self) -> None:
        listing = WorkerListing(workers=tuple(worker.entry for worker in self.workers))
        self.to_client(Header(Kind.WORKERS), listing.to_bytes())

    def refuse(self, job_id: JobId, code: RefusalCode) -> None:
        self.to_client(Header(Kind.REFUSED, job_id), Refusal(code=code).to_bytes())

    # -- inside ------------------------------------------------------------------------------------

    def _first(self, _job_id: JobId, record: SubmitRecord) -> InMemoryWorker | None:
        wrapped = [worker_id for worker_id, _ in record.wraps]
        return next((w for w in self.workers if w.worker_id in wrapped), None)

    def _end_to_end(self, header: Header, body: list[bytes]) -> None:
        for worker in self.workers:
            if worker.worker_id == header.peer:
                now_ms = worker.clock.now_ms()
                for reply in worker.attestations.receive(PEER, body[0], now_ms):
                    self._reply(worker, reply.record.to_bytes())
                return
        refusal = Refusal(code=RefusalCode.NO_SUCH_WORKER)
        self.to_client(Header(Kind.REFUSED, peer=header.peer), refusal.to_bytes())

    def _reply(self, worker: InMemoryWorker, data: bytes) -> None:
        self.to_client(Header(Kind.END_TO_END, peer=worker.worker_id), data)

    def _submit(self, header: Header, body: list[bytes]) -> None:
        record = SubmitRecord.from_bytes(body[0])
        self.submitted.append((header.job_id, record))
        self.envelopes.append(body[1])
        worker = self.dispatch(header.job_id, record)
        self.to_client(Header(Kind.ACCEPTED, header.job_id))
        if worker is not None:
            self._bodies[header.job_id] = (header.count, record, body[1:])
            self._run(header.job_id, worker, attempt=1)

    def _reject(self, header: Header) -> None:
        """Give a durable job, which travelled in one message, to the next worker."""
        _, _, record = self._jobs[header.job_id]
        self._liars.add((header.job_id, header.peer))
        others = [
            worker
            for worker in self.workers
            if worker.worker_id in dict(record.wraps)
            and (header.job_id, worker.worker_id) not in self._liars
        ]
        self._run(header.job_id, others[0], attempt=header.attempt + 1)

    def _run(self, job_id: JobId, worker: InMemoryWorker, *, attempt: int) -> None:
        window, record, (envelope, *segments) = self._bodies[job_id]
        offer = JobOffer(
            job_id=job_id,
            attempt=attempt,
            input_segments=record.input_segments,
            envelope=envelope,
            wrap=dict(record.wraps)[worker.worker_id],
        )
        job = RunningJob(offer, segments, bench=worker.bench, post=worker.post)
        self._jobs[job_id] = (job, worker, record)
        job.grant(window)
        threading.Thread(target=job.run, daemon=True).start()

    def _event(self, worker: InMemoryWorker, event: JobEvent | Collected) -> None:
        self._events.put((worker, event))
        self._wake.set()

    def _work(self) -> None:
        for worker in self.workers:
            worker.attestations.tick(worker.clock.now_ms())
        while not self._events.empty():
            worker, event = self._events.get()
            self._handle(worker, event)

    def _handle(self, worker: InMemoryWorker, event: JobEvent | Collected) -> None:
        match event:
            case Collected():
                for reply in worker.attestations.collected(event):
                    self._reply(worker, reply.record.to_bytes())
            case CreditGranted():
                self.to_client(Header(Kind.INPUT_CREDIT, event.job_id, count=event.count))
            case OutputsBegin():
                header = Header(Kind.OUTPUT_HEADERS, event.job_id, event.attempt)
                self.to_client(header, event.header)
            case OutputSealed():
                header = Header(Kind.OUTPUT, event.job_id, event.attempt, event.index)
                self.to_client(header, event.segment)
                self._jobs[event.job_id][0].left()
            case JobDone():
                (receipt,) = worker.attestations.issuer(event.keyset_id).issue(
                    [event.finished.draft]
                )
                header = Header(
                    Kind.RESULT,
                    event.job_id,
                    event.attempt,
                    0,
                    event.output_segments,
                    worker.worker_id,
                )
                result = event.finished.result.to_bytes()
                self.to_client(header, result, receipt.to_bytes(), *event.segments)
            case JobEnded() if event.refusal is not None:
                self.to_client(Header(Kind.REFUSED, event.job_id), event.refusal.to_bytes())
            case JobEnded():
                pass


class InMemoryClient(Client):
    """A `Client` at a coordinator in this process."""

    def __init__(self, coordinator: HonestCoordinator, policy: Policy, **options: float) -> None:
        self._coordinator = coordinator
        super().__init__("inproc://memory", policy=policy, **options)

    def _transport(self, _url: str, _curve: CurveKeys | None) -> HonestCoordinator:  # type: ignore[override]
        return self._coordinator
