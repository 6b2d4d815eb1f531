"""The one mutable value behind the core: its tables, and the few acts that every part shares."""

from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from attestation.errors import LocalProtocolError
from attestation.identifiers import JobId, WorkerId
from attestation.wire.control import Refusal, RefusalCode
from attestation.wire.frames import NO_JOB, NO_PEER, Header, Kind
from coordinator.core import instructions as do
from coordinator.core.budget import Budget
from coordinator.core.instructions import Instruction, Payload, PeerKey
from coordinator.core.job import Job, body_hold, delivery_lane, run_lane, upload_lane
from coordinator.core.peers import Client, Peer, Worker
from coordinator.core.quota import Quota
from coordinator.core.rules import Rules
from coordinator.core.scheduling import WaitingJobs
from coordinator.core.timers import Alarm, Timers

REMEMBERED = 65_536
"""Ended jobs kept in mind, to answer late and repeated messages."""


class Ended(NamedTuple):
    """Attempts of a job that is over: the one with the result (0: none), whose, and the last."""

    recorded: int
    worker_id: WorkerId | None
    last: int


NEVER = Ended(0, None, 0)


class World:
    """Tables keyed by identity; `out` collects the instructions of the event in hand."""

    def __init__(
        self, rules: Rules, *, curve_key: bytes, random_bytes: Callable[[int], bytes]
    ) -> None:
        self.rules = rules
        self.curve_key = curve_key
        self.random_bytes = random_bytes
        self.now_ms = 0
        self.unix_ms = 0
        self.draining = False
        self.verbose = True
        """Whether anybody wants what is noted at level `debug`: three notes a job."""
        self.jobs: dict[JobId, Job] = {}
        self.jobs_of: dict[bytes, OrderedDict[JobId, Job]] = {}
        self.peers: dict[PeerKey, Peer] = {}
        self.clients: dict[bytes, Client] = {}
        """By peer id."""
        self.workers: dict[WorkerId, Worker] = {}
        self.waiting = WaitingJobs()
        # What waits in memory and what moves have shares of their own: neither stops the other.
        bodies = rules.memory_limit // 4
        moving = rules.memory_limit - bodies
        self.bodies = Budget(bodies, share=rules.share(bodies))
        self.budget = Budget(moving, share=rules.share(moving))
        self.places = Quota(rules.max_jobs, rules.share(rules.max_jobs))
        self.spool = Quota(rules.spool_limit, rules.share(rules.spool_limit))
        self.index = Quota(rules.index_limit, rules.share(rules.index_limit))
        self.timers = Timers()
        self.finished: OrderedDict[JobId, Ended] = OrderedDict()
        self.pumping: dict[JobId, None] = {}
        """Transfers that need another turn, in order."""
        self.undeleted: set[JobId] = set()
        self.passed_over = False
        """Whether a job waits for no more than its account's share of the memory."""
        self.sequence = 0
        self.workers_changed = False
        self.counters: Counter[str] = Counter()
        self.out: list[Instruction] = []

    # -- saying things ----------------------------------------------------------------------------

    def send(self, peer: PeerKey, header: Header, *frames: Payload) -> None:
        """Send a message that is in memory."""
        self.out.append(do.Send(peer, header, frames))

    def send_to_client(self, job: Job, header: Header, *frames: Payload) -> None:
        """Send to the client of a job, if it is here."""
        if job.peer is not None:
            self.send(job.peer, header, *frames)

    def refuse(
        self,
        peer: PeerKey,
        code: RefusalCode,
        detail: str = "",
        *,
        job_id: JobId = NO_JOB,
        about: bytes = NO_PEER,
    ) -> None:
        """Send REFUSED."""
        self.counters[f"refused.{code}"] += 1
        body = Refusal(code=code, detail=detail[:400]).to_bytes()
        self.send(peer, Header(Kind.REFUSED, job_id, peer=about), body)

    def note(self, event: str, *, level: str = "info", **fields: object) -> None:
        """Write a log event; at level `debug` only for who listens."""
        if self.verbose or level != "debug":
            self.out.append(do.Note(event=event, level=level, fields=fields))

    @property
    def spool_bytes(self) -> int:
        """Bytes of durable jobs on disk, their promised outputs included."""
        return self.spool.used

    @property
    def index_bytes(self) -> int:
        """Bytes of wrapped keys and bookkeeping."""
        return self.index.used

    # -- finding things ---------------------------------------------------------------------------

    def connection_of(self, client_key: bytes) -> Client | None:
        """Return the newest connection of a client key."""
        for client in reversed(self.clients.values()):
            if client.client_key == client_key:
                return client
        return None

    def client_at(self, peer: PeerKey | None) -> Client | None:
        """Return the client on a connection, if it is still one."""
        found = self.peers.get(peer) if peer is not None else None
        return found if isinstance(found, Client) else None

    # -- keeping jobs -----------------------------------------------------------------------------

    def next_sequence(self) -> int:
        """Return a number larger than any before: the order of arrival."""
        self.sequence += 1
        return self.sequence

    def add_job(self, job: Job) -> None:
        """Enter a job in every table."""
        if job.job_id in self.jobs:
            raise LocalProtocolError("one job id twice")
        self.jobs[job.job_id] = job
        self.jobs_of.setdefault(job.owner, OrderedDict())[job.job_id] = job
        self.places.add(job.account, 1)
        self.spool.add(job.account, job.disk_bytes)
        self.index.add(job.account, job.index_bytes)
        if job.record.deadline_ms:
            left = max(0, job.record.deadline_ms - self.unix_ms)
            self.timers.set(self.now_ms + left, Alarm.DEADLINE, job.job_id)

    def forget_job(self, job: Job) -> None:
        """Take a finished job out of every table and give back what it held."""
        del self.jobs[job.job_id]
        own = self.jobs_of[job.owner]
        del own[job.job_id]
        if not own:
            del self.jobs_of[job.owner]
        self.waiting.remove(job)
        self.pumping.pop(job.job_id, None)
        self.places.add(job.account, -1)
        self.spool.add(job.account, -job.disk_bytes)
        self.index.add(job.account, -job.index_bytes)
        if job.delivery is not None:
            client = self.client_at(job.delivery.peer)
            if client is not None:
                client.deliveries.discard(job.job_id)
        self.bodies.release(body_hold(job.job_id))
        for lane in (upload_lane, run_lane, delivery_lane):
            self.budget.release(lane(job.job_id))
        self.finished[job.job_id] = ended(job)
        while len(self.finished) > REMEMBERED:
            self.finished.popitem(last=False)

    def drop_body(self, job: Job) -> None:
        """Let go of a body held in memory (a durable one is in the store)."""
        job.body = None
        self.bodies.release(body_hold(job.job_id))


def ended(job: Job) -> Ended:
    """Return what is remembered of a job."""
    if job.result is None:
        return Ended(0, None, job.attempt_number)
    return Ended(job.result.attempt, job.result.worker_id, job.attempt_number)
