"""On a GPU every tuning computes what the processor's FLOE does, and refuses what it refuses.

The same promises as tests/gpu_aead, where the kernels run on the processor; here are those that a
processor cannot answer: real sizes, aligned loads, many blocks at once, graphs, streams.
"""

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from attestation.errors import NotAuthenticError
from enclave_worker.device import cubins
from enclave_worker.device.cubins import TUNINGS
from enclave_worker.device.gpu import CupyDevice, open_gpu
from enclave_worker.device.gpu_aead import GpuAead
from enclave_worker.device.lanes import lasting
from enclave_worker.device.launcher import CupyLauncher, load_launcher
from enclave_worker.device.segment_table import Span, in_place
from tests.gpu.sizes import sized
from tests.gpu_aead.material import Sealed, drawing

pytestmark = pytest.mark.gpu

MIB = sized(1 << 20, 1 << 13)
SIZES = [(0, 64), (1, 64), (15, 64), (16, 64), (17, 64), (65, 4096), (70_001, 16384)]
SIZES += [(MIB, MIB), (5 * MIB + 13, MIB), (33 * MIB + 1, 4 * MIB), (64 * MIB, MIB)]
MOST_TUNINGS = max(map(len, TUNINGS.values()))


@pytest.fixture(scope="module")
def device() -> CupyDevice:
    return open_gpu(0, reason="tested")


@pytest.fixture(scope="module", params=range(MOST_TUNINGS))
def launcher(request: pytest.FixtureRequest, device: CupyDevice) -> CupyLauncher:
    """Every tuning that is shipped for this GPU, from its pinned cubin."""
    capability = int(device.xp.cuda.Device(0).compute_capability)
    tunings = TUNINGS[cubins.architecture_for(capability)]
    if request.param >= len(tunings):
        pytest.skip("this architecture has fewer tunings")
    return load_launcher(device.xp, tuning=tunings[request.param])


@pytest.fixture
def memory(device: CupyDevice) -> Iterator["Memory"]:
    yield Memory(device)
    device.synchronize()
    assert not device.broken


class Memory:
    """Device memory with known contents."""

    def __init__(self, device: CupyDevice) -> None:
        self._xp = device.xp

    def put(self, data: bytes) -> tuple[Any, Span]:
        array = self._xp.empty(max(len(data), 1), "uint8")
        if data:
            array[: len(data)] = self._xp.asarray(np.frombuffer(data, np.uint8))
        return array, Span(pointer=int(array.data.ptr), nbytes=len(data))

    def empty(self, size: int) -> tuple[Any, Span]:
        # Longer than what is given out, so that a write past the end shows.
        array = self._xp.full(size + 64, 0xA5, "uint8")
        return array, Span(pointer=int(array.data.ptr), nbytes=size)


def host(array: Any) -> bytes:
    return bytes(array.get().tobytes())


@pytest.mark.parametrize("log_rows", [None, 0, 5])
@pytest.mark.parametrize(("size", "segment"), SIZES)
def test_opened_and_sealed_bytes_are_the_processors(
    launcher: CupyLauncher, memory: Memory, size: int, segment: int, log_rows: int | None
) -> None:
    message, aead = Sealed(os.urandom(size), segment), GpuAead(launcher)
    _wire, sealed = memory.put(message.wire)
    out, plain = memory.empty(size)
    with aead.batch(message.rows(), message.keys, log_rows=log_rows) as batch:
        aead.open_segments(batch, sealed=sealed, plain=plain)
    assert host(out) == message.data + b"\xa5" * 64
    again, target = memory.empty(len(message.wire))
    with (
        aead.batch(message.rows(), message.keys, log_rows=log_rows) as batch,
        drawing(message.ivs),
    ):
        aead.seal_segments(batch, plain=plain, sealed=target)
    assert host(again) == message.wire + b"\xa5" * 64


@pytest.mark.parametrize("verify_first", [False, True])
def test_in_place_and_back(launcher: CupyLauncher, memory: Memory, verify_first: bool) -> None:
    message, aead = Sealed(os.urandom(9 * MIB + 7), MIB), GpuAead(launcher)
    rows = in_place(message.rows())
    array, sealed = memory.put(message.wire)
    inside = Span(pointer=sealed.pointer + 16, nbytes=sealed.nbytes - 16)
    with aead.batch(rows, message.keys) as batch:
        aead.open_segments(batch, sealed=sealed, plain=inside, verify_first=verify_first)
    opened = host(array)
    parts = (
        opened[16 + start : 16 + start + length]
        for start, length in zip(rows["plain"].tolist(), rows["length"].tolist(), strict=True)
    )
    assert b"".join(parts) == message.data
    with aead.batch(rows, message.keys) as batch, drawing(message.ivs):
        aead.seal_segments(batch, plain=inside, sealed=sealed)
    assert host(array) == message.wire


def test_verifying_writes_nothing(launcher: CupyLauncher, memory: Memory) -> None:
    message, aead = Sealed(os.urandom(3 * MIB), MIB), GpuAead(launcher)
    array, sealed = memory.put(message.wire)
    with aead.batch(message.rows(), message.keys) as batch:
        aead.verify(batch, sealed=sealed)
    assert host(array) == message.wire


