"""Times gRPC over TLS: `python grpc_client.py WORKER_PORT FORWARDER_PORT TLS_FOLDER`.

Ways: `direct` and `forwarded`. A tensor of up to 64 KiB is one unary call, a larger one a
bidirectional stream of 1 MiB pieces; many small ones are messages of one such stream.
"""

import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import grpc
import numpy as np
from grpc_server import SERVICE, channel
from timed import Array, serve

PIECE = 1 << 20
UNARY = 64 << 10


class GrpcClient:
    """One channel to the worker, one to the forwarder."""

    def __init__(self, channels: dict[str, grpc.Channel]) -> None:
        """Wait until both answer."""
        for each in channels.values():
            grpc.channel_ready_future(each).result(20)
        self._one = {way: each.unary_unary(f"/{SERVICE}/One") for way, each in channels.items()}
        self._stream = {
            way: each.stream_stream(f"/{SERVICE}/Stream") for way, each in channels.items()
        }

    def round_trip(self, way: str, x: Array) -> Array:
        """One call."""
        if x.nbytes <= UNARY:
            return np.frombuffer(self._one[way](x.tobytes()), np.float32)
        data, y, filled = memoryview(x).cast("B"), np.empty_like(x), 0
        target = memoryview(y).cast("B")
        pieces = (bytes(data[at : at + PIECE]) for at in range(0, len(data), PIECE))
        for part in self._stream[way](pieces):
            target[filled : filled + len(part)] = part
            filled += len(part)
        return y

    def many(self, way: str, tensors: Iterator[Array], window: int) -> Iterable[Array]:
        """One stream for all; gRPC's own thread takes from the generator."""
        room = threading.Semaphore(window)

        def parts() -> Iterator[bytes]:
            for x in tensors:
                room.acquire()
                yield x.tobytes()

        for part in self._stream[way](parts()):
            room.release()
            yield np.frombuffer(part, np.float32)


if __name__ == "__main__":
    folder = Path(sys.argv[3])
    ways = {"direct": channel(int(sys.argv[1]), folder)}
    ways["forwarded"] = channel(int(sys.argv[2]), folder)
    serve(GrpcClient(ways))
