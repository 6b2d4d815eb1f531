"""Fault points: every place where the coordinator touches its disk, counted and named.

Installed in a process of its own before the broker starts. At the n-th point the process dies on
the spot, before or after the act, or the act fails instead. What happens inside one commit is
SQLite's own business; strace looks into that (test_disk_faults.py).
"""

import errno
import os
import signal
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from attrs import frozen

from tests.faults.stable import StableStorage

NOWHERE: Final = 0


@frozen(kw_only=True)
class Plan:
    """What goes wrong, where. Plain values: it travels to the process as JSON."""

    at: int = NOWHERE
    """The number of the point, from 1."""
    when: str = "before"
    """`before` or `after` the act (die there), or `instead` of it (it fails)."""
    until: int = NOWHERE
    """`instead` fails from `at` up to this point."""
    error: int = errno.EIO
    only: str = ""
    """Count only the points whose names begin with this."""


class Points:
    """Counts points, keeps their names in a file that outlives the process, and strikes."""

    def __init__(self, plan: Plan, record: Path) -> None:
        self._plan = plan
        self._passed = 0
        self._record = os.open(record, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)

    def passing(
        self, name: str, act: Callable[[], Any], *, failure: type[Exception] = OSError
    ) -> Any:
        """Do `act` at the point `name`, or what the plan says instead."""
        plan = self._plan
        if not name.startswith(plan.only):
            return act()
        self._passed += 1
        os.write(self._record, f"{name}\n".encode())
        if plan.when == "instead":
            if plan.at and plan.at <= self._passed <= max(plan.at, plan.until):
                raise failure(plan.error, os.strerror(plan.error))
            return act()
        here = self._passed == plan.at
        if here and plan.when == "before":
            die()
        result = act()
        if here:
            die()
        return result


def die() -> None:
    """kill -9: no handler runs and no buffer is flushed."""
    os.kill(os.getpid(), signal.SIGKILL)


def install(points: Points, stable: StableStorage | None) -> None:
    """Put points around everything that this process does to its state."""

    def around(name: str, act: Callable[..., Any]) -> Callable[..., Any]:
        def acted(*args: Any, **options: Any) -> Any:
            return points.passing(name, lambda: act(*args, **options))

        return acted

    def synced(sync: Callable[[int], None]) -> Callable[[int], None]:
        def acted(descriptor: int) -> None:
            sync(descriptor)
            if stable is not None:
                stable.synced(descriptor)

        return acted

    def torn(act: Callable[..., int]) -> Callable[..., int]:
        """Write half of it before the point, so that dying or failing there leaves it torn."""

        def acted(descriptor: int, pieces: Sequence[bytes], offset: int) -> int:
            whole = b"".join(pieces)
            half = act(descriptor, [whole[: len(whole) // 2]], offset)
            rest = whole[half:]
            points.passing("append", lambda: act(descriptor, [rest], offset + half))
            return len(whole)

        return acted

    os.pwritev = torn(os.pwritev)
    os.fsync = around("fsync", synced(os.fsync))
    os.fdatasync = around("fdatasync", synced(os.fdatasync))
    os.unlink = around("unlink", os.unlink)
    os.rename = around("rename", os.rename)
    os.replace = around("replace", os.replace)
    _install_in_sqlite(points, stable)


def _install_in_sqlite(points: Points, stable: StableStorage | None) -> None:
    def committing(name: str, act: Callable[[], sqlite3.Cursor]) -> sqlite3.Cursor:
        def acted() -> sqlite3.Cursor:
            cursor = act()
            if stable is not None:
                stable.committed()
            return cursor

        return points.passing(name, acted, failure=sqlite3.OperationalError)

    class Connection(sqlite3.Connection):
        """A connection whose commits are points."""

        def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
            execute = super().execute
            if sql != "COMMIT":
                return execute(sql, *parameters)
            return committing("commit", lambda: execute(sql, *parameters))

        def executescript(self, script: str) -> sqlite3.Cursor:
            execute = super().executescript
            return committing("migrate", lambda: execute(script))

    connect = sqlite3.connect
    sqlite3.connect = lambda path, **options: connect(  # type: ignore[assignment]
        path, factory=Connection, **options
    )
