"""What the fault tests share."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from attestation import limits
from tests.faults.broker_process import SMALL_MESSAGE, Nursery


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


@pytest.fixture
def small_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let less travel inside a message than in production, so that little goes in segments."""
    monkeypatch.setattr(limits, "INLINE_BYTES", SMALL_MESSAGE)
