"""G1: nothing that passes through, lies in, or is written by a coordinator shows a job's secrets.

Searched for are every element of inputs and outputs, a parameter, the names of the program's steps,
content keys, session secrets and the client's signing key, each raw, in hex, base64 and decimal.
The same search over the same places finds them all when the client does not seal.
"""

import pytest

from tests.blindness.watched import WatchedCoordinator
from tests.simulators.memory_scan import needs_root


def plain(watched: WatchedCoordinator) -> set[str]:
    """Return what a coordinator sees of an unsealed request, in the form in which it travels."""
    secrets = watched.secrets
    steps = {f"{step.name}: text" for step in secrets.steps}
    return steps | {f"{secrets.input.name}: raw", f"{secrets.parameter.name}: raw, big-endian"}


# -- the control: without sealing every recorder shows everything ----------------------------------


def test_without_sealing_the_proxy_records_every_secret(unsealed: WatchedCoordinator) -> None:
    assert unsealed.found_by_proxies() >= plain(unsealed)


def test_without_sealing_the_capture_shows_every_secret(unsealed: WatchedCoordinator) -> None:
    _need_capture(unsealed)
    assert unsealed.found_by_tshark() >= plain(unsealed)


def test_without_sealing_the_state_folder_shows_every_secret(unsealed: WatchedCoordinator) -> None:
    assert unsealed.found_in_store() >= plain(unsealed)
    marker = f"{unsealed.secrets.input.name}: raw"
    shows = {name for name, found in unsealed.stored.items() if marker in found}
    assert any("sqlite" in name for name in shows), "the small job is in the database"
    assert any(name.endswith(".in") for name in shows), "the large job is in the spool"


@needs_root()
def test_without_sealing_the_memory_shows_the_input(unsealed: WatchedCoordinator) -> None:
    assert any(f"{unsealed.secrets.input.name}: raw" in each for each in unsealed.in_memory)


# -- the promise -----------------------------------------------------------------------------------


def test_the_wire_shows_nothing_to_a_proxy(sealed: WatchedCoordinator) -> None:
    assert sealed.found_by_proxies() == set()


def test_the_wire_shows_nothing_to_a_capture(sealed: WatchedCoordinator) -> None:
    _need_capture(sealed)
    assert sealed.found_by_tshark() == set()


def test_the_state_folder_shows_nothing_while_jobs_wait_and_afterwards(
    sealed: WatchedCoordinator,
) -> None:
    """Database, write-ahead log, spooled inputs and outputs, deleted files that are still open."""
    kinds = {name.rpartition(".")[2] for name in sealed.stored}
    assert kinds >= {"in", "out", "sqlite", "sqlite-wal"}
    assert sealed.found_in_store() == set()


def test_the_log_shows_nothing_at_its_most_talkative(sealed: WatchedCoordinator) -> None:
    assert '"level": "debug"' in sealed.coordinator.output
    assert sealed.found_in_log() == set()


@needs_root()
def test_the_memory_shows_nothing_during_and_after_jobs(sealed: WatchedCoordinator) -> None:
    assert sealed.in_memory == set()


def _need_capture(watched: WatchedCoordinator) -> None:
    if watched.no_capture:
        pytest.skip(watched.no_capture)
