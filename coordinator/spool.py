"""Large ciphertext on disk: one file per direction of a job, written once, in order.

    STATE/spool/<job id>.in              inputs
    STATE/spool/<job id>.<attempt>.out   outputs of one attempt

A file counts only when the store says so, so a crash leaves at most orphans, which the next start
removes. Files are flushed every 16 MiB: one fdatasync at the end would stall every other job for
as long as the disk needs for gigabytes.
"""

import os
from pathlib import Path
from typing import Final

from attrs import define

from attestation.limits import MIB
from coordinator.core.instructions import SpoolFile
from coordinator.files import Readers, sync_directory

FLUSH_BYTES: Final = 16 * MIB


@define(eq=False)
class _Writer:
    descriptor: int
    unflushed: int = 0


class Spool:
    """The directory of one coordinator. Methods raise `OSError` when the disk does not work."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory = directory
        self._writers: dict[SpoolFile, _Writer] = {}
        self._readers = Readers()

    def _path(self, file: SpoolFile) -> Path:
        suffix = f"{file.attempt}.out" if file.attempt else "in"
        return self._directory / f"{file.job_id.hex()}.{suffix}"

    def append(self, file: SpoolFile, data: bytes | memoryview) -> None:
        """Write `data` behind what is there."""
        writer = self._writers.get(file)
        if writer is None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
            writer = self._writers[file] = _Writer(os.open(self._path(file), flags, 0o600))
        view = memoryview(data)
        while view:
            view = view[os.write(writer.descriptor, view) :]
        writer.unflushed += len(data)
        if writer.unflushed >= FLUSH_BYTES:
            os.fdatasync(writer.descriptor)
            writer.unflushed = 0

    def seal(self, file: SpoolFile) -> None:
        """Put the file and its name on stable storage; nothing is appended after that."""
        writer = self._writers.pop(file, None)
        if writer is None:
            raise FileNotFoundError(self._path(file).name)
        try:
            os.fsync(writer.descriptor)
        finally:
            os.close(writer.descriptor)
        sync_directory(self._directory)

    def read(self, file: SpoolFile, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes."""
        return self._readers.read(self._path(file), offset, length)

    def delete(self, file: SpoolFile) -> None:
        """Remove the file if it is there."""
        writer = self._writers.pop(file, None)
        if writer is not None:
            os.close(writer.descriptor)
        path = self._path(file)
        self._readers.forget(path)
        path.unlink(missing_ok=True)

    def remove_orphans(self, needed: set[SpoolFile]) -> int:
        """Remove every file that is not in `needed`; return how many there were."""
        wanted = {self._path(file).name for file in needed}
        orphans = [path for path in self._directory.iterdir() if path.name not in wanted]
        for path in orphans:
            path.unlink()
        if orphans:
            sync_directory(self._directory)
        return len(orphans)

    def close(self) -> None:
        """Close every file; unsealed ones are orphans."""
        for writer in self._writers.values():
            os.close(writer.descriptor)
        self._writers.clear()
        self._readers.close()
