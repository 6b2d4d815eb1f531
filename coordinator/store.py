"""Durable jobs in SQLite: one transaction for everything that one turn of the broker decided.

WAL with `synchronous=FULL`: a commit has reached the disk when it returns, and one commit covers
every job of the turn (15 thousand commits a second become 195 thousand rows). Rows are small: the
segments of a job or result that are more than 32 KiB lie in the body log, which is synced
before the commit that names them, and those above 2 MiB are files in the spool. Nothing in here is
decoded by anything that can run code.
"""

import errno
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from attestation.identifiers import JobId
from attestation.limits import KIB
from coordinator.body_log import BodyLog, Extent
from coordinator.core.events import StoredJob
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
from coordinator.errors import StoreError
from coordinator.stored import cut, pack, read_jobs, unpack

SCHEMA_VERSION: Final = 2
ROW_BYTES: Final = 32 * KIB
"""Segments of up to so many bytes lie in the row: one more fdatasync a turn would cost more."""

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
CREATE TABLE bodies (
    job_id BLOB NOT NULL REFERENCES jobs, attempt INTEGER NOT NULL, file INTEGER NOT NULL,
    start INTEGER NOT NULL, length INTEGER NOT NULL,
    PRIMARY KEY (job_id, attempt)) STRICT, WITHOUT ROWID;
