"""Our place at the coordinator: say who we are, prove it, keep saying that we are here.

    LOST --hello--> HELLO --challenge--> PROVING --welcome--> WELCOME

Without a socket or a clock: time is an argument, messages to send are returned. The coordinator is
not trusted with anything; the proof only keeps other clients from collecting our results.
"""

from enum import StrEnum
from typing import Final

from attestation.client.keys import ClientKey
from attestation.encoding.digests import Label, prefix
from attestation.errors import RemoteProtocolError
from attestation.wire.control import (
    ClientHello,
    ClientProof,
    ClientWelcome,
    Heartbeat,
    HelloChallenge,
)
from attestation.wire.frames import Frame, Header, Kind

Message = list[Frame]

HEARTBEAT_SECONDS: Final = 2.0
SILENCE_SECONDS: Final = 7.0
"""Three missed answers and a little: then the coordinator is gone and we begin again."""

HELLO_SECONDS: Final = 1.0
"""An unanswered hello is repeated after this long; ZeroMQ reconnects underneath meanwhile."""

_EMPTY_HEARTBEAT: Final = Heartbeat().to_bytes()


class LinkState(StrEnum):
    """How far the coordinator knows us."""

    LOST = "lost"
    HELLO = "hello"
    PROVING = "proving"
    WELCOME = "welcome"


class Link:
    """The hello exchange and the heartbeats with one coordinator."""

    def __init__(self, key: ClientKey, channel_binding: bytes) -> None:
        """Prove possession of `key` on the channel of this CURVE key (empty without CURVE)."""
        self._key = key
        self._channel_binding = channel_binding
        self._said_at = float("-inf")
        self._heard_at = float("-inf")
        self.state = LinkState.LOST
        self.welcome: ClientWelcome | None = None
        """The coordinator's last welcome; its limits hold until the next."""

    def tick(self, now: float) -> list[Message]:
        """Return what is due at `now`, a monotonic time in seconds."""
        if self.state is LinkState.WELCOME:
            if now - self._heard_at > SILENCE_SECONDS:
                return self.start(now)
            if now - self._said_at >= HEARTBEAT_SECONDS:
                self._said_at = now
                return [[Header(Kind.HEARTBEAT).to_bytes(), _EMPTY_HEARTBEAT]]
            return []
        return self.start(now) if now - self._said_at >= HELLO_SECONDS else []

    def start(self, now: float) -> list[Message]:
        """Say hello, from whatever state: the coordinator forgot us, or we lost it."""
        self.state = LinkState.HELLO
        self._said_at = now
        hello = ClientHello(client_key=self._key.public_bytes)
        return [[Header(Kind.CLIENT_HELLO).to_bytes(), hello.to_bytes()]]

    def heard(self, now: float) -> None:
        """Note that the coordinator sent something."""
        self._heard_at = now

    def prove(self, body: Frame, now: float) -> list[Message]:
        """Answer the coordinator's nonce; raises `DecodeError` or `RemoteProtocolError`."""
        challenge = HelloChallenge.from_bytes(body)
        if self.state is not LinkState.HELLO:
            raise RemoteProtocolError(f"a challenge while {self.state}")
        self.state = LinkState.PROVING
        self._said_at = now
        signed = prefix(Label.CLIENT_HELLO) + self._channel_binding + challenge.nonce
        proof = ClientProof(signature=self._key.sign(signed))
        return [[Header(Kind.CLIENT_PROOF).to_bytes(), proof.to_bytes()]]

    def welcomed(self, body: Frame) -> None:
        """Take the coordinator's welcome; raises `DecodeError` or `RemoteProtocolError`."""
        welcome = ClientWelcome.from_bytes(body)
        if self.state is not LinkState.PROVING:
            raise RemoteProtocolError(f"a welcome while {self.state}")
        self.state = LinkState.WELCOME
        self.welcome = welcome
