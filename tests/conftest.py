"""Shared by every test: where things are, what may run here, and how properties are searched."""

import os
import signal
from pathlib import Path

import hypothesis
import pytest

from tests.faults.tally import (  # noqa: F401 - hooks, found by their names
    pytest_runtest_logreport,
    pytest_sessionfinish,
    pytest_terminal_summary,
)

REPOSITORY = Path(__file__).resolve().parents[1]

# A shared runner is slow at times and that is not what a property is about. In CI the examples are
# the same in every run, so that a red run is about the change; locally they differ, to find more.
hypothesis.settings.register_profile(
    "local", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.register_profile(
    "ci", parent=hypothesis.settings.get_profile("local"), derandomize=True, print_blob=True
)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "local")


def pytest_configure() -> None:
    """Let children be interrupted: a shell's background job, as CI may be, ignores these signals.

    What is ignored stays so across exec; a handler becomes the default again.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, with the reason, what this machine cannot run."""
    if any(item.get_closest_marker("gpu") for item in items) and not _has_gpu():
        skip = pytest.mark.skip(reason="no NVIDIA GPU with CuPy on this machine")
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(skip)


def _has_gpu() -> bool:
    try:
        import cupy  # noqa: PLC0415 - only looked for when a test asks for it

        return int(cupy.cuda.runtime.getDeviceCount()) > 0
    except Exception:  # noqa: BLE001 - without a driver CuPy raises errors of its own
        return False


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the source tree."""
    return REPOSITORY


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """Name a byte string by its length: random ones must not give a test another name each run."""
    return f"{argname}{len(val)}bytes" if isinstance(val, bytes) and len(val) > 16 else None
