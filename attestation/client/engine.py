"""What one connection does with every message and every wish: jobs out, results in.

Runs on the connection's thread alone and touches no socket: messages to send go through `send`.
Nothing the coordinator says is believed beyond routing. A message that makes no sense here is noted
and dropped, because an honest coordinator's late messages look the same after a reconnection.

    submit -> WAITING (no link) -> SENT -> ACCEPTED -> result verified, or refused

After a lost link: a durable job that was acknowledged stays where it is; one that may or may not
have arrived is repeated as the same bytes (small), or cancelled and sealed again under a new id and
key, because segments are never sealed twice under one.
"""

from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Final, TypeAlias

from attestation import limits
from attestation.client.active import Active, Stage
from attestation.client.errors import (
    JobFailedError,
    JobRefusedError,
    JobTimeoutError,
)
from attestation.client.jobs import Job, Proof
from attestation.client.keys import ClientKey
from attestation.client.link import Link, LinkState
from attestation.client.outputs import PARALLEL_BYTES
from attestation.client.questions import Questions
from attestation.client.requests import WRAPS, choose, seal_request
from attestation.client.result_memory import ResultMemory
from attestation.client.results import Delivery, verify_and_open
from attestation.client.uploads import Outgoing, Uploads
from attestation.client.workers import Surroundings, WorkerBook
from attestation.endorsements.collateral import NO_COLLATERAL, Collateral
from attestation.errors import EnclaveError, RemoteProtocolError
from attestation.identifiers import JobId, WorkerId
from attestation.logging import get_logger
from attestation.policy.policy import Policy
from attestation.wire.control import JobListing, Refusal, RefusalCode, WorkerListing
from attestation.wire.frames import NO_JOB, NO_PEER, Frame, Header, Kind, check_message

RESUBMISSIONS: Final = 5
"""Times that a streaming job is sent again after losing its worker."""

DEADLINE_GRACE_MS: Final = 2_000
"""The coordinator gets this long to refuse a late job before we give it up ourselves."""

PAUSE_SECONDS: Final = 0.2
"""Before a job is offered again to a coordinator that had no room for it."""

_TRANSIENT: Final = frozenset({RefusalCode.NO_CREDIT, RefusalCode.QUEUE_FULL})

FINISHED_REMEMBERED: Final = 10_000
"""Jobs done here whose repeated results are acknowledged again instead of ignored."""

Later: TypeAlias = Callable[[Callable[[float], None]], None]

log = get_logger(__name__)


