"""Large jobs through a small coordinator: its memory is bounded by its limit, not by their size."""

import resource
from pathlib import Path

import numpy as np
import pytest

from attestation.client.client import Client
from attestation.policy.loading import load_policy
from tests.scenarios.processes import EnclaveProcess, Site

pytestmark = pytest.mark.scenario

MIB = 1 << 20
LIMIT = 24 * MIB
JOB = 48 * MIB
SLACK = 40 * MIB
"""ZeroMQ's buffers, SQLite's cache, and what the allocator keeps."""


def memory(process: EnclaveProcess, what: str) -> int:
    status = Path(f"/proc/{process.popen.pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith(what)]
    return int(line.split()[1]) * 1024


def test_a_coordinator_passes_large_jobs_on_within_its_memory_limit(tmp_path: Path) -> None:
    """Durable ones through the spool and streaming ones, at once; the kernel enforces a ceiling."""
    x = np.random.default_rng(7).standard_normal((JOB // 8 // 64, 64))
    with Site(tmp_path, lease_seconds=10) as site:
        coordinator = site.coordinator("--memory-limit", str(LIMIT))
        site.worker("--capacity", "2")
        before, mapped = memory(coordinator, "VmHWM"), memory(coordinator, "VmSize")
        ceiling = mapped + LIMIT + 2 * SLACK
        resource.prlimit(coordinator.popen.pid, resource.RLIMIT_AS, (ceiling, ceiling))
        with Client(site.url, policy=load_policy(site.policy_file)) as client:
            jobs = [
                client.submit(
                    "nn.affine",
                    {"x": x},
                    parameters={"scale": 2.0, "shift": float(number)},
                    durable=number != 1,
                )
                for number in range(3)
            ]
            for number, job in enumerate(jobs):
                assert np.array_equal(job.result(120)["y"], 2.0 * x + number)
        grown = memory(coordinator, "VmHWM") - before
        assert grown < LIMIT + SLACK, f"{grown // MIB} MiB for jobs of {2 * JOB // MIB} MiB each"
        assert "spool.refused" not in coordinator.output
