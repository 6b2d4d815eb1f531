"""Chunks hold every segment once, and whatever follows a pipeline is behind all of its steps."""

from contextlib import suppress

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from attestation.sealing.segments import Layout
from attestation.sealing.tensor_spec import TensorSpec
from enclave_worker.device.chunks import Places
from enclave_worker.device.confidential import Mode
from enclave_worker.device.gpu import CupyDevice, open_gpu
from enclave_worker.device.pipeline import Pipeline
from tests.device.simulated_cupy import SimulatedCupy
from tests.device.simulated_streams import PACES, describe
from tests.gpu_aead.material import layout


class StepFailedError(Exception):
    """What goes wrong in a step."""


def fail(really: bool) -> None:
    if really:
        raise StepFailedError


@pytest.fixture(params=PACES, ids=describe)
def cupy(request: pytest.FixtureRequest) -> SimulatedCupy:
    return SimulatedCupy(pace=request.param)


@pytest.fixture
def gpu(cupy: SimulatedCupy, monkeypatch: pytest.MonkeyPatch) -> CupyDevice:
    cupy.install(monkeypatch)
    return open_gpu(0, reason="a test", mode=Mode.OFF)


@pytest.mark.parametrize("fails", [False, True])
def test_zeros_behind_a_pipeline_are_behind_what_its_steps_write(
    cupy: SimulatedCupy, gpu: CupyDevice, fails: bool
) -> None:
    """Plaintext that a side writes after it was zeroed would stay."""
    assert gpu.sealing is not None
    launcher = gpu.sealing.launcher
    with gpu.turn(1 << 20, require_wanted=lambda: None):
        memory = launcher.allocate(4096)
        try:
            with Pipeline(launcher) as pipeline:
                pipeline.begin()
                for number in range(7):
                    with pipeline.step(number):
                        launcher.fill(memory.pointer + 512 * number, 7, 512)
                fail(fails)
        except StepFailedError:
            assert fails
        launcher.fill(memory.pointer, 0, 4096)
        out = np.full(4096, 1, np.uint8)
        launcher.download(memory.pointer, out.data)
        cupy.streams.synchronize_all()
        assert cupy.machine.count(b"\x07" * 64) == 0
        assert not out.any()


def test_after_a_failure_nothing_writes_to_memory_of_the_host_any_more(
    cupy: SimulatedCupy, gpu: CupyDevice
) -> None:
    """The buffer is dropped, and may be another job's by then."""
    assert gpu.sealing is not None
    launcher, host = gpu.sealing.launcher, np.zeros(512, np.uint8)
    with gpu.turn(1 << 20, require_wanted=lambda: None):
        memory = launcher.allocate(512)
        with suppress(StepFailedError), Pipeline(launcher) as pipeline, pipeline.step(1):
            launcher.fill(memory.pointer, 7, 512)
            launcher.copy_out(memory.pointer, host.data)
            fail(True)
        host[:] = 9
        cupy.streams.synchronize_all()
        assert (host == 9).all()


def test_a_step_is_behind_what_came_before_it_began(cupy: SimulatedCupy, gpu: CupyDevice) -> None:
    assert gpu.sealing is not None
    launcher = gpu.sealing.launcher
    with gpu.turn(1 << 20, require_wanted=lambda: None):
        memory = launcher.allocate(512)
        launcher.fill(memory.pointer, 5, 512)
        with Pipeline(launcher) as pipeline:
            # Not behind it yet: what only the side's own memory needs.
            with pipeline.step(2):
                own = launcher.allocate(512)
            pipeline.begin()
            with pipeline.step(2):
                launcher.fill(memory.pointer, 7, 256)
        del own
        out = np.zeros(512, np.uint8)
        launcher.download(memory.pointer, out.data)
        assert set(out[:256]) == {7}
        assert set(out[256:]) == {5}


def test_a_lane_is_lent_to_another_only_when_its_sides_have_ended(
    cupy: SimulatedCupy, gpu: CupyDevice
) -> None:
    """Its blocks are for every stream then: one that a side still writes to would be seen."""
    assert gpu.sealing is not None
    launcher = gpu.sealing.launcher
    with gpu.turn(1 << 20, require_wanted=lambda: None):
        with launcher.sides[1]:
            memory = launcher.allocate(4096)
            launcher.fill(memory.pointer, 7, 4096)
        address = memory.pointer
        del memory
    with gpu.turn(1 << 20, require_wanted=lambda: None):
        again = launcher.allocate(4096)
        assert again.pointer == address
        launcher.fill(again.pointer, 9, 4096)
        out = np.zeros(4096, np.uint8)
        launcher.download(again.pointer, out.data)
        assert set(out) == {9}
        cupy.streams.synchronize_all()
        assert cupy.machine.count(b"\x09" * 4096) == 1


@pytest.mark.parametrize("start", [0, 16])
def test_memory_that_an_array_looks_at_is_known_to_be_shared(gpu: CupyDevice, start: int) -> None:
    """Through the very pointer that it was taken with, or another."""
    assert gpu.sealing is not None
    spec = TensorSpec(dtype="uint8", shape=(16,))
    with gpu.turn(1 << 20, require_wanted=lambda: None):
        memory = gpu.sealing.launcher.allocate(64)
        for look in (gpu.sealing.view, lambda held: gpu.sealing.array(held, start, spec)):
            assert not memory.shared
            array = look(memory)
            assert memory.shared
            del array
        assert not memory.shared


def test_memory_freed_by_another_thread_is_zeroed_whatever_gpu_is_current_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The garbage collector runs where it likes; a thread begins with GPU 0, and has no stream."""
    simulated = SimulatedCupy(gpus=2)
    simulated.install(monkeypatch)
    gpu = open_gpu(1, reason="a test", mode=Mode.OFF)
    assert gpu.sealing is not None
    with gpu.turn(1 << 20, require_wanted=lambda: None):
        address = gpu.pool.allocate(512)
        simulated.streams.use_device(0)
        gpu.pool.free(address)
        simulated.streams.use_device(1)
    assert not gpu.broken


SIZES = st.lists(st.tuples(st.integers(0, 5000), st.sampled_from([64, 256, 1024])), min_size=1)


@given(SIZES, st.integers(1, 4000))
def test_every_segment_is_in_one_chunk_and_lies_where_it_travels(
    sizes: list[tuple[int, int]], most: int
) -> None:
    layouts: list[Layout] = [layout(*size) for size in sizes]
    places, seen, end = Places(layouts), [], 0
    for chunk in places.chunks(most):
        assert chunk.start >= end
        assert chunk.start % 16 == 0
        end = chunk.where.stop
        inside = []
        for part in chunk.parts:
            inside += [(part.tensor, row) for row in range(part.rows.start, part.rows.stop)]
        where = [places.of(places.order.index(each)) for each in inside]
        assert (where[0].start, where[-1].stop) == (chunk.start, end)
        assert chunk.nbytes <= most or len(inside) == 1
        seen += inside
    assert seen == places.order
    assert end <= places.size
    assert len(places.chunks(places.size)) == 1
