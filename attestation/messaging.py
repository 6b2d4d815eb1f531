"""One message over a ZeroMQ socket, frame by frame, never waiting. For the ends of a connection.

`send_multipart` and `recv_multipart` cost twice as much per message, and combining pyzmq's flags a
microsecond each time; what is here was measured in tests/bench/plaintext.py. A received frame stays
in ZeroMQ's memory when it is large. That memory is the receiver's: it may be written to, and sent
back as it is, which copies nothing and wakes nobody.
"""

from collections.abc import Sequence
from typing import Any, Final

import zmq

from attestation import limits
from attestation.wire.frames import Frame

COPY_BELOW: Final = 64 * limits.KIB
"""Below this a copy costs less than keeping a buffer alive across threads (docs/benchmarks.md)."""

READABLE: Final = int(zmq.POLLIN)
WRITABLE: Final = int(zmq.POLLOUT)

_NOW: Final = int(zmq.NOBLOCK)
_NOW_AND_MORE: Final = int(zmq.NOBLOCK | zmq.SNDMORE)


def send(socket: "zmq.Socket[bytes]", frames: Sequence[Frame]) -> bool:
    """Send one message if there is room now; its large frames must not change afterwards."""
    last = len(frames) - 1
    try:
        for number, frame in enumerate(frames):
            flags = _NOW if number == last else _NOW_AND_MORE
            if len(frame) < COPY_BELOW:
                socket.send(frame, flags)
            else:
                socket.send(_received(frame), flags, copy=False)
    except zmq.Again:
        return False
    return True


def receive(socket: "zmq.Socket[bytes]") -> list[Frame] | None:
    """Take one message, or None when there is none now."""
    try:
        frame = socket.recv(_NOW, copy=False)
    except zmq.Again:
        return None
    frames = [_contents(frame)]
    while frame.more:
        frame = socket.recv(_NOW, copy=False)
        frames.append(_contents(frame))
    return frames


def _contents(frame: zmq.Frame) -> Frame:
    return frame.bytes if len(frame) < COPY_BELOW else memoryview(frame.buffer)


def _received(frame: Frame) -> Any:
    """Return the received frame that `frame` is all of, if it is one."""
    if isinstance(frame, memoryview):
        owner = frame.obj
        if isinstance(owner, zmq.Frame) and len(owner) == frame.nbytes:
            return owner
    return frame
