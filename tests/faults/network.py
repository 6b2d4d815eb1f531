"""A network between actors and a simulated broker that loses, repeats, swaps and delays messages.

A message that is lost on a live connection is something only a hostile network does; a real one
cuts the connection, and with it everything that was under way in both directions. Both are here.
Everything is drawn from one seed, time included, so a failure is repeated by its seed alone.
"""

import random
from collections import Counter, deque
from typing import Final

from attrs import define, field, frozen

from attestation.errors import DecodeError
from attestation.wire.frames import Header, Kind, check_message
from coordinator.core import events
from coordinator.core import instructions as do
from tests.coordinator.simulated_broker import SimulatedBroker
from tests.faults.actors import Actor, Message

STEP_MS: Final = 20
SEGMENTS: Final = frozenset({Kind.INPUT, Kind.OUTPUT})
LATE_MS: Final = 400


@frozen(kw_only=True)
class Rates:
    """Chances per message, and per step for what happens to a connection or the coordinator."""

    lose: float = 0.0
    repeat: float = 0.0
    swap: float = 0.0
    delay: float = 0.0
    corrupt: float = 0.0
    cut: float = 0.0
    freeze: float = 0.0
    crash: float = 0.0
    disk: float = 0.0
    segment: float = 0.0
    """Chance that a segment is lost, and that it is repeated: either rightly ends its job."""


@define(eq=False)
class Link:
    """One actor's connection, and what is under way on it: (when it arrives, message)."""

    actor: Actor
    peer: do.PeerKey
    up: deque[tuple[int, Message]] = field(factory=deque)
    down: deque[tuple[int, Message]] = field(factory=deque)
    frozen_until_ms: int = 0


class FaultyNetwork:
    """Carries messages and counts the faults it puts in."""

    def __init__(self, broker: SimulatedBroker, *actors: Actor, seed: int) -> None:
        self.broker = broker
        self.rates = Rates()
        self.faults: Counter[str] = Counter()
        self.random = random.Random(seed)  # noqa: S311 - to be repeated, not to be secret
        self.links = [self._link(actor) for actor in actors]

    def _link(self, actor: Actor) -> Link:
        actor.tick(self.broker.now_ms)
        actor.connected()
        return Link(actor, self.broker.connect())

    def add(self, actor: Actor) -> None:
        self.links.append(self._link(actor))

    def replace(self, old: Actor, new: Actor) -> None:
        """kill -9: the old actor is gone, a new one comes."""
        (link,) = [each for each in self.links if each.actor is old]
        self.broker.disconnect(link.peer)
        self.links.remove(link)
        self.add(new)

    def step(self) -> None:
        """Let a moment pass, with whatever goes wrong in it."""
        self._disasters()
        self.broker.tick(STEP_MS)
        now = self.broker.now_ms
        for link in self.links:
            if link.frozen_until_ms > now:
                continue
            link.actor.tick(now)
            while link.actor.outbox:
                self._put(link.up, link.actor.outbox.popleft())
            self._arrive(link, now)
            for header, frames in self._collected(link):
                self._put(link.down, [header.to_bytes(), *frames])
            while link.down and link.down[0][0] <= now:
                self._hand_over(link, link.down.popleft()[1])

    def _arrive(self, link: Link, now: int) -> None:
        while link.up and link.up[0][0] <= now:
            message = link.up.popleft()[1]
            try:
                header = check_message(message)
            except DecodeError as error:
                self.broker.handle(events.Malformed(link.peer, str(error)))
            else:
                self.broker.message(link.peer, header, *message[1:])

    def _collected(self, link: Link) -> list[tuple[Header, tuple[bytes, ...]]]:
        inbox = self.broker.inboxes.get(link.peer)
        if inbox is None:
            return []
        collected = list(inbox)
        inbox.clear()
        return collected

    def _hand_over(self, link: Link, message: Message) -> None:
        try:
            header = check_message(message)
        except DecodeError:
            return
        link.actor.receive(header, message[1:])

    # -- faults -----------------------------------------------------------------------------------

    def _happens(self, fault: str, chance: float) -> bool:
        if self.random.random() >= chance:
            return False
        self.faults[fault] += 1
        return True

    def _put(self, line: deque[tuple[int, Message]], message: Message) -> None:
        rates, now = self.rates, self.broker.now_ms
        if message[0][3] in SEGMENTS:
            if self._happens("segment lost", rates.segment):
                return
            if self._happens("segment repeated", rates.segment):
                line.append((now, message))
        else:
            if self._happens("message lost", rates.lose):
                return
            if self._happens("message repeated", rates.repeat):
                line.append((now, message))
            if self._happens("header corrupted", rates.corrupt):
                message = [self._flip(message[0]), *message[1:]]
            if line and self._happens("message overtakes another", rates.swap):
                line.insert(len(line) - 1, (line[-1][0], message))
                return
        if self._happens("message delayed", rates.delay):
            # Order is kept: what comes behind waits too.
            now += self.random.randrange(LATE_MS)
        line.append((max(now, line[-1][0]) if line else now, message))

    def _flip(self, head: bytes) -> bytes:
        """Flip a bit that makes the header invalid: magic, version or an unknown kind."""
        flipped = bytearray(head)
        flipped[self.random.randrange(3)] ^= 1 << self.random.randrange(8)
        return bytes(flipped)

    def _disasters(self) -> None:
        rates = self.rates
        for link in self.links:
            if self._happens("connection cut", rates.cut):
                self.cut(link)
            if self._happens("peer stopped", rates.freeze):
                link.frozen_until_ms = self.broker.now_ms + self.random.randrange(8_000)
        if self._happens("coordinator killed", rates.crash):
            self.crash()
        if self._happens("disk full", rates.disk):
            self.broker.disk_full = True
        elif self.broker.disk_full and self.random.random() < 0.2:
            self.broker.disk_full = False
        if self._happens("spool file refused", rates.disk) and self.broker.files:
            self.broker.disk_broken_for = {self.random.choice(list(self.broker.files))}

    def cut(self, link: Link) -> None:
        """Break a connection: its actor comes back on another one."""
        self.broker.disconnect(link.peer)
        link.up.clear()
        link.down.clear()
        link.peer = self.broker.connect()
        link.actor.connected()

    def crash(self) -> None:
        """kill -9 of the coordinator, and a new one on what is on stable storage."""
        self.broker.disk_full = False
        self.broker.restart()
        for link in self.links:
            link.up.clear()
            link.down.clear()
            link.peer = self.broker.connect()
            link.actor.connected()

    def calm(self) -> None:
        """No more faults; everybody connects once more."""
        self.rates = Rates()
        self.broker.disk_full = False
        self.broker.disk_broken_for = set()
        for link in self.links:
            link.frozen_until_ms = 0
            self.cut(link)
