"""The worker's one socket: a DEALER towards the coordinator. The only module here that knows zmq.

Everything runs on the loop's thread, except `wake`. Socket options were measured against the
attacks that they stop (docs/protocol.md, transport): a large announced frame allocates nothing, a
silent peer is dropped, a queue is bounded in messages that are bounded in bytes.
"""

import ipaddress
import os
import struct
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import zmq
import zmq.auth
from attrs import field, frozen
from zmq.utils import z85

from attestation import limits, messaging
from attestation.errors import UnavailableError
from attestation.messaging import READABLE, WRITABLE
from attestation.wire.frames import Frame

_KEY_BYTES: Final = 32

_QUEUE: Final = 1024
"""Messages that wait for a coordinator that does not read. Bulk is bounded by its credit."""


class KeysRequiredError(UnavailableError):
    """An address outside this machine needs CURVE keys. Give `--curve-key`, `--coordinator-key`."""

    code = "curve-keys-required"


class KeyFileError(UnavailableError):
    """A CURVE key file is missing or unreadable. `enclave keygen --curve` makes a pair."""

    code = "curve-key-file"


@frozen(kw_only=True)
class CurveKeys:
    """Our own pair and the coordinator's public key, in Z85."""

    public: bytes
    secret: bytes = field(repr=False)
    server: bytes


def load_curve_keys(own: Path, coordinator: Path) -> CurveKeys:
    """Read our secret key file and the coordinator's public one; raises `KeyFileError`."""
    public, secret = _read_keys(own)
    server, _ = _read_keys(coordinator)
    if secret is None:
        raise KeyFileError("the worker's own key file holds no secret key")
    return CurveKeys(public=public, secret=secret, server=server)


def _read_keys(path: Path) -> tuple[bytes, bytes | None]:
    try:
        public, secret = zmq.auth.load_certificate(path)
        lengths = {len(z85.decode(key)) for key in (public, secret) if key is not None}
    except (OSError, ValueError, LookupError, struct.error) as error:
        # pyzmq has no errors of its own for a file that is none, or for foreign characters.
        raise KeyFileError(f"{path} is not a CURVE key file ({error})") from error
    if lengths != {_KEY_BYTES}:
        raise KeyFileError(f"{path} holds a key of another length")
    return public, secret


def is_loopback(url: str) -> bool:
    """Whether `url` cannot leave this machine."""
    parts = urlsplit(url)
    if parts.scheme in ("ipc", "inproc"):
        return True
    host = parts.hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Transport:
    """Messages to and from the coordinator, in order, without ever blocking on a send."""

    def __init__(self, url: str, *, keys: CurveKeys | None = None) -> None:
        """Connect to `url`; raises `KeysRequiredError`, and `UnavailableError` for a bad address.

        A coordinator that is not there yet is no error: the socket keeps trying.
        """
        if keys is None and not is_loopback(url):
            raise KeysRequiredError(f"{url} is not on this machine")
        self._outbox: deque[Sequence[Frame]] = deque()
        self._lock = threading.Lock()
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        _set_options(self._socket, url, keys)
        self._poller = zmq.Poller()
        self._poller.register(self._wake_fd, READABLE)
        self._poller.register(self._socket, READABLE)
        self._watching_room = False
        try:
            self._socket.connect(url)
        except zmq.ZMQError as error:
            self.close()
            raise UnavailableError(f"cannot connect to {url}: {error}") from error

    def poll(self, timeout_ms: int) -> None:
        """Wait until a message arrives, a queued one can leave, `wake` is called, or for the time.

        Leaves queued messages that can go now.
        """
        congested = bool(self._outbox)
        if congested is not self._watching_room:
            self._watching_room = congested
            self._poller.register(self._socket, READABLE | (WRITABLE if congested else 0))
        ready = dict(self._poller.poll(max(0, timeout_ms)))
        if self._wake_fd in ready:
            os.eventfd_read(self._wake_fd)
        while self._outbox and messaging.send(self._socket, self._outbox[0]):
            self._outbox.popleft()

    def receive(self) -> list[Frame] | None:
        """Return the next message, or none. Large frames stay where ZeroMQ received them."""
        return messaging.receive(self._socket)

    def send(self, frames: Sequence[Frame]) -> bool:
        """Send in order, or queue; false when the queue is full and the message was dropped."""
        if not self._outbox and messaging.send(self._socket, frames):
            return True
        if len(self._outbox) >= _QUEUE:
            return False
        self._outbox.append(frames)
        return True

    @property
    def congested(self) -> bool:
        """Whether messages wait here because the coordinator does not take them."""
        return bool(self._outbox)

    def forget_queued(self) -> None:
        """Drop what waits: it was meant for a coordinator that no longer knows us."""
        self._outbox.clear()

    def wake(self) -> None:
        """End a `poll`. The one method that other threads may call."""
        with self._lock:
            if self._wake_fd >= 0:
                os.eventfd_write(self._wake_fd, 1)

    def close(self, *, linger_ms: int = 0) -> None:
        """Close, giving what was sent `linger_ms` to leave."""
        self._socket.close(linger_ms)
        self._context.term()
        with self._lock:
            # A thread that posts after the end must not write to another file of this number.
            os.close(self._wake_fd)
            self._wake_fd = -1


def _set_options(socket: zmq.Socket[bytes], url: str, keys: CurveKeys | None) -> None:
    socket.setsockopt(zmq.LINGER, 0)
    # Only where it is meant: with it, a name that has both kinds of address may pick the other one.
    socket.setsockopt(zmq.IPV6, int("[" in url))
    # Nothing is queued for a connection that does not stand: it would arrive late, at a coordinator
    # that has given the job to somebody else.
    socket.setsockopt(zmq.IMMEDIATE, 1)
    socket.setsockopt(zmq.MAXMSGSIZE, limits.FRAME_BYTES)
    socket.setsockopt(zmq.SNDHWM, 64)
    socket.setsockopt(zmq.RCVHWM, 64)
    socket.setsockopt(zmq.HANDSHAKE_IVL, 2_000)
    socket.setsockopt(zmq.HEARTBEAT_IVL, 5_000)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 15_000)
    socket.setsockopt(zmq.HEARTBEAT_TTL, 20_000)
    socket.setsockopt(zmq.RECONNECT_IVL, 200)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, 2_000)
    if keys is not None:
        socket.setsockopt(zmq.CURVE_PUBLICKEY, keys.public)
        socket.setsockopt(zmq.CURVE_SECRETKEY, keys.secret)
        socket.setsockopt(zmq.CURVE_SERVERKEY, keys.server)
