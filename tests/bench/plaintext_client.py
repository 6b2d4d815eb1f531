"""The client of tests/bench/plaintext.py, timed like every other.

    python -m tests.bench.plaintext_client PORT

Ways with one tensor: `stream`, `whole`, `bare`, `signed` (see there), and `naive` for the naive
relay. Many small ones: `single` sends each in a message of its own, `stacks` a quarter of the
window together; `bare-single` and `bare-stacks` seal the messages, `signed-single` signs them too.
"""

import sys
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, Final

import numpy as np
import zmq

from attestation import limits
from tests.bench.peers.timed import Array, serve
from tests.bench.plaintext import (
    BARE,
    COPY_BELOW,
    CREDIT,
    HEAD,
    IN_FLIGHT,
    OF_CLIENT,
    OF_WORKER,
    SIGNATURE,
    SIGNED,
    STREAM,
    TAG,
    TO_CLIENT,
    TO_WORKER,
    WHOLE,
    keep_memory,
    make_socket,
    nonce,
    piece_size,
    signed_part,
)

MODES: Final = {"stream": STREAM, "whole": WHOLE, "bare": BARE, "signed": SIGNED}
PARTS: Final = 4
"""Stacks that a window is cut into, as `Client.map` does."""
_WORKER: Final = OF_WORKER.public_key()


class PlaintextClient:
    """Send tensors through relay and worker and wait for the results."""

    def __init__(self, port: int) -> None:
        """Connect to the relay."""
        self._socket = make_socket(zmq.DEALER)
        self._socket.connect(f"tcp://127.0.0.1:{port}")
        self._job = 0
        self._spare: list[zmq.Frame] = []
        self._result = np.empty(0, np.float32)

    def round_trip(self, way: str, x: Array) -> Array:
        """Return 2x + 1, computed by the worker."""
        if way == "naive":
            self._socket.send_multipart([x.tobytes()])
            return np.frombuffer(self._socket.recv_multipart()[0], np.float32)
        self._job += 1
        return self._exchange(MODES[way], x)

    def many(self, way: str, tensors: Iterator[Array], window: int) -> Iterable[Array]:
        """Yield 2x + 1 for every tensor."""
        kind, _, shape = way.rpartition("-")
        mode = MODES[kind or "stream"]
        if shape == "single":
            return self._windowed(tensors, window, mode)
        size = max(1, window // PARTS)
        in_flight = min(window, PARTS)
        stacks = self._windowed(_stacked(tensors, size), in_flight, mode)
        return (row for stack in stacks for row in stack.reshape(-1, limits.KIB // 4))

    def _exchange(self, mode: int, x: Array) -> Array:
        if self._result.nbytes != x.nbytes:
            self._result = np.empty_like(x)
        # Whoever had the last result is done with it: memory that was touched before is faster.
        y = self._result
        source, target = memoryview(x).cast("B"), memoryview(y).cast("B")
        total, size = x.nbytes, piece_size(x.nbytes)
        pieces = -(-total // size)
        sent = got = 0
        credit = IN_FLIGHT
        while got < pieces:
            while credit and sent < pieces:
                self._send_piece(mode, sent, total, source[sent * size : (sent + 1) * size])
                sent += 1
                credit -= 1
            head, frame = self._socket.recv(), self._socket.recv(copy=False)
            kind, job, piece, _ = HEAD.unpack(head)
            if mode != WHOLE or kind == CREDIT:
                credit += 1
            if kind == CREDIT:
                continue
            self._take(mode, head, frame, target[piece * size : (piece + 1) * size])
            got += 1
            if mode == WHOLE and got <= pieces - IN_FLIGHT:
                self._socket.send(HEAD.pack(CREDIT, job, 0, total), zmq.SNDMORE)
                self._socket.send(b"")
        return y

    def _send_piece(self, mode: int, number: int, total: int, data: memoryview) -> None:
        head = HEAD.pack(mode, self._job, number, total)
        body: Any = data
        if mode == BARE and self._spare and len(self._spare[-1].buffer) == len(data) + TAG:
            # A received frame is memory that has been touched already.
            body = self._spare.pop()
            TO_WORKER.encrypt_into(nonce(self._job, number), data, head, body.buffer)
        else:
            body = _protected(mode, head, data, nonce(self._job, number))
        self._socket.send(head, zmq.SNDMORE)
        self._socket.send(body, copy=len(data) < COPY_BELOW and not isinstance(body, zmq.Frame))

    def _take(self, mode: int, head: bytes, frame: zmq.Frame, target: memoryview) -> None:
        if mode not in (BARE, SIGNED):
            target[:] = frame.buffer
            return
        _, job, piece, _ = HEAD.unpack(head)
        sealed = _verified(mode, head, frame.buffer)
        TO_CLIENT.decrypt_into(nonce(job, piece), sealed, head, target)
        if mode == BARE and len(self._spare) < IN_FLIGHT:
            self._spare.append(frame)

    def _windowed(self, tensors: Iterator[Array], window: int, mode: int) -> Iterator[Array]:
        """Send every array as one message, `window` in flight, and yield the results in order."""
        waiting: deque[int] = deque()
        for x in tensors:
            self._job += 1
            head = HEAD.pack(mode, self._job, 0, x.nbytes)
            body = _protected(mode, head, memoryview(x).cast("B"), nonce(self._job, 0))
            self._socket.send(head, zmq.SNDMORE)
            self._socket.send(body, copy=len(body) < COPY_BELOW)
            waiting.append(self._job)
            if len(waiting) == window:
                waiting.popleft()
                yield self._next(mode)
        for _ in waiting:
            yield self._next(mode)

    def _next(self, mode: int) -> Array:
        head, body = self._socket.recv(), self._socket.recv()
        if mode in (BARE, SIGNED):
            _, job, piece, _ = HEAD.unpack(head)
            body = TO_CLIENT.decrypt(nonce(job, piece), _verified(mode, head, body), head)
        return np.frombuffer(body, np.float32)


def _protected(mode: int, head: bytes, data: memoryview, number: bytes) -> Any:
    """Return what is sent for `data`: itself, or sealed, or that and a signature."""
    if mode not in (BARE, SIGNED):
        return data
    sealed = TO_WORKER.encrypt(number, data, head)
    return sealed if mode == BARE else sealed + OF_CLIENT.sign(signed_part(head, sealed))


def _verified(mode: int, head: bytes, body: Any) -> Any:
    """Return the sealed part of what came."""
    if mode == BARE:
        return body
    sealed = body[:-SIGNATURE]
    _WORKER.verify(bytes(body[-SIGNATURE:]), signed_part(head, sealed))
    return sealed


def _stacked(tensors: Iterator[Array], size: int) -> Iterator[Array]:
    """Gather up to `size` tensors of 1 KiB in one array."""
    while True:
        stack = np.empty((size, limits.KIB // 4), np.float32)
        count = 0
        for count, x in enumerate(tensors, 1):
            stack[count - 1] = x
            if count == size:
                break
        if not count:
            return
        yield stack[:count].reshape(-1)


if __name__ == "__main__":
    keep_memory()
    serve(PlaintextClient(int(sys.argv[1])))
