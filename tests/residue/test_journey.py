"""G10 over the whole journey: real clients, a real coordinator, and what the worker keeps."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from attestation.client.client import Client
from attestation.policy.loading import load_policy
from attestation.sealing.content_key import ContentKey
from tests.residue.harness import CLEAN_SECONDS, LARGE, SMALL, start_worker
from tests.scenarios.processes import Site, wait_until
from tests.simulators.markers import Forms, Key, Marker, all_forms
from tests.simulators.memory_scan import needs_root, scan

pytestmark = [needs_root(), pytest.mark.scenario]

KINDS = [
    (name, nbytes, durable)
    for name, nbytes in (("small", SMALL), ("large", LARGE))
    for durable in (True, False)
]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Key]:
    """Every content key that a client of this process draws: the hook into the client."""
    keys: list[Key] = []
    generate = ContentKey.generate

    def remember() -> ContentKey:
        key = generate()
        keys.append(Key(name=f"content key {len(keys)}", data=bytes(key._key)))
        return key

    monkeypatch.setattr(ContentKey, "generate", remember)
    return keys


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[Site, int]]:
    with Site(tmp_path) as running:
        running.coordinator()
        process = start_worker(running.url, tmp_path)
        try:
            wait_until((tmp_path / "ready").exists, "the worker is not welcome")
            yield running, process.pid
        finally:
            process.kill()
            process.wait()


def wait_for_nothing(pid: int, forms: Forms) -> list[str]:
    deadline = time.monotonic() + CLEAN_SECONDS
    while (left := scan(pid, forms)) and time.monotonic() < deadline:
        time.sleep(0.3)
    return [str(sighting) for sighting in left]


def test_nothing_is_left_of_durable_and_streaming_jobs_of_any_size_nor_when_their_client_leaves(
    site: tuple[Site, int], drawn: list[Key], tmp_path: Path
) -> None:
    running, pid = site
    inputs = {
        f"{name} {'durable' if durable else 'streaming'}": (Marker.draw(name), nbytes, durable)
        for name, nbytes, durable in KINDS
    }
    with Client(running.url, policy=load_policy(running.policy_file)) as client:
        jobs: dict[str, Any] = {
            name: client.submit("residue.hold", {"x": marker.array(nbytes)}, durable=durable)
            for name, (marker, nbytes, durable) in inputs.items()
        }
        # All four are held at once: the search finds every one of them.
        shared = {name: marker.shared for name, (marker, _, _) in inputs.items()}
        keys = {key.name: key.data for key in drawn}
        assert len(keys) == len(jobs)
        wait_until(
            lambda: {sighting.form for sighting in scan(pid, shared | keys)} == set(shared | keys),
            "the worker does not hold every job",
        )
        (tmp_path / "gate").touch()
        for name, job in jobs.items():
            marker, nbytes, _ = inputs[name]
            assert (job.result(60)["y"] == 2.0 * marker.array(nbytes)).all()
        tensors = [each for marker, _, _ in inputs.values() for each in (marker, marker.times(2.0))]
        forms = all_forms(*tensors, *drawn)
        assert wait_for_nothing(pid, forms) == []
    assert wait_for_nothing(pid, forms) == []


def test_nothing_is_left_of_a_job_whose_client_goes_away_while_it_runs(
    site: tuple[Site, int], drawn: list[Key], tmp_path: Path
) -> None:
    running, pid = site
    marker = Marker.draw("input")
    with Client(running.url, policy=load_policy(running.policy_file)) as client:
        client.submit("residue.hold", {"x": marker.array(LARGE)}, durable=False)
        wait_until(lambda: bool(scan(pid, {"raw": marker.shared})), "the worker has no job")
    (tmp_path / "gate").touch()
    assert wait_for_nothing(pid, all_forms(marker, marker.times(2.0), *drawn)) == []
