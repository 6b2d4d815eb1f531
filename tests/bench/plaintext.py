"""The pipeline without any protection: what the sealed one is measured against.

Same shape: client DEALER, relay ROUTER, worker DEALER, each a process of its own; the same kernel
(y = 2x + 1 on float32); segments of the same size, as many in flight; small tensors inside the
message, large ones under credit. No sealing, no signatures, no receipts, no store: what is left is
the cost of moving bytes with pyzmq, written as lean as we know how.

    python -m tests.bench.plaintext relay PORT
    python -m tests.bench.plaintext worker PORT
"""

import ctypes
import struct
import sys
from collections.abc import Iterable, Iterator
from typing import Any, Final

import numpy as np
import zmq

from attestation import limits

SEGMENT: Final = limits.SEGMENT_BYTES
CREDIT: Final = 6
"""Segments in flight in each direction (perf measurements: more gains nothing)."""

_HEAD: Final = struct.Struct(">B5sIIQ")  # kind, the client's routing id, job, count, bytes
_HELLO, _JOB, _SEGMENT, _GRANT, _RESULT = range(1, 6)
_NOBODY: Final = bytes(5)
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def keep_memory() -> None:
    """Let malloc keep freed segments: each one given back costs a page fault per 4 KiB."""
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_THRESHOLD, 32 * limits.MIB)
    libc.mallopt(_M_TRIM_THRESHOLD, 1024 * limits.MIB)


def _pieces(array: np.ndarray[Any, Any]) -> list[memoryview]:
    flat = memoryview(array).cast("B")
    return [flat[start : start + SEGMENT] for start in range(0, len(flat), SEGMENT)]


def _copies(piece: memoryview) -> bool:
    # Below this size pyzmq's zero-copy bookkeeping costs more than the copy.
    return len(piece) < limits.INLINE_BYTES


def relay(port: int) -> None:
    """Forward between the clients and the one worker, unread but for the routing header."""
    router: zmq.Socket[bytes] = zmq.Context().socket(zmq.ROUTER)
    router.bind(f"tcp://127.0.0.1:{port}")
    worker = b""
    while True:
        sender, *frames = router.recv_multipart(copy=False)
        kind, client, job, count, size = _HEAD.unpack(frames[0].buffer)
        if kind == _HELLO:
            worker = sender.bytes
        elif sender.bytes == worker:
            router.send_multipart([client, *frames], copy=False)
        else:
            head = _HEAD.pack(kind, sender.bytes, job, count, size)
            router.send_multipart([worker, head, *frames[1:]], copy=False)


class _Job:
    """One tensor on its way through the worker."""

    def __init__(self, size: int) -> None:
        self.tensor = np.empty(size // 4, np.float32)
        self.filled = 0
        self.results: list[memoryview] = []
        self.credit = CREDIT

    def add(self, data: Any) -> bool:
        """Append one piece; say whether the tensor is whole."""
        view = memoryview(self.tensor).cast("B")
        view[self.filled : self.filled + len(data)] = data
        self.filled += len(data)
        return self.filled == len(view)

    def run(self) -> None:
        """y = 2x + 1, in place."""
        np.multiply(self.tensor, np.float32(2), out=self.tensor)
        np.add(self.tensor, np.float32(1), out=self.tensor)
        self.results = _pieces(self.tensor)


def worker(port: int) -> None:
    """Receive tensors, run the kernel, send the results."""
    dealer: zmq.Socket[bytes] = zmq.Context().socket(zmq.DEALER)
    dealer.connect(f"tcp://127.0.0.1:{port}")
    dealer.send(_HEAD.pack(_HELLO, _NOBODY, 0, 0, 0))
    jobs: dict[tuple[bytes, int], _Job] = {}
    while True:
        head, *body = dealer.recv_multipart(copy=False)
        kind, client, number, count, size = _HEAD.unpack(head.buffer)
        key = (client, number)
        if kind == _JOB and body:
            small = _Job(size)
            small.add(body[0].buffer)
            small.run()
            dealer.send_multipart([_HEAD.pack(_RESULT, client, number, 1, size), small.results[0]])
            continue
        if kind == _JOB:
            jobs[key] = _Job(size)
            dealer.send(_HEAD.pack(_GRANT, client, number, CREDIT, 0))
            continue
        job = jobs.get(key)
        if job is None:  # credit for the last segments of a finished job
            continue
        if kind == _GRANT:
            job.credit += count
        elif job.add(body[0].buffer):
            job.run()
        else:
            dealer.send(_HEAD.pack(_GRANT, client, number, 1, 0))
        _send_results(dealer, key, job)
        if job.filled == job.tensor.nbytes and not job.results:
            del jobs[key]


def _send_results(dealer: zmq.Socket[bytes], key: tuple[bytes, int], job: _Job) -> None:
    while job.results and job.credit:
        piece = job.results.pop(0)
        job.credit -= 1
        dealer.send(_HEAD.pack(_SEGMENT, *key, 1, len(piece)), zmq.SNDMORE)
        dealer.send(piece, copy=_copies(piece))


class PlaintextClient:
    """Send tensors through relay and worker and wait for the results."""

    def __init__(self, port: int) -> None:
        """Connect to the relay."""
        self._context: zmq.Context[Any] = zmq.Context()
        self._dealer = self._context.socket(zmq.DEALER)
        self._dealer.connect(f"tcp://127.0.0.1:{port}")
        self._next = 0

    def close(self) -> None:
        """Disconnect."""
        self._dealer.close(0)
        self._context.term()

    def round_trip(self, tensor: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return 2x + 1, computed by the worker."""
        if tensor.nbytes <= limits.INLINE_BYTES:
            return next(self.map([tensor]))
        self._next += 1
        waiting = _pieces(tensor)
        result = np.empty_like(tensor)
        view, filled = memoryview(result).cast("B"), 0
        self._dealer.send(_HEAD.pack(_JOB, _NOBODY, self._next, CREDIT, tensor.nbytes))
        while filled < len(view):
            head, *body = self._dealer.recv_multipart(copy=False)
            kind, _, _, count, size = _HEAD.unpack(head.buffer)
            if kind == _GRANT:
                for piece in waiting[:count]:
                    self._dealer.send(
                        _HEAD.pack(_SEGMENT, _NOBODY, self._next, 1, len(piece)), zmq.SNDMORE
                    )
                    self._dealer.send(piece, copy=_copies(piece))
                del waiting[:count]
            else:
                view[filled : filled + size] = body[0].buffer
                filled += size
                self._dealer.send(_HEAD.pack(_GRANT, _NOBODY, self._next, 1, 0))
        return result

    def map(
        self, tensors: Iterable[np.ndarray[Any, Any]], *, window: int = 64
    ) -> Iterator[np.ndarray[Any, Any]]:
        """Run small tensors, `window` of them in flight, and yield the results in order."""
        in_flight = 0
        for tensor in tensors:
            self._next += 1
            head = _HEAD.pack(_JOB, _NOBODY, self._next, 1, tensor.nbytes)
            self._dealer.send_multipart([head, memoryview(tensor).cast("B")])
            in_flight += 1
            if in_flight == window:
                yield self._small_result()
                in_flight -= 1
        for _ in range(in_flight):
            yield self._small_result()

    def _small_result(self) -> np.ndarray[Any, Any]:
        _, body = self._dealer.recv_multipart()
        return np.frombuffer(body, np.float32)


if __name__ == "__main__":
    keep_memory()
    {"relay": relay, "worker": worker}[sys.argv[1]](int(sys.argv[2]))
