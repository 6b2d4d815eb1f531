"""Leases: giving a job to a worker, taking it back, ending it.

The attempt number is the fencing token. It is stored before the worker hears of it and only ever
grows, so of all workers that believe they hold a job, the store knows the one that does.
"""

from typing import Final

from attestation import limits
from attestation.errors import DecodeError
from attestation.identifiers import WorkerId
from attestation.wire.control import Refusal, RefusalCode
from attestation.wire.frames import NO_PEER, Header, Kind
from coordinator.core import instructions as do
from coordinator.core.credit import grant_outputs
from coordinator.core.events import Message
from coordinator.core.job import (
    RUNNING,
    WAITING,
    Assigned,
    Attempt,
    Declined,
    Job,
    LeaseLost,
    Refused,
    RefusedUnheard,
    State,
    run_lane,
)
from coordinator.core.lengths import Cursor
from coordinator.core.peers import Client, Worker
from coordinator.core.rules import sealed_segment
from coordinator.core.scheduling import choose, eligible, present, suits
from coordinator.core.timers import Alarm
from coordinator.core.world import World

FINAL: Final = frozenset(
    {
        RefusalCode.SIGNATURE_INVALID,
        RefusalCode.NOT_AUTHENTIC,
        RefusalCode.PROGRAM_INVALID,
        RefusalCode.MALFORMED,
    }
)
"""Refusals that every honest worker would repeat. One worker's word does not end a job, though: it
may lie. The last worker that could run the job ends it."""

ELSEWHERE: Final = frozenset(
    {
        RefusalCode.UNKNOWN_KEYSET,
        RefusalCode.UNKNOWN_SESSION,
        RefusalCode.EXPIRED,
        RefusalCode.WORKER_LIMIT,
        RefusalCode.REPLAYED,
    }
)
"""Refusals that say nothing about the job: another worker may run it, no failure is counted."""

ASKS_PER_TURN: Final = 64
DISPATCHES_PER_ATTEMPT: Final = 8
"""Dispatches, refused ones included, per allowed failure: ends a job that wanders forever."""

BARRED_LEASES: Final = 3
"""Leases for which a worker that lost a job is not given it again while another could have it."""


