"""The stage on which each attack is played."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.attacks.stage import Stage


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """A stage whose connections are in memory."""
    with ExitStack() as stack:
        yield Stage(stack, tmp_path)
