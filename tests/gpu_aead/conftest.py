"""Tunings that the processor can run in a test's time, compiled once per session."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from enclave_worker.device.cubins import Tuning
from tests.gpu_aead import host_launcher
from tests.gpu_aead.host_launcher import HostLauncher

# Small blocks run fast on one processor; 96 is not a power of two, as in one shipped tuning.
TUNINGS = (Tuning(threads=64), Tuning(threads=96, tables=4))


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Tuning], Path]:
    if host_launcher.COMPILER is None:
        pytest.skip("there is no g++ to run the CUDA kernels on the processor with")
    folder, built = tmp_path_factory.mktemp("kernels"), dict[Tuning, Path]()

    def build(tuning: Tuning) -> Path:
        if tuning not in built:
            built[tuning] = host_launcher.build(tuning, folder)
        return built[tuning]

    return build


@pytest.fixture(params=TUNINGS, ids=lambda tuning: tuning.name)
def launcher(
    request: pytest.FixtureRequest, compiled: Callable[[Tuning], Path]
) -> Iterator[HostLauncher]:
    """Every tuning; afterwards, that no kernel wrote past the end of any memory."""
    yield from checked(HostLauncher(compiled(request.param), request.param))


@pytest.fixture
def one(compiled: Callable[[Tuning], Path]) -> Iterator[HostLauncher]:
    """One tuning, for what does not depend on it."""
    yield from checked(HostLauncher(compiled(TUNINGS[0]), TUNINGS[0]))


def checked(host: HostLauncher) -> Iterator[HostLauncher]:
    yield host
    assert all(memory.guarded for memory in host.memory)
