"""The whole way of a job over a device: staged, opened there, computed, sealed there, staged.

The device is this processor, and what opens and seals on it are the CUDA kernels themselves,
through the shim of tests/gpu_aead. What they make is opened by the client's own code.
"""

from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from attestation.errors import LocalProtocolError
from enclave_worker.admission import Terms
from enclave_worker.buffers import BufferPool
from enclave_worker.device.budget import MemoryBudget
from enclave_worker.device.device import Device
from enclave_worker.device.sealed_tensors import SealingDevice
from enclave_worker.device.staging import StagingBuffers
from enclave_worker.engine import ProgramEngine
from enclave_worker.kernels.registry import Registry
from enclave_worker.keystore import Keystore
from enclave_worker.refusals import JobNotAuthenticError, WorkerLimitError
from enclave_worker.sessions import SessionTable
from tests.device.whole_jobs import TENSORS, run, sealed_both_ways
from tests.gpu_aead.host_launcher import HostLauncher
from tests.worker.conftest import Workshop
from tests.worker.simulated_client import SimulatedClient

BUDGET = 1 << 24


class Arrays:
    """NumPy as a device's array module, which remembers what it gave out."""

    def __init__(self) -> None:
        self.made: list[np.ndarray[Any, Any]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    def empty(self, shape: Any, dtype: Any = float) -> np.ndarray[Any, Any]:
        self.made.append(np.full(shape, 0xA5, dtype=dtype))
        return self.made[-1]


class HostGpu(Device):
    """A device in the memory of this process, which opens and seals by itself."""

    def use(self) -> None:
        pass

    def to_device(self, host: np.ndarray[Any, Any]) -> Any:
        raise AssertionError("plaintext of the host was copied to the device")

    def to_host(self, array: Any, out: np.ndarray[Any, Any]) -> None:
        raise AssertionError("plaintext of the device was copied to the host")

    def synchronize(self) -> None:
        pass

    def release(self) -> None:
        pass

    @property
    def peak_bytes(self) -> int:
        return 0


@pytest.fixture
def arrays() -> Arrays:
    return Arrays()


@pytest.fixture
def staging() -> StagingBuffers:
    return StagingBuffers(pin=None, keep_bytes=1 << 26)


@pytest.fixture
def workshop(
    registry: Registry, one: HostLauncher, arrays: Arrays, staging: StagingBuffers
) -> Workshop:
    sealing = SealingDevice(
        xp=arrays, launcher=one, staging=staging, address=lambda array: int(array.ctypes.data)
    )
    device = HostGpu(
        xp=arrays,
        backend="cupy",
        name="this processor",
        sm_count=4,
        cuda="0.0",
        libraries=MappingProxyType({}),
        reason="a test",
        sealing=sealing,
        budget=MemoryBudget(BUDGET),
    )
    pool = BufferPool(keep_bytes=1 << 26)
    return Workshop(
        registry=registry,
        catalogue=registry.catalogue(),
        keystore=Keystore(),
        sessions=SessionTable(),
        pool=pool,
        engine=ProgramEngine(device, registry, pool=pool),
        terms=Terms(max_job_bytes=1 << 26),
    )


@pytest.fixture
def client(workshop: Workshop) -> SimulatedClient:
    return workshop.connect()


def forgotten(arrays: Arrays, marker: bytes) -> bool:
    """Whether no array of the device holds `marker` any more."""
    return not any(marker in array.tobytes() for array in arrays.made)


@pytest.mark.parametrize("size", [1, 8192, 8193, 20_000])
def test_what_the_device_opens_computes_and_seals_the_client_opens(
    workshop: Workshop, client: SimulatedClient, size: int
) -> None:
    """One element, one segment to the byte, one more, three."""
    job = workshop.job(client, arrays={"x": np.arange(size, dtype=np.float64)})
    result, outputs = run(workshop, job)
    assert result.code == ""
    np.testing.assert_array_equal(outputs["y"], 2 * job.arrays["x"])


def test_nothing_of_a_job_stays_on_the_device(
    workshop: Workshop, client: SimulatedClient, arrays: Arrays, one: HostLauncher
) -> None:
    x = np.full(9000, 3.14159)
    run(workshop, workshop.job(client, arrays={"x": x}))
    assert arrays.made
    assert forgotten(arrays, x[:4].tobytes())
    assert forgotten(arrays, (2 * x[:4]).tobytes())
    assert one.left_in_shared_memory == 0


@pytest.mark.parametrize("where", [0, 4, 16, 40, -1])
@pytest.mark.parametrize("segment", [0, 1, 2])
def test_one_changed_byte_anywhere_and_no_kernel_runs(
    workshop: Workshop, client: SimulatedClient, arrays: Arrays, segment: int, where: int
) -> None:
    """Framing, IV, ciphertext and tag, in the first, a middle and the last segment."""
    x = np.full(20_000, 2.71828)
    job = workshop.job(client, arrays={"x": x})

    def flip(segments: list[bytearray]) -> None:
        segments[segment][where] ^= 1

    with pytest.raises(JobNotAuthenticError):
        run(workshop, job, flip)
    assert forgotten(arrays, x[:4].tobytes())
    # Not spent: the same job, unchanged, may still run.
    workshop.execution(job, attempt=2).close()


@pytest.mark.parametrize(
    "change",
    [
        lambda segments: segments.pop(),
        lambda segments: segments.reverse(),
        lambda segments: segments.__setitem__(1, segments[0]),
        lambda segments: segments.__setitem__(0, segments[0][:-1]),
        lambda segments: segments.append(segments[-1]),
        lambda segments: segments.__setitem__(0, bytearray(segments[0]) + b"x"),
    ],
)
def test_segments_that_are_missing_moved_or_cut_are_refused(
    workshop: Workshop, client: SimulatedClient, change: Callable[[list[bytearray]], None]
) -> None:
    with pytest.raises(JobNotAuthenticError):
        run(workshop, workshop.job(client), change)


def test_a_kernel_that_raises_leaves_a_clean_device_to_the_next_job(
    workshop: Workshop, client: SimulatedClient, arrays: Arrays
) -> None:
    x = np.full(9000, 1.41421)
    result, _ = run(workshop, workshop.job(client, "test.crash", arrays={"x": x}))
    assert result.code == "kernel-failed"
    assert forgotten(arrays, x[:4].tobytes())
    budget = workshop.engine._device.budget
    assert budget is not None
    assert budget.free_bytes == BUDGET
    job = workshop.job(client)
    np.testing.assert_array_equal(run(workshop, job)[1]["y"], 2 * job.arrays["x"])


def test_a_stack_is_opened_once_and_its_items_fail_each_for_themselves(
    workshop: Workshop, client: SimulatedClient
) -> None:
    x = np.arange(15, dtype=np.float64).reshape(5, 3)
    x[1, 2] = x[4, 0] = -1
    job = workshop.job(client, "test.root", arrays={"x": x})
    job.change_header(items=5)
    result, outputs = run(workshop, job)
    assert [number for number, _ in result.failures] == [1, 4]
    np.testing.assert_array_equal(outputs["y"][[0, 2, 3]], np.sqrt(x[[0, 2, 3]]))
    assert not outputs["y"][[1, 4]].any()


def test_a_job_too_large_for_the_device_is_refused_before_anything_is_copied(
    workshop: Workshop, client: SimulatedClient, arrays: Arrays
) -> None:
    job = workshop.job(client, arrays={"x": np.zeros(1 << 20)})
    with pytest.raises(WorkerLimitError, match=r"device memory.*16 MiB"):
        run(workshop, job)
    assert arrays.made == []


def test_staging_holds_ciphertext_alone_and_comes_back(
    workshop: Workshop, client: SimulatedClient, staging: StagingBuffers
) -> None:
    x = np.full(9000, 1.61803)
    run(workshop, workshop.job(client, arrays={"x": x}))
    buffers = [buffer for shelf in staging._idle.values() for buffer in shelf]
    assert buffers
    for buffer in buffers:
        assert x[:2].tobytes() not in buffer.tobytes()
        assert (2 * x[:2]).tobytes() not in buffer.tobytes()


def test_a_tensor_that_the_device_seals_is_sealed_by_nobody_else(
    workshop: Workshop, client: SimulatedClient
) -> None:
    """Two sealings of one position would let a coordinator choose between them."""
    job = workshop.job(client)
    with workshop.execution(job) as execution:
        for index, segment in enumerate(job.segments()):
            execution.add_segment(index, segment)
        execution.run()
        (sealer,) = execution._outputs._sealers  # type: ignore[union-attr]
        with pytest.raises(LocalProtocolError):
            sealer.segment(0, bytes(sealer.layout.nbytes))
        with pytest.raises(LocalProtocolError):
            sealer.delegate()


def test_the_device_seals_the_very_bytes_that_the_processor_seals(workshop: Workshop) -> None:
    sealing = workshop.engine.sealing
    assert sealing is not None
    on_processor, on_device = sealed_both_ways(sealing, TENSORS)
    assert on_device == on_processor
