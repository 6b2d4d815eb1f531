"""What a restarted coordinator reads back, and how segments lie in one piece on the disk."""

import errno
import hashlib
import sqlite3
from collections.abc import Iterator, Sequence

from attestation.identifiers import WorkerId
from attestation.wire.control import RefusalCode
from coordinator.core.events import StoredJob, StoredResult
from coordinator.core.lengths import Cursor, SegmentLengths


def read_jobs(db: sqlite3.Connection) -> Iterator[StoredJob]:
    """Return every job in the order of arrival."""
    wraps: dict[bytes, list[tuple[WorkerId, bytes]]] = {}
    for job_id, worker, wrap in db.execute("SELECT job_id, worker, wrap FROM wraps"):
        wraps.setdefault(job_id, []).append((worker, wrap))
    rows = db.execute(
        "SELECT jobs.job_id, owner, record, envelope, jobs.lengths, jobs.spooled,"
        " output_window, submitted_ms, jobs.attempt, failures, jobs.worker, refusal, detail,"
        " results.attempt, results.worker, results.lengths, results.spooled, count, finished_ms,"
        " length(header) + length(receipt) + length(results.segments)"
        " + ifnull(bodies.length, 0)"
        " FROM jobs LEFT JOIN results USING (job_id) LEFT JOIN bodies"
        " ON bodies.job_id=jobs.job_id AND bodies.attempt=results.attempt"
        " ORDER BY jobs.rowid"
    )
    for row in rows:
        yield _stored(row, tuple(wraps.get(row[0], ())))


def _stored(row: Sequence[object], wraps: tuple[tuple[WorkerId, bytes], ...]) -> StoredJob:
    names = (
        "attempt",
        "worker_id",
        "lengths",
        "spooled",
        "count",
        "finished_ms",
        "inline_bytes",
    )
    result = None
    if row[13] is not None:
        result = StoredResult(**dict(zip(names, row[13:20], strict=True)))  # type: ignore[arg-type]
    refusal = (RefusalCode(str(row[11])), str(row[12])) if row[11] is not None else None
    envelope = row[3] if isinstance(row[3], bytes) else b""
    return StoredJob(
        job_id=row[0],  # type: ignore[arg-type]
        owner=row[1],  # type: ignore[arg-type]
        record=row[2],  # type: ignore[arg-type]
        wraps=wraps,
        envelope_digest=hashlib.sha256(envelope).digest(),
        envelope_bytes=len(envelope),
        lengths=row[4],  # type: ignore[arg-type]
        spooled=bool(row[5]),
        output_window=row[6],  # type: ignore[arg-type]
        submitted_ms=row[7],  # type: ignore[arg-type]
        attempt=row[8],  # type: ignore[arg-type]
        failures=row[9],  # type: ignore[arg-type]
        worker_id=row[10],  # type: ignore[arg-type]
        result=result,
        refusal=refusal,
    )


def cut(data: bytes, lengths: bytes) -> Iterator[memoryview]:
    """Take inline inputs apart again, by the lengths in their row."""
    pieces, view = SegmentLengths.from_bytes(lengths), memoryview(data)
    if pieces.total != len(data):
        raise OSError(errno.EIO, "stored segments and their lengths disagree")
    cursor = Cursor(pieces)
    for _ in range(pieces.count):
        offset, length = cursor.take()
        yield view[offset : offset + length]


def pack(segments: Sequence[bytes]) -> list[bytes]:
    """Return inline outputs, each behind its length."""
    return [piece for segment in segments for piece in (len(segment).to_bytes(4, "big"), segment)]


def unpack(data: bytes) -> Iterator[memoryview]:
    """Take apart what `pack` made."""
    view, offset = memoryview(data), 0
    while offset < len(data):
        end = offset + 4 + int.from_bytes(view[offset : offset + 4], "big")
        yield view[offset + 4 : end]
        offset = end
