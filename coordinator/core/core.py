"""The coordinator's decisions: an event goes in, a list of instructions comes out.

`Core` only routes. A message goes to the table of its sender's role; what is in no table is
refused, and any `DecodeError` below becomes REFUSED(MALFORMED), so that no byte string from a peer
can raise out of `handle`.

    admission   SUBMIT and uploads            dispatch   leases, their loss, refusals, wraps
    transfer    segments and credit           results    the fence, recording
    delivery    results to clients            welcome    hellos, heartbeats, silence
    recovery    after a restart               listing    workers and jobs, for people
"""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final

from attestation.errors import DecodeError
from attestation.limits import CATALOGUE_BYTES, EVIDENCE_BYTES, KIB
from attestation.wire.control import WRAP_BYTES, RefusalCode
from attestation.wire.frames import Header, Kind
from coordinator.core import events
from coordinator.core.admission import Admission
from coordinator.core.alarms import Alarms
from coordinator.core.delivery import Delivering
from coordinator.core.dispatch import Dispatch
from coordinator.core.instructions import (
    DeleteJob,
    Instruction,
    PeerKey,
    SpoolDelete,
    SpoolFile,
    StoreJob,
    StoreLease,
    StoreResult,
)
from coordinator.core.job import Job, State
from coordinator.core.listing import Listing
from coordinator.core.peers import Client, Newcomer, Peer, Worker
from coordinator.core.recovery import Recovery
from coordinator.core.results import Results
from coordinator.core.rules import Rules
from coordinator.core.timers import Alarm
from coordinator.core.transfer import Transfer
from coordinator.core.welcome import Welcome, single
from coordinator.core.world import NEVER, World

END_TO_END_BYTES: Final = EVIDENCE_BYTES + CATALOGUE_BYTES + 64 * KIB
TURN_MS: Final = 2
"""Pause before a transfer that could not send everything gets another turn."""
LOOK_AROUND_MS: Final = 250
"""How often silence and pending pushes are looked at."""


