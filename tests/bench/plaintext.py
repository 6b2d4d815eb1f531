"""The pipeline without any protection: what the sealed one is measured against.

Same topology: client DEALER, relay ROUTER, worker DEALER, each a process of its own; the same
kernel (y = 2x + 1 on float32); pieces of at most 1 MiB, six in flight. No signatures, no
receipts, no store: what is left is the cost of moving bytes with pyzmq, written as lean as we know
how (frames sent one by one, received frames computed in place and sent back, memory kept).

The head of a piece says what the worker does with it:

- *stream*: compute and return every piece as it comes, which is all an elementwise kernel needs;
- *whole*: gather the tensor first, as a kernel in general has to;
- *bare*: stream, with every piece under AES-256-GCM and a key that both ends just have: sealing
  without keys agreed on, evidence, receipts or a store;
- *signed*: bare, and each end signs what it sends and verifies what it gets (Ed25519): the least
  that a job with a receipt can cost.

`naive` is another relay and worker: the tensor as one frame, copied by pyzmq, which is what one
writes first. With ENCLAVE_BENCH_CURVE set all sockets use CURVE.

    python -m tests.bench.plaintext relay|worker|naive-relay|naive-worker PORT
"""

import ctypes
import os
import struct
import sys
from typing import Any, Final

import numpy as np
import zmq
from attrs import define, field
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from attestation import limits

PIECE: Final = limits.MIB
SMALL_PIECE: Final = 256 * limits.KIB
"""For tensors of up to 1 MiB: four pieces overlap where one could not."""
IN_FLIGHT: Final = 6
"""Pieces in flight in each direction; more gain nothing."""
COPY_BELOW: Final = 128 * limits.KIB
"""Below this size pyzmq's zero-copy bookkeeping costs more than the copy."""
TAG: Final = 16
SIGNATURE: Final = 64

HEAD: Final = struct.Struct(">BIIQ")  # mode, job, piece, bytes of the whole tensor
STREAM, WHOLE, BARE, SIGNED, CREDIT, HELLO = range(1, 7)
TO_WORKER: Final = AESGCM(bytes(32))
TO_CLIENT: Final = AESGCM(bytes([1]) * 32)
OF_CLIENT: Final = Ed25519PrivateKey.from_private_bytes(bytes(32))
OF_WORKER: Final = Ed25519PrivateKey.from_private_bytes(bytes([1]) * 32)
CURVE: Final = "ENCLAVE_BENCH_CURVE"
"""Environment: the relay's public and secret key, separated by a blank."""

_CLIENT: Final = OF_CLIENT.public_key()
_BLOCK: Final = 64 * limits.KIB
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def keep_memory() -> None:
    """Let malloc keep freed pieces: each one given back costs a page fault per 4 KiB."""
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_THRESHOLD, 32 * limits.MIB)
    libc.mallopt(_M_TRIM_THRESHOLD, 1024 * limits.MIB)


def make_socket(kind: int, *, server: bool = False) -> zmq.Socket[bytes]:
    """Return a socket without limits on its queues, with CURVE where the environment says so."""
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(kind)
    socket.set_hwm(0)
    socket.linger = 0
    if CURVE in os.environ:
        public, secret = (key.encode() for key in os.environ[CURVE].split())
        if server:
            socket.curve_server = True
            socket.curve_publickey, socket.curve_secretkey = public, secret
        else:
            socket.curve_serverkey = public
            socket.curve_publickey, socket.curve_secretkey = zmq.curve_keypair()
    return socket


def say_ready() -> None:
    """Tell whoever reads our log that the worker is here."""
    sys.stdout.write("ready\n")
    sys.stdout.flush()


def nonce(job: int, piece: int) -> bytes:
    """Return a nonce that neither key has seen: jobs and pieces are counted."""
    return job.to_bytes(8, "big") + piece.to_bytes(4, "big")


def signed_part(head: bytes, sealed: Any) -> bytes:
    """Return what a signature is over: the tag stands for the piece."""
    return head + bytes(sealed[-TAG:])


def piece_size(total: int) -> int:
    """Return how a tensor of `total` bytes is cut."""
    return SMALL_PIECE if total <= limits.MIB else PIECE


def compute(x: np.ndarray[Any, Any]) -> None:
    """y = 2x + 1 in place, in blocks that stay in the cache."""
    for start in range(0, len(x), _BLOCK):
        block = x[start : start + _BLOCK]
        np.multiply(block, np.float32(2), out=block)
        np.add(block, np.float32(1), out=block)


def relay(port: int) -> None:
    """Forward [head, piece] between the clients and the one worker; nothing is read."""
    router = make_socket(zmq.ROUTER, server=True)
    router.bind(f"tcp://127.0.0.1:{port}")
    receive, send = router.recv, router.send
    worker = receive()
    for _ in range(3):
        receive()
    say_ready()
    while True:
        sender = receive()
        if sender == worker:
            send(receive(), zmq.SNDMORE)
        else:
            send(worker, zmq.SNDMORE)
            send(sender, zmq.SNDMORE)
        send(receive(), zmq.SNDMORE)
        send(receive(copy=False), copy=False)