class Engine:
    """The connection's state: our place at the coordinator, the workers, the jobs."""

    def __init__(
        self,
        *,
        policy: Policy,
        key: ClientKey,
        channel_binding: bytes,
        outgoing: Outgoing,
        changed: Callable[[Surroundings], None],
        openers: Executor,
        later: Later,
        collateral: Collateral = NO_COLLATERAL,
    ) -> None:
        """`openers` runs large verifications; `later` brings their ends back to this thread."""
        self._key = key
        self._outgoing = outgoing
        self._send = outgoing.send
        self._changed = changed
        self._openers = openers
        self._later = later
        self.link = Link(key, channel_binding)
        self.book = WorkerBook(
            policy=policy,
            key=key,
            send=self._send_to_worker,
            changed=self._surroundings_changed,
            collateral=collateral,
        )
        self._surroundings = Surroundings()
        self._jobs: dict[JobId, Active] = {}
        self._uploads = Uploads(outgoing)
        self._finished: deque[JobId] = deque(maxlen=FINISHED_REMEMBERED)
        self._parked: list[Active] = []
        self._opening: set[Active] = set()
        self._result_memory = ResultMemory()
        self._wraps_wanted: dict[JobId, set[WorkerId]] = {}
        self._jobs_asked: Questions[JobListing] = Questions()
        self._workers_asked: Questions[WorkerListing] = Questions()
        self._stirred = False
        self.rejected: RefusalCode | None = None
        """Why the coordinator does not want us at all, if it said so."""
        self._handlers: Mapping[Kind, Callable[[Header, list[Frame], float], None]] = {
            Kind.HELLO_CHALLENGE: self._on_challenge,
            Kind.CLIENT_WELCOME: self._on_welcome,
            Kind.HEARTBEAT: lambda *_: None,
            Kind.WORKERS: self._on_workers,
            Kind.JOBS: self._on_jobs,
            Kind.END_TO_END: self._on_end_to_end,
            Kind.ACCEPTED: self._on_accepted,
            Kind.INPUT_CREDIT: self._on_input_credit,
            Kind.OUTPUT_HEADERS: self._on_output_headers,
            Kind.OUTPUT: self._on_output,
            Kind.RESULT: self._on_result,
            Kind.WRAP_WANTED: self._on_wrap_wanted,
            Kind.LOST: self._on_lost,
            Kind.REFUSED: self._on_refused,
        }

    # -- what the thread calls --------------------------------------------------------------------

    def receive(self, frames: list[Frame], now: float) -> None:
        """Take one message. Raises nothing for what a coordinator may send."""
        try:
            header = check_message(frames)
            handler = self._handlers.get(header.kind)
            if handler is None:
                raise RemoteProtocolError(f"a client gets no {header.kind.name}")
            self.link.heard(now)
            handler(header, frames, now)
        except EnclaveError as error:
            log.debug("message.dropped", code=error.code)
        self._settle()

    def tick(self, now: float) -> None:
        """Do what is due at `now`, a monotonic time in seconds."""
        self._say(self.link.tick(now))
        if self.link.state is LinkState.WELCOME:
            self.book.tick(now)
            for active in [a for a in self._jobs.values() if a.retry_at <= now]:
                self._send_submit(active)
        latest = _unix_ms() - DEADLINE_GRACE_MS
        for active in [a for a in self._jobs.values() if a.spec.deadline_ms < latest]:
            self._send([Header(Kind.CANCEL, active.request.job_id).to_bytes()])
            self._end(active, JobTimeoutError("the job's deadline has passed"))
        self._result_memory.tick(now)
        self._settle()

    def upload(self) -> int:
        """Send inputs of large jobs, as many as may go now; return how many segments that were."""
        return self._uploads.advance()

    def submit(self, active: Active) -> None:
        """Send a job, or keep it until the coordinator welcomes us (again)."""
        self._jobs[active.request.job_id] = active
        if active.job.cancelled():
            self.cancel(active.job)
        elif self.link.state is LinkState.WELCOME:
            self._send_submit(active)

    def cancel(self, job: Job) -> None:
        """Tell the coordinator to stop a job that its owner gave up."""
        active = self._jobs.pop(job.job_id, None)
        if active is not None:
            self._forget(active)
            self._send([Header(Kind.CANCEL, active.request.job_id).to_bytes()])

    def ask_jobs(self, answer: Future[JobListing]) -> None:
        """Ask for our jobs."""
        self._jobs_asked.add(answer)
        self._send([Header(Kind.LIST_JOBS).to_bytes()])

    def ask_workers(self, answer: Future[WorkerListing]) -> None:
        """Ask for the workers."""
        self._workers_asked.add(answer)
        self._send([Header(Kind.LIST_WORKERS).to_bytes()])

    def abandon(self, error: EnclaveError) -> None:
        """End every job and question with `error`: the connection closes."""
        for active in [*self._jobs.values(), *self._parked, *self._opening]:
            active.job.fail(error)
        self._jobs_asked.abandon(error)
        self._workers_asked.abandon(error)
        self._jobs.clear()
        self._parked.clear()

    # -- the coordinator --------------------------------------------------------------------------

    def _on_challenge(self, _header: Header, frames: list[Frame], now: float) -> None:
        self._say(self.link.prove(_body(frames), now))

    def _say(self, messages: list[list[Frame]]) -> None:
        if messages and self.link.state is LinkState.HELLO:
            # Everything begins again with a hello, at a coordinator that may not know us.
            self._outgoing.forget_queued()
        for message in messages:
            self._send(message)

    def _on_welcome(self, _header: Header, frames: list[Frame], _now: float) -> None:
        self.link.welcomed(_body(frames))
        self._send([Header(Kind.LIST_WORKERS).to_bytes()])
        self.book.restart()
        for active in list(self._jobs.values()):
            self._resume(active)
        self._changed(self._surroundings)

    def _resume(self, active: Active) -> None:
        active.collector.begin_again()
        active.owed = 0
        if active.stage is Stage.WAITING or (
            active.stage is Stage.SENT and active.spec.durable and active.spec.inline
        ):
            self._send_submit(active)
        elif active.stage is Stage.SENT or not active.spec.durable:
            self._resubmit(active, lost=False)

    def _on_workers(self, _header: Header, frames: list[Frame], now: float) -> None:
        listing = WorkerListing.from_bytes(_body(frames))
        self.book.listed(listing, now)
        self._workers_asked.answer(listing)

    def _on_jobs(self, _header: Header, frames: list[Frame], _now: float) -> None:
        self._jobs_asked.answer(JobListing.from_bytes(_body(frames)))

    def _on_end_to_end(self, header: Header, frames: list[Frame], now: float) -> None:
        self.book.receive(WorkerId(header.peer), bytes(_body(frames)), now)

    def _on_refused(self, header: Header, frames: list[Frame], now: float) -> None:
        refusal = Refusal.from_bytes(_body(frames))
        if refusal.code is RefusalCode.NOT_WELCOME:
            # Only a link that believed itself welcome begins again: one refusal comes for every
            # message that we sent in the meantime.
            if self.link.state is LinkState.WELCOME:
                self._say(self.link.start(now))
        elif header.job_id != NO_JOB:
            self._job_refused(header.job_id, refusal, now)
        elif header.peer != NO_PEER:
            self.book.unreachable(WorkerId(header.peer), now)
        elif self.link.state is not LinkState.WELCOME:
            self.rejected = refusal.code
            self._changed(self._surroundings)

    # -- jobs going out ---------------------------------------------------------------------------

    def _send_submit(self, active: Active) -> None:
        active.stage, active.retry_at = Stage.SENT, float("inf")
        self._send(active.submit_message())

    def _on_accepted(self, header: Header, _frames: list[Frame], _now: float) -> None:
        active = self._jobs.get(header.job_id)
        if active is not None and active.stage is Stage.SENT:
            self._accepted(active)

    def _accepted(self, active: Active) -> None:
        active.stage = Stage.ACCEPTED
        if active.spec.durable and active.request.complete:
            active.request.release()
        log.debug("job.accepted", job_id=active.request.job_id)
        active.job.accept()

    def _on_input_credit(self, header: Header, _frames: list[Frame], _now: float) -> None:
        active = self._jobs.get(header.job_id)
        if active is not None and active.stage is not Stage.WAITING:
            self._uploads.grant(active, header.count)

    def _on_wrap_wanted(self, header: Header, _frames: list[Frame], now: float) -> None:
        active = self._jobs.get(header.job_id)
        worker_id = WorkerId(header.peer)
        if active is None or not self.book.lists(worker_id):
            # What we remember of it must not grow with what a coordinator makes up.
            return
        wanted = self._wraps_wanted.setdefault(header.job_id, set())
        if len(wanted) >= WRAPS and worker_id not in wanted:
            raise RemoteProtocolError("wraps are wanted for more workers than one job can have")
        worker = self.book.ready(worker_id)
        if worker is not None:
            given = active.request.wrapped_for.get(worker_id)
            if given is not None and given.session is worker.session:
                # It has a key under this session and could not use it: the session is lost there.
                self.book.session_lost(worker, now)
        wanted.add(worker_id)
        self._stirred = True

    def _on_lost(self, header: Header, _frames: list[Frame], _now: float) -> None:
        active = self._jobs.get(header.job_id)
        if active is not None and not active.spec.durable:
            log.info("job.lost", job_id=header.job_id)
            self._resubmit(active, lost=True)

    def _resubmit(self, active: Active, *, lost: bool) -> None:
        """Seal the job again under a new id and key, and send that; or park it until it can be."""
        self._forget(active)
        if not lost:
            self._send([Header(Kind.CANCEL, active.request.job_id).to_bytes()])
        active.resubmissions += 1
        if active.resubmissions > RESUBMISSIONS:
            active.job.fail(JobRefusedError(RefusalCode.ATTEMPTS_EXHAUSTED))
            return
        self._parked.append(active)
        self._stirred = True

    def _seal_again(self, active: Active) -> None:
        welcome = self.link.welcome
        try:
            choice = choose(
                active.spec,
                self._surroundings.ready,
                welcome.max_job_bytes if welcome else limits.TENSOR_BYTES,
            )
            request = seal_request(active.spec, choice, self._key)
        except EnclaveError as error:
            active.job.fail(error)
            return
        active.job.resubmitted(request.job_id)
        again = Active.of(active.job, active.spec, request)
        again.resubmissions = active.resubmissions
        self.submit(again)

    # -- results coming in ------------------------------------------------------------------------

    def _on_output_headers(self, header: Header, frames: list[Frame], _now: float) -> None:
        active = self._jobs.get(header.job_id)
        if active is not None:
            active.announce(header.attempt, _body(frames), self._result_memory.buffers)

    def _on_output(self, header: Header, frames: list[Frame], _now: float) -> None:
        active = self._jobs.get(header.job_id)
        if active is None:
            # A result that we have, delivered again because our acknowledgement was lost: without
            # credit its RESULT would never come, and the coordinator would keep it for days.
            if header.index == 0 and header.job_id in self._finished:
                self._acknowledge(header.job_id)
            return
        grant = active.take_output(header.attempt, header.index, _body(frames))
        if grant:
            self._send([Header(Kind.OUTPUT_CREDIT, header.job_id, count=grant).to_bytes()])

    def _on_result(self, header: Header, frames: list[Frame], now: float) -> None:
        active = self._jobs.get(header.job_id)
        if active is None:
            if header.job_id in self._finished:
                self._acknowledge(header.job_id)
            return
        if len(frames) < 3:
            raise RemoteProtocolError("a result without header and receipt")
        # A program that failed after its first outputs returns none.
        delivery = Delivery.of(header, frames, active.collector)
        self._forget(active)
        self._opening.add(active)
        size = sum(map(len, delivery.segments))
        worker_id = WorkerId(header.peer)
        if size < PARALLEL_BYTES:
            self._deliver(active, delivery, worker_id, lambda step: step(now))
        else:
            self._openers.submit(self._deliver, active, delivery, worker_id, self._later)

    def _deliver(
        self, active: Active, delivery: Delivery, worker_id: WorkerId, later: Later
    ) -> None:
        """Verify and open, possibly on another thread; `later` brings the end back to ours."""
        end: Callable[[], None]
        try:
            buffers = self._result_memory.buffers
            verified = verify_and_open(active.request, delivery, self._key.key_id, buffers)
        except JobFailedError as error:
            proof = Proof(receipt=error.receipt, accepted=error.accepted)
            end = partial(active.job.fail, error, proof)
        except EnclaveError as error:
            later(partial(self._refuse_result, active, worker_id, delivery.attempt, error))
            return
        except BaseException as error:
            active.job.fail(error)
            raise
        else:
            log.debug("result.verified", job_id=active.request.job_id, worker_id=worker_id)
            proof = Proof(receipt=verified.receipt, accepted=verified.accepted)
            end = partial(active.job.finish, verified.outputs, proof, verified.failures)
        later(partial(self._delivered, active, end))

    def _delivered(self, active: Active, end: Callable[[], None], now: float) -> None:
        self._opening.discard(active)
        # First, since whoever waits for the end begins the next job at once.
        self._acknowledge(active.request.job_id)
        self._result_memory.used(now)
        end()

    def _refuse_result(
        self,
        active: Active,
        worker_id: WorkerId,
        attempt: int,
        error: EnclaveError,
        now: float,
    ) -> None:
        """Fence whoever sent a result that proves nothing, and let another worker run the job.

        Without another one, or when too many lied, the job fails with what was wrong.
        """
        request = active.request
        log.warning("result.refused", job_id=request.job_id, worker_id=worker_id, code=error.code)
        # Fenced first: whoever hears of the refusal and submits again wraps no key for it.
        self.book.fence(worker_id, error.code, now)
        others = any(self.book.ready(other) is not None for other in request.wrapped_for)
        if active.job.done() or not others or active.rejections >= RESUBMISSIONS:
            self._delivered(active, partial(active.job.fail, error), now)
        elif active.spec.durable:
            self._opening.discard(active)
            active.start_over()
            self._jobs[request.job_id] = active
            with suppress(ValueError):
                self._finished.remove(request.job_id)
            header = Header(Kind.RESULT_REJECT, request.job_id, attempt, peer=worker_id)
            self._send([header.to_bytes()])
        else:
            self._delivered(active, partial(self._resubmit, active, lost=True), now)

    def _acknowledge(self, job_id: JobId) -> None:
        self._send([Header(Kind.RESULT_ACK, job_id).to_bytes()])

    def _job_refused(self, job_id: JobId, refusal: Refusal, now: float) -> None:
        active = self._jobs.get(job_id)
        if active is None:
            if job_id in self._finished:
                # Said again because our acknowledgement was lost.
                self._acknowledge(job_id)
            return
        if refusal.code in _TRANSIENT and active.stage is Stage.SENT:
            # Nothing of it was admitted, so the same bytes may be sent again.
            self._uploads.stop(active)
            active.stage, active.retry_at = Stage.WAITING, now + PAUSE_SECONDS
            return
        log.info("job.refused", job_id=job_id, code=refusal.code)
        if active.stage is Stage.ACCEPTED:
            self._acknowledge(job_id)
        if refusal.code is RefusalCode.DEADLINE_PASSED:
            self._end(active, JobTimeoutError("the job's deadline has passed"))
        else:
            self._end(active, JobRefusedError(refusal.code, refusal.detail))

    def _end(self, active: Active, error: EnclaveError) -> None:
        self._forget(active)
        active.job.fail(error)

    def _forget(self, active: Active) -> None:
        job_id = active.request.job_id
        self._jobs.pop(job_id, None)
        self._uploads.stop(active)
        self._finished.append(job_id)
        self._wraps_wanted.pop(job_id, None)

    # -- workers ----------------------------------------------------------------------------------

    def _send_to_worker(self, worker_id: WorkerId, data: bytes) -> None:
        self._send([Header(Kind.END_TO_END, peer=worker_id).to_bytes(), data])

    def _surroundings_changed(self, surroundings: Surroundings) -> None:
        self._surroundings = surroundings
        self._stirred = True
        self._changed(surroundings)

    def _settle(self) -> None:
        """Do what waited for a session: wraps that were wanted, jobs that must be sealed again."""
        if not self._stirred:
            return
        self._stirred = False
        for job_id, wanted in self._wraps_wanted.items():
            active = self._jobs.get(job_id)
            if active is not None:
                self._give_wraps(active, wanted)
        if self._surroundings.ready:
            parked, self._parked = self._parked, []
            for active in parked:
                if not active.job.cancelled():
                    self._seal_again(active)

    def _give_wraps(self, active: Active, wanted: set[WorkerId]) -> None:
        for worker in [each for each in map(self.book.ready, wanted) if each is not None]:
            wanted.discard(worker.worker_id)
            if worker.accepted.keyset.catalogue_digest == active.request.choice.catalogue_digest:
                wrapped = active.request.wrap(worker)
                header = Header(Kind.WRAP, active.request.job_id, peer=worker.worker_id)
                self._send([header.to_bytes(), wrapped])


def _body(frames: list[Frame]) -> Frame:
    if len(frames) != 2:
        raise RemoteProtocolError(f"{len(frames)} frames where header and body belong")
    return frames[1]


def _unix_ms() -> int:
    return int(datetime.now(UTC).timestamp() * 1000)
