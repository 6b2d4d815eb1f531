"""What each process holds while a tensor passes that is larger than anything it may hold.

    python -m tests.bench.giant [--gib 4]

y = 2x + 1 over one tensor, streaming and durable. The client's tensor and its result are in memory
whole, because they are arrays; what it holds beyond them is what sending and receiving take. Memory
is the most that the kernel ever counted as resident, so a process is started anew for each way.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from attrs import frozen

from attestation import limits
from attestation.cli.demo import catalogue_digest
from attestation.cli.demo_cluster import policy_text
from attestation.cli.demo_processes import enclave_command
from tests.bench import processes as kernel
from tests.bench.stopwatch import Stopwatch
from tests.bench.systems import Started

GIB: Final = 4
WAYS: Final = ("streaming", "durable")
BOUND: Final = 256 * limits.MIB
"""The coordinator's default `--memory-limit`, which is credit for ciphertext in flight."""


@frozen(kw_only=True)
class Pipeline:
    """A coordinator, a worker and a client, with the process ids of each."""

    watch: Stopwatch
    roles: Mapping[str, int]

    def peaks(self) -> dict[str, int]:
        """Return the most bytes that each role has held."""
        return {role: kernel.memory(kernel.family(pid)).peak for role, pid in self.roles.items()}


def measure(gib: float) -> list[dict[str, Any]]:
    """Return a row for each way: seconds, and peaks before and after, in bytes by role."""
    size = int(gib * (1 << 30)) // limits.MIB * limits.MIB
    rows = []
    for way in WAYS:
        with (
            tempfile.TemporaryDirectory(prefix="enclave-giant-") as name,
            _pipeline(Path(name), size) as pipeline,
        ):
            pipeline.watch.prepare(way, limits.MIB)
            before = pipeline.peaks()
            (taken,) = pipeline.watch.round_trips(way, size, count=1, seconds=1.0)
            after = pipeline.peaks()
        rows.append({"way": way, "bytes": size, "seconds": taken, "before": before, "peak": after})
    return rows


def beyond(row: Mapping[str, Any], role: str) -> int:
    """Return what a role held more than before the tensor came; the client beside its arrays."""
    arrays = 2 * row["bytes"] if role == "client" else 0
    return int(row["peak"][role] - row["before"][role] - arrays)


@contextmanager
def _pipeline(folder: Path, size: int) -> Iterator[Pipeline]:
    policy, ready, joined = folder / "policy.toml", folder / "ready", folder / "worker.id"
    policy.write_text(policy_text(catalogue_digest(), []))
    with Started(folder / "logs") as processes:
        coordinator = ["coordinator", "--listen", "tcp://127.0.0.1:0"]
        coordinator += ["--state", str(folder / "state"), "--ready-file", str(ready)]
        processes.start("coordinator", [*enclave_command(), *coordinator])
        processes.wait_until(ready.is_file, what="the coordinator is not ready")
        url = ready.read_text().strip()
        worker = ["worker", "--coordinator", url, "--attester", "insecure", "--device", "cpu"]
        worker += ["--capacity", "1", "--max-job-bytes", str(3 * size), "--ready-file", str(joined)]
        processes.start("worker", [*enclave_command(), *worker])
        processes.wait_until(joined.is_file, what="the worker is not ready")
        client = [sys.executable, "-m", "tests.bench.sealed_client", url, str(policy)]
        watch = Stopwatch.start("sealed", client, folder, {})
        try:
            yield Pipeline(watch=watch, roles={"client": watch.pid, **processes.pids()})
        finally:
            watch.stop()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gib", type=float, default=GIB)
    for row in measure(parser.parse_args().gib):
        held = ", ".join(
            f"{role} {beyond(row, role) / limits.MIB:,.0f} MiB" for role in row["peak"]
        )
        sys.stdout.write(f"{row['way']}: {row['seconds']:.1f} s; more than before: {held}\n")


if __name__ == "__main__":
    main()
