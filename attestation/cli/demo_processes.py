"""The processes that the demo starts, and the promise that none of them outlives it."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Final, Self

from attrs import define, field

from attestation.errors import UnavailableError

GRACE_SECONDS: Final = 10.0
"""How long a process has to end after SIGTERM before it is killed."""

_LOG_TAIL: Final = 15

_ENVIRONMENT: Final = {
    "ENCLAVE_LOG_FORMAT": "json",
    # Several workers share this machine. When each also starts a BLAS thread per core, they spin
    # against one another: small matrices were measured 20 times slower on two cores.
    "OPENBLAS_NUM_THREADS": "1",
}


class DemoProcessError(UnavailableError):
    """A process of the demo ended or did not answer in time. The message holds its last lines."""

    code = "demo-process-failed"


def enclave_command() -> list[str]:
    """Return the command line of `enclave`: the script beside this interpreter, or its entry."""
    script = Path(sys.executable).with_name("enclave")
    if script.is_file():
        return [str(script)]
    return [sys.executable, "-c", "from attestation.cli.root import main; main()"]


def free_port(*, neighbours: int = 0) -> int:
    """Return a free port on the loopback whose next `neighbours` ports are free too."""
    for _ in range(100):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
            if all(_is_free(port + 1 + step) for step in range(neighbours)):
                return port
    raise DemoProcessError("no free port on the loopback")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError):
            return False
    return True


@define(kw_only=True)
class DemoProcess:
    """One running command whose output goes to a file."""

    name: str
    log: Path
    popen: subprocess.Popen[bytes] = field(repr=False)

    @property
    def pid(self) -> int:
        """The process id."""
        return self.popen.pid

    def check(self) -> None:
        """Raise `DemoProcessError` if the process has ended."""
        status = self.popen.poll()
        if status is not None:
            raise DemoProcessError(f"{self.name} ended with status {status}\n{self.last_lines()}")

    def last_lines(self) -> str:
        """Return the end of the log."""
        lines = self.log.read_text(errors="replace").splitlines()
        return "\n".join(lines[-_LOG_TAIL:])

    def freeze(self) -> None:
        """Stop the process where it is, in the middle of whatever it does."""
        self.popen.send_signal(signal.SIGSTOP)

    def kill(self) -> None:
        """End the process as a crash or a power cut would: no warning, no clean-up."""
        self.popen.kill()
        self.popen.wait(GRACE_SECONDS)


class DemoProcesses:
    """Start commands; on leaving the `with` block, end every one of them, last started first."""

    def __init__(self, logs: Path) -> None:
        """Keep the log of each process in the directory `logs`."""
        logs.mkdir(parents=True, exist_ok=True)
        self._logs = logs
        self._running: list[DemoProcess] = []

    def __enter__(self) -> Self:
        """Nothing is started yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """Ask each process to end, then make it."""
        self.stop()

    def start(self, name: str, command: Sequence[str]) -> DemoProcess:
        """Start one command in a session of its own, so that Ctrl-C reaches the demo alone."""
        log = self._logs / f"{name}.log"
        # An interrupt between the fork and our noting it would leave a process that nobody ends.
        with log.open("ab") as output, _interrupts_deferred():
            popen = subprocess.Popen(  # noqa: S603 - our own command line, no shell
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env=_ENVIRONMENT | os.environ,
            )
            process = DemoProcess(name=name, log=log, popen=popen)
            self._running.append(process)
        return process

    def check(self) -> None:
        """Raise if a process that was not killed on purpose has ended."""
        for process in self._running:
            process.check()

    def forget(self, process: DemoProcess) -> None:
        """Stop watching a process that was ended on purpose."""
        self._running.remove(process)

    def wait_until(self, ready: Callable[[], bool], *, what: str, timeout: float = 20.0) -> None:
        """Wait for `ready`, watching the processes meanwhile."""
        deadline = time.monotonic() + timeout
        while not ready():
            self.check()
            if time.monotonic() > deadline:
                raise DemoProcessError(f"{what}: nothing for {timeout:.0f} s")
            time.sleep(0.02)

    def stop(self) -> None:
        """End every process, gently if it lets us; a second Ctrl-C makes it at once."""
        try:
            for process in reversed(self._running):
                process.popen.terminate()
                self._wait(process)
        finally:
            with _interrupts_deferred():
                for process in self._running:
                    if process.popen.poll() is None:
                        process.kill()
                self._running.clear()

    @staticmethod
    def _wait(process: DemoProcess) -> None:
        try:
            process.popen.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()


def answers(port: int) -> bool:
    """Whether something on the loopback accepts connections at `port`."""
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def ended_like_ctrl_c() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the demo the way Ctrl-C does, through every `finally`."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    previous = {
        number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def _interrupts_deferred() -> Iterator[None]:
    """Let nothing interrupt the block; what arrives meanwhile interrupts right after it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []
    previous = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            previous[number] = signal.signal(number, lambda number, _frame: arrived.append(number))
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        if arrived:
            raise KeyboardInterrupt
