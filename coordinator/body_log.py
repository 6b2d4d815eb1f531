"""Bodies of small jobs and results: appended to files that many of them share.

    STATE/bodies/<number>.log

Theory of operation. A turn appends what it accepted, `sync` puts all of it on stable storage with
one fdatasync, and then the store commits the rows that say which `Extent` holds which body. An
extent that no committed row names is not there: whatever a crash tore or left behind lies outside
every extent, so there is nothing to replay and nothing to check at the start. As blobs in SQLite
the same bytes are written twice, page by page, and again whenever a column beside them changes.

A file that holds no live body any more is written over from its beginning, which costs a half to a
fifth of growing a new one: neither blocks nor the length have to be recorded again. Bodies end in
another order than they came, so some files keep a few for long; where the files together are more
than twice what lives in them, `sparse` names one for the store to empty.

A file whose fdatasync failed is never written again: the kernel may have dropped the pages and
called them clean, and a second fdatasync would then succeed for bytes that are nowhere
(PostgreSQL's lesson of 2018).
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import structlog
from attrs import define, frozen

from attestation.limits import MIB
from coordinator.files import Readers, sync_directory

FILE_BYTES: Final = 16 * MIB
"""A file takes bodies up to here: some turns' worth, and little to rewrite when it is sparse."""
SPARE_FILES: Final = 4
"""Empty files that wait to be written over; more are removed."""
SLACK_FILES: Final = 8
"""So many files may be as empty as they like before any is called sparse."""

log = structlog.get_logger("coordinator")


@frozen
class Extent:
    """Where one body lies."""

    file: int
    start: int
    length: int


@define(eq=False)
class _Current:
    """The file that is appended to."""

    number: int
    descriptor: int
    end: int = 0
    synced: bool = True


class BodyLog:
    """The directory of one coordinator. Methods raise `OSError` when the disk does not work."""

    def __init__(self, directory: Path, *, file_bytes: int = FILE_BYTES) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory = directory
        self._file_bytes = file_bytes
        self._readers = Readers()
        self._current: _Current | None = None
        self._live: dict[int, int] = {}
        """Bytes of live bodies in each file, those that are being written included."""
        self._spare: list[int] = []
        self._distrusted: set[int] = set()
        self._unreadable: set[int] = set()
        self._last = 0

    def recover(self, extents: Iterable[Extent]) -> int:
        """Begin with what the store names; remove every other file, and return how many."""
        for extent in extents:
            self._live[extent.file] = self._live.get(extent.file, 0) + extent.length
        named = {self._path(number).name for number in self._live}
        orphans = [path for path in self._directory.iterdir() if path.name not in named]
        for path in orphans:
            path.unlink()
        if orphans:
            sync_directory(self._directory)
        # Files of an earlier life are not appended to: where their last body ends, only it knew.
        self._last = max(self._live, default=0)
        return len(orphans)

    def _path(self, number: int) -> Path:
        return self._directory / f"{number:010}.log"

    # -- writing ----------------------------------------------------------------------------------

    def append(self, pieces: Sequence[bytes]) -> Extent:
        """Write one body. It is on stable storage after the next `sync`, and not before."""
        length = sum(map(len, pieces))
        current = self._with_room(length)
        current.synced = False
        _write(current.descriptor, pieces, current.end)
        extent = Extent(current.number, current.end, length)
        # Only now: the next body is written over one that came to nothing.
        current.end += length
        self._live[current.number] += length
        return extent

    def _with_room(self, length: int) -> _Current:
        current = self._current
        if current is not None and current.end and current.end + length > self._file_bytes:
            self.sync()
            self._retire(current)
            current = None
        if current is None:
            current = self._current = self._begin()
        return current

    def _begin(self) -> _Current:
        try:
            if self._spare:
                number = self._spare.pop(0)
                flags = os.O_WRONLY | os.O_CLOEXEC
                current = _Current(number, os.open(self._path(number), flags))
            else:
                self._last += 1
                number = self._last
                current = _Current(number, self._create(number))
        except OSError:
            self._remove(number)
            raise
        self._live[number] = 0
        return current

    def _create(self, number: int) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        descriptor = os.open(self._path(number), flags, 0o600)
        try:
            sync_directory(self._directory)
        except OSError:
            os.close(descriptor)
            raise
        return descriptor

    def sync(self) -> None:
        """Put everything that was appended on stable storage, or raise `OSError`."""
        current = self._current
        if current is None or current.synced:
            return
        try:
            os.fdatasync(current.descriptor)
        except OSError:
            self._distrusted.add(current.number)
            self._retire(current)
            raise
        current.synced = True

    def _retire(self, current: _Current) -> None:
        self._current = None
        os.close(current.descriptor)
        self._reuse(current.number)

    # -- what is no longer needed -----------------------------------------------------------------

    def release(self, extent: Extent) -> None:
        """Forget a body that no committed row names, and never will."""
        self._live[extent.file] -= extent.length
        self._reuse(extent.file)

    def _reuse(self, number: int) -> None:
        """Keep a file that holds nothing for the next bodies, or remove it."""
        if self._live[number] or (self._current is not None and number == self._current.number):
            return
        del self._live[number]
        self._unreadable.discard(number)
        if number in self._distrusted or len(self._spare) >= SPARE_FILES:
            self._distrusted.discard(number)
            self._remove(number)
        else:
            self._spare.append(number)

    def _remove(self, number: int) -> None:
        path = self._path(number)
        self._readers.forget(path)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            # An orphan now, removed at the next start.
            log.warning("spool.undeleted", code=error.errno)

    def sparse(self) -> int | None:
        """Return the emptiest file, if the files are more than twice what lives in them."""
        taken = (len(self._live) - SLACK_FILES) * self._file_bytes
        if taken <= 0 or taken <= 2 * sum(self._live.values()):
            return None
        current = self._current.number if self._current is not None else None
        candidates = self._live.keys() - self._unreadable - {current}
        return min(candidates, key=self._live.__getitem__, default=None)

    def leave(self, number: int) -> None:
        """Call a file sparse no more: something in it cannot be read."""
        self._unreadable.add(number)

    # -- reading ----------------------------------------------------------------------------------

    def read(self, extent: Extent) -> bytes:
        """Return one body."""
        return self._readers.read(self._path(extent.file), extent.start, extent.length)

    def close(self) -> None:
        """Close every file."""
        if self._current is not None:
            os.close(self._current.descriptor)
            self._current = None
        self._readers.close()


def _write(descriptor: int, pieces: Sequence[bytes], offset: int) -> None:
    """Write all pieces, one behind the other, without joining them first."""
    left = [memoryview(piece) for piece in pieces if len(piece)]
    while left:
        written = os.pwritev(descriptor, left, offset)
        offset += written
        while left and written >= len(left[0]):
            written -= len(left.pop(0))
        if left:
            left[0] = left[0][written:]
