"""The client of tests/bench/plaintext.py, timed like every other.

    python -m tests.bench.plaintext_client PORT

Ways with one tensor: `stream`, `whole`, `bare` (see there), and `naive` for the naive relay. Many
small ones: `single` sends each in a message of its own, `stacks` a quarter of the window together;
`bare-single` and `bare-stacks` seal the messages.
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
    STREAM,
    TAG,
    TO_CLIENT,
    TO_WORKER,
    WHOLE,
    keep_memory,
    make_socket,
    nonce,
    piece_size,
)

PARTS: Final = 4
"""Stacks that a window is cut into, as `Client.map` does."""


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
        return self._exchange({"stream": STREAM, "whole": WHOLE, "bare": BARE}[way], x)

    def many(self, way: str, tensors: Iterator[Array], window: int) -> Iterable[Array]:
        """Yield 2x + 1 for every tensor."""
        sealed = way.startswith("bare")
        if way.endswith("single"):
            return self._windowed(tensors, window, sealed=sealed)
        size = max(1, window // PARTS)
        in_flight = min(window, PARTS)
        stacks = self._windowed(_stacked(tensors, size), in_flight, sealed=sealed)
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
        elif mode == BARE:
            body = TO_WORKER.encrypt(nonce(self._job, number), data, head)
        self._socket.send(head, zmq.SNDMORE)
        self._socket.send(body, copy=len(data) < COPY_BELOW and not isinstance(body, zmq.Frame))

    def _take(self, mode: int, head: bytes, frame: zmq.Frame, target: memoryview) -> None:
        if mode != BARE:
            target[:] = frame.buffer
            return
        _, job, piece, _ = HEAD.unpack(head)
        TO_CLIENT.decrypt_into(nonce(job, piece), frame.buffer, head, target)
        if len(self._spare) < IN_FLIGHT:
            self._spare.append(frame)

    def _windowed(self, tensors: Iterator[Array], window: int, *, sealed: bool) -> Iterator[Array]:
        """Send every array as one message, `window` in flight, and yield the results in order."""
        waiting: deque[int] = deque()
        for x in tensors:
            self._job += 1
            head = HEAD.pack(BARE if sealed else STREAM, self._job, 0, x.nbytes)
            body: Any = memoryview(x).cast("B")
            if sealed:
                body = TO_WORKER.encrypt(nonce(self._job, 0), body, head)
            self._socket.send(head, zmq.SNDMORE)
            self._socket.send(body, copy=len(body) < COPY_BELOW)
            waiting.append(self._job)
            if len(waiting) == window:
                waiting.popleft()
                yield self._next(sealed=sealed)
        for _ in waiting:
            yield self._next(sealed=sealed)

    def _next(self, *, sealed: bool) -> Array:
        head, body = self._socket.recv(), self._socket.recv()
        if sealed:
            _, job, piece, _ = HEAD.unpack(head)
            body = TO_CLIENT.decrypt(nonce(job, piece), body, head)
        return np.frombuffer(body, np.float32)


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
