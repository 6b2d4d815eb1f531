"""What the attacks on the port share: a broker to attack, and honest peers who must not notice."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import zmq
from attrs import frozen

from attestation.wire.frames import Header, Kind
from tests.coordinator.formats import submit_record
from tests.coordinator.sockets import SocketClient, SocketWorker

MIB = 1 << 20
BODY = b"s" * 100
WORST_SECONDS = 10.0
"""No honest job may take longer, whatever happens meanwhile. Idle, one takes 2 ms; a machine that
was busy with other things took 1.8 s, and a coordinator that is stuck takes for ever."""


def wait_until(condition: Callable[[], object], what: str, seconds: float = 15) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, f"{what}: not within {seconds} s"
        time.sleep(0.01)


def new_id() -> bytes:
    return os.urandom(16)


def submit(
    client: SocketClient, *workers: bytes, job_id: bytes, credit: int = 16, **changes: Any
) -> None:
    """One submission; its single small segment travels inside unless `segments` says otherwise."""
    record = submit_record(*workers, **changes).to_bytes()
    inline = () if "segments" in changes else (BODY,)
    client.send(Header(Kind.SUBMIT, job_id, count=credit), record, b"envelope", *inline)


def run_once(client: SocketClient, worker: SocketWorker, *, durable: bool = False) -> None:
    """One small job, there and back."""
    job_id = new_id()
    submit(client, worker.worker_id, job_id=job_id, durable=durable)
    header, frames = worker.expect(Kind.ASSIGN)
    assert (header.job_id, frames[2]) == (job_id, BODY)
    worker.send(Header(Kind.RESULT, job_id, header.attempt, count=1), b"h", b"r", b"o" * 40)
    worker.expect(Kind.RECORDED)
    header, frames = client.expect(Kind.RESULT)
    assert (header.job_id, frames) == (job_id, [b"h", b"r", b"o" * 40])
    client.send(Header(Kind.RESULT_ACK, job_id))


class Bystanders:
    """A client and a worker that go about their business while others attack."""

    def __init__(self, address: str, *, durable: bool = False, **options: Any) -> None:
        self._durable = durable
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self.client = SocketClient(address, **options)
        options.pop("curve", None)
        self.worker = SocketWorker(address, instance=new_id(), **options)
        self.seconds: list[float] = []
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        try:
            while not self._stop.is_set():
                began = time.monotonic()
                run_once(self.client, self.worker, durable=self._durable)
                self.seconds.append(time.monotonic() - began)
                self._stop.wait(0.005)
        except BaseException as error:  # noqa: BLE001 - raised again in the test's thread
            self._failure = error

    def finish(self) -> None:
        """Stop, and check that they were served all the time."""
        done = len(self.seconds)
        wait_until(lambda: len(self.seconds) > done + 2 or self._failure, "served after the attack")
        self._stop.set()
        self._thread.join(10)
        for peer in (self.client, self.worker):
            peer.close()
        if self._failure is not None:
            raise self._failure
        assert max(self.seconds) < WORST_SECONDS, f"{max(self.seconds):.2f} s for a small job"


@contextmanager
def bystanders(address: str, **options: Any) -> Iterator[Bystanders]:
    """Honest peers at work; in the end nobody of them was lost, refused or kept waiting."""
    honest = Bystanders(address, **options)
    try:
        yield honest
    except BaseException:
        honest._stop.set()
        raise
    honest.finish()


class BrokerProcess:
    """A broker whose memory can be told from the test's."""

    def __init__(self, directory: Path) -> None:
        ready = directory / "ready"
        self.log = directory / "log"
        with self.log.open("wb") as log:
            self._popen = subprocess.Popen(
                [sys.executable, "-m", "tests.port.serve", directory / "state", ready],
                cwd=Path(__file__).resolve().parents[2],
                stdout=log,
                stderr=log,
            )
        wait_until(lambda: ready.exists() and ready.read_text(), "a broker", 30)
        self.address = ready.read_text()
        self._directory = Path("/proc") / str(self._popen.pid)

    def stop(self) -> None:
        self._popen.kill()
        self._popen.wait()

    @property
    def alive(self) -> bool:
        return self._popen.poll() is None

    def connections(self) -> int:
        """How many TCP connections it holds, by its descriptors."""
        count = 0
        for each in self._directory.joinpath("fd").iterdir():
            with suppress(FileNotFoundError):
                count += os.readlink(each).startswith("socket:")
        return count

    def _status(self, name: str) -> int:
        for line in self._directory.joinpath("status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
        raise AssertionError(f"no {name}")

    @contextmanager
    def memory_growth_below(self, size: int) -> Iterator[None]:
        """Check the peak of resident memory over what it was, not only where it ends."""
        # Forgets the peak so far (proc(5), clear_refs).
        self._directory.joinpath("clear_refs").write_text("5")
        before = self._status("VmRSS")
        yield
        assert self.alive, self.log.read_text()[-2_000:]
        grown = self._status("VmHWM") - before
        assert grown < size, f"grew by {grown / MIB:.0f} MiB"


@frozen(kw_only=True)
class Curve:
    """The keys of one coordinator and of two peers that its operator allowed."""

    allow: Path
    settings: dict
    server_key: bytes
    peers: tuple[dict, dict]

    def allow_only(self, *peers: dict) -> None:
        """Write the allow-list."""
        lines = [f"{peer['CURVE_PUBLICKEY'].decode()} somebody\n" for peer in peers]
        self.allow.write_text("".join(lines))


def new_peer(server: bytes) -> dict:
    """Socket options of somebody with a key pair of his own."""
    public, secret = zmq.curve_keypair()
    return {"CURVE_PUBLICKEY": public, "CURVE_SECRETKEY": secret, "CURVE_SERVERKEY": server}
