"""A segment's memory is used again only when nobody could notice."""

import threading
from collections import deque

import numpy as np
import zmq

from attestation import limits
from attestation.sealing.recycled import SMALLEST, RecycledBuffers

SIZE = limits.MIB


def test_memory_that_nobody_holds_is_used_again() -> None:
    buffers = RecycledBuffers()
    first = id(buffers.take(SIZE))
    assert {id(buffers.take(SIZE)) for _ in range(5)} == {first}


def test_memory_that_somebody_holds_is_not() -> None:
    """By name, by a view, by an array, in a container: each is a reason."""
    buffers = RecycledBuffers()
    held = [
        buffers.take(SIZE),
        memoryview(buffers.take(SIZE)),
        memoryview(buffers.take(SIZE))[5:9],
        np.frombuffer(buffers.take(SIZE), np.uint8),
        deque([buffers.take(SIZE)]),
    ]
    fresh = buffers.take(SIZE)
    fresh[:] = b"\xff" * SIZE
    for holder in held[:4]:
        assert not any(bytes(holder)[:16])  # type: ignore[arg-type]
    assert not any(held[4][0][:16])  # type: ignore[index]


def test_memory_that_zeromq_has_not_sent_is_not() -> None:
    with zmq.Context() as context:
        sender, receiver = context.socket(zmq.PUSH), context.socket(zmq.PULL)
        receiver.set(zmq.RCVHWM, 1)
        port = receiver.bind_to_random_port("tcp://127.0.0.1")
        sender.connect(f"tcp://127.0.0.1:{port}")
        buffers = RecycledBuffers()
        for number in range(64):
            buffer = buffers.take(SIZE)
            buffer[:] = bytes([number]) * SIZE
            sender.send(buffer, copy=False)
            del buffer
        for number in range(64):
            assert receiver.recv() == bytes([number]) * SIZE
        sender.close()
        receiver.close()


def test_threads_never_get_the_same_memory() -> None:
    buffers, clashes = RecycledBuffers(), []

    def use(mark: int) -> None:
        for _ in range(2000):
            buffer = buffers.take(SMALLEST)
            buffer[:4] = mark.to_bytes(4, "big")
            if int.from_bytes(buffer[:4], "big") != mark:
                clashes.append(mark)
            del buffer

    threads = [threading.Thread(target=use, args=(mark,)) for mark in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert clashes == []


def test_no_more_is_kept_than_was_said() -> None:
    buffers = RecycledBuffers(keep_bytes=3 * SIZE)
    held = [buffers.take(SIZE) for _ in range(8)]
    kept = {id(buffer) for buffer in held[:3]}
    del held
    assert {id(each) for each in [buffers.take(SIZE) for _ in range(3)]} == kept


def test_small_segments_are_not_kept() -> None:
    buffers = RecycledBuffers(keep_bytes=SMALLEST)
    buffers.take(SMALLEST - 1)
    assert buffers.take(SMALLEST) is not None
    assert len(buffers._kept) == 1
