"""G10: a worker process's memory is searched for a client's plaintext and keys after its job."""

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from attestation.programs.program import Program
from attestation.wire.frames import Header, Kind
from attestation.wire.messages import ResultHeader
from enclave_worker.kernels.registry import installed_registry
from tests.worker.simulated_client import SimulatedClient, SimulatedJob
from tests.worker.simulated_coordinator import SimulatedCoordinator
from tests.worker.test_command import command

PEER = b"p" * 16
ROWS = 20_000
CONTENT = np.random.default_rng(7).normal(size=(ROWS, 4))
"""Values that occur nowhere else: 32 bytes of them identify the tensor."""

ALLOCATOR_CACHES = 1024
"""Bytes. NumPy and glibc keep freed blocks up to this size as they are (docs/worker.md, limits)."""


def count(pid: int, pattern: bytes) -> int:
    """Count `pattern` in all of a process's writable memory."""
    found = 0
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
        for line in maps:
            match = re.match(r"([0-9a-f]+)-([0-9a-f]+) rw", line)
            if match is None:
                continue
            start, end = (int(part, 16) for part in match.groups())
            try:
                found += os.pread(memory.fileno(), end - start, start).count(pattern)
            except OSError:
                continue
    return found


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[tuple[SimulatedCoordinator, int]]:
    with SimulatedCoordinator() as coordinator:
        ready = tmp_path / "ready"
        process = subprocess.Popen(
            command(
                *("--coordinator", coordinator.url, "--attester", "insecure", "--device", "cpu"),
                *("--ready-file", str(ready)),
            ),
            stderr=subprocess.DEVNULL,
        )
        try:
            coordinator.wait(ready.exists)
            yield coordinator, process.pid
        finally:
            process.kill()
            process.wait()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may read a hardened worker's memory")
def test_nothing_of_a_job_is_left_in_the_workers_memory(
    worker: tuple[SimulatedCoordinator, int],
) -> None:
    coordinator, pid = worker
    client = SimulatedClient()
    catalogue = client.take_reply(coordinator.ask(PEER, client.challenge()))
    client.take_accepted(coordinator.ask(PEER, client.open()))
    assert catalogue == installed_registry().catalogue()
    job = SimulatedJob(
        client=client,
        program=Program.single(catalogue.signature("stats.standardize")),
        catalogue_digest=catalogue.digest(),
        arrays={"x": CONTENT},
    )
    segments = job.segments()
    outputs = run(coordinator, job, segments, control=lambda: control(pid))
    for name, array in {"input": CONTENT, **outputs}.items():
        if array.nbytes <= ALLOCATOR_CACHES:
            continue
        for row in (0, 1, ROWS // 2, ROWS - 1):
            assert count(pid, array[row].tobytes()) == 0, f"{name} is still there"
    assert count(pid, bytes(job.content_key._key)) == 0, "the content key is still there"


def control(pid: int) -> None:
    """Check that the search does find what is there while the job waits for its last segment."""
    assert count(pid, CONTENT[0].tobytes()) >= 1
    assert count(pid, CONTENT[ROWS // 2].tobytes()) >= 1


def run(
    coordinator: SimulatedCoordinator,
    job: SimulatedJob,
    segments: list[bytearray],
    *,
    control: Callable[[], None],
) -> dict[str, np.ndarray]:
    """Run `job`, calling `control` when all but its last input segment are with the worker."""
    header = Header(Kind.ASSIGN, job.job_id, 1, count=len(segments), peer=PEER)
    coordinator.send(header, job.envelope(), job.wrap())
    coordinator.expect(Kind.INPUT_CREDIT)
    for index, segment in enumerate(segments[:-1]):
        coordinator.send(Header(Kind.INPUT, job.job_id, 1, index=index), segment)
    coordinator.pump(1.0)
    control()
    last = len(segments) - 1
    coordinator.send(Header(Kind.INPUT, job.job_id, 1, index=last), segments[last])
    coordinator.send(Header(Kind.OUTPUT_CREDIT, job.job_id, 1, count=1000))
    head, (result, _) = coordinator.expect(Kind.RESULT)
    sealed = [coordinator.expect(Kind.OUTPUT)[1][0] for _ in range(head.count)]
    coordinator.send(Header(Kind.RECORDED, job.job_id, 1))
    coordinator.pump(0.3)
    return job.open_outputs(ResultHeader.from_bytes(result), sealed, attempt=1)
