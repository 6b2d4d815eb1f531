"""Durable jobs in SQLite: one transaction for everything that one turn of the broker decided.

WAL with `synchronous=FULL`: a commit has reached the disk when it returns, and one commit covers
every job of the turn (15 thousand commits a second become 195 thousand rows). Bodies above
2 MiB are files in the spool; the rows say which. Nothing in here is decoded by anything that can
run code.
"""

import hashlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from attestation.errors import DecodeError
from attestation.identifiers import JobId, WorkerId
from attestation.wire.control import RefusalCode
from coordinator.core.events import StoredJob, StoredResult
from coordinator.core.instructions import (
    DeleteJob,
    SpoolFile,
    StoreInstruction,
    StoreJob,
    StoreLease,
    StoreRefusal,
    StoreRejection,
    StoreResult,
    StoreWrap,
)
from coordinator.core.lengths import Cursor, SegmentLengths
from coordinator.errors import StoreError

SCHEMA_VERSION: Final = 1

_SCHEMA: Final = """
CREATE TABLE jobs (
    job_id BLOB PRIMARY KEY, owner BLOB NOT NULL, record BLOB NOT NULL, envelope BLOB NOT NULL,
    segments BLOB NOT NULL, lengths BLOB NOT NULL, spooled INTEGER NOT NULL,
    output_window INTEGER NOT NULL, submitted_ms INTEGER NOT NULL,
    attempt INTEGER NOT NULL DEFAULT 0, failures INTEGER NOT NULL DEFAULT 0, worker BLOB,
    refusal TEXT, detail TEXT) STRICT;
CREATE TABLE wraps (
    job_id BLOB NOT NULL REFERENCES jobs ON DELETE CASCADE, worker BLOB NOT NULL,
    wrap BLOB NOT NULL, PRIMARY KEY (job_id, worker)) STRICT;
CREATE TABLE results (
    job_id BLOB PRIMARY KEY REFERENCES jobs ON DELETE CASCADE, attempt INTEGER NOT NULL,
    worker BLOB NOT NULL, header BLOB NOT NULL, receipt BLOB NOT NULL, segments BLOB NOT NULL,
    lengths BLOB NOT NULL, spooled INTEGER NOT NULL, count INTEGER NOT NULL,
    finished_ms INTEGER NOT NULL) STRICT;
"""


