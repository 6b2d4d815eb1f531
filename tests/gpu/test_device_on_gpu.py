"""A worker's jobs on a real GPU: sealed there and back, scrubbed, refused and given up cleanly."""

import gc
import threading
from collections.abc import Iterator
from types import ModuleType

import attrs
import numpy as np
import pytest

from enclave_worker.admission import Terms
from enclave_worker.buffers import BufferPool
from enclave_worker.device.confidential import Mode, read_mode
from enclave_worker.device.driver import list_gpus, load_driver
from enclave_worker.device.gpu import CupyDevice, open_gpu
from enclave_worker.doctor import Machine, Need, examine, unmet
from enclave_worker.engine import ProgramEngine
from enclave_worker.kernels.registry import Registry
from enclave_worker.keystore import Keystore
from enclave_worker.refusals import JobNotAuthenticError, WorkerLimitError
from enclave_worker.sessions import SessionTable
from tests.device.whole_jobs import TENSORS, run, sealed_both_ways
from tests.gpu.sizes import sized
from tests.worker.conftest import Workshop, kernels, registry  # noqa: F401 - fixtures
from tests.worker.simulated_client import SimulatedClient

pytestmark = pytest.mark.gpu

BUDGET = 1 << 30
LARGE = sized(1 << 22, 1 << 14)
"""Numbers, of 8 bytes each: several chunks."""
MARKER = np.float64(3.0e-300)


@pytest.fixture(scope="module")
def gpu() -> CupyDevice:
    return open_gpu(0, reason="a test", memory_bytes=BUDGET, mode=read_mode())


@pytest.fixture
def workshop(gpu: CupyDevice, registry: Registry) -> Iterator[Workshop]:  # noqa: F811
    pool = BufferPool(keep_bytes=1 << 26)
    yield Workshop(
        registry=registry,
        catalogue=registry.catalogue(),
        keystore=Keystore(),
        sessions=SessionTable(),
        pool=pool,
        engine=ProgramEngine(gpu, registry, pool=pool),
        terms=Terms(max_job_bytes=1 << 34),
    )
    gc.collect()
    assert gpu.pool.used_bytes == gpu.kept.held, "a job left memory in use"
    assert not gpu.broken


@pytest.fixture
def client(workshop: Workshop) -> SimulatedClient:
    return workshop.connect()


def residue(gpu: CupyDevice, marker: bytes) -> int:
    """Return how often `marker` is in what the pool holds and nobody uses."""
    found = 0
    gpu.xp.cuda.Device(gpu.index).synchronize()
    for (_, size), addresses in gpu.pool._idle.items():
        for address in addresses:
            host = np.empty(size, dtype=np.uint8)
            gpu.xp.cuda.runtime.memcpy(host.ctypes.data, address, size, 2)
            found += host.tobytes().count(marker)
    return found


def test_the_gpu_opens_and_seals_by_itself(gpu: CupyDevice) -> None:
    assert gpu.sealing is not None
    assert gpu.budget is not None
    assert gpu.confidential_mode in list(Mode)


@pytest.mark.parametrize("size", [1, 8192, 8193, 20_000, LARGE])
def test_a_job_comes_back_as_the_processor_would_compute_it(
    workshop: Workshop, client: SimulatedClient, size: int
) -> None:
    job = workshop.job(client, arrays={"x": np.arange(size, dtype=np.float64)})
    result, outputs = run(workshop, job)
    assert result.code == ""
    np.testing.assert_array_equal(outputs["y"], 2 * job.arrays["x"])


def test_jobs_of_one_shape_are_replayed_and_each_has_its_own_keys(
    workshop: Workshop, client: SimulatedClient, gpu: CupyDevice
) -> None:
    for number in range(5):
        x = np.arange(8192, dtype=np.float64) + number
        job = workshop.job(client, arrays={"x": x})
        np.testing.assert_array_equal(run(workshop, job)[1]["y"], 2 * x)
    assert gpu.kept.held > 0, "no graph was recorded"


def test_a_changed_byte_is_refused_by_a_replay_too(
    workshop: Workshop, client: SimulatedClient, gpu: CupyDevice
) -> None:
    x = np.full(8192, MARKER)
    for _ in range(2):
        run(workshop, workshop.job(client, arrays={"x": x}))
    with pytest.raises(JobNotAuthenticError):
        run(workshop, workshop.job(client, arrays={"x": x}), lambda s: s[0].reverse())
    assert residue(gpu, MARKER.tobytes()) == 0
    np.testing.assert_array_equal(
        run(workshop, workshop.job(client, arrays={"x": x}))[1]["y"], 2 * x
    )