@define
class _Gathering:
    """One tensor that is wanted whole."""

    tensor: np.ndarray[Any, Any]
    filled: int = 0
    sent: int = 0
    credit: int = IN_FLIGHT
    view: memoryview = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.view = memoryview(self.tensor).cast("B")

    @property
    def complete(self) -> bool:
        return self.filled == len(self.view)


class Worker:
    """The one worker."""

    def __init__(self, port: int) -> None:
        """Connect and say hello."""
        self._socket = make_socket(zmq.DEALER)
        self._socket.connect(f"tcp://127.0.0.1:{port}")
        for frame in (b"", HEAD.pack(HELLO, 0, 0, 0)):
            self._socket.send(frame, zmq.SNDMORE)
        self._socket.send(b"")
        self._gathering: _Gathering | None = None
        self._spare = np.empty(0, np.float32)

    def run(self) -> None:
        """Compute until killed."""
        receive = self._socket.recv
        while True:
            client, head, frame = receive(), receive(), receive(copy=False)
            mode, job, piece, _ = HEAD.unpack(head)
            if mode == STREAM:
                compute(np.frombuffer(frame.buffer, np.float32))
                self._send(client, head, frame)
            elif mode == BARE:
                self._sealed(client, head, frame, nonce(job, piece))
            elif mode == SIGNED:
                self._signed(client, head, frame, nonce(job, piece))
            else:
                self._whole(client, head, frame)

    def _send(self, client: bytes, head: bytes, body: Any) -> None:
        self._socket.send(client, zmq.SNDMORE)
        self._socket.send(head, zmq.SNDMORE)
        self._socket.send(body, copy=False)

    def _sealed(self, client: bytes, head: bytes, frame: zmq.Frame, number: bytes) -> None:
        self._compute_sealed(head, frame.buffer, number)
        self._send(client, head, frame)

    def _signed(self, client: bytes, head: bytes, frame: zmq.Frame, number: bytes) -> None:
        sealed, signature = frame.buffer[:-SIGNATURE], frame.buffer[-SIGNATURE:]
        _CLIENT.verify(bytes(signature), signed_part(head, sealed))
        self._compute_sealed(head, sealed, number)
        signature[:] = OF_WORKER.sign(signed_part(head, sealed))
        self._send(client, head, frame)

    @staticmethod
    def _compute_sealed(head: bytes, sealed: memoryview, number: bytes) -> None:
        plain = sealed[:-TAG]
        TO_WORKER.decrypt_into(number, sealed, head, plain)
        compute(np.frombuffer(plain, np.float32))
        TO_CLIENT.encrypt_into(number, plain, head, sealed)

    def _whole(self, client: bytes, head: bytes, frame: zmq.Frame) -> None:
        mode, job, _, total = HEAD.unpack(head)
        if self._gathering is None:
            if self._spare.nbytes != total:
                self._spare = np.empty(total // 4, np.float32)
            self._gathering = _Gathering(self._spare)
        now = self._gathering
        if mode == CREDIT:
            now.credit += 1
        else:
            piece = frame.buffer
            now.view[now.filled : now.filled + len(piece)] = piece
            now.filled += len(piece)
            if not now.complete:
                self._send(client, HEAD.pack(CREDIT, job, 0, total), b"")
                return
            compute(now.tensor)
        size = piece_size(total)
        while now.credit and now.sent < total:
            part = now.view[now.sent : now.sent + size]
            self._send(client, HEAD.pack(WHOLE, job, now.sent // size, total), part)
            now.sent += len(part)
            now.credit -= 1
        if now.sent == total:
            # Its buffer is free again: the client asks for nothing new before it has everything.
            self._gathering = None


def naive_relay(port: int) -> None:
    """Forward whole messages, copied: `recv_multipart`, `send_multipart`."""
    router = make_socket(zmq.ROUTER, server=True)
    router.bind(f"tcp://127.0.0.1:{port}")
    worker = router.recv_multipart()[0]
    say_ready()
    while True:
        sender, *frames = router.recv_multipart()
        router.send_multipart(frames if sender == worker else [worker, sender, *frames])


def naive_worker(port: int) -> None:
    """Compute on whole messages, with NumPy as one writes it."""
    dealer = make_socket(zmq.DEALER)
    dealer.connect(f"tcp://127.0.0.1:{port}")
    dealer.send(b"")
    while True:
        client, body = dealer.recv_multipart()
        y = np.frombuffer(body, np.float32) * np.float32(2) + np.float32(1)
        dealer.send_multipart([client, y.tobytes()])


def main() -> None:
    """Run one part until killed."""
    part, port = sys.argv[1], int(sys.argv[2])
    if part in ("relay", "worker"):
        keep_memory()
    {
        "relay": relay,
        "worker": lambda port: Worker(port).run(),
        "naive-relay": naive_relay,
        "naive-worker": naive_worker,
    }[part](port)


if __name__ == "__main__":
    main()
