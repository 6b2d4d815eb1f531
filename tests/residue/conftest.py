"""One worker for every job: what one leaves behind is searched for while others come and go."""

import os
from collections.abc import Iterator

import pytest

from tests.residue.harness import ResidueWorker


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ResidueWorker]:
    if os.geteuid() != 0:
        pytest.skip("only root may read the memory of a hardened process")
    with ResidueWorker(tmp_path_factory.mktemp("residue")) as running:
        yield running