class Dispatch:
    """Moves jobs between waiting, leased and over."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._scheduling = False

    # -- waiting ----------------------------------------------------------------------------------

    def enqueue(self, job: Job, *, first: bool = False) -> None:
        """Let a job wait for a worker, and look for one at once."""
        world = self._world
        world.waiting.add(job, first=first)
        if not self._usable(job):
            client = world.client_at(job.peer)
            if client is not None:
                client.wants_wraps = True
        self.schedule()

    def schedule(self) -> None:
        """Assign waiting jobs while there are a worker and memory for them."""
        world = self._world
        if world.draining or self._scheduling:
            return
        self._scheduling = True
        try:
            while len(world.waiting) and any(worker.free for worker in world.workers.values()):
                found = world.waiting.pick(self._place)
                if found is None:
                    return
                job, worker = found
                lane = self._lane_bytes(job)
                key = run_lane(job.job_id)
                if not world.budget.reserve_for_dispatch(key, lane, self.schedule, job.account):
                    world.waiting.add(job, first=True)
                    return
                self._assign(job, worker)
        finally:
            self._scheduling = False

    def _place(self, job: Job) -> Worker | None:
        world = self._world
        if not world.budget.allows(job.account, self._lane_bytes(job)):
            world.passed_over = True
            return None
        worker = choose(job, world.workers, world.now_ms)
        if worker is None and job.lost_by:
            # Who lost it may have it again after a while, without anything else happening.
            world.passed_over = True
        return worker

    def _lane_bytes(self, job: Job) -> int:
        rules, record = self._world.rules, job.record
        size = job.envelope_bytes + min(record.output_bytes_max, limits.INLINE_BYTES)
        if job.inline:
            size += record.input_bytes
        if not job.inline or not job.small_output:
            size += rules.window(record.segment_bytes) * sealed_segment(record.segment_bytes)
        return min(size, self._world.budget.limit)

    def _assign(self, job: Job, worker: Worker) -> None:
        world = self._world
        job.apply(Assigned)
        job.attempt_number += 1
        attempt = job.attempt = Attempt(
            worker_id=worker.worker_id,
            number=job.attempt_number,
            window=max(1, world.rules.window(job.record.segment_bytes)),
            expires_ms=world.now_ms + world.rules.lease_ms,
            progress_ms=world.now_ms,
            since_ms=world.now_ms,
        )
        worker.running.add(job.job_id)
        world.timers.set(attempt.expires_ms, Alarm.LEASE, job.job_id)
        self._send_assign(job, worker, attempt)
        if job.durable:
            world.drop_body(job)
            if not job.inline:
                attempt.in_cursor = Cursor(job.lengths)
        if not (job.durable and job.inline):
            world.timers.set(world.now_ms + world.rules.stall_ms, Alarm.STALL, job.job_id)
        if not job.small_output:
            grant_outputs(world, job, worker)
        world.counters["jobs.assigned"] += 1
        world.note(
            "job.assigned",
            level="debug",
            job_id=job.job_id,
            attempt=attempt.number,
            worker_id=worker.worker_id,
        )

    def _send_assign(self, job: Job, worker: Worker, attempt: Attempt) -> None:
        world = self._world
        if job.durable:
            world.out.append(
                do.StoreLease(
                    job_id=job.job_id,
                    attempt=attempt.number,
                    failures=job.failures,
                    worker_id=worker.worker_id,
                )
            )
        client = world.client_at(job.peer)
        peer_id = client.peer_id if client is not None else NO_PEER
        count = job.record.input_segments
        header = Header(Kind.ASSIGN, job.job_id, attempt.number, 0, count, peer_id)
        wrap = job.wraps[worker.worker_id]
        if job.body is not None:
            envelope, *segments = job.body
            world.send(worker.peer, header, envelope, wrap, *segments)
        else:
            world.out.append(do.SendStoredAssign(peer=worker.peer, header=header, wrap=wrap))

    # -- the end of a lease -----------------------------------------------------------------------

    def lose(self, job: Job, *, reason: str, failed: bool = True) -> None:
        """Take the lease back: a durable job waits again, a streaming job's client hears LOST."""
        world = self._world
        attempt = job.attempt_number
        if failed and job.attempt is not None:
            job.lost_by[job.attempt.worker_id] = world.now_ms + BARRED_LEASES * world.rules.lease_ms
        self._end_attempt(job, revoke=True)
        job.apply(LeaseLost)
        world.counters["leases.lost"] += 1
        world.note("lease.lost", level="warning", job_id=job.job_id, attempt=attempt, code=reason)
        if not job.durable:
            self._tell_lost(job)
            return
        job.failures += failed
        self.wait_again(job)

    def _tell_lost(self, job: Job) -> None:
        self._world.send_to_client(job, Header(Kind.LOST, job.job_id))
        self._world.forget_job(job)

    def wait_again(self, job: Job) -> None:
        """Let a job wait for its next attempt, or end it when it has had them all."""
        most = self._world.rules.max_attempts
        if job.failures >= most or job.attempt_number >= most * DISPATCHES_PER_ATTEMPT:
            self.refuse_job(job, RefusalCode.ATTEMPTS_EXHAUSTED)
        else:
            self.enqueue(job, first=True)

    def decline(self, worker: Worker, message: Message) -> None:
        """A worker refuses a job before running it: another worker, or the end."""
        world, job = self._world, self._world.jobs.get(message.header.job_id)
        attempt = self.lease(job, worker, message.header.attempt)
        if job is None or attempt is None:
            return
        try:
            refusal = Refusal.from_bytes(b"".join(message.frames))
        except DecodeError:
            refusal = Refusal(code=RefusalCode.INTERNAL)
        code = refusal.code
        world.note("job.declined", job_id=job.job_id, worker_id=worker.worker_id, code=code)
        if code in FINAL and not self._others(job, worker.worker_id):
            self.refuse_job(job, code, "every worker that could run it refused it")
            return
        moved = attempt.moved
        self._end_attempt(job, revoke=False)
        job.declined_by.add(worker.worker_id)
        if code != RefusalCode.WORKER_LIMIT:
            job.asked.discard(worker.worker_id)
        if moved and not job.durable:
            job.apply(LeaseLost)
            self._tell_lost(job)
            return
        job.apply(Declined)
        job.failures += code not in ELSEWHERE
        self.wait_again(job)

    def _end_attempt(self, job: Job, *, revoke: bool) -> None:
        world, attempt = self._world, job.attempt
        if attempt is None:
            return
        job.attempt = None
        worker = world.workers.get(attempt.worker_id)
        if worker is not None:
            worker.running.discard(job.job_id)
            if revoke:
                world.send(worker.peer, Header(Kind.REVOKE, job.job_id, attempt.number))
        if job.durable and attempt.out_relayed:
            world.out.append(do.SpoolDelete(job.output_file(attempt.number)))
        world.budget.release(run_lane(job.job_id))

    def refuse_job(
        self, job: Job, code: RefusalCode, detail: str = "", *, accepted: bool = True
    ) -> None:
        """End a job without a result.

        The end of an accepted durable job is kept until its client acknowledges it, like a result:
        the connection on which it is said may be broken already. What a client gave up itself, and
        what never was accepted, is forgotten at once.
        """
        world = self._world
        kept = accepted and job.durable and code is not RefusalCode.CANCELLED
        if job.state in RUNNING:
            self._end_attempt(job, revoke=True)
        client = world.client_at(job.peer) or world.connection_of(job.owner)
        world.note("job.refused", job_id=job.job_id, code=code)
        if client is not None:
            world.refuse(client.peer, code, detail, job_id=job.job_id)
        if (kept or client is None) and job.durable and job.state is not State.RECEIVING:
            self._keep_refusal(job, code, detail)
        else:
            job.apply(Refused)
            if job.durable:
                world.out.append(do.DeleteJob(job_id=job.job_id))
            world.forget_job(job)
        if job.durable and not job.inline:
            world.out.append(do.SpoolDelete(job.input_file))
        self.schedule()

    def _keep_refusal(self, job: Job, code: RefusalCode, detail: str) -> None:
        world = self._world
        job.apply(RefusedUnheard)
        job.refusal = (code, detail)
        world.waiting.remove(job)
        world.drop_body(job)
        world.spool.add(job.account, -job.disk_bytes)
        job.disk_bytes = 0
        world.out.append(
            do.StoreRefusal(job_id=job.job_id, code=code, detail=detail, finished_ms=world.unix_ms)
        )
        world.timers.set(world.now_ms + world.rules.retention_ms, Alarm.RETENTION, job.job_id)

    def lease(self, job: Job | None, worker: Worker, number: int) -> Attempt | None:
        """The fence: return the attempt if it is the one under which this worker holds the job."""
        attempt = job.attempt if job is not None and job.state in RUNNING else None
        if attempt is None or (attempt.number, attempt.worker_id) != (number, worker.worker_id):
            return None
        return attempt

    def check_lease(self, job: Job) -> None:
        """A lease's timer: renewed ones get another, others end."""
        world, attempt = self._world, job.attempt
        if attempt is None:
            return
        if attempt.expires_ms > world.now_ms:
            world.timers.set(attempt.expires_ms, Alarm.LEASE, job.job_id)
        else:
            self.lose(job, reason="lease-expired")

    # -- wraps ------------------------------------------------------------------------------------

    def add_wrap(self, job: Job, worker_id: WorkerId, wrap: bytes) -> None:
        """Keep one more wrapped key; the worker becomes eligible (again)."""
        world = self._world
        if job.wraps.get(worker_id) == wrap and worker_id not in job.declined_by:
            return
        size = 0 if worker_id in job.wraps else 128 + len(wrap)
        if not world.index.room(job.account, size):
            return
        waiting = job in world.waiting
        if waiting:
            world.waiting.remove(job)
        world.index.add(job.account, size)
        job.index_bytes += size
        job.wraps[worker_id] = wrap
        job.declined_by.discard(worker_id)
        if job.durable and job.state is not State.RECEIVING:
            world.out.append(do.StoreWrap(job_id=job.job_id, worker_id=worker_id, wrap=wrap))
        if waiting:
            world.waiting.add(job, first=True)
            self.schedule()

    def _others(self, job: Job, but: WorkerId) -> bool:
        """Whether a worker that is here, other than `but`, may still run `job`."""
        workers = self._world.workers
        return any(
            worker_id != but and eligible(job, workers[worker_id])
            for worker_id in present(job, workers)
        )

    def _usable(self, job: Job) -> bool:
        workers = self._world.workers
        return any(eligible(job, workers[each]) for each in present(job, workers))

    def ask_for_wraps(self, client: Client) -> None:
        """Ask the owner of stuck jobs to wrap their keys for workers that could run them."""
        world, asked = self._world, 0
        client.wants_wraps = False
        for job in world.waiting.jobs_of(client.client_key):
            if job.peer != client.peer or self._usable(job):
                continue
            if len(job.asked) > 2 * len(world.workers) + ASKS_PER_TURN:
                job.asked &= world.workers.keys()
            for worker in world.workers.values():
                if worker.worker_id in job.asked or not suits(job, worker):
                    continue
                job.asked.add(worker.worker_id)
                asked += 1
                header = Header(Kind.WRAP_WANTED, job.job_id, peer=worker.worker_id)
                world.send(client.peer, header)
            if asked >= ASKS_PER_TURN:
                client.wants_wraps = True
                return

    def park(self, job: Job) -> None:
        """The disk refused a lease or its outputs: no fault of the worker, so try again later."""
        world = self._world
        self._end_attempt(job, revoke=True)
        job.apply(LeaseLost)
        world.timers.set(world.now_ms + world.rules.park_ms, Alarm.PARKED, job.job_id)

    def unpark(self, job: Job) -> None:
        """Try a job again that the disk had refused."""
        if job.state in WAITING and job not in self._world.waiting:
            self.enqueue(job, first=True)
