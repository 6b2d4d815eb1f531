"""What was handed to libzmq and no kernel has taken yet, in bytes and peer by peer.

libzmq's own mark counts messages, and a thousand segments of 16 MiB are 16 GiB: a peer that grants
credit and does not read would have us hold them all. pyzmq can tell when libzmq has let go of one
frame, for ten times what it costs to pass one on. Frames of a connection leave in order, so one
watched frame in each milestone says it of all before it.
"""

from collections import Counter, deque
from collections.abc import Container
from typing import Final, Protocol

from attrs import define, field

from attestation import limits
from coordinator.core.instructions import PeerKey

FORWARDS: Final = 512
"""Relayed messages that wait for one peer: half of its queue is left for ours."""
FORWARDS_FROM_ONE: Final = 128
"""Of one sender among them."""


class Watched(Protocol):
    """A frame on its way (`zmq.MessageTracker`)."""

    @property
    def done(self) -> bool:
        """Whether libzmq has let go of it."""


@define(eq=False)
class _Queue:
    uncounted: int = 0
    """Bytes since the last watched frame."""
    watched: deque[tuple[Watched, int]] = field(factory=deque)
    size: int = 0


class SendQueues:
    """Bytes that wait, by peer; each is right to within one milestone.

    libzmq may hold on to the last frame it sent until another follows: whoever waits for a queue to
    become shorter waits for several milestones.
    """

    def __init__(self, *, milestone: int) -> None:
        """Have a frame watched in each `milestone` bytes."""
        self._milestone = milestone
        self._queues: dict[PeerKey, _Queue] = {}
        self._total = 0

    def add(self, peer: PeerKey, size: int) -> bool:
        """Count `size` more bytes; return whether their last frame is one to watch."""
        queue = self._queues.get(peer)
        if queue is None:
            queue = self._queues[peer] = _Queue()
        queue.uncounted += size
        return queue.uncounted >= self._milestone

    def watch(self, peer: PeerKey, frame: Watched) -> None:
        """Watch the frame that `add` asked for."""
        queue = self._queues[peer]
        queue.watched.append((frame, queue.uncounted))
        queue.size += queue.uncounted
        self._total += queue.uncounted
        queue.uncounted = 0

    def size(self, peer: PeerKey) -> int:
        """Return the bytes that wait for one peer."""
        queue = self._queues.get(peer)
        if queue is None:
            return 0
        while queue.watched and queue.watched[0][0].done:
            _, size = queue.watched.popleft()
            queue.size -= size
            self._total -= size
        return queue.size

    def total(self, *, above: int) -> int:
        """Return the bytes that wait for everybody; looks closely only when they seem `above`."""
        if self._total > above:
            for peer in self._queues:
                self.size(peer)
        return self._total

    def largest(self) -> PeerKey:
        """Return whose queue is the longest."""
        return max(self._queues, key=lambda peer: self._queues[peer].size)

    def forget(self, peer: PeerKey) -> None:
        """Stop counting for a peer that is gone."""
        queue = self._queues.pop(peer, None)
        if queue is not None:
            self._total -= queue.size

    def prune(self, keep: Container[PeerKey]) -> None:
        """Forget the others that nothing waits for."""
        for peer in list(self._queues):
            if peer not in keep and not self.size(peer):
                self.forget(peer)


class Forwards:
    """Messages from peer to peer that wait in the receiver's queue: few, and fewer from each."""

    def __init__(self, memory_limit: int) -> None:
        self._most = max(memory_limit // 8, 4 * limits.MIB)
        self._waiting: dict[bytes, deque[tuple[Watched, int, bytes]]] = {}

    def room(self, receiver: bytes, sender: bytes, size: int) -> bool:
        """Return whether one more from `sender` may wait for `receiver`."""
        waiting = self._waiting.get(receiver)
        if waiting is None:
            return True
        while waiting and waiting[0][0].done:
            waiting.popleft()
        if not waiting:
            del self._waiting[receiver]
            return True
        own = Counter(each[2] for each in waiting)[sender]
        held = sum(each[1] for each in waiting)
        return len(waiting) < FORWARDS and own < FORWARDS_FROM_ONE and held + size <= self._most

    def add(self, receiver: bytes, sender: bytes, size: int, frame: Watched) -> None:
        """One is on its way."""
        self._waiting.setdefault(receiver, deque()).append((frame, size, sender))

    def prune(self) -> None:
        """Forget what has left."""
        for receiver, waiting in list(self._waiting.items()):
            if waiting[-1][0].done:
                del self._waiting[receiver]
