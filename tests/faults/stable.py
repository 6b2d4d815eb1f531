"""What a power cut leaves: only what was synced, under names whose directory was synced.

kill -9 alone leaves the page cache in place, so it cannot show a missing fsync. This keeps, beside
the state, a copy of what the process has put on stable storage, and puts that copy in the place of
the state after a crash. It is the worst disk that POSIX allows, with one exception: the contents of
SQLite's own files are taken as they are at each commit: `synchronous=FULL` is its promise to keep.
Their names are not: it does not sync the directory of a new write-ahead log.
"""

import os
import shutil
from pathlib import Path
from typing import Final

DATABASE: Final = ("jobs.sqlite", "jobs.sqlite-wal")


class StableStorage:
    """The shadow of one state directory, kept as a disk does it: contents and listings by inode."""

    def __init__(self, state: Path, shadow: Path) -> None:
        self._state = state.resolve()
        self._shadow = shadow
        shadow.mkdir(parents=True, exist_ok=True)

    def synced(self, descriptor: int) -> None:
        """Note that a file's contents, or a directory's names, are stable."""
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if path.is_relative_to(self._state.parent) and path.exists():
            self._keep(path)

    def committed(self) -> None:
        """Note that the contents of the database are stable as they are now."""
        for name in DATABASE:
            if (self._state / name).exists():
                self._keep(self._state / name)

    def cut_power(self) -> None:
        """Replace the state by what is stable."""
        home = self._state.parent
        inode = self._listing(home.stat().st_ino).get(f"{self._state.name}/")
        shutil.rmtree(self._state, ignore_errors=True)
        if inode is not None:
            self._restore(self._state, inode)
        shutil.rmtree(self._shadow)
        self._shadow.mkdir()
        self._keep(home)
        for path in self._state.rglob("*"):
            self._keep(path)
        if self._state.exists():
            self._keep(self._state)

    def _keep(self, path: Path) -> None:
        kept = self._shadow / str(path.stat().st_ino)
        if path.is_dir():
            names = [
                f"{each.inode()} {each.name}{'/' * each.is_dir()}" for each in os.scandir(path)
            ]
            kept.write_text("\n".join(names))
        else:
            shutil.copyfile(path, kept)

    def _listing(self, inode: int) -> dict[str, int]:
        kept = self._shadow / str(inode)
        lines = kept.read_text().splitlines() if kept.exists() else []
        return {name: int(number) for number, name in (line.split(" ", 1) for line in lines)}

    def _restore(self, path: Path, inode: int) -> None:
        path.mkdir(mode=0o700)
        for name, number in self._listing(inode).items():
            kept = self._shadow / str(number)
            if name.endswith("/"):
                self._restore(path / name, number)
            elif kept.exists():
                shutil.copyfile(kept, path / name)
            else:
                # The name was synced and the contents never were.
                (path / name).touch()
