"""The state directory: one store with its body log, one spool, one coordinator at a time."""

import contextlib
import fcntl
from pathlib import Path
from typing import IO

from coordinator.body_log import BodyLog
from coordinator.errors import StoreError
from coordinator.files import sync_directory
from coordinator.spool import Spool
from coordinator.store import Store


def open_storage(state: Path) -> tuple[Store, Spool, IO[bytes]]:
    """Open both, and the lock that keeps a second coordinator out until it is closed."""
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = (state / "lock").open("wb")
    except OSError as error:
        raise StoreError(f"{state}: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        store = Store(state / "jobs.sqlite", BodyLog(state / "bodies"))
        spool = Spool(state / "spool")
        _sync_names(state)
    except BlockingIOError as error:
        lock.close()
        raise StoreError(f"{state} is in use by another coordinator") from error
    except OSError as error:
        lock.close()
        raise StoreError(f"{state}: {error.strerror}") from error
    except StoreError:
        lock.close()
        raise
    return store, spool, lock


def _sync_names(state: Path) -> None:
    """Put the names of all three, and of the state directory itself, on stable storage.

    Syncing a file does not sync the directories that lead to it: without this a power cut soon
    after the first start takes the whole spool, or everything.
    """
    sync_directory(state)
    # A parent that we may not even list was not made by us just now.
    with contextlib.suppress(PermissionError):
        sync_directory(state.resolve().parent)
