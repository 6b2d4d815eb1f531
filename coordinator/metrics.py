"""The coordinator's numbers, for `--metrics` (docs/observability.md).

Most are totals that the core keeps anyway; the broker adds bytes and the time of its commits. A
scrape reads them from a thread of its own while the broker goes on: every read is of one number, or
of a table that is copied in one step, so what is shown may be a turn old and is never torn.
"""

from collections import Counter
from collections.abc import Iterable
from enum import StrEnum
from typing import Final

from attrs import define, field

from attestation.observability.exposition import Family, Histogram, counter, gauge, histogram
from attestation.wire.control import RefusalCode
from coordinator.core.core import Core
from coordinator.core.job import State
from coordinator.core.peers import Client, Newcomer, Peer, Worker
from coordinator.core.world import World

COMMIT_SECONDS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5)

_TOTALS: Final = {
    "jobs.accepted": "Jobs taken in; durable ones are on stable storage.",
    "jobs.assigned": "Jobs given to a worker, each time that one was.",
    "jobs.done": "Results recorded or passed on.",
    "jobs.acknowledged": "Jobs whose client has the result.",
    "leases.lost": "Leases that ended without a result.",
    "results.fenced": "Results that came too late, or from the wrong worker.",
    "results.rejected": "Results that a client could not verify.",
    "clients.stalled": "Transfers ended because the client did not do its part.",
    "store.failed": "Instructions that the database did not carry out.",
    "spool.failed": "Files of the spool that could not be written or read.",
}


class Role(StrEnum):
    """What a peer is."""

    CLIENT = "client"
    WORKER = "worker"
    NEWCOMER = "newcomer"


class Share(StrEnum):
    """What the memory budget is for."""

    WAITING = "waiting"
    MOVING = "moving"


_ROLES: Final[dict[type[Peer], Role]] = {
    Client: Role.CLIENT,
    Worker: Role.WORKER,
    Newcomer: Role.NEWCOMER,
}


@define(eq=False)
class Traffic:
    """What the broker counts beside the core: its thread writes, a scrape reads."""

    messages_in: int = 0
    bytes_in: int = 0
    messages_out: int = 0
    bytes_out: int = 0
    commits: Histogram = field(factory=lambda: Histogram(COMMIT_SECONDS))


def families(core: Core, traffic: Traffic) -> Iterable[Family]:
    """Return every number as it is now."""
    yield from _of_jobs(core.world)
    yield from _of_peers(core.world)
    yield from _of_memory_and_disk(core.world, traffic)
    yield from _of_messages(core.world, traffic)
    for name, text in _TOTALS.items():
        yield counter(f"enclave_coordinator_{_plain(name)}_total", text, core.counters[name])


def _of_jobs(world: World) -> Iterable[Family]:
    jobs = list(world.jobs.values())
    states = Counter(job.state for job in jobs)
    attempts = [attempt for job in jobs if (attempt := job.attempt) is not None]
    oldest = min((attempt.since_ms for attempt in attempts), default=world.now_ms)
    soonest = min((attempt.expires_ms for attempt in attempts), default=0)
    renewed = soonest - world.rules.lease_ms if attempts else world.now_ms
    yield gauge(
        "enclave_coordinator_jobs",
        "Jobs by state.",
        {state: states[state] for state in State},
        label="state",
    )
    yield gauge(
        "enclave_coordinator_jobs_waiting",
        "The queue: jobs that wait for a worker.",
        len(world.waiting),
    )
    yield gauge(
        "enclave_coordinator_lease_age_seconds",
        "How long the oldest lease has lasted.",
        max(0, world.now_ms - oldest) / 1000,
    )
    yield gauge(
        "enclave_coordinator_lease_unrenewed_seconds",
        "How long the lease that ends next was not renewed.",
        max(0, world.now_ms - renewed) / 1000,
    )


def _of_peers(world: World) -> Iterable[Family]:
    roles = Counter(_ROLES[type(peer)] for peer in list(world.peers.values()))
    workers = list(world.workers.values())
    yield gauge(
        "enclave_coordinator_peers",
        "Connected peers.",
        {role: roles[role] for role in Role},
        label="role",
    )
    yield gauge(
        "enclave_coordinator_worker_capacity",
        "Jobs that all connected workers together run at once.",
        sum(worker.capacity for worker in workers),
    )
    yield gauge(
        "enclave_coordinator_worker_jobs",
        "Jobs that they hold now.",
        sum(len(worker.running) for worker in workers),
    )


def _of_memory_and_disk(world: World, traffic: Traffic) -> Iterable[Family]:
    budgets = {Share.WAITING: world.bodies, Share.MOVING: world.budget}
    yield gauge(
        "enclave_coordinator_memory_bytes",
        "Sealed bytes that the memory budget is reserved for.",
        {share: budget.used for share, budget in budgets.items()},
        label="share",
    )
    yield gauge(
        "enclave_coordinator_memory_limit_bytes",
        "The memory budget.",
        {share: budget.limit for share, budget in budgets.items()},
        label="share",
    )
    yield gauge(
        "enclave_coordinator_disk_bytes",
        "Sealed bytes of durable jobs, promised outputs included.",
        world.spool_bytes,
    )
    yield gauge(
        "enclave_coordinator_disk_limit_bytes",
        "Sealed bytes that durable jobs may have together.",
        world.rules.spool_limit,
    )
    yield histogram(
        "enclave_coordinator_commit_seconds",
        "Commits of the database, with what they wait for the disk.",
        traffic.commits,
    )


def _of_messages(world: World, traffic: Traffic) -> Iterable[Family]:
    refusals = world.counters
    yield counter(
        "enclave_coordinator_received_messages_total", "Messages taken.", traffic.messages_in
    )
    yield counter(
        "enclave_coordinator_received_bytes_total", "Bytes of messages taken.", traffic.bytes_in
    )
    yield counter(
        "enclave_coordinator_sent_messages_total", "Messages given out.", traffic.messages_out
    )
    yield counter(
        "enclave_coordinator_sent_bytes_total", "Bytes of messages given out.", traffic.bytes_out
    )
    yield counter(
        "enclave_coordinator_refusals_total",
        "Refusals that were sent, by code.",
        {code: refusals[f"refused.{code}"] for code in RefusalCode},
        label="code",
    )


def _plain(name: str) -> str:
    """Return the core's name of a total as Prometheus writes names."""
    return name.replace(".", "_")
