"""What the spool and the body log share: reading by path, and directories on stable storage."""

import os
from collections import OrderedDict
from pathlib import Path
from typing import Final

OPEN_FILES: Final = 128


class Readers:
    """Open files, a bounded number of them: the one that was read longest ago is closed first."""

    def __init__(self) -> None:
        self._open: OrderedDict[Path, int] = OrderedDict()

    def read(self, path: Path, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes, or raise `OSError`."""
        descriptor = self._open.get(path)
        if descriptor is None:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            self._open[path] = descriptor
            if len(self._open) > OPEN_FILES:
                os.close(self._open.popitem(last=False)[1])
        else:
            self._open.move_to_end(path)
        data = os.pread(descriptor, length, offset)
        if len(data) != length:
            raise OSError(f"{path.name} is shorter than the store says")
        return data

    def forget(self, path: Path) -> None:
        """Close a file that is about to be removed."""
        descriptor = self._open.pop(path, None)
        if descriptor is not None:
            os.close(descriptor)

    def close(self) -> None:
        """Close every file."""
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()


def sync_directory(directory: Path) -> None:
    """Put the names in `directory` on stable storage."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
