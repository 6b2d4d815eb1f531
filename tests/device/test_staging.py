"""Ciphertext waits in pinned memory where that is allowed, in plain memory where it is not."""

import pytest

from enclave_worker.device import staging
from enclave_worker.device.staging import StagingBuffers, aligned, capacity_of


def test_memory_is_pinned_where_the_driver_allows_it() -> None:
    asked: list[int] = []

    def pin(size: int) -> bytearray:
        asked.append(size)
        return bytearray(size)

    buffers = StagingBuffers(pin=pin, keep_bytes=1 << 20)
    with buffers.lend(100_000) as buffer:
        assert buffer.size == 100_000
        buffer[:] = 7
    assert asked == [1 << 17]
    with buffers.lend(80_000):
        pass
    assert asked == [1 << 17]


@pytest.mark.parametrize("size", [1, 1 << 16, (1 << 26) + 1, (1 << 32) + (1 << 17), 5 << 33])
def test_a_large_jobs_buffer_is_little_larger_than_its_ciphertext(size: int) -> None:
    """4 GiB with their tags are just above a power of two."""
    assert size <= capacity_of(size) <= max(1 << 16, size + size // 8 + 1)


def test_in_confidential_mode_nothing_is_pinned() -> None:
    buffers = StagingBuffers(pin=None, keep_bytes=0)
    assert not buffers.pinned
    with buffers.lend(10) as buffer:
        buffer[:] = 1


@pytest.mark.parametrize("error", [RuntimeError("cudaErrorNotSupported"), MemoryError()])
def test_a_driver_that_refuses_to_pin_is_asked_once(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """Plain memory is slower, and a job is worth more than speed."""
    asked: list[int] = []

    def pin(size: int) -> None:
        asked.append(size)
        raise error

    buffers = StagingBuffers(pin=pin, keep_bytes=0)
    for _ in range(3):
        with buffers.lend(10) as buffer:
            buffer[:] = 1
    assert len(asked) == 1
    assert not buffers.pinned
    assert "staging.unpinned" in caplog.text


def test_no_more_than_was_agreed_is_kept() -> None:
    made: list[int] = []

    def pin(size: int) -> bytearray:
        made.append(size)
        return bytearray(size)

    buffers = StagingBuffers(pin=pin, keep_bytes=1 << 16)
    several = [buffers.take(10) for _ in range(3)]
    for buffer in several:
        buffers.give_back(buffer)
    assert buffers._idle_bytes == 1 << 16
    buffers.take(10)
    buffers.take(10)
    assert len(made) == 4


def test_what_follows_begins_where_the_kernels_can_read_it() -> None:
    assert [aligned(size) for size in (0, 1, 16, 17)] == [0, 16, 16, 32]
    assert staging._SMALLEST % 16 == 0
