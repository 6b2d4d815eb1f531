"""The client's part of the demo: jobs in flight, a worker that dies, results that are compared."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

import numpy as np
from attrs import field, frozen

from attestation.cli.demo_cluster import Cluster, DemoWorker
from attestation.cli.demo_dataset import TOLERANCE, Split, pipeline, plain_numpy
from attestation.cli.demo_processes import DemoProcesses
from attestation.client.client import Client
from attestation.client.jobs import Job
from attestation.errors import EnclaveError

RESULT_SECONDS: Final = 60.0


class DemoDisagreesError(EnclaveError):
    """Workers and plain NumPy computed different numbers. Please report it."""

    code = "demo-disagrees"


@frozen(kw_only=True)
class Killed:
    """The worker that was killed, and how many jobs the coordinator had given it then."""

    name: str
    pid: int
    jobs_held: int


@frozen(kw_only=True)
class Comparison:
    """Sealed and plain computation side by side."""

    sealed_accuracy: float
    numpy_accuracy: float
    largest_difference: float

    @classmethod
    def of(cls, jobs: Sequence[Job], splits: Sequence[Split]) -> Self:
        """Compute every split here too; raises `DemoDisagreesError` beyond the tolerance."""
        sealed, plain, difference = [], [], 0.0
        for job, split in zip(jobs, splits, strict=True):
            outputs = job.result(RESULT_SECONDS)
            accuracy, probability = plain_numpy(split)
            sealed.append(float(outputs["accuracy"]))
            plain.append(accuracy)
            gap = float(np.abs(outputs["probability"] - probability).max())
            difference = max(difference, gap)
        if sealed != plain or difference > TOLERANCE:
            raise DemoDisagreesError(f"accuracies differ, or probabilities by {difference:.1e}")
        return cls(
            sealed_accuracy=float(np.mean(sealed)),
            numpy_accuracy=float(np.mean(plain)),
            largest_difference=difference,
        )


@frozen(kw_only=True)
class JobsDone:
    """Every job, with what became of it."""

    jobs: tuple[Job, ...] = field(repr=False)
    killed: Killed
    comparison: Comparison

    @property
    def moved(self) -> tuple[Job, ...]:
        """The jobs that another worker finished: their receipts say so."""
        return tuple(job for job in self.jobs if job.claims.attempt > 1)

    @property
    def attempts(self) -> Counter[int]:
        """How many jobs were done at which attempt, by their receipts."""
        return Counter(job.claims.attempt for job in self.jobs)

    def save(self, directory: Path) -> list[tuple[Path, Path]]:
        """Write receipt and evidence of every job."""
        return [job.save_proof(directory) for job in self.jobs]


def wait_for_workers(client: Client, processes: DemoProcesses, count: int) -> None:
    """Wait until the policy has accepted `count` workers."""
    processes.wait_until(
        lambda: sum(status.accepted for status in client.workers(settle=0.2)) == count,
        what=f"the policy did not accept {count} workers",
        timeout=RESULT_SECONDS,
    )


def run_jobs(
    client: Client, cluster: Cluster, processes: DemoProcesses, splits: Sequence[Split]
) -> JobsDone:
    """Submit one durable job per split, kill a worker in the middle, wait for all results."""
    half = len(splits) // 2
    jobs = [_submit(client, split) for split in splits[:half]]
    for job in jobs[: half // 2]:
        job.result(RESULT_SECONDS)
    victim = cluster.workers[-1]
    # A job takes milliseconds. The worker is stopped in the middle of its work, so that it surely
    # holds some when it is killed, whatever the speed of this machine.
    victim.process.freeze()
    jobs += [_submit(client, split) for split in splits[half:]]
    processes.wait_until(
        lambda: _jobs_held(client, victim) > 0, what=f"{victim.name} was given no job"
    )
    killed = Killed(name=victim.name, pid=victim.process.pid, jobs_held=_jobs_held(client, victim))
    processes.forget(victim.process)
    victim.process.kill()
    return JobsDone(jobs=tuple(jobs), killed=killed, comparison=Comparison.of(jobs, splits))


def _submit(client: Client, split: Split) -> Job:
    program = pipeline()
    return client.submit(
        program.build(), inputs=split.inputs(), parameters=program.parameters, durable=True
    )


def _jobs_held(client: Client, worker: DemoWorker) -> int:
    worker_id = worker.worker_id()
    return sum(
        status.entry.running
        for status in client.workers(settle=0.0)
        if status.entry.worker_id == worker_id
    )
