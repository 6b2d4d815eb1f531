"""The broker's sockets, with the settings that were measured to matter on an open port."""

import os
from typing import Final

import zmq

from attestation import limits
from coordinator.errors import SettingsError
from coordinator.keys import CurveKeys
from coordinator.zap import DOMAIN

RECEIVE_MESSAGES: Final = 128
SEND_MESSAGES: Final = 1024
"""libzmq counts messages, not bytes: credit bounds the bytes, these bound what ignores credit."""

OPTIONS: Final = {
    # Bytes a stranger can announce, and seconds it may hold a file descriptor without a handshake:
    # with the default of 30 s, 700 idle connections starve everybody else.
    zmq.MAXMSGSIZE: limits.FRAME_BYTES,
    zmq.HANDSHAKE_IVL: 2_000,
    zmq.HEARTBEAT_IVL: 5_000,
    zmq.HEARTBEAT_TIMEOUT: 15_000,
    zmq.HEARTBEAT_TTL: 20_000,
    zmq.RCVHWM: RECEIVE_MESSAGES,
    zmq.SNDHWM: SEND_MESSAGES,
    # A message to nobody is an error we hear of, and no newcomer takes over a routing id.
    zmq.ROUTER_MANDATORY: 1,
    zmq.ROUTER_HANDOVER: 0,
    zmq.BACKLOG: 512,
    zmq.LINGER: 0,
}


def open_router(
    context: "zmq.Context[zmq.Socket[bytes]]", address: str, keys: CurveKeys | None
) -> "zmq.Socket[bytes]":
    """Return the bound ROUTER, or raise `SettingsError` when the address cannot be had."""
    router = context.socket(zmq.ROUTER)
    for option, value in OPTIONS.items():
        router.setsockopt(option, value)
    if "[" in address:
        router.setsockopt(zmq.IPV6, 1)
    if keys is not None:
        router.setsockopt(zmq.ZAP_DOMAIN, DOMAIN)
        router.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        router.setsockopt(zmq.CURVE_SERVER, 1)
        router.setsockopt(zmq.CURVE_PUBLICKEY, keys.public)
        router.setsockopt(zmq.CURVE_SECRETKEY, keys.secret)
    try:
        router.bind(address)
    except zmq.ZMQError as error:
        router.close(linger=0)
        raise SettingsError(f"cannot listen on {address}: {error.strerror}") from error
    return router


class Wakeup:
    """A pipe that ends a poll from a signal handler or another thread."""

    def __init__(self) -> None:
        self.descriptor, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def ring(self) -> None:
        """End the current or the next poll."""
        try:
            os.write(self._write, b"!")
        except (BlockingIOError, OSError):
            return

    def clear(self) -> None:
        """Take the rings that were heard."""
        try:
            os.read(self.descriptor, 64)
        except BlockingIOError:
            return

    def close(self) -> None:
        """Close both ends."""
        os.close(self.descriptor)
        os.close(self._write)
