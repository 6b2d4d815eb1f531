"""The measuring itself: who is timed really computes, and what runs is found and ended."""

import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

from attestation import limits
from tests.bench import processes
from tests.bench.certificates import write_certificates
from tests.bench.effort import QUICK
from tests.bench.heats import Heat, Runner
from tests.bench.instructions import _Pair
from tests.bench.peers import timed
from tests.bench.peers.catalogue import PEERS
from tests.bench.results import NAMES
from tests.bench.stopwatch import ClientFailedError, Stopwatch
from tests.bench.systems import plaintext, sealed


class Wrong:
    """Answers, but with something else."""

    def round_trip(self, way: str, x: timed.Array) -> timed.Array:
        return 2 * x

    def many(self, way: str, tensors: Iterator[timed.Array], window: int) -> Iterable[timed.Array]:
        return (2 * x for x in tensors)


def test_a_system_that_computes_something_else_is_not_timed() -> None:
    with pytest.raises(timed.WrongResultError):
        timed.prepare(Wrong(), size=1024, way="any")
    with pytest.raises(timed.WrongResultError):
        timed.round_trips(Wrong(), size=1024, way="any", count=1, seconds=1.0)
    with pytest.raises(timed.WrongResultError):
        timed.jobs(Wrong(), size=1024, way="any", window=4, seconds=0.01)


def test_the_peers_find_their_timing_without_this_project() -> None:
    """It is loaded in environments that hold the peer and NumPy."""
    code = "import sys, timed; assert not any(n.startswith('attestation') for n in sys.modules)"
    folder = Path(timed.__file__).parent
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, timeout=60)


def test_every_way_of_a_peer_has_a_name_for_people() -> None:
    assert {f"{peer.name}:{way}" for peer in PEERS for way in peer.ways} <= NAMES.keys()


def test_a_client_that_cannot_start_says_why(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no such thing')"]
    with pytest.raises(ClientFailedError, match="no such thing"):
        Stopwatch.start("broken", command, tmp_path, {})


def test_certificates_are_for_this_machine_only(tmp_path: Path) -> None:
    folder = write_certificates(tmp_path / "tls")
    assert sorted(path.name for path in folder.iterdir()) == ["ca.pem", "cert.pem", "key.pem"]


def test_what_a_process_started_belongs_to_its_family() -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"
    parent = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    try:
        while len(processes.family(parent.pid)) < 2:
            assert parent.poll() is None
        family = processes.family(parent.pid)
        assert processes.memory(family).now > processes.memory([parent.pid]).now
        processes.kill(family)
        parent.wait(10)
        end = time.monotonic() + 10
        # Whoever inherits the child buries it when it gets to it; its memory goes before.
        while processes.memory(family).now:
            assert time.monotonic() < end
    finally:
        parent.communicate()


@pytest.mark.scenario
@pytest.mark.parametrize("name", ["plaintext", "curve", "naive"])
def test_the_pipelines_that_ours_is_measured_against_compute(name: str, tmp_path: Path) -> None:
    single = ("naive",) if name == "naive" else ("stream", "whole", "bare", "signed")
    sealed_too = ("bare-single", "bare-stacks", "signed-single")
    many = () if name == "naive" else ("single", "stacks", *sealed_too)
    with plaintext(tmp_path, name) as system:
        for way in single:
            for size in (limits.KIB, limits.MIB, 9 * limits.MIB + 4):
                system.watch.prepare(way, size)
        for way in many:
            for window in (1, 7, 64):
                done, _ = system.watch.jobs(way, limits.KIB, window=window, seconds=0.02)
                assert done


@pytest.mark.scenario
def test_our_own_client_computes_in_every_way(tmp_path: Path) -> None:
    with sealed(tmp_path) as system:
        for way in ("streaming", "durable", "whole"):
            for size in (limits.MIB, 9 * limits.MIB):
                system.watch.prepare(way, size)
        for way in ("map", "map-durable", "submit", "submit-durable"):
            done, _ = system.watch.jobs(way, limits.KIB, window=7, seconds=0.02)
            assert done


@pytest.mark.scenario
def test_a_heat_keeps_the_value_of_every_round(tmp_path: Path) -> None:
    with plaintext(tmp_path, "plaintext") as system:
        heat = Heat("limit", [system])
        runners = [Runner(system=system, way=way) for way in ("stream", "bare")]
        heat.round_trips(runners, limits.KIB, rounds=3, effort=QUICK)
        heat.jobs([Runner(system=system, way="single", widest=8)], 8, rounds=2, effort=QUICK)
    before, trips, after, jobs, others = heat.finish()
    assert set(before["roles"]) == {"client", "relay", "worker"}
    assert 0 <= others["cores"] < 1024
    assert after["bytes"] == limits.KIB
    assert [len(series["rounds"]) for series in trips["series"].values()] == [3, 3]
    assert np.all(np.array(jobs["series"]["plaintext:single"]["rounds"]) > 0)


def test_what_instructions_are_counted_of_is_a_job_from_its_sealing_to_its_arrays() -> None:
    """Under valgrind a mistake would only be a line among what was skipped."""
    pair = _Pair()
    for _ in range(2):
        request = pair.seal()
        pair.open(request, pair.run(request))
