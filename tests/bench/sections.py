"""Which systems meet in which heat, and what they do there."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from attestation import limits
from tests.bench import processes
from tests.bench.effort import HUGE, Effort
from tests.bench.heats import Heat, Runner
from tests.bench.peers.catalogue import Peer
from tests.bench.systems import System


def limit(
    ours: System, bare: System, naive: System, curve: System, effort: Effort, *, huge: bool
) -> list[dict[str, Any]]:
    """Ours beside the same pipeline without protection: what protecting costs."""
    heat = Heat("limit", [ours, bare, naive, curve])
    stream, gathered = Runner(system=bare, way="stream"), Runner(system=bare, way="whole")
    sealed = Runner(system=ours, way="streaming"), Runner(system=ours, way="durable")
    pyzmq = stream, Runner(system=bare, way="bare"), Runner(system=curve, way="stream")
    for size in effort.sizes:
        runners = [*sealed, *pyzmq, Runner(system=naive, way="naive")]
        if size >= limits.MIB:
            runners += [gathered, Runner(system=ours, way="whole")]
        else:
            runners.append(Runner(system=bare, way="signed"))
        heat.round_trips(runners, size, rounds=effort.rounds, effort=effort)
    if huge and effort.huge_rounds:
        runners = [*sealed, *pyzmq, gathered]
        heat.round_trips(runners, HUGE, rounds=effort.huge_rounds, effort=effort)
    small = [
        *(Runner(system=ours, way=way) for way in ("map", "map-durable")),
        # A job each: more of them at once than a worker takes, and they wait for one another.
        *(Runner(system=ours, way=way, widest=512) for way in ("submit", "submit-durable")),
        *(Runner(system=bare, way=way) for way in ("single", "stacks")),
        *(Runner(system=bare, way=f"bare-{way}") for way in ("single", "stacks")),
        Runner(system=bare, way="signed-single"),
        *(Runner(system=curve, way=way) for way in ("single", "stacks")),
    ]
    for window in effort.windows:
        heat.jobs(small, window, rounds=effort.rounds, effort=effort)
    return heat.finish()


def against(
    peer: Peer, theirs: System, ours: System, bare: System, effort: Effort
) -> list[dict[str, Any]]:
    """Ours beside one peer; plaintext runs along, so that every heat shows the machine's limit."""
    heat = Heat(peer.name, [theirs])
    peers = [Runner(system=theirs, way=way, widest=peer.widest) for way in peer.ways]
    single = [
        Runner(system=ours, way="streaming"),
        Runner(system=bare, way="stream"),
        *peers,
    ]
    for size in effort.sizes:
        heat.round_trips(single, size, rounds=effort.peer_rounds, effort=effort)
    small = [
        Runner(system=ours, way="map"),
        Runner(system=ours, way="map-durable"),
        *peers,
    ]
    for window in effort.windows:
        heat.jobs(small, window, rounds=effort.peer_rounds, effort=effort)
    return heat.finish()


def cores(ours: System, bare: System, effort: Effort) -> list[dict[str, Any]]:
    """Ours and plaintext with all their processes on one core, and on two."""
    measured = []
    for count in (1, 2):
        with _pinned([ours, bare], count):
            heat = Heat(f"{count} core{'s' * (count > 1)}", [])
            single = [Runner(system=ours, way="streaming"), Runner(system=bare, way="stream")]
            heat.round_trips(single, 64 * limits.MIB, rounds=effort.rounds, effort=effort)
            many = [Runner(system=ours, way="map"), Runner(system=bare, way="stacks")]
            heat.jobs(many, max(effort.windows), rounds=effort.rounds, effort=effort)
            measured += heat.finish()
    return measured


@contextmanager
def _pinned(systems: list[System], count: int) -> Iterator[None]:
    allowed = os.sched_getaffinity(0)
    pids = [pid for system in systems for group in system.roles().values() for pid in group]
    processes.pin(pids, set(sorted(allowed)[:count]))
    try:
        yield
    finally:
        processes.pin(pids, allowed)
