"""The worker's event loop: messages in, jobs onto threads, results out. It holds no keys.

One thread owns the socket and every table here. Jobs and collections run on other threads and post
events to it, so heartbeats keep their rhythm while kernels run. Receipts of jobs that finish within
one turn of the loop share a signature; a lone one never waits for company.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from typing import Final, TypeAlias

from attrs import frozen

from attestation.errors import DecodeError, EnclaveError
from attestation.identifiers import JobId, KeySetId, WorkerId
from attestation.logging import get_logger
from attestation.observability.exposition import Family
from attestation.observability.tracing import Tracer
from attestation.receipts.receipt import Receipt
from attestation.wire.control import Refusal, RefusalCode, WorkerWelcome
from attestation.wire.frames import NO_JOB, Frame, Header, Kind, check_message
from enclave_worker.admission import JobOffer
from enclave_worker.attesting import Attestations, Collected, Reply
from enclave_worker.device.confidential import ModeChanged, ModeWatch
from enclave_worker.executor import Clock
from enclave_worker.jobs import (
    Bench,
    CreditGranted,
    JobDone,
    JobEnded,
    JobEvent,
    OutputsBegin,
    OutputSealed,
    RunningJob,
)
from enclave_worker.membership import Membership, Outgoing
from enclave_worker.metrics import Levels
from enclave_worker.observing import Observer
from enclave_worker.refusals import (
    DrainingError,
    ExpiredError,
    JobRefusedError,
    RevokedError,
    WorkerBusyError,
)
from enclave_worker.results import SentResult, UnrecordedResults
from enclave_worker.scrubbing import Scrubber, overwrite_leftovers
from enclave_worker.timelimits import DeadMan
from enclave_worker.transport import Transport

log: Final = get_logger(__name__)

Event: TypeAlias = JobEvent | Collected | ModeChanged

_IDLE_MS: Final = 1_000
_CHORES_MS: Final = 5
"""How long what a message made due may wait for the loop to ask."""
_MESSAGES_PER_TURN: Final = 256
_LINGER_MS: Final = 1_000
_FAREWELL_MS: Final = 5_000
"""How long a worker that leaves waits for its last results to be recorded."""


class _Leaving(StrEnum):
    """How far a shutdown has come."""

    NO = "no"
    WHEN_DONE = "when-done"
    AT_ONCE = "at-once"


@frozen(kw_only=True)
class RuntimeParts:
    """What the loop drives. Only `attestations` and `bench` lead to anything secret."""

    transport: Transport
    membership: Membership
    attestations: Attestations
    bench: Bench
    capacity: int
    clock: Clock
    mode_watch: ModeWatch | None = None
    tracer: Tracer | None = None


class Mailbox:
    """Events from other threads, and the wake-up of the loop that reads them."""

    def __init__(self, wake: Callable[[], None]) -> None:
        """Call `wake` after each event."""
        self._events: deque[Event] = deque()
        self._wake = wake

    def post(self, event: Event) -> None:
        """Hand `event` to the loop. From any thread."""
        self._events.append(event)
        self._wake()

    def take(self) -> list[Event]:
        """Return everything posted so far."""
        return [self._events.popleft() for _ in range(len(self._events))]


class Runtime:
    """One worker, from hello to drained."""

    def __init__(
        self, parts: RuntimeParts, mailbox: Mailbox, *, ready: Callable[[WorkerId], None]
    ) -> None:
        """Drive `parts`; `ready` is called at each welcome."""
        self._parts = parts
        self._transport = parts.transport
        self._membership = parts.membership
        self._attestations = parts.attestations
        self._mailbox = mailbox
        self._ready = ready
        self._jobs: dict[tuple[JobId, int], RunningJob] = {}
        self._outputs: deque[OutputSealed] = deque()
        self._unrecorded = UnrecordedResults()
        self._scrubber = Scrubber()
        self._observer = Observer(parts.tracer)
        self._threads = ThreadPoolExecutor(parts.capacity, thread_name_prefix="job")
        self._signals = 0
        self._leaving = _Leaving.NO
        self._leave_by_ms = 0
        self._chores_at_ms = 0
        self._dead_man = DeadMan(parts.bench.time_limits)
        self.must_restart = False
        """Whether `run` ended for something that only another process can put right."""
        self._handlers: dict[Kind, Callable[[Header, Sequence[Frame]], None]] = {
            Kind.WORKER_WELCOME: self._on_welcome,
            Kind.HEARTBEAT: self._on_nothing,
            Kind.END_TO_END: self._on_end_to_end,
            Kind.ASSIGN: self._on_assign,
            Kind.INPUT: self._on_input,
            Kind.OUTPUT_CREDIT: self._on_output_credit,
            Kind.REVOKE: self._on_revoke,
            Kind.RECORDED: self._on_recorded,
            Kind.REFUSED: self._on_refused,
        }

    def metrics(self) -> Iterable[Family]:
        """Return the numbers of this moment (docs/observability.md). From any thread."""
        return self._observer.families(
            Levels(
                jobs=len(self._jobs),
                capacity=self._parts.capacity,
                keysets=self._attestations.live_keysets,
                idle_bytes=self._parts.bench.pool.idle_bytes,
            )
        )

    def request_stop(self) -> None:
        """Drain: finish running jobs, then end `run`. Asked a second time: end it now.

        Safe to call from a signal handler.
        """
        self._signals += 1
        self._transport.wake()

    def run(self) -> bool:
        """Work until a stop was requested and done; wipe and destroy everything on the way out.

        Returns whether every job had ended: false after a second request to stop, when threads may
        still be inside kernels.
        """
        watch = self._parts.mode_watch
        if watch is not None:
            watch.start(self._mailbox.post)
        try:
            while not self._finished():
                self._turn()
        finally:
            self._dead_man.disarm()
            if watch is not None:
                watch.stop()
            for job in self._jobs.values():
                job.stop(RevokedError("the worker stops"))
            # A kernel cannot be interrupted; its thread wipes when it is done.
            at_once = self._leaving is _Leaving.AT_ONCE
            self._threads.shutdown(wait=not at_once, cancel_futures=True)
            self._attestations.close()
            overwrite_leftovers()
            self._transport.close(linger_ms=_LINGER_MS)
        return not (at_once and self._jobs)

    # -- one turn ----------------------------------------------------------------------------------

    def _turn(self) -> None:
        now_ms = self._parts.clock.now_ms()
        self._transport.poll(self._chores_in_ms(now_ms))
        now_ms = self._parts.clock.now_ms()
        for _ in range(_MESSAGES_PER_TURN):
            message = self._transport.receive()
            if message is None:
                break
            self._receive(message, now_ms)
        self._handle_events(self._mailbox.take())
        self._send_outputs()
        if self._chores_in_ms(now_ms) <= 0:
            self._do_chores(now_ms)
            self._chores_at_ms = now_ms + self._next_chores_in_ms(now_ms)
        else:
            # Whatever this turn made due waits no longer than that, and a turn that only moves
            # segments is not spent on asking.
            self._chores_at_ms = min(self._chores_at_ms, now_ms + _CHORES_MS)

    def _chores_in_ms(self, now_ms: int) -> int:
        """Milliseconds until the chores are due, however the clock was set meanwhile."""
        return min(self._chores_at_ms - now_ms, _IDLE_MS)

    def _next_chores_in_ms(self, now_ms: int) -> int:
        waits = [_IDLE_MS]
        if not self._transport.congested:
            # While messages wait, `tick` is not asked and stays due: counting it would spin.
            waits.append(self._membership.due_in_ms(now_ms))
        due = (self._attestations.due_in_ms(now_ms), self._scrubber.due_in_ms(now_ms))
        waits.extend(each for each in due if each is not None)
        return max(1, min(waits))

    def _do_chores(self, now_ms: int) -> None:
        """Do what follows from time alone, and from signals."""
        self._attestations.tick(now_ms)
        self._scrubber.tick(now_ms)
        self._oversee()
        self._heed_signals(now_ms)
        if not self._transport.congested:
            self._send_all(self._membership.tick(now_ms, self._held()))

    def _receive(self, frames: list[Frame], now_ms: int) -> None:
        try:
            header = check_message(frames)
            self._membership.heard(now_ms)
            self._handlers.get(header.kind, _not_for_workers)(header, frames[1:])
        except DecodeError as error:
            # The coordinator is untrusted and not a peer to argue with: its message is dropped.
            log.warning("message.malformed", detail=str(error))

    def _handle_events(self, events: Sequence[Event]) -> None:
        done: dict[KeySetId, list[JobDone]] = {}
        for event in events:
            match event:
                case CreditGranted():
                    self._send(
                        Header(Kind.INPUT_CREDIT, event.job_id, event.attempt, count=event.count)
                    )
                case OutputsBegin():
                    if (event.job_id, event.attempt) in self._jobs:
                        head = Header(Kind.OUTPUT_HEADERS, event.job_id, event.attempt)
                        self._send(head, event.header)
                case OutputSealed():
                    self._outputs.append(event)
                case JobDone():
                    done.setdefault(event.keyset_id, []).append(event)
                case JobEnded():
                    self._end_job(event)
                case Collected():
                    self._observer.collected(event)
                    self._send_replies(self._attestations.collected(event))
                case ModeChanged():
                    self._mode_changed(event)
        for keyset_id, jobs in done.items():
            self._send_results(keyset_id, jobs)

    def _oversee(self) -> None:
        """Leave the process when nothing else can bring its device to a clean state."""
        clock = self._parts.clock
        now_ns = clock.monotonic_ns()
        self._dead_man.rewind(now_ns)
        if self._leaving is _Leaving.AT_ONCE:
            return
        hung = {key for key, job in self._jobs.items() if job.hung(now_ns)}
        if hung:
            self._abandon(hung)
        elif self._parts.bench.engine.broken and not self.must_restart:
            log.error("device.lost", jobs=len(self._jobs))
            self._leave_for_restart()

    def _abandon(self, hung: set[tuple[JobId, int]]) -> None:
        # The others lose their attempt as well, and are told so at once: they may go elsewhere.
        for job_id, attempt in self._jobs:
            if (job_id, attempt) in hung:
                log.error("kernel.hung", job_id=job_id, attempt=attempt)
                refusal = Refusal(code=RefusalCode.KERNEL_FAILED, detail="a kernel did not end")
            else:
                refusal = DrainingError("the worker starts again").refusal()
            self._refuse(job_id, attempt, refusal)
        self._send_all(self._membership.drain())
        self.must_restart = True
        self._leaving = _Leaving.AT_ONCE

    def _mode_changed(self, event: ModeChanged) -> None:
        log.error("gpu.mode_changed", before=event.before.value, mode=event.now.value)
        # What still runs finishes, in receipts that promise nothing.
        self._attestations.disclaim(event.now)
        self._leave_for_restart()

    def _leave_for_restart(self) -> None:
        self.must_restart = True
        self._signals = max(1, self._signals)

    def _heed_signals(self, now_ms: int) -> None:
        if self._signals >= 1 and self._leaving is _Leaving.NO:
            log.info("worker.draining", jobs=len(self._jobs))
            self._leaving = _Leaving.WHEN_DONE
            self._send_all(self._membership.drain())
        if self._signals >= 2:
            self._leaving = _Leaving.AT_ONCE
        if self._jobs or not self._leave_by_ms:
            self._leave_by_ms = now_ms + _FAREWELL_MS

    def _finished(self) -> bool:
        if self._leaving is _Leaving.AT_ONCE:
            return True
        if self._leaving is _Leaving.NO or self._jobs:
            return False
        waited = self._parts.clock.now_ms() >= self._leave_by_ms
        return waited or not (len(self._unrecorded) or self._transport.congested)

    def _held(self) -> tuple[tuple[JobId, int], ...]:
        """Return the attempts whose leases the next heartbeat renews."""
        waiting = ((each.job_id, each.attempt) for each in self._unrecorded)
        return tuple(dict.fromkeys([*self._jobs, *waiting]))

    # -- messages ----------------------------------------------------------------------------------

    def _on_nothing(self, _header: Header, _frames: Sequence[Frame]) -> None:
        """Being there was the message."""

    def _on_welcome(self, _header: Header, frames: Sequence[Frame]) -> None:
        welcome = WorkerWelcome.from_bytes(_only(frames))
        again = self._membership.worker_id is not None
        self._send_all(self._membership.welcomed(welcome, self._parts.clock.now_ms()))
        log.info("worker.ready", worker_id=welcome.worker_id)
        self._ready(welcome.worker_id)
        if again:
            # What was under way to the coordinator that forgot us may be lost.
            for result in self._unrecorded:
                self._transport.send(result.frames)

    def _on_end_to_end(self, header: Header, frames: Sequence[Frame]) -> None:
        now_ms = self._parts.clock.now_ms()
        self._send_replies(self._attestations.receive(header.peer, _only(frames), now_ms))
        self._scrubber.used(now_ms)

    def _on_assign(self, header: Header, frames: Sequence[Frame]) -> None:
        if len(frames) < 2 or header.job_id == NO_JOB:
            raise DecodeError("an assignment has a job id, an envelope and a wrapped key")
        envelope, wrap, *inline = frames
        offer = JobOffer(
            job_id=header.job_id,
            attempt=header.attempt,
            input_segments=header.count,
            envelope=envelope,
            wrap=bytes(wrap),
        )
        key = (header.job_id, header.attempt)
        if key in self._jobs:
            log.warning("job.duplicate", job_id=header.job_id, attempt=header.attempt)
            return
        error = self._reason_to_refuse()
        if error is not None:
            self._refuse(header.job_id, header.attempt, error.refusal())
            return
        log.debug("job.assigned", job_id=header.job_id, attempt=header.attempt)
        job = RunningJob(offer, inline, bench=self._parts.bench, post=self._mailbox.post)
        self._jobs[key] = job
        self._threads.submit(job.run)

    def _reason_to_refuse(self) -> JobRefusedError | None:
        if self._leaving is not _Leaving.NO or self._signals:
            return DrainingError("the worker is leaving")
        if len(self._jobs) >= 2 * self._parts.capacity:
            return WorkerBusyError("more jobs than the worker announced")
        return None

    def _on_input(self, header: Header, frames: Sequence[Frame]) -> None:
        job = self._jobs.get((header.job_id, header.attempt))
        if job is not None:
            job.feed(header.index, _only(frames))

    def _on_output_credit(self, header: Header, _frames: Sequence[Frame]) -> None:
        job = self._jobs.get((header.job_id, header.attempt))
        if job is not None:
            job.grant(header.count)

    def _on_revoke(self, header: Header, _frames: Sequence[Frame]) -> None:
        self._unrecorded.forget(header.job_id, attempt=header.attempt)
        job = self._jobs.get((header.job_id, header.attempt))
        if job is not None:
            log.info("job.revoked", job_id=header.job_id, attempt=header.attempt)
            job.stop(RevokedError("the coordinator took the job back"))

    def _on_recorded(self, header: Header, _frames: Sequence[Frame]) -> None:
        self._unrecorded.forget(header.job_id, attempt=header.attempt)

    def _on_refused(self, header: Header, frames: Sequence[Frame]) -> None:
        refusal = Refusal.from_bytes(_only(frames))
        if header.job_id != NO_JOB:
            self._on_revoke(header, frames)
            return
        if refusal.code is RefusalCode.NOT_WELCOME:
            # Nothing that is queued for it means anything to a coordinator that forgot us.
            self._transport.forget_queued()
            self._membership.not_welcome(self._parts.clock.now_ms())
        else:
            log.warning("worker.refused", code=refusal.code, detail=refusal.detail)

    # -- answers -----------------------------------------------------------------------------------

    def _send_outputs(self) -> None:
        """Pass outputs on as the socket takes them; each job seals more as its own leave."""
        while self._outputs and not self._transport.congested:
            output = self._outputs.popleft()
            job = self._jobs.get((output.job_id, output.attempt))
            if job is not None:
                head = Header(Kind.OUTPUT, output.job_id, output.attempt, output.index)
                self._send(head, output.segment)
                job.left()

    def _send_results(self, keyset_id: KeySetId, jobs: list[JobDone]) -> None:
        try:
            issuer = self._attestations.issuer(keyset_id)
            receipts = issuer.issue([job.finished.draft for job in jobs])
        except EnclaveError:
            # The receipt key died while the job ran: without a receipt the result is worth nothing.
            error = ExpiredError("the key set ended before the receipt was signed")
            for job in jobs:
                self._end_job(
                    JobEnded(job_id=job.job_id, attempt=job.attempt, refusal=error.refusal())
                )
            return
        log.debug("receipts.issued", keyset_id=keyset_id, count=len(receipts))
        for job, receipt in zip(jobs, receipts, strict=True):
            self._send_result(job, receipt)

    def _send_result(self, job: JobDone, receipt: Receipt) -> None:
        self._observer.job_over(self._forget_job(job.job_id, job.attempt), done=job)
        result = job.finished.result
        header = Header(Kind.RESULT, job.job_id, job.attempt, count=job.output_segments)
        frames: tuple[Frame, ...] = (
            header.to_bytes(),
            result.to_bytes(),
            receipt.to_bytes(),
            *job.segments,
        )
        log.debug(
            "job.finished",
            job_id=job.job_id,
            attempt=job.attempt,
            code=result.code,
            device_ns=job.finished.draft.metering.device_ns,
        )
        if job.segments or not job.output_segments:
            self._unrecorded.add(SentResult(job_id=job.job_id, attempt=job.attempt, frames=frames))
        self._transport.send(frames)

    def _forget_job(self, job_id: JobId, attempt: int) -> RunningJob | None:
        self._scrubber.used(self._parts.clock.now_ms())
        return self._jobs.pop((job_id, attempt), None)

    def _end_job(self, event: JobEnded) -> None:
        code = RefusalCode.CANCELLED if event.refusal is None else event.refusal.code
        self._observer.job_over(self._forget_job(event.job_id, event.attempt), code=code)
        if event.refusal is not None:
            self._refuse(event.job_id, event.attempt, event.refusal)

    def _refuse(self, job_id: JobId, attempt: int, refusal: Refusal) -> None:
        self._observer.refused(refusal.code)
        log.warning("job.refused", job_id=job_id, attempt=attempt, code=refusal.code)
        self._send(Header(Kind.JOB_REFUSED, job_id, attempt), refusal.to_bytes())

    def _send_replies(self, replies: Sequence[Reply]) -> None:
        for reply in replies:
            self._observer.replied(reply)
            self._send(Header(Kind.END_TO_END, peer=reply.peer), reply.record.to_bytes())

    def _send_all(self, messages: Sequence[Outgoing]) -> None:
        for message in messages:
            self._transport.send(message.frames())

    def _send(self, header: Header, *frames: Frame) -> None:
        if not self._transport.send((header.to_bytes(), *frames)):
            log.warning("message.dropped", kind=header.kind.name)


def _not_for_workers(header: Header, _frames: Sequence[Frame]) -> None:
    raise DecodeError(f"{header.kind.name} is not for a worker")


def _only(frames: Sequence[Frame]) -> Frame:
    if len(frames) != 1:
        raise DecodeError(f"{len(frames)} frames after the header where 1 is needed")
    return frames[0]
