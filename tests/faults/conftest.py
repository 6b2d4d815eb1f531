"""What the fault tests share, and the sum of faults where only this folder is run."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.broker_process import Nursery
from tests.faults.tally import pytest_terminal_summary  # noqa: F401 - a hook, found by its name


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in memory, with a path short enough for a socket: syncing need not be slow here."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as directory:
        yield Path(directory)


@pytest.fixture
def nursery(folder: Path) -> Iterator[Nursery]:
    with Nursery(folder) as nursery:
        yield nursery