class Core:
    """All state of a coordinator. Not thread-safe; call `handle` for one event after the other."""

    def __init__(
        self, rules: Rules, *, curve_key: bytes = b"", random_bytes: Callable[[int], bytes]
    ) -> None:
        """Start empty. `curve_key` is our public CURVE key, `random_bytes` a source of nonces."""
        world = self.world = World(rules, curve_key=curve_key, random_bytes=random_bytes)
        dispatch = self._dispatch = Dispatch(world)
        delivering = self._delivering = Delivering(world)
        self._listing = Listing(world)
        self._admission = Admission(world, dispatch, delivering)
        self._results = Results(world, dispatch, delivering)
        self._transfer = Transfer(world, self._admission, dispatch, delivering)
        self._welcome = Welcome(world, dispatch, delivering, self._listing)
        self._recovery = Recovery(world, dispatch)
        self._alarms = Alarms(world, dispatch, delivering)
        self._looked_ms = 0
        self._handlers: Mapping[type, Callable[[Any], None]] = {
            events.Tick: self._tick,
            events.Message: self._message,
            events.Segment: self._segment,
            events.Malformed: self._malformed,
            events.PeerLost: lambda event: self._welcome.lost(event.peer, reason="unreachable"),
            events.Congested: self._transfer.congested,
            events.Unforwarded: self._unforwarded,
            events.StoreFailed: self._store_failed,
            events.SpoolFailed: self._spool_failed,
            events.DrainRequested: self._drain,
            events.JobsRecovered: lambda event: self._recovery.recover(event.jobs),
        }
        self._of_client: Mapping[Kind, Callable[[Client, events.Message], None]] = {
            Kind.SUBMIT: self._admission.submit,
            Kind.OUTPUT_CREDIT: self._transfer.client_credit,
            Kind.RESULT_ACK: self._acknowledge,
            Kind.RESULT_REJECT: self._reject,
            Kind.HEARTBEAT: self._welcome.client_heartbeat,
            Kind.END_TO_END: self._to_worker,
            Kind.WRAP: self._wrap,
            Kind.CANCEL: self._cancel,
            Kind.LIST_WORKERS: lambda client, _: self._listing.ask(client, Kind.WORKERS),
            Kind.LIST_JOBS: lambda client, _: self._listing.ask(client, Kind.JOBS),
            Kind.REFUSED: lambda _client, _message: None,
        }
        self._of_worker: Mapping[Kind, Callable[[Worker, events.Message], None]] = {
            Kind.RESULT: self._results.take,
            Kind.OUTPUT_HEADERS: self._transfer.output_headers,
            Kind.INPUT_CREDIT: self._transfer.worker_credit,
            Kind.HEARTBEAT: self._welcome.worker_heartbeat,
            Kind.JOB_REFUSED: self._dispatch.decline,
            Kind.END_TO_END: self._to_client,
            Kind.DRAINING: self._welcome.worker_draining,
            Kind.REFUSED: lambda _worker, _message: None,
        }
        self._of_anyone: Mapping[Kind, Callable[[events.Message], None]] = {
            Kind.CLIENT_HELLO: self._welcome.client_hello,
            Kind.CLIENT_PROOF: self._welcome.client_proof,
            Kind.WORKER_HELLO: self._welcome.worker_hello,
        }

    @property
    def counters(self) -> Counter[str]:
        """Totals since the start, by name."""
        return self.world.counters

    @property
    def idle(self) -> bool:
        """Whether nothing is under way that a drain should wait for."""
        return not any(
            job.attempt is not None or job.state is State.STREAM_DELIVERED
            for job in self.world.jobs.values()
        )

    def handle(self, event: events.Event) -> list[Instruction]:
        """Take one event; raises only for our own defects, never for what a peer sent."""
        out: list[Instruction] = []
        self.world.out = out
        self._handlers[type(event)](event)
        return out

    def wait_ms(self) -> int:
        """Return how long the broker may sleep when nothing arrives."""
        if self.world.pumping:
            return TURN_MS
        due = self.world.timers.next_ms()
        if due is None:
            return LOOK_AROUND_MS
        return max(0, min(LOOK_AROUND_MS, due - self.world.now_ms))

    # -- time -------------------------------------------------------------------------------------

    def _tick(self, event: events.Tick) -> None:
        world = self.world
        world.now_ms, world.unix_ms = event.now_ms, event.unix_ms
        if world.pumping:
            self._transfer.turn()
        if event.now_ms - self._looked_ms >= LOOK_AROUND_MS:
            self._looked_ms = event.now_ms
            self._welcome.check_silence()
            self._delete_again()
            if world.waiting.unsearched or world.passed_over:
                world.passed_over = False
                self._dispatch.schedule()
            world.timers.prune(world.jobs)
        for alarm, job_id in world.timers.due(event.now_ms):
            job = world.jobs.get(job_id)
            if job is not None:
                self._alarms.ring(alarm, job)
        self._listing.answer_later()
        if world.workers_changed:
            self._listing.push_workers()
        for client in list(world.clients.values()):
            if client.wants_wraps:
                self._dispatch.ask_for_wraps(client)

    def _delete_again(self) -> None:
        world = self.world
        gone = world.undeleted.difference(world.jobs)
        # An id that was taken again keeps its files until that job has ended as well.
        world.undeleted.intersection_update(world.jobs)
        for job_id in gone:
            recorded = world.finished.get(job_id, NEVER).recorded
            world.out.append(DeleteJob(job_id=job_id))
            # Attempt 0 is the inputs; with a result there may be outputs as well.
            world.out.extend(SpoolDelete(SpoolFile(job_id, n)) for n in {0, recorded})

    def _drain(self, _: events.DrainRequested) -> None:
        self.world.draining = True
        self.world.note("coordinator.draining", jobs=len(self.world.jobs))

    # -- messages ---------------------------------------------------------------------------------

    def _message(self, event: events.Message) -> None:
        kind, sender = event.header.kind, self.world.peers.get(event.peer)
        try:
            if isinstance(sender, Client) and kind in self._of_client:
                sender.seen_ms = self.world.now_ms
                self._of_client[kind](sender, event)
            elif isinstance(sender, Worker) and kind in self._of_worker:
                self._heard(sender)
                self._of_worker[kind](sender, event)
            elif kind in self._of_anyone:
                self._of_anyone[kind](event)
            else:
                self._out_of_place(sender, event.peer, event.header)
        except DecodeError as error:
            self._refuse_malformed(event.peer, event.header, str(error))

    def _heard(self, worker: Worker) -> None:
        worker.seen_ms = self.world.now_ms
        if worker.suspect:
            worker.suspect = False
            self._dispatch.schedule()

    def _segment(self, event: events.Segment) -> None:
        sender, kind = self.world.peers.get(event.peer), event.header.kind
        if isinstance(sender, Client) and kind is Kind.INPUT:
            sender.seen_ms = self.world.now_ms
            self._transfer.input(sender, event)
        elif isinstance(sender, Worker) and kind is Kind.OUTPUT:
            self._heard(sender)
            self._transfer.output(sender, event)
        else:
            self._out_of_place(sender, event.peer, event.header)

    def _out_of_place(self, sender: Peer | None, peer: PeerKey, header: Header) -> None:
        """Answer a kind that its sender may not send, or not yet."""
        if sender is None or isinstance(sender, Newcomer):
            # A client that says hello again has credit and acknowledgements of its old welcome
            # under way: a refusal that names a job would end that job at the client.
            self.world.refuse(peer, RefusalCode.NOT_WELCOME, "say hello first")
        else:
            self._refuse_malformed(peer, header, f"{header.kind.name} from a wrong peer")

    def _malformed(self, event: events.Malformed) -> None:
        self.world.refuse(event.peer, RefusalCode.MALFORMED, event.detail)

    def _refuse_malformed(self, peer: tuple[bytes, bytes], header: Header, detail: str) -> None:
        self.world.refuse(peer, RefusalCode.MALFORMED, detail, job_id=header.job_id)

    def _to_worker(self, client: Client, message: events.Message) -> None:
        worker = self.world.workers.get(message.header.peer)  # type: ignore[call-overload]
        self._forward(message, worker, client.peer_id)

    def _to_client(self, worker: Worker, message: events.Message) -> None:
        client = self.world.clients.get(message.header.peer)
        self._forward(message, client, worker.worker_id)

    def _forward(self, message: events.Message, to: Client | Worker | None, sender: bytes) -> None:
        world, body = self.world, single(message)
        if len(body) > END_TO_END_BYTES:
            raise DecodeError("an end-to-end message is too large")
        if to is None:
            code = RefusalCode.NO_SUCH_WORKER
            world.refuse(message.peer, code, about=message.header.peer)
        else:
            world.send(to.peer, Header(Kind.END_TO_END, peer=sender), body)

    def _unforwarded(self, event: events.Unforwarded) -> None:
        """Tell a sender that its message did not fit; nobody else is the worse for it."""
        world, message = self.world, event.instruction
        sender: Client | Worker | None = world.clients.get(message.header.peer)
        if sender is None:
            sender = world.workers.get(message.header.peer)  # type: ignore[call-overload]
        match world.peers.get(message.peer):
            case Worker(worker_id=about) | Client(peer_id=about) if sender is not None:
                world.refuse(sender.peer, RefusalCode.QUEUE_FULL, about=about)

    def _own_job(self, client: Client, message: events.Message) -> Job | None:
        job = self.world.jobs.get(message.header.job_id)
        return job if job is not None and job.owner == client.client_key else None

    def _wrap(self, client: Client, message: events.Message) -> None:
        wrap, header = single(message), message.header
        if not 0 < len(wrap) <= WRAP_BYTES:
            raise DecodeError("a wrapped key of another size")
        job, worker = self._own_job(client, message), self._worker_id(header)
        if job is None:
            self.world.refuse(message.peer, RefusalCode.NO_SUCH_JOB, job_id=header.job_id)
        elif worker is None:
            code = RefusalCode.NO_SUCH_WORKER
            self.world.refuse(message.peer, code, about=header.peer)
        else:
            self._dispatch.add_wrap(job, worker, wrap)

    def _worker_id(self, header: Header) -> Any:
        return header.peer if header.peer in self.world.workers else None

    def _cancel(self, client: Client, message: events.Message) -> None:
        job = self._own_job(client, message)
        if job is None:
            job_id = message.header.job_id
            self.world.refuse(message.peer, RefusalCode.NO_SUCH_JOB, job_id=job_id)
            return
        if job.state in (State.DONE, State.REFUSED, State.STREAM_DELIVERED):
            self._delivering.acknowledge(job)
            self.world.refuse(message.peer, RefusalCode.CANCELLED, job_id=job.job_id)
            return
        job.peer = client.peer
        self._dispatch.refuse_job(job, RefusalCode.CANCELLED)

    def _reject(self, client: Client, message: events.Message) -> None:
        job = self._own_job(client, message)
        if job is not None:
            self._results.reject(job, message.header.attempt)

    def _acknowledge(self, client: Client, message: events.Message) -> None:
        job = self._own_job(client, message)
        if job is not None and job.state in (State.DONE, State.REFUSED, State.STREAM_DELIVERED):
            self._delivering.acknowledge(job)
            self._dispatch.schedule()

    # -- the disk ---------------------------------------------------------------------------------

    def _store_failed(self, event: events.StoreFailed) -> None:
        world, instruction = self.world, event.instruction
        job = world.jobs.get(instruction.job_id)
        world.counters["store.failed"] += 1
        world.note("store.failed", level="error", job_id=instruction.job_id)
        if isinstance(instruction, DeleteJob):
            # It ended for us and not on the disk: forget it there when the disk works again.
            world.undeleted.add(instruction.job_id)
        if job is None:
            return
        match instruction:
            case StoreJob():
                code, detail = RefusalCode.SPOOL_FULL, "the disk is full"
                self._dispatch.refuse_job(job, code, detail, accepted=False)
            case StoreLease():
                # Of the attempt before: its deletion stood behind this and was not done either.
                if instruction.attempt > 1:
                    world.out.append(SpoolDelete(job.output_file(instruction.attempt - 1)))
                if job.attempt is not None:
                    self._dispatch.park(job)
            case StoreResult():
                self._results.recording_failed(job)
            case _:
                pass

    def _spool_failed(self, event: events.SpoolFailed) -> None:
        world, job = self.world, self.world.jobs.get(event.file.job_id)
        world.counters["spool.failed"] += 1
        world.note("spool.failed", level="error", job_id=event.file.job_id)
        if job is None:
            return
        if event.reading:
            self._unreadable(job)
        elif event.file.attempt == 0:
            code, detail = RefusalCode.SPOOL_FULL, "the disk refused its inputs"
            self._dispatch.refuse_job(job, code, detail, accepted=False)
        elif job.attempt is not None and job.attempt.number == event.file.attempt:
            self._dispatch.park(job)
        elif job.result is not None and job.result.attempt == event.file.attempt:
            self._results.recording_failed(job)

    def _unreadable(self, job: Job) -> None:
        """What the disk took it does not give back: it may, a moment later."""
        world = self.world
        if job.delivery is not None:
            self._delivering.stop(job)
            world.timers.set(world.now_ms + world.rules.stall_ms, Alarm.PARKED, job.job_id)
        elif job.attempt is not None:
            job.failures += 1
            if job.failures < world.rules.max_attempts:
                self._dispatch.park(job)
            else:
                detail = "the disk does not give its inputs back"
                self._dispatch.refuse_job(job, RefusalCode.ATTEMPTS_EXHAUSTED, detail)
