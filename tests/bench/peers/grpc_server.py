"""gRPC over TLS: a worker, or a forwarder to one.

    python grpc_server.py PORT TLS_FOLDER [PORT_OF_THE_WORKER]

Bytes in, bytes out, without protobuf around them: that is the least work for gRPC.
"""

import sys
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import numpy as np

OPTIONS = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
SERVICE = "enclave.bench.Affine"


def channel(port: int, tls: Path) -> grpc.Channel:
    """Connect to a server on this machine."""
    credentials = grpc.ssl_channel_credentials((tls / "ca.pem").read_bytes())
    return grpc.secure_channel(f"localhost:{port}", credentials, OPTIONS)


def affine(data: bytes) -> bytes:
    """y = 2x + 1 on float32."""
    y = np.frombuffer(data, np.float32) * np.float32(2)
    y += np.float32(1)
    return y.tobytes()


def computing() -> dict[str, Any]:
    """Return the methods of the worker."""
    return {
        "One": grpc.unary_unary_rpc_method_handler(lambda data, _: affine(data)),
        "Stream": grpc.stream_stream_rpc_method_handler(lambda parts, _: map(affine, parts)),
    }


def forwarding(upstream: grpc.Channel) -> dict[str, Any]:
    """Return the same methods, done by another server."""
    one = upstream.unary_unary(f"/{SERVICE}/One")
    stream = upstream.stream_stream(f"/{SERVICE}/Stream")

    def forward(parts: Iterator[bytes], _: grpc.ServicerContext) -> Iterator[bytes]:
        return stream(parts)

    return {
        "One": grpc.unary_unary_rpc_method_handler(lambda data, _: one(data)),
        "Stream": grpc.stream_stream_rpc_method_handler(forward),
    }


def main() -> None:
    """Serve until killed."""
    port, tls = int(sys.argv[1]), Path(sys.argv[2])
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=10), options=OPTIONS)
    methods = forwarding(channel(int(sys.argv[3]), tls)) if len(sys.argv) > 3 else computing()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
    pair = ((tls / "key.pem").read_bytes(), (tls / "cert.pem").read_bytes())
    server.add_secure_port(f"localhost:{port}", grpc.ssl_server_credentials([pair]))
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    main()
