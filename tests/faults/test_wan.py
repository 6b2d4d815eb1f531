"""Two hosts and a bad line between them: 50 ms, loss, duplicates, and five seconds of nothing.

Coordinator and one worker on one side, the client and another worker on the other; CURVE keys, as
anything but loopback demands. The network is real TCP over user-space packets (simulators/wan.py).
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from zmq.utils import z85

from attestation.client.transport import CurveKeys
from tests.conftest import REPOSITORY
from tests.faults.tally import tally
from tests.scenarios.processes import INSECURE_POLICY, enclave, wait_until
from tests.simulators.wan import ADDRESSES, Line, Wan

pytestmark = [
    pytest.mark.scenario,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root makes network namespaces"),
    pytest.mark.skipif(not Path("/dev/net/tun").exists(), reason="no /dev/net/tun"),
]

URL = f"tcp://{ADDRESSES['a']}:5700"
BAD = Line(delay_ms=50, jitter_ms=5, loss=0.02, duplicates=0.02)
JOBS = 40


class Hosts:
    """What runs on the two sides, and its files."""

    def __init__(self, directory: Path, wan: Wan) -> None:
        self.directory = directory
        self.wan = wan
        self.policy = directory / "policy.toml"
        self.policy.write_text(INSECURE_POLICY)
        self._running: list[subprocess.Popen[bytes]] = []
        self._make_keys()

    def _make_keys(self) -> None:
        for name, command in {
            "server": ["coordinator", "keygen"],
            "peer": ["keygen", "--curve", "-o"],
        }.items():
            subprocess.run(
                [*enclave(), *command, str(self.directory / name)], check=True, capture_output=True
            )
        self.server = self.directory / "server" / "coordinator.curve.pub"
        self.own = self.directory / "peer" / "client.curve"
        public = z85.encode(CurveKeys.load(self.own, self.server).public).decode()
        (self.directory / "allowed").write_text(f"{public} both hosts\n")

    def start(self, side: str, name: str, command: list[str], **options: Any) -> Path:
        log = self.directory / f"{name}.log"
        with log.open("wb") as output:
            environment = os.environ | {"ENCLAVE_LOG_FORMAT": "json", "ENCLAVE_LOG_LEVEL": "debug"}
            process = self.wan.popen(
                side, command, stdout=output, stderr=output, env=environment, cwd=REPOSITORY
            )
        self._running.append(process)
        return log

    def coordinator(self) -> Path:
        log = self.start(
            "a",
            "coordinator",
            [
                *(*enclave(), "coordinator", "--listen", URL, "--lease-seconds", "3"),
                *("--state", str(self.directory / "state")),
                *("--curve-key", str(self.directory / "server" / "coordinator.curve")),
                *("--allow", str(self.directory / "allowed")),
            ],
        )
        wait_until(lambda: "coordinator.ready" in log.read_text(), f"coordinator: {log}")
        return log

    def worker(self, side: str) -> Path:
        ready = self.directory / f"{side}.id"
        log = self.start(
            side,
            f"worker-{side}",
            [
                *(*enclave(), "worker", "--coordinator", URL, "--attester", "insecure"),
                *("--device", "cpu", "--ready-file", str(ready)),
                *("--curve-key", str(self.own), "--coordinator-key", str(self.server)),
            ],
        )
        wait_until(ready.exists, f"worker: {log}")
        return log

    def client(self) -> Path:
        return self.start(
            "b",
            "client",
            [
                *(sys.executable, "-m", "tests.faults.wan_client", URL, str(self.policy)),
                *(str(self.own), str(self.server), str(JOBS)),
            ],
        )

    def close(self) -> None:
        for process in reversed(self._running):
            process.kill()
            process.wait()


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    with Wan() as wan:
        made = Hosts(tmp_path, wan)
        try:
            yield made
        finally:
            made.close()


@pytest.mark.timeout(180)
def test_jobs_finish_over_a_line_that_delays_loses_duplicates_and_breaks(
    request: pytest.FixtureRequest, hosts: Hosts
) -> None:
    """The partition is longer than a lease: the far worker's jobs move to the near one."""
    wan = hosts.wan
    wan.line = BAD
    coordinator = hosts.coordinator()
    near, far = hosts.worker("a"), hosts.worker("b")
    log = hosts.client()
    wait_until(lambda: "connected" in log.read_text(), log.read_text())
    wait_until(lambda: far.read_text().count("job.assigned") > 2, "the far worker has nothing")
    wan.partition(5.0)
    wait_until(lambda: "right" in log.read_text() or "Error" in log.read_text(), "client", 90)
    outcome = json.loads(log.read_text().splitlines()[-1])
    assert outcome["right"] == JOBS, log.read_text()
    assert outcome["kept"] == 0
    assert "worker.left" in coordinator.read_text(), "no lease ended in the partition"
    assert near.read_text().count("job.finished") > 0
    assert wan.faults["packet lost"] > 10
    assert wan.faults["packet duplicated"] > 10
    tally(request, wan.faults)


ECHO = """
import socket, sys
with socket.socket(type=socket.SOCK_DGRAM) as server:
    server.bind((sys.argv[1], 7777))
    print("ready", flush=True)
    while True:
        data, peer = server.recvfrom(2000)
        server.sendto(data, peer)
"""
ASK = """
import socket, sys, time
with socket.socket(type=socket.SOCK_DGRAM) as client:
    client.settimeout(0.3)
    client.connect((sys.argv[1], 7777))
    times = []
    for number in range(int(sys.argv[2])):
        began = time.monotonic()
        client.send(bytes([number]))
        try:
            while client.recv(2000) != bytes([number]):
                pass
            times.append(time.monotonic() - began)
        except TimeoutError:
            pass
    print(len(times), sum(times) / max(1, len(times)))
"""


def test_the_line_does_to_packets_what_it_says() -> None:
    """The control: an echo takes twice the delay, some are lost, none pass a partition."""
    with Wan() as wan:
        echo = wan.popen("b", [sys.executable, "-c", ECHO, ADDRESSES["b"]], stdout=subprocess.PIPE)
        try:
            assert echo.stdout is not None
            assert echo.stdout.readline()

            def ask(count: int) -> tuple[int, float]:
                command = [sys.executable, "-c", ASK, ADDRESSES["b"], str(count)]
                asked = subprocess.run(wan.command("a", command), capture_output=True, check=True)
                answers, seconds = asked.stdout.split()
                return int(answers), float(seconds)

            wan.line = Line(delay_ms=50)
            answers, seconds = ask(5)
            assert answers == 5
            assert 0.095 < seconds < 1.0, "twice the delay, and what a busy machine adds"
            wan.line = Line(loss=0.5)
            assert 0 < ask(20)[0] < 20
            wan.line = Line(duplicates=1.0)
            assert ask(5)[0] == 5
            assert wan.faults["packet duplicated"] >= 15
            wan.line = Line(partitioned=True)
            assert ask(3)[0] == 0
        finally:
            echo.kill()
            echo.communicate()
