"""`make bench`: start both pipelines, measure them in turn, write what came out.

python -m tests.bench.main --output bench-output [--quick] [--write-docs]
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from attestation.cli.demo import catalogue_digest
from attestation.cli.demo_cluster import Cluster
from attestation.cli.demo_jobs import wait_for_workers
from attestation.cli.demo_processes import DemoProcesses, answers, free_port
from attestation.client.client import Client
from attestation.policy.loading import load_policy
from tests.bench import report
from tests.bench.measure import FULL, QUICK, Effort, everything
from tests.bench.plaintext import PlaintextClient


def run(effort: Effort) -> dict[str, Any]:
    """Start both pipelines on the loopback and measure."""
    about = report.machine()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with DemoProcesses(directory / "logs") as processes:
            port = _start_plaintext(processes)
            cluster = Cluster.start(
                processes,
                kind="insecure",  # how a key set is attested costs nothing per job
                workers=1,
                output=directory,
                catalogue=catalogue_digest(),
            )
            plain = PlaintextClient(port)
            try:
                with Client(cluster.url, policy=load_policy(cluster.policy)) as sealed:
                    wait_for_workers(sealed, processes, 1)
                    return {"machine": about} | everything(plain, sealed, effort)
            finally:
                plain.close()


def _start_plaintext(processes: DemoProcesses) -> int:
    port = free_port()
    for part in ("relay", "worker"):
        command = [sys.executable, "-m", "tests.bench.plaintext", part, str(port)]
        processes.start(f"plaintext-{part}", command)
    processes.wait_until(lambda: answers(port), what="the plaintext relay does not listen")
    return port


def main() -> None:
    """Run the benchmarks as the command line asks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("bench-output"))
    parser.add_argument("--quick", action="store_true", help="fewer rounds, wider spread")
    parser.add_argument("--write-docs", action="store_true", help="update docs/benchmarks.md")
    arguments = parser.parse_args()
    results = run(QUICK if arguments.quick else FULL)
    table = report.markdown(results)
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "bench.json").write_text(json.dumps(results, indent=2) + "\n")
    (arguments.output / "bench.md").write_text(table + "\n")
    if arguments.write_docs:
        report.write_docs(table)
    sys.stdout.write(f"{table}\n\nwritten to {arguments.output}/bench.json and bench.md\n")


if __name__ == "__main__":
    main()
