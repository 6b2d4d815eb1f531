"""The state directory: one store, one spool, one coordinator at a time."""

import fcntl
from pathlib import Path
from typing import IO

from coordinator.errors import StoreError
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
        return Store(state / "jobs.sqlite"), Spool(state / "spool"), lock
    except BlockingIOError as error:
        lock.close()
        raise StoreError(f"{state} is in use by another coordinator") from error
    except OSError as error:
        lock.close()
        raise StoreError(f"{state}: {error.strerror}") from error
    except StoreError:
        lock.close()
        raise
