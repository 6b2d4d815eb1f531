"""Plaintext lives in memory that is wiped, and never becomes another job's."""

import copy
import pickle
import resource

import numpy as np
import pytest

from attestation.errors import LimitError, LocalProtocolError
from enclave_worker import buffers
from enclave_worker.buffers import BufferPool, SecretBuffer, size_class
from enclave_worker.tensors import HeldTensor, TensorSpec

MARKER = b"plaintext that must not stay"


def test_a_wiped_buffer_holds_zeros_and_its_arrays_see_them() -> None:
    buffer = SecretBuffer(4096)
    array = np.frombuffer(buffer.view(), dtype=np.uint8)
    array[: len(MARKER)] = np.frombuffer(MARKER, dtype=np.uint8)
    buffer.wipe()
    assert not array.any()


def test_leaving_a_block_wipes_also_when_it_fails() -> None:
    buffer = SecretBuffer(4096)
    view = buffer.view()

    def fail() -> None:
        with buffer:
            view[: len(MARKER)] = MARKER
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert bytes(view) == bytes(4096)


def test_a_buffer_does_not_leave_its_process_or_show_itself() -> None:
    buffer = SecretBuffer(4096)
    buffer.view()[: len(MARKER)] = MARKER
    for leave in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises((LocalProtocolError, TypeError)):
            leave(buffer)
    assert repr(buffer) == "SecretBuffer(size=4096)"


def test_a_buffer_is_not_in_core_dumps_and_is_empty_in_a_forked_child() -> None:
    """What the kernel says of the mapping: dd is "do not dump", wf is "wipe on fork"."""
    buffer = SecretBuffer(1 << 20)
    flags = flags_of(buffer._address)
    assert "dd" in flags
    assert "wf" in flags


def flags_of(address: int) -> list[str]:
    inside = False
    with open("/proc/self/smaps") as smaps:
        for line in smaps:
            head = line.split(maxsplit=1)[0]
            if "-" in head and not head.endswith(":"):
                start, end = (int(part, 16) for part in head.split("-"))
                inside = start <= address < end
            elif inside and head == "VmFlags:":
                return line.split()[1:]
    raise AssertionError("the buffer is not mapped")


def test_a_buffer_is_locked_where_the_system_allows() -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if soft < 1 << 16:
        pytest.skip("this system lets nobody lock memory")
    assert "lo" in flags_of(SecretBuffer(1 << 12)._address)


def test_without_permission_to_lock_the_worker_says_so_once_and_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    warnings = []
    monkeypatch.setattr(buffers._Warned, "once", False)
    monkeypatch.setattr(buffers._LIBC, "mlock", lambda *_: -1)
    monkeypatch.setattr(
        buffers, "log", type("Log", (), {"warning": lambda *a, **k: warnings.append(a)})()
    )
    for _ in range(3):
        SecretBuffer(4096)
    assert len(warnings) == 1


def test_a_recycled_buffer_holds_nothing_of_its_last_job() -> None:
    pool = BufferPool(keep_bytes=1 << 20)
    first = pool.take(100_000)
    first.view()[:] = b"x" * 100_000
    pool.give_back(first)
    second = pool.take(131_072)
    assert second is first
    assert bytes(second.view()) == bytes(131_072)


def test_a_buffer_that_an_array_still_looks_at_is_wiped_and_not_recycled() -> None:
    """A kernel that keeps a view of one client's tensor never sees the next client's."""
    pool = BufferPool(keep_bytes=1 << 20)
    held = HeldTensor.allocate(TensorSpec(dtype="float64", shape=(1000,)), pool)
    kept = held.array()
    kept[:] = 7
    pool.give_back(held.buffer)
    assert not kept.any()
    again = pool.take(8000)
    assert again is not held.buffer
    again.view()[:] = b"y" * 8000
    assert not kept.any()


def test_a_pool_keeps_no_more_than_it_may() -> None:
    pool = BufferPool(keep_bytes=3 << 16)
    taken = [pool.take(1 << 16) for _ in range(5)]
    for buffer in taken:
        pool.give_back(buffer)
    assert pool.idle_bytes == 3 << 16


def test_memory_that_the_host_does_not_have_is_a_limit_and_not_a_crash() -> None:
    with pytest.raises(LimitError):
        BufferPool(keep_bytes=0).take(1 << 60)


def test_a_buffer_in_use_is_not_taken_again() -> None:
    buffer = SecretBuffer(4096)
    buffer.view()
    with pytest.raises(LocalProtocolError):
        buffer.take(10)


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, (1 << 26) + 1, (1 << 30) + 5, 3 << 32])
def test_a_size_class_fits_and_wastes_little(size: int) -> None:
    capacity = size_class(size)
    assert capacity >= size
    assert capacity == size_class(capacity)
    if size > 1 << 26:
        assert capacity <= size * 1.125


def test_lending_gives_the_buffer_back() -> None:
    pool = BufferPool(keep_bytes=1 << 20)
    with pool.lend(10) as buffer:
        buffer.view()[:] = b"0123456789"
    assert pool.idle_bytes == buffer.capacity