@pytest.mark.parametrize("verify_first", [False, True])
def test_a_bad_tag_in_the_middle_leaves_nothing(
    launcher: CupyLauncher, memory: Memory, verify_first: bool
) -> None:
    """256 segments; one bit of one tag."""
    message, aead = Sealed(os.urandom(64 * MIB), MIB // 4), GpuAead(launcher)
    wire = bytearray(message.wire)
    wire[129 * (MIB // 4 + 32) - 1] ^= 1
    _, sealed = memory.put(bytes(wire))
    out, plain = memory.empty(len(message.data))
    with aead.batch(message.rows(), message.keys) as batch, pytest.raises(NotAuthenticError):
        aead.open_segments(batch, sealed=sealed, plain=plain, verify_first=verify_first)
    left = host(out)[: len(message.data)]
    assert left == (b"\xa5" if verify_first else b"\0") * len(message.data)


@pytest.mark.parametrize("part", ["length", "iv", "ciphertext", "end", "tag"])
def test_a_changed_bit_anywhere_is_refused(
    launcher: CupyLauncher, memory: Memory, part: str
) -> None:
    message, aead = Sealed(os.urandom(MIB + 5), MIB), GpuAead(launcher)
    last = MIB + 32
    at = {"length": last + 3, "iv": 4, "ciphertext": MIB // 2, "end": last + 18, "tag": last - 1}
    wire = bytearray(message.wire)
    wire[at[part]] ^= 0x80
    _, sealed = memory.put(bytes(wire))
    with aead.batch(message.rows(), message.keys) as batch, pytest.raises(NotAuthenticError):
        aead.verify(batch, sealed=sealed)


def test_several_keys_in_one_batch(launcher: CupyLauncher, memory: Memory) -> None:
    """A key per two segments, as after 2^21 segments of one tensor."""
    message = Sealed(os.urandom(9 * 65536 + 1), 65536, rotation_mask=1)
    aead = GpuAead(launcher)
    _, sealed = memory.put(message.wire)
    out, plain = memory.empty(len(message.data))
    with aead.batch(message.rows(), message.keys) as batch:
        aead.open_segments(batch, sealed=sealed, plain=plain)
    assert host(out)[: len(message.data)] == message.data


def test_a_graph_opens_under_new_keys(
    launcher: CupyLauncher, memory: Memory, device: CupyDevice
) -> None:
    """Recorded once; each replay derives from the keys that were uploaded before it."""
    messages = [Sealed(os.urandom(65536), 65536, key=os.urandom(32)) for _ in range(3)]
    aead, (buffer, sealed), (out, plain) = (
        GpuAead(launcher),
        memory.put(messages[0].wire),
        memory.empty(65536),
    )
    device.synchronize()
    stream = lasting(device.xp.cuda.Stream(non_blocking=True))
    with stream, aead.batch(messages[0].rows(), messages[0].keys) as batch:
        replay = launcher.record(lambda: batch.record_open(sealed=sealed, plain=plain))
        for message in messages:
            buffer[:] = device.xp.asarray(np.frombuffer(message.wire, np.uint8))
            batch.upload_keys(message.keys)
            batch.begin_open(sealed=sealed, plain=plain, replay=replay)
            batch.settle()
            assert host(out)[:65536] == message.data
        batch.begin_open(sealed=sealed, plain=plain, replay=replay)
        with pytest.raises(NotAuthenticError):
            batch.settle()


def test_contexts_are_gone_with_the_batch(
    launcher: CupyLauncher, memory: Memory, device: CupyDevice
) -> None:
    message, aead = Sealed(os.urandom(65536), 65536), GpuAead(launcher)
    _, sealed = memory.put(message.wire)
    batch = aead.batch(message.rows(), message.keys)
    with batch:
        aead.verify(batch, sealed=sealed)
    for held in (batch._keys, batch._contexts, batch._parts):
        out = np.empty(held.nbytes, np.uint8)
        launcher.download(held.pointer, out.data)
        assert not out.any()


def test_no_kernel_of_a_loaded_cubin_uses_local_memory(launcher: CupyLauncher) -> None:
    """As the driver sees it, after whatever it did to the cubin."""
    driver = launcher._cupy.cuda.driver
    for name, kernel in launcher._kernels.items():
        local = driver.funcGetAttribute(driver.CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES, kernel.ptr)
        assert local == 0, name


def test_compiled_at_run_time_it_computes_the_same(device: CupyDevice, memory: Memory) -> None:
    """What development mode runs: NVRTC of the installed CUDA, from the same source."""
    aead = GpuAead(load_launcher(device.xp, compile_at_run_time=True))
    message = Sealed(os.urandom(3 * MIB + 5), MIB)
    _, sealed = memory.put(message.wire)
    out, plain = memory.empty(len(message.data))
    with aead.batch(message.rows(), message.keys) as batch:
        aead.open_segments(batch, sealed=sealed, plain=plain)
    assert host(out)[: len(message.data)] == message.data
