"""Jobs of a real client whose results are known, and a count of how often each was handed over."""

import threading
import time
from collections import Counter, deque
from concurrent.futures import Future
from typing import Any, Final

import numpy as np

from attestation.client.client import Client
from attestation.client.errors import JobRefusedError
from attestation.client.jobs import Job
from attestation.wire.control import RefusalCode

LARGE_EVERY: Final = 10
"""Each tenth job is larger than a message and lies in the spool."""


class Workload:
    """Many small programs, some on large inputs."""

    def __init__(self, client: Client, *, disk_fills: bool = False) -> None:
        """`disk_fills`: being refused with `spool-full` is no loss; the job is submitted again."""
        self.client = client
        self.disk_fills = disk_fills
        self.refused = 0
        self.submitted = 0
        self.jobs: deque[tuple[int, Job]] = deque()
        self.handed_over: Counter[int] = Counter()
        self._lock = threading.Lock()
        self._places: dict[bytes, int] = {}
        """Places taken in each worker's chain of receipts: a bit per place, to last an hour."""

    def submit(self, count: int) -> None:
        """Submit so many more durable jobs."""
        for _ in range(count):
            self._submit(self.submitted)
            self.submitted += 1

    def _submit(self, number: int) -> None:
        job = self.client.submit(
            "nn.affine",
            {"x": self.inputs(number)},
            parameters={"scale": 2.0, "shift": float(number)},
        )
        job.add_done_callback(lambda job: self._done(number, job))
        self.jobs.append((number, job))

    @staticmethod
    def inputs(number: int) -> "np.ndarray[Any, np.dtype[np.float64]]":
        rows = 2_000 if number % LARGE_EVERY == 0 else 20
        return np.random.default_rng(number).standard_normal((rows, 40))

    def _done(self, number: int, job: Future[Any]) -> None:
        with self._lock:
            if isinstance(job.exception(), JobRefusedError):
                return
            self.handed_over[number] += 1

    def check(self, seconds: float, *, leave: int = 0) -> None:
        """Every result is right, proven, from a receipt of its own, and came once.

        Forgets what it has checked; `leave` of the newest jobs are left for the next time.
        """
        ends = time.monotonic() + seconds
        while len(self.jobs) > leave:
            number, job = self.jobs[0]
            if self.disk_fills and self._refused_for_want_of_space(number, job, ends):
                continue
            y = job.result(max(0.0, ends - time.monotonic()))["y"]
            np.testing.assert_array_equal(y, 2.0 * self.inputs(number) + number)
            claims = job.claims
            assert claims.job_id == job.job_id
            assert not claims.code
            taken, place = self._places.get(claims.keyset_id, 0), 1 << claims.sequence
            assert not taken & place, "two jobs with one place in a worker's chain"
            self._places[claims.keyset_id] = taken | place
            self.jobs.popleft()
            with self._lock:
                assert self.handed_over.pop(number) == 1, "handed over more than once"
        with self._lock:
            assert max(self.handed_over.values(), default=1) == 1, "handed over more than once"

    def _refused_for_want_of_space(self, number: int, job: Job, ends: float) -> bool:
        error = job.exception(max(0.0, ends - time.monotonic()))
        if not isinstance(error, JobRefusedError) or error.code != RefusalCode.SPOOL_FULL:
            return False
        self.jobs.popleft()
        self.refused += 1
        self._submit(number)
        return True
