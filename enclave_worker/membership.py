"""A worker's place at its coordinator: hello, welcome, heartbeats, silence, hello again.

    JOINING --WORKER_WELCOME--> JOINED --NOT_WELCOME or silence--> JOINING

No sockets and no clock: time comes in, messages come out. The instance is drawn once per process,
so that the worker, and nobody else, takes its own place again after the coordinator restarted.
"""

from enum import StrEnum
from typing import Final

from attrs import frozen

from attestation.encoding.record import Record
from attestation.identifiers import JobId, WorkerId
from attestation.logging import get_logger
from attestation.wire.control import Heartbeat, WorkerHello, WorkerWelcome
from attestation.wire.frames import Header, Kind

log: Final = get_logger(__name__)

HELLO_MS: Final = 1_000
"""Pause between two hellos that nobody answers."""

SILENT_HEARTBEATS: Final = 3

_HEARTBEAT_JOBS: Final = 4096


class State(StrEnum):
    """Whether the coordinator knows us."""

    JOINING = "joining"
    JOINED = "joined"


@frozen
class Outgoing:
    """One message to send."""

    header: Header
    record: Record | None = None

    def frames(self) -> list[bytes]:
        """Return its frames."""
        head = self.header.to_bytes()
        return [head] if self.record is None else [head, self.record.to_bytes()]


class Membership:
    """Says hello until it is welcome, then keeps the rhythm that it was told."""

    def __init__(self, hello: WorkerHello) -> None:
        """Join with `hello`, now and whenever the coordinator has forgotten us."""
        self._hello = hello
        self._state = State.JOINING
        self._heartbeat_ms = HELLO_MS
        self._next_ms = 0
        self._heard_ms = 0
        self._silent = False
        self._draining = False
        self.worker_id: WorkerId | None = None

    @property
    def joined(self) -> bool:
        """Whether the coordinator knows us."""
        return self._state is State.JOINED

    def heard(self, now_ms: int) -> None:
        """The coordinator said something: it is there."""
        self._heard_ms = now_ms
        self._silent = False

    def welcomed(self, welcome: WorkerWelcome, now_ms: int) -> list[Outgoing]:
        """Take the place and the rhythm that the coordinator gives."""
        self._state = State.JOINED
        self.worker_id = welcome.worker_id
        self._heartbeat_ms = max(welcome.heartbeat_ms, 10)
        self._next_ms = now_ms
        return [Outgoing(Header(Kind.DRAINING))] if self._draining else []

    def not_welcome(self, now_ms: int) -> None:
        """The coordinator does not know us (any more): say hello, once per `HELLO_MS`."""
        if self._state is State.JOINED:
            log.warning("coordinator.forgot")
            self._state = State.JOINING
            self._next_ms = now_ms

    def drain(self) -> list[Outgoing]:
        """Announce that we leave when the running jobs are done."""
        self._draining = True
        return [Outgoing(Header(Kind.DRAINING))] if self.joined else []

    def due_in_ms(self, now_ms: int) -> int:
        """Milliseconds until `tick` has something to send."""
        return max(0, self._next_ms - now_ms)

    def tick(self, now_ms: int, running: tuple[tuple[JobId, int], ...]) -> list[Outgoing]:
        """Return the heartbeat or hello that is due; `running` jobs have their leases renewed."""
        if now_ms < self._next_ms:
            return []
        if self.joined and now_ms - self._heard_ms > SILENT_HEARTBEATS * self._heartbeat_ms:
            self._silence(now_ms)
        if not self.joined:
            self._next_ms = now_ms + HELLO_MS
            return [Outgoing(Header(Kind.WORKER_HELLO), self._hello)]
        self._next_ms = now_ms + self._heartbeat_ms
        return [Outgoing(Header(Kind.HEARTBEAT), Heartbeat(running=running[:_HEARTBEAT_JOBS]))]

    def _silence(self, now_ms: int) -> None:
        # Running jobs go on: the coordinator may be back before their leases end.
        if not self._silent:
            log.warning("coordinator.silent", milliseconds=now_ms - self._heard_ms)
        self._silent = True
        self._state = State.JOINING
