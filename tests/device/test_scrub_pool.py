"""No array sees what another left, and no byte of a job outlives it in device memory."""

import gc
import threading
from collections.abc import Callable

import hypothesis.strategies as st
import pytest
from hypothesis import given

from enclave_worker.device.scrub_pool import (
    Account,
    DeviceMemoryShortError,
    ScrubPool,
    round_up,
)
from tests.device.host_memory import LEFTOVER, HostMemory

MARKER = b"the tensor of somebody else ====" * 16


def make(limit: int = 1 << 24) -> tuple[HostMemory, ScrubPool]:
    memory = HostMemory()
    return memory, ScrubPool(memory, limit=limit)


def test_memory_fresh_from_the_driver_is_zeroed_before_it_is_seen() -> None:
    """Another program's bytes are not ours to compute on, nor a third's to be shown."""
    memory, pool = make()
    address = pool.allocate(1000)
    assert LEFTOVER
    assert memory.read(address, 1000) == bytes(1000)


def test_what_a_job_left_is_gone_from_the_whole_device_when_it_is_freed() -> None:
    memory, pool = make()
    addresses = [pool.allocate(len(MARKER)) for _ in range(5)]
    for address in addresses:
        memory.write(address, MARKER)
    assert memory.count(MARKER) == 5
    for address in addresses:
        pool.free(address)
    assert memory.count(MARKER[:32]) == 0


def test_the_residue_scan_finds_what_a_pool_that_does_not_zero_leaves() -> None:
    """The scan is worth what it would find."""
    memory, pool = make()
    address = pool.allocate(len(MARKER))
    memory.write(address, MARKER)
    pool._zero = lambda *_: True  # type: ignore[method-assign]
    pool.free(address)
    assert memory.count(MARKER) == 1
    assert memory.read(pool.allocate(len(MARKER)), len(MARKER)) == MARKER


def test_a_block_is_zeroed_behind_the_kernel_that_still_writes_to_it() -> None:
    """Python drops an array while its kernel is queued: zeroing at once would come too early."""
    memory, pool = make()
    memory.stream = 7
    address = pool.allocate(len(MARKER))
    memory.write(address, MARKER, 7)
    memory.stream = 9
    pool.free(address)
    assert memory.count(MARKER[:32]) == 0


def test_another_stream_gets_a_block_only_when_the_first_has_ended() -> None:
    """Its own zeros could overtake the other stream's last kernel."""
    memory, pool = make()
    memory.stream = 1
    first = pool.allocate(512)
    pool.free(first)
    memory.stream = 2
    other = pool.allocate(512)
    assert other != first
    pool.free(other)
    memory.run(1)
    pool.settle(1)
    memory.stream = 3
    assert pool.allocate(512) == first
    assert memory.read(first, 512) == bytes(512)


def test_a_stray_write_to_an_idle_block_is_not_seen_by_the_next_array() -> None:
    memory, pool = make()
    address = pool.allocate(len(MARKER))
    pool.free(address)
    memory.write(address, MARKER)
    assert pool.allocate(len(MARKER)) == address
    assert memory.read(address, len(MARKER)) == bytes(len(MARKER))


def test_what_goes_back_to_the_driver_holds_nothing() -> None:
    memory, pool = make()
    for stream in range(3):
        memory.stream = stream
        address = pool.allocate(len(MARKER))
        memory.write(address, MARKER)
        pool.free(address)
    pool.trim()
    assert (pool.held_bytes, memory.residue) == (0, 0)


def test_a_job_is_stopped_at_its_account_and_the_figure_is_kept() -> None:
    _, pool = make()
    account = Account(limit=4096)
    with pool.charge(account):
        pool.allocate(4096)
        with pytest.raises(DeviceMemoryShortError) as caught:
            pool.allocate(1)
    assert isinstance(caught.value, MemoryError)
    assert (account.asked, account.held) == (4096 + 512, 4096)
    pool.allocate(4096)


def test_idle_blocks_make_room_before_an_allocation_is_refused() -> None:
    memory, pool = make(limit=1 << 20)
    for size in (1 << 18, 1 << 19):
        pool.free(pool.allocate(size))
    pool.allocate(1 << 20)
    assert memory.residue == 0
    with pytest.raises(DeviceMemoryShortError):
        pool.allocate(1)


