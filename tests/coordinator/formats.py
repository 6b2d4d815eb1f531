"""Small well-formed messages to vary from."""

from typing import Any

from attestation.wire.control import SubmitRecord

CATALOGUE = b"c" * 32
SEGMENT = 64 * 1024
SEALED = SEGMENT + 32


def submit_record(
    *wraps: bytes, segments: tuple[bytes, ...] | int = (b"s" * 100,), **changes: Any
) -> SubmitRecord:
    """A record for inline `segments`, or for so many full ones, wrapped for workers `wraps`."""
    if isinstance(segments, int):
        count, total = segments, segments * SEALED
    else:
        count, total = len(segments), sum(map(len, segments))
    values: dict[str, Any] = {
        "program_digest": b"p" * 32,
        "catalogue_digest": CATALOGUE,
        "durable": True,
        "segment_bytes": SEGMENT,
        "input_segments": count,
        "input_bytes": total,
        "output_bytes_max": 1000,
        "deadline_ms": 0,
        "price_limit": 0,
        "wraps": tuple((worker, b"w" * 76) for worker in wraps),
    }
    return SubmitRecord(**(values | changes))
