"""Whole jobs through all of our code for CuPy, over a GPU whose streams run in any order.

Nothing of ours is replaced: `open_gpu`, the pool, the launcher with its cubins, the lanes. CuPy is
(simulated_cupy.py), and what it shows is order: a missing wait, memory that is used after it was
given back, zeros that come too early or too late. Each pace of the streams is a test of its own.
"""

import gc
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

from enclave_worker.admission import Terms
from enclave_worker.buffers import BufferPool
from enclave_worker.device.confidential import Mode
from enclave_worker.device.cubins import Tuning
from enclave_worker.device.gpu import CupyDevice, open_gpu
from enclave_worker.engine import ProgramEngine
from enclave_worker.kernels.registry import Registry
from enclave_worker.keystore import Keystore
from enclave_worker.refusals import JobNotAuthenticError
from enclave_worker.sessions import SessionTable
from tests.device.simulated_cupy import SimulatedCupy
from tests.device.simulated_streams import PACES, Pace, describe
from tests.device.whole_jobs import TENSORS, run, sealed_both_ways
from tests.worker.conftest import Workshop
from tests.worker.simulated_client import SimulatedClient

MARKER = np.float64(3.0e-300)
SEGMENT = 65_536 + 32
CHUNK = 70_000
"""Room for one segment of the smallest size."""
LARGE = np.arange(80_000, dtype=np.float64)
"""Ten segments: more than three rounds over the sides of a lane."""


def open_simulated(
    patch: pytest.MonkeyPatch, simulated: SimulatedCupy, *, mode: Mode = Mode.OFF
) -> CupyDevice:
    """Open it, with chunks so small that jobs have several."""
    simulated.install(patch)
    gpu = open_gpu(0, reason="a test", mode=mode)
    assert gpu.sealing is not None
    return attrs.evolve(gpu, sealing=attrs.evolve(gpu.sealing, chunk_bytes=CHUNK))


def make_workshop(gpu: CupyDevice, registry: Registry) -> Workshop:
    pool = BufferPool(keep_bytes=1 << 26)
    return Workshop(
        registry=registry,
        catalogue=registry.catalogue(),
        keystore=Keystore(),
        sessions=SessionTable(),
        pool=pool,
        engine=ProgramEngine(gpu, registry, pool=pool),
        terms=Terms(max_job_bytes=1 << 26),
    )


@pytest.fixture(params=PACES, ids=describe)
def cupy(request: pytest.FixtureRequest) -> SimulatedCupy:
    return SimulatedCupy(pace=request.param)


@pytest.fixture
def gpu(cupy: SimulatedCupy, monkeypatch: pytest.MonkeyPatch) -> CupyDevice:
    return open_simulated(monkeypatch, cupy)


@pytest.fixture
def workshop(gpu: CupyDevice, registry: Registry) -> Iterator[Workshop]:
    yield make_workshop(gpu, registry)
    gc.collect()
    assert gpu.pool.used_bytes == gpu.kept.held, "a job left memory in use"
    assert not gpu.broken


@pytest.fixture
def client(workshop: Workshop) -> SimulatedClient:
    return workshop.connect()


@pytest.mark.parametrize("size", [1, 8192, 8193, LARGE.size])
def test_a_job_comes_back_right_in_whatever_order_streams_run(
    workshop: Workshop, client: SimulatedClient, size: int
) -> None:
    job = workshop.job(client, arrays={"x": np.arange(size, dtype=np.float64)})
    result, outputs = run(workshop, job)
    assert result.code == ""
    np.testing.assert_array_equal(outputs["y"], 2 * job.arrays["x"])


def test_the_real_kernels_agree_with_the_quick_ones(
    compiled: Callable[[Tuning], Path], monkeypatch: pytest.MonkeyPatch, registry: Registry
) -> None:
    """Opened and sealed by the tuning that a GPU of this kind would load."""
    workshop = make_workshop(open_simulated(monkeypatch, SimulatedCupy(compiled)), registry)
    client = workshop.connect()
    for size in (1, 20_000):
        job = workshop.job(client, arrays={"x": np.arange(size, dtype=np.float64)})
        np.testing.assert_array_equal(run(workshop, job)[1]["y"], 2 * job.arrays["x"])