def test_a_driver_without_memory_is_asked_again_when_idle_blocks_are_gone() -> None:
    """Another process may hold the rest of the GPU."""
    memory = HostMemory(1 << 16)
    pool = ScrubPool(memory, limit=1 << 30)
    pool.free(pool.allocate(1 << 15))
    pool.allocate(1 << 16)
    with pytest.raises(DeviceMemoryShortError):
        pool.allocate(512)


def test_the_peak_of_a_job_is_its_own_whichever_thread_frees() -> None:
    _, pool = make()
    large, small = Account(limit=1 << 20), Account(limit=1 << 20)
    with pool.charge(large):
        kept = [pool.allocate(1 << 16) for _ in range(3)]
        assert pool.thread_peak == 3 << 16
    with pool.charge(small):
        pool.allocate(512)
        thread = threading.Thread(target=lambda: [pool.free(each) for each in kept])
        thread.start()
        thread.join()
        assert pool.thread_peak == 512
    assert (large.held, large.peak, small.held) == (0, 3 << 16, 512)
    assert pool.used_bytes == 512
    assert pool.peak_bytes >= 3 << 16


def test_a_device_that_cannot_be_zeroed_is_given_up() -> None:
    """After an illegal access every call fails: the memory is handed to nobody any more."""
    memory, pool = make()
    address = pool.allocate(512)
    memory.write(address, MARKER[:512])
    memory.failing = True
    pool.free(address)
    assert pool.broken
    memory.failing = False
    with pytest.raises(DeviceMemoryShortError):
        pool.allocate(512)


def test_a_callback_never_raises() -> None:
    """CuPy calls it from a destructor, where an exception is printed and lost."""
    _, pool = make()
    pool.free(12345)
    address = pool.allocate(1)
    pool.free(address)
    pool.free(address)
    assert pool.used_bytes == 0


def test_the_garbage_collector_may_free_in_the_middle_of_an_allocation() -> None:
    memory, pool = make()

    class Cycle:
        def __init__(self) -> None:
            self.me = self
            self.address = pool.allocate(512)

        def __del__(self) -> None:
            pool.free(self.address)

    real = memory.allocate

    def allocate(size: int) -> int:
        gc.collect()
        return real(size)

    Cycle()
    memory.allocate = allocate  # type: ignore[method-assign]
    pool.allocate(1 << 16)
    assert pool.used_bytes == 1 << 16


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 1 << 20, (1 << 20) + 1, 3 << 30, 5 << 33])
def test_blocks_are_large_enough_and_waste_little(size: int) -> None:
    assert size <= round_up(size) <= max(512, size + 512, size + size // 8 + 1)
    assert round_up(round_up(size)) == round_up(size)
    assert round_up(size) % 512 == 0


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["allocate", "free", "end", "trim"]),
        st.integers(0, 3),
        st.integers(1, 5000),
    ),
    max_size=60,
)


@given(STEPS)
def test_whatever_happens_nobody_sees_a_byte_of_another(steps: list[tuple[str, int, int]]) -> None:
    memory, pool = make(limit=1 << 16)
    live: list[tuple[int, int, int]] = []

    def allocate(stream: int, size: int) -> None:
        memory.stream = stream
        try:
            address = pool.allocate(size)
        except DeviceMemoryShortError:
            return
        assert memory.read(address, size) == bytes(size)
        assert address not in [each[0] for each in live]
        memory.write(address, b"\xee" * size)
        live.append((address, stream, size))

    def free(stream: int, size: int) -> None:
        if live:
            pool.free(live.pop(size % len(live))[0])

    def end(stream: int, size: int) -> None:
        memory.run(stream)
        pool.settle(stream)

    actions: dict[str, Callable[[int, int], None]] = {
        "allocate": allocate,
        "free": free,
        "end": end,
        "trim": lambda *_: pool.trim(),
    }
    for action, stream, size in steps:
        actions[action](stream, size)
        assert pool.used_bytes == sum(round_up(each[2]) for each in live)
        assert pool.used_bytes <= pool.held_bytes <= 1 << 16
    for address, _, _ in live:
        pool.free(address)
    assert memory.count(b"\xee") == 0
    pool.trim()
    assert (pool.held_bytes, memory.residue) == (0, 0)
