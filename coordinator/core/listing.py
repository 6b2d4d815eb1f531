"""What the coordinator tells about its workers and jobs. It cannot know what is verified."""

from collections import OrderedDict
from itertools import islice

from attestation.identifiers import JobId
from attestation.wire.control import JobEntry, JobListing, WorkerEntry, WorkerListing
from attestation.wire.frames import Header, Kind
from coordinator.core.instructions import PeerKey
from coordinator.core.job import Job
from coordinator.core.peers import Client
from coordinator.core.world import World

ENTRIES = 1000
PUSH_MS = 100
"""Shortest pause between two unasked worker listings, and between two that one client asked for."""
ANSWERS_PER_TURN = 8
"""A listing of a thousand entries takes milliseconds to write."""


class Listing:
    """Answers LIST_WORKERS and LIST_JOBS, and pushes the first when it changes."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._pushed_ms = -PUSH_MS
        self._answers_left = ANSWERS_PER_TURN
        self._askers: dict[bytes, Client] = {}
        """Clients that wait for an answer, by peer id."""

    def ask(self, client: Client, kind: Kind) -> None:
        """Answer now, or soon: one answer then serves everything that was asked meanwhile."""
        client.wants_listings.add(kind)
        self._askers[client.peer_id] = client
        if self._answers_left > 0:
            self._answer(client)

    def answer_later(self) -> None:
        """Begin a turn: answer clients that had to wait, longest waiting first."""
        self._answers_left = ANSWERS_PER_TURN
        for client in list(self._askers.values()):
            if self._answers_left <= 0:
                return
            self._answer(client)

    def _answer(self, client: Client) -> None:
        world = self._world
        if client.peer_id not in world.clients:
            del self._askers[client.peer_id]
            return
        for kind in list(client.wants_listings):
            if world.now_ms - client.listed_ms.get(kind, -PUSH_MS) < PUSH_MS:
                continue
            client.listed_ms[kind] = world.now_ms
            client.wants_listings.discard(kind)
            self._answers_left -= 1
            if kind is Kind.WORKERS:
                self.workers(client.peer)
            else:
                self._jobs(client)
        if not client.wants_listings:
            del self._askers[client.peer_id]

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

    def _jobs(self, client: Client) -> None:
        """Send a client its own jobs, newest first."""
        world = self._world
        own = world.jobs_of.get(client.client_key)
        jobs = own.values() if own is not None else OrderedDict[JobId, Job]().values()
        newest = islice(reversed(jobs), ENTRIES)
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
