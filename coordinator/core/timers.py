"""Things to look at later. A timer is a hint: whoever is woken checks whether it still applies."""

import heapq
from collections.abc import Container
from enum import IntEnum
from typing import Final

from attestation.identifiers import JobId

PRUNE_AT: Final = 16_384
"""Timers that are looked through for those of ended jobs; twice the living ones from then on."""


class Alarm(IntEnum):
    """Why a job is looked at again."""

    LEASE = 1
    DEADLINE = 2
    STALL = 3
    PARKED = 4
    RETENTION = 5


class Timers:
    """A heap of (time, alarm, job)."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, JobId]] = []
        self._prune_at = PRUNE_AT

    def set(self, at_ms: int, alarm: Alarm, job_id: JobId) -> None:
        """Wake `alarm` of `job_id` at `at_ms`; earlier settings stay."""
        heapq.heappush(self._heap, (at_ms, int(alarm), job_id))

    def due(self, now_ms: int) -> list[tuple[Alarm, JobId]]:
        """Take what is due."""
        ready = []
        while self._heap and self._heap[0][0] <= now_ms:
            _, alarm, job_id = heapq.heappop(self._heap)
            ready.append((Alarm(alarm), job_id))
        return ready

    def prune(self, alive: Container[JobId]) -> None:
        """Forget the timers of jobs that ended: the retention of one is a week."""
        if len(self._heap) < self._prune_at:
            return
        self._heap = [entry for entry in self._heap if entry[2] in alive]
        heapq.heapify(self._heap)
        self._prune_at = max(PRUNE_AT, 2 * len(self._heap))

    def next_ms(self) -> int | None:
        """Return when the next one is due."""
        return self._heap[0][0] if self._heap else None
