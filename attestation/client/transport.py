"""The client's socket: one DEALER to one coordinator, used by one thread. The only zmq import here.

`wake` is the exception: any thread may call it to end a `wait`. Outside loopback the coordinator's
CURVE key must be known beforehand, or no socket is opened: without it anyone on the path could pose
as the coordinator and see who asks for what.
"""

import contextlib
import ipaddress
import socket
import struct
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol, Self
from urllib.parse import urlsplit

import zmq
import zmq.auth
from attrs import field, frozen
from zmq.utils import z85

from attestation import limits, messaging
from attestation.client.errors import (
    CoordinatorUnreachableError,
    KeyFileError,
    TransportKeysMissingError,
)
from attestation.client.uploads import Outgoing
from attestation.heap import keep_freed_memory
from attestation.messaging import READABLE, WRITABLE
from attestation.wire.frames import Frame

_KEY_BYTES: Final = 32

_SEND_MESSAGES: Final = 64
"""In libzmq's queue; large jobs wait for room in it, so it bounds what of them is sealed."""

_RECEIVE_MESSAGES: Final = 4096
"""More than an honest coordinator has for us: its own queue is a quarter of that."""

_UNSENT: Final = 1024
"""Messages that wait outside of libzmq, until we stop listening to who does not."""


@frozen(kw_only=True)
class CurveKeys:
    """The client's own CURVE key pair and the coordinator's public key, each as 32 raw bytes."""

    public: bytes
    secret: bytes = field(repr=False)
    coordinator: bytes

    @classmethod
    def load(cls, secret_file: Path, coordinator_file: Path) -> Self:
        """Read the files of `enclave keygen --curve` and `enclave coordinator keygen`."""
        public, secret = _certificate(secret_file)
        coordinator, _ = _certificate(coordinator_file)
        if secret is None:
            raise KeyFileError(f"{secret_file} holds no secret key")
        return cls(public=public, secret=secret, coordinator=coordinator)


class Transport(Outgoing, Protocol):
    """What a connection needs of a socket. All but `wake` belongs to one thread."""

    @property
    def channel_binding(self) -> bytes:
        """The coordinator's CURVE key, empty without CURVE; the client's proof covers it."""

    def receive(self) -> list[Frame] | None:
        """Take one message, or None when there is none now."""

    def wait(self, seconds: float) -> None:
        """Return when a message is there, when woken, or after `seconds`; lets what waits leave."""

    def wake(self) -> None:
        """End a `wait`, from any thread."""

    def close(self) -> None:
        """Give the socket back."""


class DealerTransport:
    """A `Transport` over ZeroMQ."""

    def __init__(self, url: str, curve: CurveKeys | None = None) -> None:
        """Connect to `url`; raises `TransportKeysMissingError` before opening anything."""
        if curve is None and not is_local(url):
            raise TransportKeysMissingError(f"{url} is not loopback: CURVE keys are needed")
        keep_freed_memory()
        self.channel_binding = b"" if curve is None else curve.coordinator
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 200)
        self._socket.setsockopt(zmq.IPV6, 1)
        self._socket.setsockopt(zmq.IMMEDIATE, 1)
        self._socket.setsockopt(zmq.MAXMSGSIZE, limits.FRAME_BYTES)
        self._socket.setsockopt(zmq.SNDHWM, _SEND_MESSAGES)
        self._socket.setsockopt(zmq.RCVHWM, _RECEIVE_MESSAGES)
        self._socket.setsockopt(zmq.RECONNECT_IVL, 100)
        self._socket.setsockopt(zmq.RECONNECT_IVL_MAX, 2000)
        self._socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
        if curve is not None:
            self._socket.curve_publickey = z85.encode(curve.public)
            self._socket.curve_secretkey = z85.encode(curve.secret)
            self._socket.curve_serverkey = z85.encode(curve.coordinator)
        self._outbox: deque[Sequence[Frame]] = deque()
        self._woken, self._waker = socket.socketpair()
        self._woken.settimeout(0)
        self._waker.settimeout(0)
        self._poller = zmq.Poller()
        self._watched = READABLE
        self._poller.register(self._socket, self._watched)
        self._poller.register(self._woken, READABLE)
        try:
            self._socket.connect(url)
        except zmq.ZMQError as error:
            self.close()
            raise CoordinatorUnreachableError(f"{url}: {error}") from error

    @property
    def congested(self) -> bool:
        """Whether messages wait here because the coordinator does not take them."""
        return bool(self._outbox)

    def send(self, frames: Sequence[Frame]) -> None:
        """Send in order, or queue; frames must not change afterwards."""
        if self._outbox or not messaging.send(self._socket, frames):
            self._outbox.append(frames)

    def forget_queued(self) -> None:
        """Drop what waits: it was meant for a coordinator that no longer knows us."""
        self._outbox.clear()

    def receive(self) -> list[Frame] | None:
        """Take one message, or None when there is none now.

        Large frames stay in ZeroMQ's memory: they are ciphertext, read once when opened.
        """
        if self._deaf:
            return None
        return messaging.receive(self._socket)

    def wait(self, seconds: float) -> None:
        """Return when a message is there, when woken, or after `seconds`; lets what waits leave."""
        wanted = (0 if self._deaf else READABLE) | (WRITABLE if self._outbox else 0)
        if wanted != self._watched:
            self._watched = wanted
            self._poller.register(self._socket, wanted)
        for source, _ in self._poller.poll(max(0, int(seconds * 1000))):
            if source != self._socket:
                with contextlib.suppress(BlockingIOError):
                    self._woken.recv(4096)
        while self._outbox and messaging.send(self._socket, self._outbox[0]):
            self._outbox.popleft()

    def wake(self) -> None:
        """End a `wait`, from any thread."""
        # A full pipe means that a wake is waiting already; a closed one, that nobody waits.
        with contextlib.suppress(OSError):
            self._waker.send(b"w")

    def close(self) -> None:
        """Give the socket back."""
        self._outbox.clear()
        self._socket.close()
        self._context.term()
        self._woken.close()
        self._waker.close()

    @property
    def _deaf(self) -> bool:
        # Answers to who does not take them would grow for as long as he goes on talking.
        return len(self._outbox) >= _UNSENT


def is_local(url: str) -> bool:
    """Tell whether `url` cannot leave this machine, so that it may do without CURVE."""
    # libzmq reads `source;destination` where urlsplit sees one host: unclear is not local.
    if ";" in url or "@" in url:
        return False
    parts = urlsplit(url)
    if parts.scheme in ("ipc", "inproc"):
        return True
    if parts.scheme != "tcp" or not parts.hostname:
        return False
    try:
        return ipaddress.ip_address(parts.hostname).is_loopback
    except ValueError:
        # Only this name: others resolve to whatever a resolver says.
        return parts.hostname == "localhost"


def _certificate(path: Path) -> tuple[bytes, bytes | None]:
    try:
        public, secret = zmq.auth.load_certificate(path)
        keys = z85.decode(public), None if secret is None else z85.decode(secret)
    except (OSError, ValueError, LookupError, struct.error) as error:
        # pyzmq has no errors of its own for a file that is none, or for foreign characters.
        raise KeyFileError(f"{path} is not a CURVE key file") from error
    if any(key is not None and len(key) != _KEY_BYTES for key in keys):
        raise KeyFileError(f"{path} holds a key of another length")
    return keys
