"""Hellos, heartbeats, silence: who is a client, who is a worker, and who is gone."""

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from attestation import limits
from attestation.encoding.digests import Label, digest, prefix
from attestation.errors import DecodeError
from attestation.identifiers import SHORT_ID_BYTES, WorkerId
from attestation.wire.control import (
    ClientHello,
    ClientProof,
    ClientWelcome,
    Heartbeat,
    HelloChallenge,
    RefusalCode,
    WorkerHello,
    WorkerWelcome,
)
from attestation.wire.frames import Header, Kind
from coordinator.core.credit import grant_outputs
from coordinator.core.delivery import Delivering
from coordinator.core.dispatch import Dispatch
from coordinator.core.events import Message
from coordinator.core.instructions import PeerKey
from coordinator.core.job import Acknowledged, State
from coordinator.core.listing import Listing
from coordinator.core.peers import Client, Newcomer, Peer, Worker
from coordinator.core.world import World

CAPACITY = 512
"""Most jobs one worker is given at once: its queue here must hold their assignments."""
HEARTBEAT_BYTES = 64 + 2 * CAPACITY * 24
"""A heartbeat with as many jobs, and as many that ended while it was under way."""


class Welcome:
    """Handles the messages that make and keep peers."""

    def __init__(
        self, world: World, dispatch: Dispatch, delivering: Delivering, listing: Listing
    ) -> None:
        self._world = world
        self._dispatch = dispatch
        self._delivering = delivering
        self._listing = listing

    # -- clients ----------------------------------------------------------------------------------

    def client_hello(self, message: Message) -> None:
        """Challenge whoever claims a client key."""
        world = self._world
        hello = ClientHello.from_bytes(single(message))
        if not self._room_for(message.peer):
            return
        self._forget(message.peer, reason="hello-again")
        nonce = world.random_bytes(limits.NONCE_BYTES)
        world.peers[message.peer] = Newcomer(
            peer=message.peer, client_key=hello.client_key, nonce=nonce, since_ms=world.now_ms
        )
        body = HelloChallenge(nonce=nonce).to_bytes()
        world.send(message.peer, Header(Kind.HELLO_CHALLENGE), body)

    def client_proof(self, message: Message) -> None:
        """Welcome a client that signed the challenge."""
        world, newcomer = self._world, self._world.peers.get(message.peer)
        if not isinstance(newcomer, Newcomer):
            world.refuse(message.peer, RefusalCode.NOT_WELCOME, "say hello first")
            return
        proof = ClientProof.from_bytes(single(message))
        del world.peers[message.peer]
        signed = prefix(Label.CLIENT_HELLO) + world.curve_key + newcomer.nonce
        try:
            key = Ed25519PublicKey.from_public_bytes(newcomer.client_key)
            key.verify(proof.signature, signed)
        except (InvalidSignature, ValueError):
            world.refuse(message.peer, RefusalCode.BAD_PROOF)
            world.note("client.refused", level="warning", code=RefusalCode.BAD_PROOF)
            return
        client = Client(
            peer=message.peer,
            client_key=newcomer.client_key,
            peer_id=world.random_bytes(SHORT_ID_BYTES),
            seen_ms=world.now_ms,
            wants_wraps=True,
        )
        world.peers[client.peer] = client
        world.clients[client.peer_id] = client
        body = ClientWelcome(peer_id=client.peer_id, max_job_bytes=world.rules.max_job_bytes)
        world.send(client.peer, Header(Kind.CLIENT_WELCOME), body.to_bytes())
        world.note("client.welcomed", client_key=client.client_key)
        self._listing.workers(client.peer)
        for other in world.clients.values():
            # An older connection of the same key that is broken says so when we send.
            if other.client_key == client.client_key and other is not client:
                world.send(other.peer, Header(Kind.HEARTBEAT), Heartbeat().to_bytes())
        self._delivering.resume(client)

    def client_heartbeat(self, client: Client, message: Message) -> None:
        """Answer, so that the client knows we live."""
        Heartbeat.from_bytes(single(message))
        self._world.send(client.peer, Header(Kind.HEARTBEAT), Heartbeat().to_bytes())

    # -- workers ----------------------------------------------------------------------------------

    def worker_hello(self, message: Message) -> None:
        """Let a worker in, or back in: the instance that only it knows makes its id."""
        world = self._world
        hello = WorkerHello.from_bytes(single(message))
        if not self._room_for(message.peer):
            return
        named = digest(Label.WORKER_ID, message.peer[0] + hello.instance)
        worker_id = WorkerId(named[:SHORT_ID_BYTES])
        known = world.workers.get(worker_id)
        present = world.peers.get(message.peer)
        if present is not None and present is not known:
            self._forget(message.peer, reason="hello-again")
        worker = Worker(
            worker_id=worker_id,
            peer=message.peer,
            description=hello.description,
            capacity=min(hello.description.capacity, CAPACITY),
            seen_ms=world.now_ms,
        )
        if known is not None:
            worker.running = known.running
            world.peers.pop(known.peer, None)
        else:
            self._reclaim(worker)
        world.peers[message.peer] = worker
        world.workers[worker_id] = worker
        welcome = WorkerWelcome(
            worker_id=worker_id,
            heartbeat_ms=world.rules.heartbeat_ms,
            lease_ms=world.rules.lease_ms,
        )
        world.send(worker.peer, Header(Kind.WORKER_WELCOME), welcome.to_bytes())
        if known is not None and known.peer != message.peer:
            self._restart_moved(worker)
        self._announce(worker)

    def _reclaim(self, worker: Worker) -> None:
        """After our restart: the leases that the store says this worker holds."""
        for job in self._world.jobs.values():
            if job.attempt is not None and job.attempt.worker_id == worker.worker_id:
                worker.running.add(job.job_id)

    def _restart_moved(self, worker: Worker) -> None:
        """Segments on the broken connection may be lost: what had begun to move starts again."""
        for job_id in list(worker.running):
            job = self._world.jobs.get(job_id)
            if job is not None and job.attempt is not None and job.attempt.moved:
                self._dispatch.lose(job, reason="connection-lost", failed=False)

    def _announce(self, worker: Worker) -> None:
        world, offer = self._world, worker.description
        world.note(
            "worker.joined",
            worker_id=worker.worker_id,
            backend=offer.backend,
            evidence_kind=offer.evidence_kind,
            capacity=worker.capacity,
        )
        world.workers_changed = True
        for client in world.clients.values():
            client.wants_wraps = True
        self._dispatch.schedule()

    def worker_heartbeat(self, worker: Worker, message: Message) -> None:
        """Renew the leases it lists, revoke those it should not have, and answer."""
        world = self._world
        if sum(map(len, message.frames)) > HEARTBEAT_BYTES:
            raise DecodeError("a heartbeat of more jobs than a worker is given")
        heartbeat = Heartbeat.from_bytes(single(message))
        for job_id, number in heartbeat.running:
            job = world.jobs.get(job_id)
            attempt = self._dispatch.lease(job, worker, number)
            if job is None or attempt is None:
                world.send(worker.peer, Header(Kind.REVOKE, job_id, number))
                continue
            attempt.expires_ms = world.now_ms + world.rules.lease_ms
            if attempt.out_granted == 0:
                # Small outputs in many segments do not fit into a RESULT: rare, so granted late.
                grant_outputs(world, job, worker)
        world.send(worker.peer, Header(Kind.HEARTBEAT), Heartbeat().to_bytes())

    def worker_draining(self, worker: Worker, _: Message) -> None:
        """It finishes what it has."""
        worker.draining = True
        self._world.workers_changed = True
        self._world.note("worker.draining", worker_id=worker.worker_id)

    # -- leaving ----------------------------------------------------------------------------------

    def lost(self, peer: PeerKey, *, reason: str) -> None:
        """A connection is gone: found unreachable, silent, or replaced."""
        self._forget(peer, reason=reason)
        self._dispatch.schedule()

    def check_silence(self) -> None:
        """Let go of everybody who was not heard for too long."""
        world, rules = self._world, self._world.rules
        # First who is doubtful, so that the jobs of the first to go do not move to the next to go.
        for worker in list(world.workers.values()):
            if world.now_ms - worker.seen_ms > 2 * rules.heartbeat_ms:
                worker.suspect = True
                # A closed connection answers with EHOSTUNREACH long before the lease ends.
                world.send(worker.peer, Header(Kind.HEARTBEAT), Heartbeat().to_bytes())
        for key, peer in list(world.peers.items()):
            if self._silent(peer) and key in world.peers:
                self.lost(key, reason="silent")

    def _silent(self, peer: Peer) -> bool:
        now, rules = self._world.now_ms, self._world.rules
        match peer:
            case Newcomer():
                return now - peer.since_ms > rules.hello_ms
            case Client():
                return now - peer.seen_ms > rules.client_silence_ms
            case Worker():
                return now - peer.seen_ms > rules.lease_ms

    def _room_for(self, key: PeerKey) -> bool:
        world = self._world
        if key in world.peers:
            return True
        user, rules = key[0], world.rules
        own = sum(other == user for other, _ in world.peers) if user else 0
        if len(world.peers) < rules.max_peers and own < rules.max_peers_per_key:
            return True
        world.refuse(key, RefusalCode.QUEUE_FULL, "too many peers")
        return False

    def _forget(self, key: PeerKey, *, reason: str) -> None:
        peer: Peer | None = self._world.peers.pop(key, None)
        if isinstance(peer, Client):
            self._forget_client(peer, reason)
        elif isinstance(peer, Worker):
            self._forget_worker(peer, reason)

    def _forget_client(self, client: Client, reason: str) -> None:
        world = self._world
        del world.clients[client.peer_id]
        world.note("client.left", client_key=client.client_key, code=reason)
        for job in list(world.jobs_of.get(client.client_key, {}).values()):
            if job.peer != client.peer:
                continue
            job.peer = None
            if job.delivery is not None:
                self._delivering.stop(job)
            elif job.state is State.STREAM_DELIVERED:
                job.apply(Acknowledged)
                world.forget_job(job)
            elif job.state is State.RECEIVING or not job.durable:
                self._dispatch.refuse_job(job, RefusalCode.CANCELLED, "its client left")
        other = world.connection_of(client.client_key)
        if other is not None:
            self._delivering.resume(other)

    def _forget_worker(self, worker: Worker, reason: str) -> None:
        world = self._world
        del world.workers[worker.worker_id]
        world.workers_changed = True
        world.note(
            "worker.left",
            level="warning",
            worker_id=worker.worker_id,
            code=reason,
            running=len(worker.running),
        )
        for job_id in list(worker.running):
            job = world.jobs.get(job_id)
            if job is not None and job.attempt is not None:
                self._dispatch.lose(job, reason="worker-left")


def single(message: Message) -> bytes:
    """Return the one frame of a control message, or raise `DecodeError`."""
    if len(message.frames) != 1:
        raise DecodeError(f"{len(message.frames)} frames where one is needed")
    return message.frames[0]
