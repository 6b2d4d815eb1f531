"""The systems of one run as running processes: ours, the plaintext pipelines, and the peers."""

import functools
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import zmq
from attrs import frozen

from attestation.cli.demo import catalogue_digest
from attestation.cli.demo_cluster import Cluster
from attestation.cli.demo_processes import DemoProcess, DemoProcesses, answers, free_port
from tests.bench import processes as kernel
from tests.bench.peers.catalogue import Peer
from tests.bench.plaintext import CURVE
from tests.bench.stopwatch import Stopwatch

START_SECONDS: Final = 60.0


@frozen(kw_only=True)
class System:
    """A system that runs: what times it, and every process that it consists of."""

    name: str
    watch: Stopwatch
    servers: Mapping[str, int]
    """Process ids by role."""

    def roles(self) -> dict[str, list[int]]:
        """Return all processes by role; what a server started belongs to its role."""
        roots = {"client": self.watch.pid, **self.servers}
        return {role: kernel.family(pid) for role, pid in roots.items()}

    def memory(self) -> dict[str, kernel.Memory]:
        """Return what each role holds now, and held at most."""
        return {role: kernel.memory(pids) for role, pids in self.roles().items()}

    def cpu_seconds(self) -> dict[str, float]:
        """Return the processor time of each role so far."""
        return {role: kernel.cpu_seconds(pids) for role, pids in self.roles().items()}


class Started(DemoProcesses):
    """Processes that are found again by name."""

    def __init__(self, logs: Path) -> None:
        super().__init__(logs)
        self.by_name: dict[str, DemoProcess] = {}

    def start(self, name: str, command: Sequence[str]) -> DemoProcess:
        self.by_name[name] = super().start(name, command)
        return self.by_name[name]

    def pids(self) -> dict[str, int]:
        return {name: process.pid for name, process in self.by_name.items()}

    def stop(self) -> None:
        # Ray's and Dask's servers start others, which a server that has to be killed leaves behind.
        started = {pid for root in self.pids().values() for pid in kernel.family(root)}
        super().stop()
        kernel.kill(started)


@contextmanager
def sealed(folder: Path) -> Iterator[System]:
    """Run a coordinator, a worker and a client of ours."""
    place = folder / "sealed"
    with Started(place / "logs") as processes:
        cluster = Cluster.start(
            processes,
            kind="insecure",  # how a key set is attested costs nothing per job
            workers=1,
            output=place,
            catalogue=catalogue_digest(),
        )
        client = [sys.executable, "-m", "tests.bench.sealed_client"]
        client += [cluster.url, str(cluster.policy)]
        with _timed("sealed", client, place, {}, processes) as system:
            yield system


@contextmanager
def plaintext(folder: Path, name: str) -> Iterator[System]:
    """Run relay, worker and client of tests/bench/plaintext.py: `plaintext`, `naive` or `curve`."""
    place = folder / name
    parts = ("naive-relay", "naive-worker") if name == "naive" else ("relay", "worker")
    environment = {}
    if name == "curve":
        environment = {CURVE: b" ".join(zmq.curve_keypair()).decode()}
    port = free_port()
    with Started(place / "logs") as processes:
        for part in parts:
            command = [sys.executable, "-m", "tests.bench.plaintext", part, str(port)]
            processes.start(part, _with(environment, command))
        relay = processes.by_name[parts[0]]
        processes.wait_until(
            lambda: "ready" in relay.last_lines(), what="the worker did not reach the relay"
        )
        client = [sys.executable, "-m", "tests.bench.plaintext_client", str(port)]
        with _timed(name, client, place, environment, processes) as system:
            yield system


@contextmanager
def peer(folder: Path, tls: Path, which: Peer) -> Iterator[System]:
    """Run a peer's servers and its client, in the peer's own environment."""
    place = folder / which.name
    plan = which.plan(which, tuple(free_port() for _ in range(which.ports)), tls)
    with Started(place / "logs") as processes:
        for server in plan.servers:
            processes.start(server.role, _with(plan.environment, server.command))
            processes.wait_until(
                functools.partial(answers, server.port),
                what=f"{which.name}: the {server.role} does not listen",
                timeout=START_SECONDS,
            )
        with _timed(which.name, plan.client, place, plan.environment, processes) as system:
            yield system


@contextmanager
def _timed(
    name: str,
    client: list[str],
    place: Path,
    environment: Mapping[str, str],
    processes: Started,
) -> Iterator[System]:
    watch = Stopwatch.start(name, client, place, environment)
    try:
        yield System(name=name, watch=watch, servers=processes.pids())
    finally:
        watch.stop()


def _with(environment: Mapping[str, str], command: list[str]) -> list[str]:
    """Return a command with more in its environment; env(1) replaces itself by the command."""
    return ["env", *(f"{name}={value}" for name, value in environment.items()), *command]
