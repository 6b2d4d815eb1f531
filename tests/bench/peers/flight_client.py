"""Times Arrow Flight over TLS: `python flight_client.py PORT TLS_FOLDER`.

One exchange stays open, as a client with much to do keeps it; large tensors are batches of 1 MiB,
six in flight; a small tensor is a batch.
"""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from flight_server import SCHEMA, batch
from pyarrow import flight
from timed import Array, serve

ELEMENTS = (1 << 20) // 4
IN_FLIGHT = 6


class FlightClient:
    """One open exchange."""

    def __init__(self, port: int, tls: Path) -> None:
        """Connect."""
        self._client = flight.connect(
            f"grpc+tls://localhost:{port}", tls_root_certs=(tls / "ca.pem").read_bytes()
        )
        descriptor = flight.FlightDescriptor.for_command(b"affine")
        self._writer, self._reader = self._client.do_exchange(descriptor)
        self._writer.begin(SCHEMA)

    def round_trip(self, way: str, x: Array) -> Array:
        """Send batches, take batches."""
        y = np.empty_like(x)
        pieces = (x[at : at + ELEMENTS] for at in range(0, len(x), ELEMENTS))
        filled = 0
        for part in self.many(way, pieces, IN_FLIGHT):
            y[filled : filled + len(part)] = part
            filled += len(part)
        return y

    def many(self, way: str, tensors: Iterator[Array], window: int) -> Iterable[Array]:
        """A batch each."""
        in_flight = 0
        for x in tensors:
            self._writer.write_batch(batch(x))
            in_flight += 1
            if in_flight == window:
                yield self._next()
                in_flight -= 1
        for _ in range(in_flight):
            yield self._next()

    def _next(self) -> Array:
        result: Array = self._reader.read_chunk().data.column(0).to_numpy()
        return result


if __name__ == "__main__":
    serve(FlightClient(int(sys.argv[1]), Path(sys.argv[2])))
