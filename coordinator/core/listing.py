"""What the coordinator tells about its workers and jobs. It cannot know what is verified."""

from attestation.wire.control import JobEntry, JobListing, WorkerEntry, WorkerListing
from attestation.wire.frames import Header, Kind
from coordinator.core.instructions import PeerKey
from coordinator.core.peers import Client
from coordinator.core.world import World

ENTRIES = 1000
PUSH_MS = 100
"""Shortest pause between two unasked worker listings."""


class Listing:
    """Answers LIST_WORKERS and LIST_JOBS, and pushes the first when it changes."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._pushed_ms = -PUSH_MS

    def workers(self, peer: PeerKey) -> None:
        """Send the workers."""
        self._world.send(peer, Header(Kind.WORKERS), self._workers())

    def push_workers(self) -> None:
        """Send the workers to every client if the set changed."""
        world = self._world
        if not world.workers_changed or world.now_ms - self._pushed_ms < PUSH_MS:
            return
        world.workers_changed = False
        self._pushed_ms = world.now_ms
        body = self._workers()
        for client in world.clients.values():
            world.send(client.peer, Header(Kind.WORKERS), body)

    def _workers(self) -> bytes:
        entries = tuple(
            WorkerEntry(
                worker_id=worker.worker_id,
                state="draining" if worker.draining else "ready",
                running=len(worker.running),
                description=worker.description,
            )
            for worker in list(self._world.workers.values())[:ENTRIES]
        )
        return WorkerListing(workers=entries).to_bytes()

    def jobs(self, client: Client) -> None:
        """Send a client its own jobs, newest first."""
        world = self._world
        own = world.jobs_of.get(client.client_key)
        jobs = own.values() if own is not None else ()
        newest = sorted(jobs, key=lambda job: job.sequence, reverse=True)[:ENTRIES]
        entries = tuple(
            JobEntry(
                job_id=job.job_id,
                state=job.state.value,
                attempt=job.attempt_number,
                durable=job.durable,
                input_bytes=job.record.input_bytes,
                submitted_ms=job.submitted_ms,
            )
            for job in newest
        )
        world.send(client.peer, Header(Kind.JOBS), JobListing(jobs=entries).to_bytes())