def test_tensors_of_several_sizes_are_sealed_as_the_processor_does(gpu: CupyDevice) -> None:
    """Several tensors in one chunk, and one that takes several."""
    assert gpu.sealing is not None
    tensors = {**TENSORS, "e": LARGE, "f": np.arange(3, dtype=np.int16)}
    with gpu.turn(1 << 24, require_wanted=lambda: None):
        on_processor, on_device = sealed_both_ways(gpu.sealing, tensors)
    assert on_device == on_processor


@pytest.mark.parametrize(("segment", "where"), [(0, 0), (5, -1), (9, 40)])
def test_a_bad_tag_in_the_middle_leaves_nothing_in_whatever_order_streams_run(
    cupy: SimulatedCupy, workshop: Workshop, client: SimulatedClient, segment: int, where: int
) -> None:
    """Other chunks are opened, and written, while the refusal is on its way."""
    job = workshop.job(client, arrays={"x": np.full(LARGE.size, MARKER)})

    def flip(segments: list[bytearray]) -> None:
        segments[segment][where] ^= 1

    with pytest.raises(JobNotAuthenticError):
        run(workshop, job, flip)
    assert cupy.machine.count(MARKER.tobytes()) == 0
    job = workshop.job(client, arrays={"x": LARGE})
    np.testing.assert_array_equal(run(workshop, job)[1]["y"], 2 * LARGE)


def test_no_byte_of_a_job_stays_in_device_memory(
    cupy: SimulatedCupy, workshop: Workshop, client: SimulatedClient
) -> None:
    run(workshop, workshop.job(client, arrays={"x": np.full(LARGE.size, MARKER)}))
    assert cupy.machine.left < cupy.machine.size
    assert cupy.machine.count(MARKER.tobytes()) == 0
    assert cupy.machine.count((2 * MARKER).tobytes()) == 0


def test_memory_that_runs_out_between_two_chunks_leaves_nothing(
    cupy: SimulatedCupy, workshop: Workshop, client: SimulatedClient, gpu: CupyDevice
) -> None:
    """The third side finds none: two chunks are on their way, and must not be written later."""
    assert gpu.sealing is not None
    launcher: Any = gpu.sealing.launcher
    real, left = launcher.allocate, [2]

    def allocate(nbytes: int) -> Any:
        if nbytes == SEGMENT:
            if not left[0]:
                raise MemoryError
            left[0] -= 1
        return real(nbytes)

    launcher.allocate = allocate
    job = workshop.job(client, arrays={"x": np.full(LARGE.size, MARKER)})
    with pytest.raises(MemoryError):
        run(workshop, job)
    assert cupy.machine.count(MARKER.tobytes()) == 0
    launcher.allocate = real
    job = workshop.job(client, arrays={"x": LARGE})
    np.testing.assert_array_equal(run(workshop, job)[1]["y"], 2 * LARGE)


def test_a_kernel_that_breaks_the_context_ends_the_device_and_tells_nobody_a_result(
    monkeypatch: pytest.MonkeyPatch, registry: Registry
) -> None:
    """Every later call fails too: the job is no result, and the worker starts as a new process."""
    simulated = SimulatedCupy()
    gpu = open_simulated(monkeypatch, simulated)
    workshop = make_workshop(gpu, registry)

    def wild(xp: Any, inputs: Any, _parameters: Any, _out: Any) -> Any:
        y = 2 * inputs["x"]
        simulated.streams.failing = True
        return {"y": y}

    kernel = attrs.evolve(workshop.registry["test.twice"], function=wild)
    monkeypatch.setitem(workshop.registry._kernels, "test.twice", kernel)
    client = workshop.connect()
    job = workshop.job(client, arrays={"x": LARGE})
    with pytest.raises(Exception, match=r"device failed|IllegalAddress"):
        run(workshop, job)
    assert gpu.broken
    assert gpu.budget is not None
    assert gpu.budget.free_bytes == gpu.budget.total
    with pytest.raises(Exception, match=r"could not be zeroed|device|IllegalAddress"):
        run(workshop, workshop.job(client, arrays={"x": LARGE}))


