"""Arrow Flight over TLS: a worker behind DoExchange. `python flight_server.py PORT TLS_FOLDER`."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import flight

SCHEMA = pa.schema([("x", pa.float32())])


def batch(values: np.ndarray[Any, Any]) -> pa.RecordBatch:
    """Wrap an array without copying it."""
    return pa.record_batch([pa.array(values)], schema=SCHEMA)


class AffineServer(flight.FlightServerBase):
    """y = 2x + 1, batch by batch."""

    def do_exchange(self, _context: Any, _descriptor: Any, reader: Any, writer: Any) -> None:
        """Answer every batch with one."""
        writer.begin(SCHEMA)
        for chunk in reader:
            y = chunk.data.column(0).to_numpy() * np.float32(2)
            y += np.float32(1)
            writer.write_batch(batch(y))


if __name__ == "__main__":
    tls = Path(sys.argv[2])
    pair = ((tls / "cert.pem").read_bytes(), (tls / "key.pem").read_bytes())
    AffineServer(f"grpc+tls://localhost:{sys.argv[1]}", tls_certificates=[pair]).serve()