class Store:
    """The database of one state directory."""

    def __init__(self, path: Path) -> None:
        """Open or create it, or raise `StoreError`."""
        try:
            # Made in one thread and used in another, never in two at once.
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            for setting in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
                self._db.execute(f"PRAGMA {setting}")
            self._migrate()
        except sqlite3.Error as error:
            raise StoreError(f"{path}: {error}") from error
        self._acts: Mapping[type, Callable[[Any], None]] = {
            StoreJob: self._insert_job,
            StoreWrap: self._insert_wrap,
            StoreLease: self._lease,
            StoreResult: self._insert_result,
            StoreRejection: self._reject,
            StoreRefusal: self._refuse,
            DeleteJob: self._delete,
        }

    def _migrate(self) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version == SCHEMA_VERSION:
            return
        if version != 0:
            raise StoreError(f"the store has version {version}, this program {SCHEMA_VERSION}")
        self._db.executescript(f"BEGIN;{_SCHEMA}PRAGMA user_version={SCHEMA_VERSION};COMMIT;")

    def close(self) -> None:
        """Close the database; everything committed stays."""
        self._db.close()

    # -- writing ----------------------------------------------------------------------------------

    def commit(self, instructions: Sequence[StoreInstruction]) -> list[StoreInstruction]:
        """Carry out everything in one transaction and return what failed (usually nothing).

        When the whole fails, each job's instructions are tried in a transaction of their own, so
        that a disk with room for some jobs keeps those.
        """
        try:
            self._transact(instructions)
        except sqlite3.Error:
            return list(self._commit_by_job(instructions))
        return []

    def _commit_by_job(
        self, instructions: Sequence[StoreInstruction]
    ) -> Iterator[StoreInstruction]:
        by_job: dict[JobId, list[StoreInstruction]] = {}
        for instruction in instructions:
            by_job.setdefault(instruction.job_id, []).append(instruction)
        for group in by_job.values():
            try:
                self._transact(group)
            except sqlite3.Error:
                yield from group

    def _transact(self, instructions: Iterable[StoreInstruction]) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            for instruction in instructions:
                self._acts[type(instruction)](instruction)
            self._db.execute("COMMIT")
        except sqlite3.Error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def _insert_job(self, job: StoreJob) -> None:
        self._db.execute(
            "INSERT INTO jobs (job_id, owner, record, envelope, segments, lengths, spooled,"
            " output_window, submitted_ms) VALUES (?,?,?,?,?,?,?,?,?)",
            (
                job.job_id,
                job.owner,
                job.record,
                job.envelope,
                b"".join(job.segments),
                job.lengths,
                job.spooled,
                job.output_window,
                job.submitted_ms,
            ),
        )

    def _insert_wrap(self, wrap: StoreWrap) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO wraps SELECT job_id, ?, ? FROM jobs WHERE job_id=?",
            (wrap.worker_id, wrap.wrap, wrap.job_id),
        )

    def _lease(self, lease: StoreLease) -> None:
        self._db.execute(
            "UPDATE jobs SET attempt=?, failures=?, worker=? WHERE job_id=?",
            (lease.attempt, lease.failures, lease.worker_id, lease.job_id),
        )

    def _insert_result(self, result: StoreResult) -> None:
        # The fence once more, in the transaction: no row unless attempt and owner are the stored.
        done = self._db.execute(
            "INSERT INTO results SELECT job_id,?,?,?,?,?,?,?,?,? FROM jobs"
            " WHERE job_id=? AND attempt=? AND worker=?",
            (
                result.attempt,
                result.worker_id,
                result.header,
                result.receipt,
                _pack(result.segments),
                result.lengths,
                result.spooled,
                result.count,
                result.finished_ms,
                result.job_id,
                result.attempt,
                result.worker_id,
            ),
        )
        if done.rowcount != 1:
            raise sqlite3.IntegrityError("a result that does not fit the stored lease")

    def _reject(self, rejection: StoreRejection) -> None:
        self._db.execute("DELETE FROM results WHERE job_id=?", (rejection.job_id,))
        self._db.execute(
            "UPDATE jobs SET failures=?, worker=NULL WHERE job_id=?",
            (rejection.failures, rejection.job_id),
        )

    def _refuse(self, refusal: StoreRefusal) -> None:
        self._db.execute(
            "UPDATE jobs SET refusal=?, detail=? WHERE job_id=?",
            (refusal.code.value, refusal.detail, refusal.job_id),
        )

    def _delete(self, job: DeleteJob) -> None:
        self._db.execute("DELETE FROM jobs WHERE job_id=?", (job.job_id,))

    # -- reading ----------------------------------------------------------------------------------

    def body(self, job_id: JobId) -> tuple[bytes, ...] | None:
        """Return envelope and inline segments of a job."""
        row = self._db.execute(
            "SELECT envelope, segments, lengths, spooled FROM jobs WHERE job_id=?", (job_id,)
        ).fetchone()
        if row is None:
            return None
        envelope, segments, lengths, spooled = row
        return (envelope,) if spooled else (envelope, *_cut(segments, lengths))

    def result(self, job_id: JobId) -> tuple[bytes, ...] | None:
        """Return result header, receipt and inline segments of a job."""
        row = self._db.execute(
            "SELECT header, receipt, segments FROM results WHERE job_id=?", (job_id,)
        ).fetchone()
        return None if row is None else (row[0], row[1], *_unpack(row[2]))

    def files(self) -> set[SpoolFile]:
        """Return the spool files that a stored job still needs."""
        inputs = self._db.execute("SELECT job_id FROM jobs WHERE spooled AND refusal IS NULL")
        needed = {SpoolFile(job_id) for (job_id,) in inputs}
        outputs = self._db.execute("SELECT job_id, attempt FROM results WHERE spooled")
        return needed | {SpoolFile(job_id, attempt) for job_id, attempt in outputs}

    def jobs(self) -> Iterator[StoredJob]:
        """Return every job in the order of arrival."""
        wraps: dict[bytes, list[tuple[WorkerId, bytes]]] = {}
        for job_id, worker, wrap in self._db.execute("SELECT job_id, worker, wrap FROM wraps"):
            wraps.setdefault(job_id, []).append((worker, wrap))
        rows = self._db.execute(
            "SELECT job_id, owner, record, envelope, jobs.lengths, jobs.spooled, output_window,"
            " submitted_ms, jobs.attempt, failures, jobs.worker, refusal, detail, results.attempt,"
            " results.worker, results.lengths, results.spooled, count, finished_ms,"
            " length(header) + length(receipt) + length(results.segments)"
            " FROM jobs LEFT JOIN results USING (job_id) ORDER BY jobs.rowid"
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


def _cut(data: bytes, lengths: bytes) -> Iterator[bytes]:
    pieces = SegmentLengths.from_bytes(lengths)
    if pieces.total != len(data):
        raise DecodeError("stored segments and their lengths disagree")
    cursor = Cursor(pieces)
    for _ in range(pieces.count):
        offset, length = cursor.take()
        yield data[offset : offset + length]


def _pack(segments: Sequence[bytes]) -> bytes:
    """Join inline outputs, each behind its length."""
    return b"".join(len(segment).to_bytes(4, "big") + segment for segment in segments)


def _unpack(data: bytes) -> Iterator[bytes]:
    offset = 0
    while offset < len(data):
        length = int.from_bytes(data[offset : offset + 4], "big")
        yield data[offset + 4 : offset + 4 + length]
        offset += 4 + length
