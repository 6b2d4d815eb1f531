"""Lies to put together: on which leg, about which message, and what is said instead."""

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from attestation.encoding.record import Record
from attestation.wire.frames import Frame, Kind
from attestation.wire.messages import Challenge, parse
from tests.simulators.hostile_coordinator import Leg, Lie, Message, Relay

R = TypeVar("R", bound=Record)

Change = Callable[[Message], "Message | Sequence[Message] | None"]


def on(leg: Leg, kind: Kind, change: Change) -> Lie:
    """Change messages of one kind on one leg; None withholds them."""

    def lie(where: Leg, _peer: bytes, message: Message) -> Sequence[Message]:
        if (where, message.kind) != (leg, kind):
            return (message,)
        changed = change(message)
        if changed is None:
            return ()
        return (changed,) if isinstance(changed, Message) else changed

    return lie


def on_record(leg: Leg, record: type[R], change: Callable[[R], Record | None]) -> Lie:
    """Change session messages of one type on one leg; None withholds them."""

    def rewrite(message: Message) -> Message | None:
        parsed = parse(message.body[0])
        if not isinstance(parsed, record):
            return message
        changed = change(parsed)
        return None if changed is None else message.but(changed.to_bytes())

    return on(leg, Kind.END_TO_END, rewrite)


def both(*lies: Lie) -> Lie:
    """Tell several lies, one after the other."""

    def lie(leg: Leg, peer: bytes, message: Message) -> Sequence[Message]:
        messages: Sequence[Message] = (message,)
        for each in lies:
            messages = [said for one in messages for said in each(leg, peer, one)]
        return messages

    return lie


class OneWindow:
    """Holds the first Challenges back until there are `count`, so that one key set answers all."""

    def __init__(self, relay: Relay, count: int) -> None:
        self._relay = relay
        self._count = count
        self._held: list[tuple[bytes, Message]] = []
        self.open = threading.Event()

    def __call__(self, leg: Leg, peer: bytes, message: Message) -> Sequence[Message]:
        held = leg is Leg.FROM_CLIENT and message.kind is Kind.END_TO_END
        if self.open.is_set() or not held or not isinstance(parse(message.body[0]), Challenge):
            return (message,)
        self._held.append((peer, message))
        if len(self._held) == self._count:
            self.open.set()
            for where, challenge in self._held:
                self._relay.inject(Leg.FROM_CLIENT, where, challenge)
        return ()


def flip(frame: Frame, place: int) -> bytes:
    """Return `frame` with one bit changed."""
    changed = bytearray(frame)
    changed[place] ^= 1
    return bytes(changed)


def flip_frame(message: Message, number: int, place: int) -> Message:
    """Return `message` with one bit of one frame changed."""
    body = list(message.body)
    body[number] = flip(body[number], place)
    return message.but(*body)
