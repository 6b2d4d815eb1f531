"""The worker's numbers, for `--metrics` (docs/observability.md), and the clock of each job.

The coordinator is told nothing here that it could not add up from what passes through it: sizes
are of sealed bytes, codes are those of refusals and receipts, and the time that kernels took is in
every receipt. Nothing is counted by program, tensor, client or job.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Final

from attrs import frozen

from attestation.observability.exposition import Family, Histogram, counter, gauge, histogram
from attestation.wire.control import RefusalCode
from enclave_worker.executor import FinishedJob

JOB_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60, 600)
JOB_BYTES: Final = tuple(float(1 << bits) for bits in range(10, 41, 3))
"""1 KiB, 8 KiB, and so on to 1 TiB."""

_NANO: Final = 1e-9


class Phase(StrEnum):
    """What the time of a job goes into."""

    ADMIT = "admit"
    WAIT = "wait"
    """For segments, for credit, and for the socket to take outputs."""
    OPEN = "open"
    KERNEL = "kernel"
    """Running the program; on a GPU its turn is waited for here."""
    SEAL = "seal"


class Ending(StrEnum):
    """How a job with a receipt, or a collection of evidence, ended."""

    DONE = "done"
    FAILED = "failed"


class Laps:
    """Where the time of one job went. Its thread takes the laps; the loop reads when it is over."""

    __slots__ = ("_monotonic_ns", "ended_ns", "since_ns", "spent_ns", "started_ns")

    def __init__(self, monotonic_ns: Callable[[], int]) -> None:
        """Begin."""
        self._monotonic_ns = monotonic_ns
        self.started_ns = self.since_ns = monotonic_ns()
        self.spent_ns: dict[Phase, int] = {}
        self.ended_ns: dict[Phase, int] = {}
        """When each phase was left for the last time."""

    def lap(self, phase: Phase) -> None:
        """Put the time since the last lap down to `phase`."""
        now = self.ended_ns[phase] = self._monotonic_ns()
        self.spent_ns[phase] = self.spent_ns.get(phase, 0) + now - self.since_ns
        self.since_ns = now


@frozen(kw_only=True)
class Levels:
    """What goes up and down, at one moment."""

    jobs: int
    capacity: int
    keysets: int
    idle_bytes: int


class Meters:
    """What a worker counts. Its loop writes, a scrape reads from another thread."""

    def __init__(self) -> None:
        self.refusals: Counter[RefusalCode] = Counter()
        self.session_refusals: Counter[RefusalCode] = Counter()
        self.collections: Counter[Ending] = Counter()
        self._jobs: Counter[Ending] = Counter()
        self._items: Counter[Ending] = Counter()
        self._spent_ns: Counter[Phase] = Counter()
        self._device_ns = 0
        self._opened = self._sealed = 0
        self._seconds = Histogram(JOB_SECONDS)
        self._bytes = Histogram(JOB_BYTES)

    def ended(self, laps: Laps) -> None:
        """Count the time of a job, however it ended."""
        self._spent_ns.update(laps.spent_ns)
        self._seconds.observe((laps.since_ns - laps.started_ns) * _NANO)

    def finished(self, job: FinishedJob, items: int) -> None:
        """Count a job that gets its receipt: one of `items`, none when it is not a stack."""
        metering, failed = job.draft.metering, bool(job.result.code)
        self._jobs[Ending.FAILED if failed else Ending.DONE] += 1
        failures = max(1, items) if failed else len(job.result.failures)
        self._items[Ending.FAILED] += failures
        self._items[Ending.DONE] += max(1, items) - failures
        self._device_ns += metering.device_ns
        self._opened += metering.bytes_in
        self._sealed += metering.bytes_out
        self._bytes.observe(metering.bytes_in + metering.bytes_out)

    def families(self, levels: Levels) -> Iterable[Family]:
        """Return every number as it is now."""
        yield gauge("enclave_worker_jobs_running", "Jobs that run now.", levels.jobs)
        yield gauge("enclave_worker_capacity", "Jobs that may run at once.", levels.capacity)
        yield gauge("enclave_worker_keysets", "Key sets that are alive.", levels.keysets)
        yield gauge(
            "enclave_worker_buffer_idle_bytes",
            "Wiped memory that waits for the next job.",
            levels.idle_bytes,
        )
        yield from self._of_jobs()
        yield from self._of_attestation()

    def _of_jobs(self) -> Iterable[Family]:
        yield counter(
            "enclave_worker_jobs_total",
            "Jobs with a receipt, by whether their program ran.",
            {ending: self._jobs[ending] for ending in Ending},
            label="ending",
        )
        yield counter(
            "enclave_worker_items_total",
            "Items of stacks, and jobs that are none.",
            {ending: self._items[ending] for ending in Ending},
            label="ending",
        )
        yield counter(
            "enclave_worker_refusals_total",
            "Jobs that were refused, by code.",
            {code: self.refusals[code] for code in RefusalCode},
            label="code",
        )
        yield counter(
            "enclave_worker_job_phase_seconds_total",
            "Where the time of jobs went.",
            {phase: self._spent_ns[phase] * _NANO for phase in Phase},
            label="phase",
        )
        yield counter(
            "enclave_worker_device_seconds_total",
            "Time on the device, as receipts meter it.",
            self._device_ns * _NANO,
        )
        yield counter(
            "enclave_worker_opened_bytes_total", "Sealed bytes that were opened.", self._opened
        )
        yield counter(
            "enclave_worker_sealed_bytes_total", "Sealed bytes that were made.", self._sealed
        )
        yield histogram(
            "enclave_worker_job_seconds", "Jobs by how long they were here.", self._seconds
        )
        yield histogram(
            "enclave_worker_job_bytes", "Jobs by sealed bytes, in and out.", self._bytes
        )

    def _of_attestation(self) -> Iterable[Family]:
        yield counter(
            "enclave_worker_collections_total",
            "Times that evidence was collected.",
            {ending: self.collections[ending] for ending in Ending},
            label="ending",
        )
        yield counter(
            "enclave_worker_session_refusals_total",
            "Challenges and sessions that were refused, by code.",
            {code: self.session_refusals[code] for code in RefusalCode},
            label="code",
        )
