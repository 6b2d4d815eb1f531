"""Inline bodies through a broker on sockets: passed on as they came, kept in the log, read back."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.wire.control import RefusalCode
from attestation.wire.frames import Header, Kind
from coordinator.core.rules import Rules
from tests.coordinator.formats import submit_record
from tests.coordinator.sockets import SocketClient, SocketWorker, running

JOB = b"j" * 16
SEGMENT = 1 << 20
RULES = {"lease_ms": 3_000, "heartbeat_ms": 300, "park_ms": 50, "stall_ms": 300}


def wait_until(ready: Callable[[], bool], seconds: float = 10) -> None:
    ends = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < ends
        time.sleep(0.02)


def submit(client: SocketClient, *segments: bytes, wrap: bytes, durable: bool = True) -> None:
    record = submit_record(
        wrap,
        segments=segments,
        segment_bytes=SEGMENT,
        output_bytes_max=1 << 20,
        durable=durable,
    )
    client.send(Header(Kind.SUBMIT, JOB, count=4), record.to_bytes(), b"envelope", *segments)


@pytest.mark.parametrize("durable", [False, True])
def test_large_frames_of_one_message_pass_unchanged(tmp_path: Path, durable: bool) -> None:
    segments = [os.urandom(n) for n in (40, 70_000, 100_000, 63 << 10)]
    with (
        running(tmp_path) as broker,
        SocketClient(broker.address) as client,
        SocketWorker(broker.address) as worker,
    ):
        submit(client, *segments, wrap=worker.worker_id, durable=durable)
        client.expect(Kind.ACCEPTED)
        header, frames = worker.expect(Kind.ASSIGN)
        assert frames[0] == b"envelope"
        assert frames[2:] == segments
        result = [b"h" * 70_000, b"r", *segments[::-1]]
        worker.send(Header(Kind.RESULT, JOB, header.attempt, count=4), *result)
        worker.expect(Kind.RECORDED)
        assert client.expect(Kind.RESULT)[1] == result
        client.send(Header(Kind.RESULT_ACK, JOB))
        wait_until(lambda: not broker.core.world.jobs)


def test_bodies_survive_a_restart_on_both_ways(tmp_path: Path) -> None:
    """Accepted, restarted, run, restarted, delivered: everything comes from the log."""
    key, data = Ed25519PrivateKey.generate(), os.urandom(200_000)
    with running(tmp_path) as broker, SocketClient(broker.address, key=key) as client:
        with SocketWorker(broker.address) as worker:
            wrap = worker.worker_id
        submit(client, data, wrap=wrap)
        client.expect(Kind.ACCEPTED)
    with running(tmp_path) as broker, SocketWorker(broker.address) as worker:
        header, frames = worker.expect(Kind.ASSIGN)
        assert frames[2:] == [data]
        worker.send(Header(Kind.RESULT, JOB, header.attempt, count=1), b"h", b"r", data[::-1])
        worker.expect(Kind.RECORDED)
    with running(tmp_path) as broker, SocketClient(broker.address, key=key) as client:
        assert client.expect(Kind.RESULT)[1] == [b"h", b"r", data[::-1]]


def test_inputs_that_the_disk_does_not_give_back_end_their_job_and_nothing_else(
    tmp_path: Path,
) -> None:
    key, data = Ed25519PrivateKey.generate(), os.urandom(200_000)
    with running(tmp_path) as broker, SocketClient(broker.address, key=key) as client:
        with SocketWorker(broker.address) as worker:
            wrap = worker.worker_id
        submit(client, data, wrap=wrap)
        client.expect(Kind.ACCEPTED)
    for path in (tmp_path / "bodies").iterdir():
        os.truncate(path, 1000)
    with (
        running(tmp_path, rules=Rules(**RULES, max_attempts=3)) as broker,
        SocketClient(broker.address, key=key) as client,
        SocketWorker(broker.address) as worker,
    ):
        assert worker.worker_id == wrap
        assert client.expect_refusal() is RefusalCode.ATTEMPTS_EXHAUSTED
        assert broker.core.counters["spool.failed"] == 3
        client.send(Header(Kind.RESULT_ACK, JOB))
        wait_until(lambda: not broker.core.world.jobs)


def test_a_result_that_the_disk_does_not_give_back_is_kept_and_tried_again(tmp_path: Path) -> None:
    key, data = Ed25519PrivateKey.generate(), os.urandom(200_000)
    with running(tmp_path) as broker, SocketWorker(broker.address) as worker:
        with SocketClient(broker.address, key=key) as client:
            submit(client, b"s" * 100, wrap=worker.worker_id)
            header, _ = worker.expect(Kind.ASSIGN)
        worker.send(Header(Kind.RESULT, JOB, header.attempt, count=1), b"h", b"r", data)
        worker.expect(Kind.RECORDED)
    (path,) = (tmp_path / "bodies").iterdir()
    path.rename(tmp_path / "away")
    with (
        running(tmp_path, rules=Rules(**RULES)) as broker,
        SocketClient(broker.address, key=key) as client,
    ):
        wait_until(lambda: broker.core.counters["spool.failed"] > 0)
        (tmp_path / "away").rename(path)
        assert client.expect(Kind.RESULT)[1] == [b"h", b"r", data]
