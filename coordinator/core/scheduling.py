"""Which job next, on which worker.

Clients take turns, so one with a million jobs delays another by one job. Within a client, jobs that
could run on the same workers form a line; the oldest head of a line that can start goes first.
Lines keep the search short: a job that cannot start stands before its equals only.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable, Mapping

from attestation.identifiers import WorkerId
from coordinator.core.job import Job
from coordinator.core.peers import Worker

LINES_SEARCHED = 64
"""Lines looked at per client and pick; the rest come up as the searched ones rotate."""

Place = Callable[[Job], Worker | None]


def eligible(job: Job, worker: Worker) -> bool:
    """Return whether `worker` may ever be given `job`, busy or not."""
    return (
        worker.worker_id in job.wraps
        and worker.worker_id not in job.declined_by
        and suits(job, worker)
    )


def present(job: Job, workers: Mapping[WorkerId, Worker]) -> set[WorkerId]:
    """Return the workers that are here and have a wrap; takes the time of the fewer of both."""
    return job.wraps.keys() & workers.keys()


def suits(job: Job, worker: Worker) -> bool:
    """Return whether `worker` could run `job` if the client wrapped its key for it."""
    offer, record = worker.description, job.record
    return (
        not worker.draining
        and offer.catalogue_digest == record.catalogue_digest
        and (record.price_limit == 0 or offer.price <= record.price_limit)
        and job.total_bytes <= offer.max_job_bytes
    )


def choose(job: Job, workers: Mapping[WorkerId, Worker], now_ms: int) -> Worker | None:
    """Return the least loaded, then cheapest, eligible worker with a free place.

    One that failed this job before comes last: it says itself how much it can take. For a while it
    is not even given it when the others are busy: a liar with endless room would have every attempt
    of a job before the honest one has a place.
    """
    best: Worker | None = None
    best_rank: tuple[bool, float, int, bytes] | None = None
    could = [workers[each] for each in present(job, workers) if eligible(job, workers[each])]
    others = any(worker.worker_id not in job.lost_by for worker in could)
    for worker in could:
        worker_id = worker.worker_id
        if not worker.free or (others and job.lost_by.get(worker_id, 0) > now_ms):
            continue
        load = len(worker.running) / worker.capacity
        rank = (worker_id in job.lost_by, load, worker.description.price, worker_id)
        if best_rank is None or rank < best_rank:
            best, best_rank = worker, rank
    return best


class Line:
    """One client's waiting jobs, in lines of equals."""

    def __init__(self) -> None:
        self.lines: OrderedDict[Hashable, deque[Job]] = OrderedDict()

    @staticmethod
    def key(job: Job) -> Hashable:
        """Return what makes jobs equal for placing."""
        record = job.record
        usable = frozenset(job.wraps.keys() - job.declined_by)
        lost_by = frozenset(job.lost_by)
        return (usable, lost_by, record.catalogue_digest, record.price_limit, job.total_bytes)

    def pick(self, place: Place) -> tuple[Job, Worker] | None:
        """Take out the oldest job that can start."""
        best: tuple[Job, Worker, Hashable] | None = None
        for key in list(self.lines)[:LINES_SEARCHED] if len(self.lines) > 1 else self.lines:
            head = self.lines[key][0]
            if best is not None and head.sequence > best[0].sequence:
                continue
            worker = place(head)
            if worker is not None:
                best = (head, worker, key)
        if best is None:
            # The next search begins with those that this one did not reach.
            if len(self.lines) > LINES_SEARCHED:
                for _ in range(LINES_SEARCHED):
                    self.lines.move_to_end(next(iter(self.lines)))
            return None
        job, worker, key = best
        self._drop_head(key)
        return job, worker

    def _drop_head(self, key: Hashable) -> None:
        line = self.lines[key]
        line.popleft()
        if not line:
            del self.lines[key]


class WaitingJobs:
    """Every job that waits for a worker."""

    def __init__(self) -> None:
        self._clients: OrderedDict[bytes, Line] = OrderedDict()
        self._keys: dict[bytes, Hashable] = {}
        self.unsearched = False
        """Whether the last search left lines for another turn."""

    def __contains__(self, job: Job) -> bool:
        return job.job_id in self._keys

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, job: Job, *, first: bool = False) -> None:
        """Put `job` in its line, at the front when it has waited before."""
        line = self._clients.setdefault(job.owner, Line())
        key = Line.key(job)
        jobs = line.lines.setdefault(key, deque())
        (jobs.appendleft if first else jobs.append)(job)
        self._keys[job.job_id] = key

    def remove(self, job: Job) -> None:
        """Take `job` out if it waits."""
        key = self._keys.pop(job.job_id, None)
        if key is None:
            return
        line = self._clients[job.owner]
        line.lines[key].remove(job)
        if not line.lines[key]:
            del line.lines[key]
        if not line.lines:
            del self._clients[job.owner]

    def pick(self, place: Place) -> tuple[Job, Worker] | None:
        """Take out the next job that `place` finds a worker for; its client goes last."""
        self.unsearched = False
        for owner in list(self._clients):
            line = self._clients[owner]
            self.unsearched = self.unsearched or len(line.lines) > LINES_SEARCHED
            found = line.pick(place)
            if found is None:
                continue
            del self._keys[found[0].job_id]
            self._clients.move_to_end(owner)
            if not line.lines:
                del self._clients[owner]
            return found
        return None

    def jobs_of(self, owner: bytes) -> Iterable[Job]:
        """Return one client's waiting jobs."""
        line = self._clients.get(owner)
        return [job for jobs in line.lines.values() for job in jobs] if line else []
