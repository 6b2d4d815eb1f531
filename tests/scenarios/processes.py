"""Real `enclave` processes for tests: start them, kill them, and never leave one behind."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from attrs import define, field

START_SECONDS = 30.0
"""A loaded machine with two cores takes seconds to import everything."""

INSECURE_POLICY = """\
version = 1

[evidence]
kinds = ["insecure"]
allow_insecure_evidence = true
max_age_seconds = 3600

[keys]
max_lifetime_seconds = 3600

[catalogue]
digests = "any"
"""


def enclave() -> list[str]:
    """Return the command line of `enclave`, run by this interpreter."""
    return [sys.executable, "-c", "from attestation.cli.root import main; main()"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(ready: Callable[[], bool], what: str, timeout: float = START_SECONDS) -> None:
    deadline = time.monotonic() + timeout
    while not ready():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {timeout:.0f} s")
        time.sleep(0.02)


@define(eq=False)
class EnclaveProcess:
    """One running command; what it prints goes to `log`."""

    name: str
    popen: "subprocess.Popen[bytes]" = field(repr=False)
    log: Path

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def kill(self) -> None:
        """End it as a crash would: SIGKILL, nothing is cleaned up."""
        self.popen.kill()
        self.popen.wait()

    def pause(self) -> None:
        """Let it hang: it keeps its connections and answers nothing."""
        self.popen.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on where it hung."""
        self.popen.send_signal(signal.SIGCONT)

    def terminate(self, timeout: float = 20.0) -> int:
        """Ask it to end and return its status."""
        self.popen.terminate()
        return self.popen.wait(timeout)


class Site:
    """A coordinator and its workers, on a free port, below one directory."""

    def __init__(self, directory: Path, *, lease_seconds: float = 2.0) -> None:
        self.directory = directory
        self.port = free_port()
        self.url = f"tcp://127.0.0.1:{self.port}"
        self.policy_file = directory / "policy.toml"
        self.policy_file.write_text(INSECURE_POLICY)
        self._lease_seconds = lease_seconds
        self._running: list[EnclaveProcess] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._running):
            if process.popen.poll() is None:
                process.popen.send_signal(signal.SIGCONT)
                process.popen.kill()
            process.popen.wait()

    def start(self, name: str, arguments: Sequence[str], **streams: int) -> EnclaveProcess:
        log = self.directory / f"{name}-{len(self._running)}.log"
        with log.open("wb") as output:
            popen = subprocess.Popen(
                [*enclave(), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=streams.get("stdout", output),
                stderr=output,
                env=os.environ | {"ENCLAVE_LOG_FORMAT": "json", "ENCLAVE_LOG_LEVEL": "debug"},
            )
        process = EnclaveProcess(name, popen, log)
        self._running.append(process)
        return process

    def coordinator(self, *options: str) -> EnclaveProcess:
        """Start a coordinator on this site's address and state; wait until it listens."""
        process = self.start(
            "coordinator",
            [
                *("coordinator", "--listen", self.url),
                *("--state", str(self.directory / "state")),
                *("--lease-seconds", str(self._lease_seconds)),
                *options,
            ],
        )
        wait_until(lambda: self._listens(process), f"coordinator: {process.log}")
        return process

    def worker(self, *options: str) -> EnclaveProcess:
        """Start a worker with insecure evidence; wait until the coordinator welcomed it."""
        process = self.start_worker(*options)
        self.wait_for(process)
        return process

    def workers(self, count: int, *options: str) -> list[EnclaveProcess]:
        """Start several at once, which costs the time of one."""
        processes = [self.start_worker(*options) for _ in range(count)]
        for process in processes:
            self.wait_for(process)
        return processes

    def start_worker(self, *options: str) -> EnclaveProcess:
        ready = self._ready_file(len(self._running))
        return self.start(
            "worker",
            [
                *("worker", "--coordinator", self.url),
                *("--attester", "insecure", "--device", "cpu"),
                *("--ready-file", str(ready)),
                *options,
            ],
        )

    def wait_for(self, worker: EnclaveProcess) -> None:
        ready = self._ready_file(self._running.index(worker))
        wait_until(
            lambda: ready.exists() or self._ended(worker), f"worker: {worker.log.read_text()}"
        )
        assert ready.exists(), worker.output

    def _ready_file(self, number: int) -> Path:
        return self.directory / f"worker-{number}.id"

    def _listens(self, process: EnclaveProcess) -> bool:
        assert not self._ended(process), process.output
        with socket.socket() as probe:
            probe.settimeout(0.5)
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    @staticmethod
    def _ended(process: EnclaveProcess) -> bool:
        return process.popen.poll() is not None