def test_a_transforms_work_area_does_not_outlive_its_job(
    cupy: SimulatedCupy, gpu: CupyDevice
) -> None:
    """CuPy keeps a thread's last plans, and what the transform left in their memory."""
    with gpu.turn(1 << 20, require_wanted=lambda: None):
        assert abs(gpu.xp.fft.fft(gpu.xp.full(1000, MARKER)).get()[1]) == 0
    gc.collect()
    assert gpu.pool.used_bytes == gpu.kept.held
    assert cupy.machine.count(MARKER.tobytes()) == 0


def test_a_model_that_a_step_made_is_copied_behind_that_step(gpu: CupyDevice) -> None:
    pytest.importorskip("onnxruntime")
    from enclave_worker.kernels.onnx import _host_bytes  # noqa: PLC0415 - needs what was asked for

    with gpu.turn(1 << 20, require_wanted=lambda: None):
        model = gpu.xp.full(1000, 7, dtype="uint8")
        host = _host_bytes(gpu.xp, model)
        assert (host == 7).all()


def test_jobs_on_several_threads_do_not_see_each_other(
    workshop: Workshop, client: SimulatedClient
) -> None:
    jobs = [workshop.job(client, arrays={"x": np.full(20_000, float(n))}) for n in range(6)]
    answers: dict[int, np.ndarray[Any, Any]] = {}

    def work(number: int) -> None:
        answers[number] = run(workshop, jobs[number])[1]["y"]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for number in range(6):
        assert (answers[number] == 2.0 * number).all()


# -- what crosses the bus --------------------------------------------------------------------------


def ciphertext_copies(simulated: SimulatedCupy, kind: int) -> list[int]:
    return [
        size
        for direction, size in simulated.machine.copies
        if (direction, size > 4096) == (kind, True)
    ]


@pytest.mark.parametrize(("mode", "copies"), [(Mode.OFF, 10), (Mode.ON, 1)])
def test_each_direction_is_cut_into_chunks_or_one_copy_in_confidential_mode(
    monkeypatch: pytest.MonkeyPatch, registry: Registry, mode: Mode, copies: int
) -> None:
    """In confidential mode every crossing costs the same; outside it, chunks overlap."""
    simulated = SimulatedCupy()
    workshop = make_workshop(open_simulated(monkeypatch, simulated, mode=mode), registry)
    run(workshop, workshop.job(workshop.connect(), arrays={"x": LARGE}))
    for kind in (1, 2):
        assert len(ciphertext_copies(simulated, kind)) == copies
        assert sum(ciphertext_copies(simulated, kind)) == LARGE.nbytes + 10 * 32


# -- every wait is needed --------------------------------------------------------------------------

WAITS = 12
"""Three sides begin behind the job's stream, which goes on behind each of them; both ways."""


def whole_job(
    patch: pytest.MonkeyPatch, registry: Registry, pace: Pace, *, without: int | None
) -> tuple[bool, int]:
    """Return whether a job came back right with nothing left, and how many waits it took."""
    simulated = SimulatedCupy(pace=pace)
    workshop = make_workshop(open_simulated(patch, simulated), registry)
    x = np.full(LARGE.size, MARKER)
    job = workshop.job(workshop.connect(), arrays={"x": x})
    simulated.streams.forget_wait = without
    try:
        outputs = run(workshop, job)[1]
    except Exception:  # noqa: BLE001 - refused, crashed: seen, in any case
        return False, simulated.streams.wait_count
    right = "y" in outputs and bool((outputs["y"] == 2 * x).all())
    left = simulated.machine.count(MARKER.tobytes()) + simulated.machine.count(
        (2 * MARKER).tobytes()
    )
    return right and not left, simulated.streams.wait_count


def test_a_job_has_the_waits_that_are_taken_out_below(
    monkeypatch: pytest.MonkeyPatch, registry: Registry
) -> None:
    for pace in PACES:
        assert whole_job(monkeypatch, registry, pace, without=None) == (True, WAITS)


@pytest.mark.parametrize("wait", range(WAITS))
def test_without_any_one_of_its_waits_a_job_is_seen_to_fail(
    monkeypatch: pytest.MonkeyPatch, registry: Registry, wait: int
) -> None:
    """At some pace at least: the wait is needed, and these tests would miss it."""
    assert not all(whole_job(monkeypatch, registry, pace, without=wait)[0] for pace in PACES)
