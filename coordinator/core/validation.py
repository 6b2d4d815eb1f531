"""Invariants that hold after every event. Tests call this; it costs too much for every message."""

from attestation.errors import LocalProtocolError
from coordinator.core.job import RUNNING, WAITING, Attempt, Job, State
from coordinator.core.world import World


def validate_state(world: World) -> None:
    """Raise `LocalProtocolError` naming the first invariant that does not hold."""
    for job in world.jobs.values():
        _check_job(world, job)
    _check_peers(world)
    _check_totals(world)


def _require(holds: bool, promise: str) -> None:  # noqa: FBT001 - an assertion's condition
    if not holds:
        raise LocalProtocolError(promise)


def _check_job(world: World, job: Job) -> None:
    _require(job.state is not State.FINISHED, "a finished job is forgotten")
    _require((job.attempt is not None) == (job.state in RUNNING), "leased means one attempt")
    _require(job.state in WAITING or job not in world.waiting, "only waiting jobs wait")
    _require((job.upload is not None) == (job.state is State.RECEIVING), "receiving: an upload")
    _require(job.delivery is None or job.state is State.DONE, "only stored results are delivered")
    has_result = job.state in (State.DONE, State.STREAM_DELIVERED)
    _require((job.result is not None) == has_result, "done means one result")
    _require(job.state is not State.REFUSED or job.refusal is not None, "refused says why")
    own = world.jobs_of.get(job.owner)
    _require(own is not None and own.get(job.job_id) is job, "every job is among its owner's")
    if job.attempt is not None:
        _check_attempt(world, job, job.attempt)
    here = world.client_at(job.peer) is not None or world.connection_of(job.owner) is None
    _require(here, "a job is somebody's whenever its owner is here")


def _check_attempt(world: World, job: Job, attempt: Attempt) -> None:
    _require(attempt.number == job.attempt_number, "the lease is of the newest attempt")
    _require(attempt.in_sent <= attempt.in_granted, "inputs within the worker's credit")
    _require(attempt.in_asked <= attempt.in_granted, "no more asked for than the worker takes")
    _require(attempt.out_relayed <= attempt.out_granted, "outputs within our credit")
    flying = attempt.out_granted - attempt.out_relayed
    _require(flying <= attempt.window, "outputs in flight within the lane")
    _require(job.durable or attempt.in_asked - attempt.in_sent <= attempt.window, "inputs too")
    worker = world.workers.get(attempt.worker_id)
    _require(worker is None or job.job_id in worker.running, "a worker's load counts its leases")


def _check_peers(world: World) -> None:
    for worker in world.workers.values():
        _require(world.peers.get(worker.peer) is worker, "every worker has its connection")
        for job_id in worker.running:
            job = world.jobs.get(job_id)
            held = job is not None and job.attempt is not None
            _require(held, "no load without a lease")
    for client in world.clients.values():
        _require(world.peers.get(client.peer) is client, "every client has its connection")
        for job_id in client.deliveries:
            _require(job_id in world.jobs, "no delivery without a job")


def _check_totals(world: World) -> None:
    jobs = world.jobs.values()
    _require(world.places.used == len(jobs), "places add up")
    _require(world.spool.used == sum(job.disk_bytes for job in jobs), "disk bytes add up")
    _require(world.index.used == sum(job.index_bytes for job in jobs), "index bytes add up")
    for quota in (world.places, world.spool, world.index):
        _require(quota.used == quota.total_held(), "accounts add up")
    for budget in (world.budget, world.bodies):
        _require(budget.used == budget.total_held(), "the ledger adds up")
        _require(0 <= budget.used <= budget.limit, "memory within its limit")
        for key in budget.holders():
            _require(key[1] in world.jobs, "no memory without a job")
    _require(
        world.budget.limit + world.bodies.limit <= world.rules.memory_limit, "two shares of one"
    )
