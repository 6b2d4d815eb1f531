"""Small jobs are opened by a recorded graph, with the same bytes, refusals and nothing left."""

import gc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from attestation.sealing.sealed_tensor import TensorOpener
from enclave_worker.device.gpu import CupyDevice
from enclave_worker.device.replays import Replays
from enclave_worker.kernels.registry import Registry
from enclave_worker.refusals import JobNotAuthenticError
from tests.device.simulated_cupy import SimulatedCupy
from tests.device.simulated_streams import PACES, CUDARuntimeError, describe
from tests.device.test_simulated_gpu import MARKER, make_workshop, open_simulated
from tests.device.whole_jobs import run
from tests.gpu_aead.material import layout
from tests.worker.conftest import Workshop
from tests.worker.simulated_client import SimulatedClient


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
    assert gpu.pool.used_bytes == gpu.kept.held
    assert not gpu.broken


@pytest.fixture
def client(workshop: Workshop) -> SimulatedClient:
    return workshop.connect()


def ready(gpu: CupyDevice) -> list[Any]:
    """Return what the lanes have recorded."""
    lanes = gpu.lanes._idle
    return [each for lane in lanes if lane.replays for each in lane.replays._ready.values()]


def test_the_second_job_of_a_shape_is_recorded_and_each_has_its_own_keys(
    workshop: Workshop, client: SimulatedClient, gpu: CupyDevice
) -> None:
    for number in range(5):
        x = np.random.default_rng(number).random(1000)
        job = workshop.job(client, arrays={"x": x})
        np.testing.assert_array_equal(run(workshop, job)[1]["y"], 2 * x)
        assert len(ready(gpu)) == (number > 0)


def test_several_segments_and_a_ragged_end_are_replayed(
    workshop: Workshop, client: SimulatedClient, gpu: CupyDevice
) -> None:
    for number in range(3):
        x = np.arange(20_001, dtype=np.float64) + number
        np.testing.assert_array_equal(
            run(workshop, workshop.job(client, arrays={"x": x}))[1]["y"], 2 * x
        )
    assert len(ready(gpu)) == 1


@pytest.mark.parametrize("where", [0, 4, 40, -1])
def test_a_changed_byte_is_refused_and_the_next_job_of_the_shape_runs(
    workshop: Workshop, client: SimulatedClient, cupy: SimulatedCupy, where: int
) -> None:
    x = np.full(1000, MARKER)
    for _ in range(2):
        run(workshop, workshop.job(client, arrays={"x": x}))

    def flip(segments: list[bytearray]) -> None:
        segments[0][where] ^= 1

    with pytest.raises(JobNotAuthenticError):
        run(workshop, workshop.job(client, arrays={"x": x}), flip)
    assert cupy.machine.count(MARKER.tobytes()) == 0
    y = run(workshop, workshop.job(client, arrays={"x": x}))[1]["y"]
    np.testing.assert_array_equal(y, 2 * x)


def test_nothing_of_a_replayed_job_stays(
    workshop: Workshop, client: SimulatedClient, cupy: SimulatedCupy, gpu: CupyDevice
) -> None:
    """Its buffers are kept for the next, its plaintext, keys and contexts are not."""
    for _ in range(3):
        run(workshop, workshop.job(client, arrays={"x": np.full(1000, MARKER)}))
    (replay,) = ready(gpu)
    assert cupy.machine.count(MARKER.tobytes()) == 0
    for memory in (replay.plain, replay._batch._keys, replay._batch._contexts):
        out = np.full(memory.nbytes, 1, np.uint8)
        replay._launcher.download(memory.pointer, out.data)
        assert not out.any()


def test_a_kernel_that_fails_leaves_the_recording_clean(
    workshop: Workshop, client: SimulatedClient, cupy: SimulatedCupy, gpu: CupyDevice
) -> None:
    for kernel in ("test.twice", "test.twice", "test.crash", "test.twice"):
        x = np.full(1000, MARKER)
        result, _ = run(workshop, workshop.job(client, kernel, arrays={"x": x}))
        assert bool(result.code) == (kernel == "test.crash")
        assert cupy.machine.count(MARKER.tobytes()) == 0
    assert len(ready(gpu)) == 1


