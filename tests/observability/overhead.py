"""What observability costs, in processor time per job.

    python -m tests.observability.overhead [JOBS]

First what each part costs by itself, then whole jobs over real processes: as they are started
without any option, with metrics that are scraped once a second, and with traces exported to a
collector. The three take turns, so that a machine with other work to do slows all of them.
"""

import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import click
import numpy as np

from attestation.client.client import Client
from attestation.client.jobs import Job
from attestation.identifiers import JobId
from attestation.observability.exposition import render
from attestation.observability.tracing import Span, export_to
from attestation.policy.loading import load_policy
from coordinator.core.core import Core
from coordinator.core.rules import Rules
from coordinator.metrics import Traffic, families
from enclave_worker.metrics import Laps, Levels, Meters, Phase
from tests.observability.collector import Collector
from tests.observability.scrape import scrape
from tests.scenarios.processes import EnclaveProcess, Site, free_port

ROUNDS: Final = 3
PARAMETERS: Final = {"scale": 2.0, "shift": 1.0}
_TICKS: Final = os.sysconf("SC_CLK_TCK")


def main() -> None:
    jobs = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000
    click.echo("| part | µs |\n|---|---|")
    for name, microseconds in parts().items():
        click.echo(f"| {name} | {microseconds:.2f} |")
    click.echo("\n| started with | coordinator | worker | client |\n|---|---|---|---|")
    for name, rounds in whole(jobs).items():
        cells = (f"{statistics.median(each):.0f}" for each in zip(*rounds, strict=True))
        click.echo(f"| {name} | {' | '.join(cells)} |")


# -- the parts -------------------------------------------------------------------------------------


def parts() -> dict[str, float]:
    """Microseconds of each thing that observability does."""
    traffic, meters = Traffic(), Meters()
    core = Core(Rules(), random_bytes=bytes)
    tracer = export_to([_Nowhere()], service="overhead", at_once=False)
    spans = [Span(name="part", start_ns=1, end_ns=2)] * 5
    whole_span = Span(name="whole", start_ns=1, end_ns=2)
    levels = Levels(jobs=0, capacity=2, keysets=1, idle_bytes=0)

    def count_message() -> None:
        traffic.messages_in += 1
        traffic.bytes_in += 100

    def time_job() -> None:
        laps = Laps(time.monotonic_ns)
        for phase in (Phase.WAIT, Phase.ADMIT, Phase.OPEN, Phase.KERNEL, Phase.SEAL):
            laps.lap(phase)
        meters.ended(laps)

    job_id = JobId(bytes(16))
    found = {
        "coordinator: count a message": _time(count_message),
        "coordinator: time a commit": _time(lambda: traffic.commits.observe(0.001)),
        "worker: time and count a job": _time(time_job),
        "coordinator: answer a scrape": _time(lambda: render(families(core, traffic)), 200),
        "worker: answer a scrape": _time(lambda: render(meters.families(levels)), 200),
        "worker: a job's six spans": _time(lambda: tracer.job(job_id, whole_span, spans), 500),
    }
    tracer.close()
    return found


class _Nowhere:
    def export(self, _spans: object) -> int:
        return 0

    def shutdown(self) -> None:
        """Nothing is open."""

    def force_flush(self, _timeout: int = 0) -> bool:
        return True


def _time(function: Callable[[], object], times: int = 50_000) -> float:
    best = float("inf")
    for _ in range(5):
        began = time.process_time()
        for _ in range(times):
            function()
        best = min(best, time.process_time() - began)
    return best / times * 1e6


# -- whole jobs ------------------------------------------------------------------------------------


def whole(jobs: int) -> dict[str, list[tuple[float, float, float]]]:
    """Microseconds of processor time per job of coordinator, worker and client, by round."""
    found: dict[str, list[tuple[float, float, float]]] = {}
    with Collector() as collector:
        ways: dict[str, Mapping[str, str]] = {
            "nothing": {},
            "`--metrics`, scraped": {},
            "traces": {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url},
        }
        for _ in range(ROUNDS):
            for name, environment in ways.items():
                scraped = name.startswith("`")
                found.setdefault(name, []).append(_round(jobs, environment, scraped=scraped))
    return found


def _round(
    jobs: int, environment: Mapping[str, str], *, scraped: bool
) -> tuple[float, float, float]:
    os.environ.update(environment)
    try:
        with tempfile.TemporaryDirectory() as name, Site(Path(name)) as site:
            addresses = [f"127.0.0.1:{free_port()}" for _ in range(2)] if scraped else []
            coordinator = site.coordinator(*_option(addresses[:1]))
            worker = site.worker(*_option(addresses[1:]))
            with Client(site.url, policy=load_policy(site.policy_file)) as client:
                _run(client, 100)
                with _scraping(addresses):
                    before = _times(coordinator, worker)
                    _run(client, jobs)
                    after = _times(coordinator, worker)
    finally:
        for each in environment:
            os.environ.pop(each)
    first, second, third = (1e6 * (b - a) / jobs for a, b in zip(before, after, strict=True))
    return first, second, third


def _option(addresses: list[str]) -> list[str]:
    return [word for address in addresses for word in ("--metrics", address)]


def _run(client: Client, jobs: int) -> None:
    x = np.ones(256, dtype=np.float32)
    flying: list[Job] = []
    for _ in range(jobs):
        flying.append(client.submit("nn.affine", {"x": x}, parameters=PARAMETERS, durable=False))
        if len(flying) >= 32:
            flying.pop(0).result(60)
    for job in flying:
        job.result(60)


def _times(*processes: EnclaveProcess) -> tuple[float, ...]:
    return (*(_cpu(each.popen.pid) for each in processes), time.process_time())


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


@contextmanager
def _scraping(addresses: list[str]) -> Iterator[None]:
    stop = threading.Event()

    def go() -> None:
        while not stop.wait(1.0):
            for address in addresses:
                scrape(address)

    thread = threading.Thread(target=go)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


if __name__ == "__main__":
    main()
