"""Who is connected. A peer is a CURVE key and the routing id that our own ROUTER assigned."""

from collections import deque
from typing import TypeAlias

from attrs import define, field

from attestation.identifiers import JobId, WorkerId
from attestation.wire.control import WorkerDescription
from attestation.wire.frames import Kind
from coordinator.core.instructions import PeerKey


@define(kw_only=True, eq=False)
class Newcomer:
    """A connection that was given a challenge and has not answered it."""

    peer: PeerKey
    client_key: bytes
    nonce: bytes = field(repr=False)
    since_ms: int


@define(kw_only=True, eq=False)
class Client:
    """A connection that proved a client key. One key may have several connections."""

    peer: PeerKey
    client_key: bytes
    peer_id: bytes
    seen_ms: int
    deliveries: set[JobId] = field(factory=set)
    backlog: deque[JobId] = field(factory=deque)
    wants_wraps: bool = False
    wants_listings: set[Kind] = field(factory=set)
    """WORKERS or JOBS that it asked for and will get with a later turn."""
    listed_ms: dict[Kind, int] = field(factory=dict)

    @property
    def account(self) -> bytes:
        """Whose share it uses: its CURVE key's, or without CURVE its own."""
        return self.peer[0] or self.client_key


@define(kw_only=True, eq=False)
class Worker:
    """A worker that said hello and was heard within the lease time."""

    worker_id: WorkerId
    peer: PeerKey
    description: WorkerDescription
    capacity: int
    seen_ms: int
    draining: bool = False
    suspect: bool = False
    """Not heard for longer than its heartbeats: it gets nothing new until it is."""
    running: set[JobId] = field(factory=set)

    @property
    def free(self) -> bool:
        """Whether it may be given one more job."""
        return not (self.draining or self.suspect) and len(self.running) < self.capacity


Peer: TypeAlias = Newcomer | Client | Worker
