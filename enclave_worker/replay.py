"""Each job runs at most once under one key set, whatever attempt number the coordinator writes.

The attempt is chosen by the untrusted coordinator. If a higher one made a job run again, it could
have a client's job done, signed and billed twice. So the cache knows job ids only:

    absent --claim--> held --spend--> spent        (for the life of the key set)
                       |
                       +--release--> absent        (revoked or refused before the kernel ran)

A lease that is lost before the kernel starts costs nothing: the next attempt may come back here.
One that is lost later is answered REPLAYED, and the job moves to another worker, or to this one
under a new key set for which the client, knowingly, wraps the job's key again. (Keeping the sealed
result and sending it again was considered: it would hold a job's outputs in memory until the key
set ends, to save a case that the client's next wrap already covers.)
"""

import threading
from enum import StrEnum

from attestation import limits
from attestation.identifiers import JobId
from enclave_worker.refusals import ReplayedError, RevokedError, UnknownKeySetError


class ReplayCache:
    """The job ids of one key set. Bounded; dies with the key set."""

    __slots__ = ("_capacity", "_held", "_lock", "_running", "_spent")

    def __init__(self, *, capacity: int = limits.JOBS_PER_KEYSET) -> None:
        """Know at most `capacity` jobs."""
        self._capacity = capacity
        self._held: dict[JobId, Claim] = {}
        self._spent: set[JobId] = set()
        self._running = 0
        self._lock = threading.Lock()

    @property
    def active(self) -> int:
        """Jobs that are here: held, or spent and not finished."""
        return len(self._held) + self._running

    @property
    def full(self) -> bool:
        """Whether the key set must end, since another job could not be remembered."""
        return len(self._held) + len(self._spent) >= self._capacity

    def claim(self, job_id: JobId) -> "Claim":
        """Take `job_id` for one execution; `ReplayedError` when it is held or spent."""
        with self._lock:
            if job_id in self._spent or job_id in self._held:
                raise ReplayedError("the job was already given to this worker")
            if self.full:
                raise UnknownKeySetError("the key set has served as many jobs as it can remember")
            claim = Claim(job_id, self)
            self._held[job_id] = claim
            return claim

    def _settle(self, claim: "Claim", *, spent: bool) -> None:
        with self._lock:
            del self._held[claim.job_id]
            if spent:
                self._spent.add(claim.job_id)
                self._running += 1

    def _finished(self) -> None:
        with self._lock:
            self._running -= 1


class _State(StrEnum):
    HELD = "held"
    SPENT = "spent"
    RELEASED = "released"
    FINISHED = "finished"


class Claim:
    """One execution's hold on its job id. `spend` and `release` race safely: one of them wins."""

    __slots__ = ("_cache", "_lock", "_state", "job_id")

    def __init__(self, job_id: JobId, cache: ReplayCache) -> None:
        """Made by `ReplayCache.claim` only."""
        self.job_id = job_id
        self._cache = cache
        self._state = _State.HELD
        self._lock = threading.Lock()

    def spend(self) -> None:
        """The kernel starts now: the job never runs again. `RevokedError` if it was released."""
        with self._lock:
            if self._state is not _State.HELD:
                raise RevokedError("the job was taken back before its kernel ran")
            self._state = _State.SPENT
            self._cache._settle(self, spent=True)

    def release(self) -> None:
        """The kernel will not start: another attempt may. Without effect once it has."""
        with self._lock:
            if self._state is _State.HELD:
                self._state = _State.RELEASED
                self._cache._settle(self, spent=False)

    def finish(self) -> None:
        """The execution is over, however it ended. Releases a claim whose kernel never ran."""
        self.release()
        with self._lock:
            if self._state is _State.SPENT:
                self._state = _State.FINISHED
                self._cache._finished()