"""


class Store:
    """The database of one state directory, and the log of the bodies that its rows name."""

    def __init__(self, path: Path, bodies: BodyLog, *, row_bytes: int = ROW_BYTES) -> None:
        """Open or create it, or raise `StoreError`."""
        self._bodies = bodies
        self._row_bytes = row_bytes
        self._appended: list[Extent] = []
        """Bodies that this transaction adds."""
        self._dropped: list[Extent] = []
        """Bodies that this transaction takes leave of."""
        self._abandoned: list[Extent] = []
        """Bodies of transactions that failed."""
        try:
            # Made in one thread and used in another, never in two at once.
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            for setting in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
                self._db.execute(f"PRAGMA {setting}")
            self._migrate()
            rows = self._db.execute("SELECT file, start, length FROM bodies")
            bodies.recover(Extent(*row) for row in rows)
        except (sqlite3.Error, OSError) as error:
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
            raise StoreError(
                f"the store has version {version} and this program {SCHEMA_VERSION}: finish its"
                " jobs with the program that wrote it, or begin with an empty state directory"
            )
        self._db.executescript(f"BEGIN;{_SCHEMA}PRAGMA user_version={SCHEMA_VERSION};COMMIT;")

    def close(self) -> None:
        """Close the database; everything committed stays."""
        self._db.close()
        self._bodies.close()

    # -- writing ----------------------------------------------------------------------------------

    def commit(self, instructions: Sequence[StoreInstruction]) -> list[StoreInstruction]:
        """Carry out everything in one transaction and return what failed (usually nothing).

        When the whole fails, each job's instructions are tried in a transaction of their own, so
        that a disk with room for some jobs keeps those.
        """
        try:
            self._transact(instructions)
        except (sqlite3.Error, OSError):
            return list(self._commit_by_job(instructions))
        self._empty_a_sparse_file()
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
            except (sqlite3.Error, OSError):
                yield from group

    def _transact(self, instructions: Iterable[StoreInstruction]) -> None:
        with self._transaction():
            for instruction in instructions:
                self._acts[type(instruction)](instruction)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Commit what happens inside, its bodies first; on an error nothing of it happened."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._bodies.sync()
            self._db.execute("COMMIT")
        except (sqlite3.Error, OSError):
            self._abandoned += self._appended
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        else:
            # A commit that failed may still be found after a crash, until a later one has written
            # over it. So what it named stays until then.
            for extent in (*self._dropped, *self._abandoned):
                self._bodies.release(extent)
            self._abandoned.clear()
        finally:
            self._appended.clear()
            self._dropped.clear()

    def _in_row(self, pieces: Sequence[bytes]) -> bytes | None:
        """Join what is small enough for a row; None for what belongs into the log."""
        return b"".join(pieces) if sum(map(len, pieces)) <= self._row_bytes else None

    def _place_body(self, job_id: JobId, attempt: int, pieces: Sequence[bytes]) -> None:
        extent = self._bodies.append(pieces)
        self._appended.append(extent)
        self._db.execute(
            "INSERT OR REPLACE INTO bodies VALUES (?,?,?,?,?)",
            (job_id, attempt, extent.file, extent.start, extent.length),
        )

    def _drop_bodies(self, job_id: JobId, *, since: int = 0) -> None:
        """Forget the results of a job, or with its inputs all."""
        rows = self._db.execute(
            "DELETE FROM bodies WHERE job_id=? AND attempt>=? RETURNING file, start, length",
            (job_id, since),
        )
        self._dropped.extend(Extent(*row) for row in rows)

    def _empty_a_sparse_file(self) -> None:
        """Move what lives in it, so that it can be written over or removed."""
        number = self._bodies.sparse()
        if number is None:
            return
        try:
            with self._transaction():
                rows = self._db.execute(
                    "SELECT job_id, attempt, start, length FROM bodies WHERE file=?", (number,)
                ).fetchall()
                for job_id, attempt, start, length in rows:
                    self._move_body(job_id, attempt, Extent(number, start, length))
        except (sqlite3.Error, OSError):
            # Everything is where it was.
            return

    def _move_body(self, job_id: JobId, attempt: int, extent: Extent) -> None:
        try:
            data = self._bodies.read(extent)
        except OSError:
            self._bodies.leave(extent.file)
            raise
        self._place_body(job_id, attempt, (data,))
        self._dropped.append(extent)

    def _insert_job(self, job: StoreJob) -> None:
        segments = self._in_row(job.segments)
        self._db.execute(
            "INSERT INTO jobs (job_id, owner, record, envelope, segments, lengths, spooled,"
            " output_window, submitted_ms) VALUES (?,?,?,?,?,?,?,?,?)",
            (
                job.job_id,
                job.owner,
                job.record,
                job.envelope,
                segments or b"",
                job.lengths,
                job.spooled,
                job.output_window,
                job.submitted_ms,
            ),
        )
        if segments is None:
            self._place_body(job.job_id, 0, job.segments)

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
        pieces = pack(result.segments)
        segments = self._in_row(pieces)
        # The fence once more, in the transaction: no row unless attempt and owner are the stored.
        done = self._db.execute(
            "INSERT INTO results SELECT job_id,?,?,?,?,?,?,?,?,? FROM jobs"
            " WHERE job_id=? AND attempt=? AND worker=?",
            (
                result.attempt,
                result.worker_id,
                result.header,
                result.receipt,
                segments or b"",
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
        if segments is None:
            self._place_body(result.job_id, result.attempt, pieces)

    def _reject(self, rejection: StoreRejection) -> None:
        self._drop_bodies(rejection.job_id, since=1)
        self._db.execute("DELETE FROM results WHERE job_id=?", (rejection.job_id,))
        self._db.execute(
            "UPDATE jobs SET failures=?, worker=NULL WHERE job_id=?",
            (rejection.failures, rejection.job_id),
        )

    def _refuse(self, refusal: StoreRefusal) -> None:
        # Nobody runs it again: from here on it takes no room.
        self._drop_bodies(refusal.job_id)
        self._db.execute(
            "UPDATE jobs SET refusal=?, detail=?, segments=x'' WHERE job_id=?",
            (refusal.code.value, refusal.detail, refusal.job_id),
        )

    def _delete(self, job: DeleteJob) -> None:
        self._drop_bodies(job.job_id)
        self._db.execute("DELETE FROM jobs WHERE job_id=?", (job.job_id,))

    # -- reading ----------------------------------------------------------------------------------

    def body(self, job_id: JobId) -> tuple[bytes | memoryview, ...] | None:
        """Return envelope and inline segments of a job; raises `OSError` if they cannot be read."""
        row = self._read(
            "SELECT envelope, spooled, jobs.lengths, segments, file, start, bodies.length"
            " FROM jobs LEFT JOIN bodies ON bodies.job_id=jobs.job_id AND bodies.attempt=0"
            " WHERE jobs.job_id=?",
            job_id,
        )
        if row is None:
            return None
        envelope, spooled, lengths, *stored = row
        return (envelope,) if spooled else (envelope, *cut(self._segments(*stored), lengths))

    def result(self, job_id: JobId) -> tuple[bytes | memoryview, ...] | None:
        """Return result header, receipt and inline segments; raises `OSError` like `body`."""
        row = self._read(
            "SELECT header, receipt, segments, file, start, bodies.length"
            " FROM results LEFT JOIN bodies USING (job_id, attempt) WHERE results.job_id=?",
            job_id,
        )
        if row is None:
            return None
        header, receipt, *stored = row
        return (header, receipt, *unpack(self._segments(*stored)))

    def _read(self, query: str, job_id: JobId) -> Sequence[Any] | None:
        try:
            row: Sequence[Any] | None = self._db.execute(query, (job_id,)).fetchone()
        except sqlite3.Error as error:
            raise OSError(errno.EIO, str(error)) from error
        return row

    def _segments(
        self, in_row: bytes, file: int | None, start: int | None, length: int | None
    ) -> bytes:
        if file is None or start is None or length is None:
            return in_row
        return self._bodies.read(Extent(file, start, length))

    def files(self) -> set[SpoolFile]:
        """Return the spool files that a stored job still needs."""
        inputs = self._db.execute("SELECT job_id FROM jobs WHERE spooled AND refusal IS NULL")
        needed = {SpoolFile(job_id) for (job_id,) in inputs}
        outputs = self._db.execute("SELECT job_id, attempt FROM results WHERE spooled")
        return needed | {SpoolFile(job_id, attempt) for job_id, attempt in outputs}

    def jobs(self) -> Iterator[StoredJob]:
        """Return every job in the order of arrival."""
        return read_jobs(self._db)
