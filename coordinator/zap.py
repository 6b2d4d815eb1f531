"""The ZeroMQ authentication handler (RFC 27): only keys on the allow-list finish a handshake.

libzmq asks over an inproc socket before any message of a peer reaches us, and attaches the
`User-Id` we answer with to each of its messages; that, and not a routing id, is who a peer is.
"""

from typing import Final

import structlog
import zmq

from coordinator.keys import AllowList

ENDPOINT: Final = "inproc://zeromq.zap.01"
DOMAIN: Final = b"enclave"
_VERSION: Final = b"1.0"
_FRAMES: Final = 7

log = structlog.get_logger("coordinator.zap")


class Authenticator:
    """Answers libzmq's questions from the broker's own loop."""

    def __init__(self, context: "zmq.Context[zmq.Socket[bytes]]", allowed: AllowList):
        """Bind before any CURVE socket binds: a handshake without a handler is refused."""
        self._allowed = allowed
        self.socket = context.socket(zmq.REP)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.bind(ENDPOINT)

    def answer(self) -> None:
        """Answer one question that is waiting."""
        frames = self.socket.recv_multipart()
        request = frames[1] if len(frames) > 1 else b""
        user = self._user(frames)
        status, text = (b"200", b"OK") if user else (b"400", b"not allowed")
        self.socket.send_multipart([_VERSION, request, status, text, user.hex().encode(), b""])

    def _user(self, frames: list[bytes]) -> bytes:
        if len(frames) != _FRAMES or frames[0] != _VERSION or frames[2] != DOMAIN:
            return b""
        if frames[5] != b"CURVE" or frames[6] not in self._allowed.welcome:
            log.warning("peer.unknown", key=frames[6].hex()[:16])
            return b""
        return frames[6]

    def close(self) -> None:
        """Stop answering: no handshake succeeds after that."""
        self.socket.close()