def test_the_gpu_seals_the_very_bytes_that_the_processor_seals(gpu: CupyDevice) -> None:
    assert gpu.sealing is not None
    with gpu.turn(1 << 24, require_wanted=lambda: None):
        on_processor, on_device = sealed_both_ways(gpu.sealing, TENSORS)
    assert on_device == on_processor


@pytest.mark.parametrize("where", [0, 4, 16, 4096, -1])
def test_one_changed_byte_in_the_middle_and_nothing_of_the_job_leaves(
    workshop: Workshop, client: SimulatedClient, gpu: CupyDevice, where: int
) -> None:
    job = workshop.job(client, arrays={"x": np.full(LARGE, MARKER)})

    def flip(segments: list[bytearray]) -> None:
        segments[len(segments) // 2][where] ^= 1

    with pytest.raises(JobNotAuthenticError):
        run(workshop, job, flip)
    assert residue(gpu, MARKER.tobytes()) == 0


def test_no_byte_of_a_job_stays_in_device_memory(
    workshop: Workshop, client: SimulatedClient, gpu: CupyDevice
) -> None:
    run(workshop, workshop.job(client, arrays={"x": np.full(LARGE, MARKER)}))
    assert gpu.pool.held_bytes > 0
    assert residue(gpu, MARKER.tobytes()) == residue(gpu, (2 * MARKER).tobytes()) == 0


def test_the_scan_finds_what_was_not_scrubbed(gpu: CupyDevice) -> None:
    with gpu.turn(1 << 20, require_wanted=lambda: None):
        array = gpu.xp.full(1000, MARKER)
        address = array.data.ptr
        del array
        gpu.synchronize()
        host = np.full(1, MARKER)
        gpu.xp.cuda.runtime.memcpy(address, host.ctypes.data, 8, 1)
    assert residue(gpu, MARKER.tobytes()) == 1
    with gpu.turn(1 << 20, require_wanted=lambda: None):
        assert not gpu.xp.empty(1000).any()


def test_a_kernel_that_raises_leaves_a_clean_device_to_the_next(
    workshop: Workshop, client: SimulatedClient, gpu: CupyDevice
) -> None:
    result, _ = run(workshop, workshop.job(client, "test.crash"))
    assert result.code == "kernel-failed"
    job = workshop.job(client)
    np.testing.assert_array_equal(run(workshop, job)[1]["y"], 2 * job.arrays["x"])


def test_a_job_larger_than_the_budget_is_refused_with_the_figure(
    workshop: Workshop, client: SimulatedClient
) -> None:
    job = workshop.job(client, arrays={"x": np.zeros(1 << 26)})
    with pytest.raises(WorkerLimitError, match="device memory"):
        run(workshop, job)


def test_scratch_memory_beyond_the_budget_refuses_the_job_and_the_worker_stays(
    workshop: Workshop,
    client: SimulatedClient,
    gpu: CupyDevice,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def greedy(xp: ModuleType, inputs: dict, _parameters: dict, _out: dict) -> dict:
        return {"y": inputs["x"] + xp.zeros(BUDGET // 4)[: inputs["x"].size]}

    kernel = attrs.evolve(workshop.registry["test.twice"], function=greedy)
    monkeypatch.setitem(workshop.registry._kernels, "test.twice", kernel)
    with pytest.raises(WorkerLimitError, match="device memory"):
        run(workshop, workshop.job(client))
    monkeypatch.undo()
    job = workshop.job(client)
    np.testing.assert_array_equal(run(workshop, job)[1]["y"], 2 * job.arrays["x"])


def test_several_jobs_are_in_flight_and_none_sees_another(
    workshop: Workshop, client: SimulatedClient
) -> None:
    jobs = [workshop.job(client, arrays={"x": np.full(LARGE // 16, float(n))}) for n in range(8)]
    answers: dict[int, np.ndarray] = {}

    def work(number: int) -> None:
        answers[number] = run(workshop, jobs[number])[1]["y"]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for number in range(8):
        assert (answers[number] == 2.0 * number).all()


def test_the_doctor_finds_the_gpu_and_that_it_computes(gpu: CupyDevice) -> None:
    gpus = list_gpus(load_driver())
    assert gpus[0].name == gpu.name
    findings = examine(Machine(try_gpu=lambda: gpu.name))
    assert Need.GPU not in unmet(findings, {Need.GPU})