def test_an_array_that_a_kernel_kept_never_shows_the_next_jobs_input(
    workshop: Workshop, client: SimulatedClient, gpu: CupyDevice, kernels: Any
) -> None:
    """Its memory is not used for another job while it is looked at."""
    kernels.SEEN.clear()
    for number in range(4):
        x = np.full(1000, number + 1.5)
        run(workshop, workshop.job(client, "test.hoard", arrays={"x": x}))
    assert len(kernels.SEEN) == 4
    assert len({array.data.ptr for array in kernels.SEEN}) == 4
    with gpu.turn(1 << 16, require_wanted=lambda: None):
        for array in kernels.SEEN:
            assert not array.get().any(), "an input of another job"
    kernels.SEEN.clear()


def test_a_tensor_that_nobody_vouches_for_leaves_nothing_of_any(
    workshop: Workshop,
    client: SimulatedClient,
    cupy: SimulatedCupy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its plaintext lies beside the others' by then, and is no array yet."""
    for _ in range(2):
        run(workshop, workshop.job(client, arrays={"x": np.full(1000, MARKER)}))
    job = workshop.job(client, arrays={"x": np.full(1000, MARKER)})
    monkeypatch.setattr(TensorOpener, "delegated", lambda _opener: None)
    with pytest.raises(JobNotAuthenticError):
        run(workshop, job)
    assert cupy.machine.count(MARKER.tobytes()) == 0


def test_large_inputs_and_many_segments_are_launched(gpu: CupyDevice) -> None:
    assert gpu.sealing is not None
    replays = Replays(gpu.sealing.launcher, lambda: gpu.pool.charge(gpu.kept))
    for shape, size in (
        ((layout(1 << 21, 1 << 20),), (1 << 21) + 64),
        ((layout(65 * 64, 64),), 65 * 96),
        ((), 0),
    ):
        assert [replays.of(shape, size) for _ in range(3)] == [None] * 3


def test_what_lanes_keep_is_bounded_and_the_oldest_goes(gpu: CupyDevice) -> None:
    assert gpu.sealing is not None
    replays = Replays(gpu.sealing.launcher, lambda: gpu.pool.charge(gpu.kept))
    with gpu.turn(1 << 20, require_wanted=lambda: None):
        for size in range(100, 130):
            shape = (layout(size, 1024),)
            assert replays.of(shape, size + 32) is None
            assert replays.of(shape, size + 32) is not None
        assert len(replays._ready) == 8
        gpu.kept.limit = gpu.kept.held
        shape = (layout(500_000, 1 << 20),)
        assert [replays.of(shape, 500_032) for _ in range(2)] == [None] * 2
        assert len(replays._ready) == 0
        del replays
    assert gpu.kept.held == 0


def test_a_driver_that_records_nothing_is_only_slower(
    workshop: Workshop,
    client: SimulatedClient,
    gpu: CupyDevice,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert gpu.sealing is not None

    def refuse(*_arguments: object) -> None:
        raise CUDARuntimeError(900, "cudaErrorStreamCaptureUnsupported")

    monkeypatch.setattr(gpu.sealing.launcher, "record", refuse)
    for _ in range(4):
        x = np.arange(1000.0)
        y = run(workshop, workshop.job(client, arrays={"x": x}))[1]["y"]
        np.testing.assert_array_equal(y, 2 * x)
    assert [r.message for r in caplog.records].count("device.no_graphs") == 1
    assert gpu.kept.held == 0


def test_memory_freed_while_a_graph_is_recorded_is_not_zeroed_by_every_replay(
    gpu: CupyDevice, cupy: SimulatedCupy
) -> None:
    """The collector may free a block of the job's stream then; its zeros are no part of a graph."""
    assert gpu.sealing is not None
    launcher = gpu.sealing.launcher
    with gpu.turn(1 << 20, require_wanted=lambda: None):
        dropped, kept = launcher.allocate(512), launcher.allocate(512)
        address = dropped.pointer

        def launch() -> None:
            nonlocal dropped
            del dropped
            launcher.fill(kept.pointer, 3, 512)

        replay = launcher.record(launch)
        again = launcher.allocate(512)
        assert again.pointer == address
        launcher.fill(again.pointer, 9, 512)
        replay()
        out = np.zeros(512, np.uint8)
        launcher.download(again.pointer, out.data)
        assert set(out) == {9}
        launcher.download(kept.pointer, out.data)
        assert set(out) == {3}
