"""A real broker in a process of its own that starts in milliseconds and dies on command.

One nursery process imports everything once and forks a broker per request: hundreds of crashes need
not pay for hundreds of interpreters. It has no threads, so the fork is clean; requests are lines of
JSON on its standard input, answers are lines on its output: the process id, later how it ended.
"""

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, Self

from attrs import asdict

from attestation import limits
from coordinator import body_log, storage
from coordinator.body_log import BodyLog
from coordinator.broker import Broker
from coordinator.core.instructions import Instruction, SpoolFile
from coordinator.core.rules import Rules
from coordinator.settings import Settings
from coordinator.spool import Spool
from coordinator.store import Store
from tests.faults.points import Plan, Points, install
from tests.faults.stable import StableStorage

REPOSITORY: Final = Path(__file__).resolve().parents[2]
SMALL_MESSAGE: Final = 256 * limits.KIB
"""What may travel inside a message here; more goes in segments, through the spool."""
PR_SET_PDEATHSIG: Final = 1
START_SECONDS: Final = 20.0


class Nursery:
    """Starts one broker after the other."""

    def __init__(self, directory: Path, *, under: Sequence[str] = ()) -> None:
        """Keep state, socket and records below `directory`; run `under` a command like strace."""
        self.directory = directory
        self.state = directory / "state"
        self.address = f"ipc://{directory}/socket"
        self.record = directory / "points"
        self.log = directory / "log"
        self.clock = directory / "clock"
        self.stable = StableStorage(self.state, directory / "shadow")
        self.pid: int | None = None
        self._popen = subprocess.Popen(
            [*under, sys.executable, "-m", "tests.faults.broker_process"],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._answers = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._send(signal.SIGKILL)
        self._popen.communicate()
        if self._popen.returncode:
            raise AssertionError(f"the nursery ended with {self._popen.returncode}")

    def forget(self) -> None:
        """Begin with no state at all."""
        assert not self.alive()
        for name in ("state", "shadow"):
            shutil.rmtree(self.directory / name, ignore_errors=True)
        self.stable = StableStorage(self.state, self.directory / "shadow")

    def start(
        self,
        plan: Plan | None = None,
        *,
        shadow: bool = False,
        sabotage: str = "",
        **rules: int,
    ) -> None:
        """Start a broker with this plan; returns when it listens or is dead already."""
        ready = self.directory / "ready"
        ready.unlink(missing_ok=True)
        request = {
            "directory": str(self.directory),
            "plan": asdict(plan or Plan()),
            "shadow": shadow,
            "sabotage": sabotage,
            "rules": rules,
        }
        self._say(request)
        self.pid = int(self._hear())
        deadline = time.monotonic() + START_SECONDS
        while not ready.exists() and self.alive():
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.002)

    def alive(self) -> bool:
        """Tell whether the broker runs; `ended` tells how it did not."""
        if self.pid is None:
            return False
        if self._answers or select.select([self._popen.stdout], [], [], 0)[0]:
            self.status = int(self._hear())
            self.pid = None
            return False
        return True

    def kill(self) -> None:
        """kill -9, if it lives, and wait for its end."""
        if self.alive():
            self._send(signal.SIGKILL)
            self.wait()

    def stop(self) -> None:
        """Ask it to end, twice: at once, in order."""
        if self.alive():
            self._send(signal.SIGTERM)
            self.wait()

    def _send(self, number: signal.Signals) -> None:
        # It may meet its point, and die of it, just before.
        with contextlib.suppress(ProcessLookupError):
            if self.pid is not None:
                os.kill(self.pid, number)

    def wait(self) -> None:
        """Wait until it has ended."""
        self.status = int(self._hear())
        self.pid = None

    def passed(self) -> list[str]:
        """Return the names of the points that the last broker passed."""
        return self.record.read_text().split()

    def _say(self, request: dict[str, Any]) -> None:
        assert self._popen.stdin is not None
        self._popen.stdin.write(json.dumps(request).encode() + b"\n")
        self._popen.stdin.flush()

    def _hear(self) -> str:
        # Not `readline`: what it takes out of the pipe beyond the line, `select` cannot see.
        assert self._popen.stdout is not None
        while b"\n" not in self._answers:
            more = os.read(self._popen.stdout.fileno(), 4096)
            assert more, "the nursery died"
            self._answers += more
        line, _, self._answers = self._answers.partition(b"\n")
        return line.decode()


# -- in the nursery -------------------------------------------------------------------------------


def nurse() -> None:
    """Fork a broker for every line that comes, one at a time."""
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                bear(json.loads(line))
                status = 0
            except BaseException:  # noqa: BLE001 - the log is where a dead broker tells why
                traceback.print_exc()
            finally:
                os._exit(status)
        print(pid, flush=True)  # noqa: T201 - the answer
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)  # noqa: T201 - the answer


def bear(request: dict[str, Any]) -> None:
    """Become a broker."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    directory = Path(request["directory"])
    log = os.open(directory / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for descriptor in (1, 2):
        os.dup2(log, descriptor)
    state = directory / "state"
    stable = StableStorage(state, directory / "shadow") if request["shadow"] else None
    install(Points(Plan(**request["plan"]), directory / "points"), stable)
    _set_clock(directory / "clock")
    _make_little_much()
    if request["sabotage"]:
        SABOTAGE[request["sabotage"]]()
    broker = Broker(
        Settings(
            listen=f"ipc://{directory}/socket",
            state=state,
            rules=Rules(**request["rules"]),
            drain_seconds=0,
        )
    )
    signal.signal(signal.SIGTERM, lambda *_: broker.stop())
    (directory / "ready").touch()
    broker.run()


def _make_little_much() -> None:
    """Let a short test use the spool, and fill, empty, move and write over files of the log."""
    limits.INLINE_BYTES = SMALL_MESSAGE  # type: ignore[misc]
    storage.Store = partial(Store, row_bytes=16)  # type: ignore[misc, assignment]
    storage.BodyLog = partial(BodyLog, file_bytes=250)  # type: ignore[misc, assignment]
    body_log.SLACK_FILES = 0  # type: ignore[misc]
    body_log.SPARE_FILES = 1  # type: ignore[misc]


def _set_clock(path: Path) -> None:
    """Let the wall clock, and nothing else, follow an offset in seconds that a test writes."""
    honest = time.time_ns

    def jumping() -> int:
        try:
            return honest() + int(path.read_text()) * 1_000_000_000
        except (FileNotFoundError, ValueError):
            return honest()

    time.time_ns = jumping


# -- a broker that was built wrong, to see that its fault is found --------------------------------


def _never_sync_spooled_files() -> None:
    def seal(self: Spool, file: SpoolFile) -> None:
        os.close(self._writers.pop(file).descriptor)

    Spool.seal = seal  # type: ignore[method-assign]


def _never_sync_bodies() -> None:
    BodyLog.sync = lambda _self: None  # type: ignore[method-assign]


def _never_sync_names() -> None:
    storage._sync_names = lambda _state: None


def _say_before_it_is_stored() -> None:
    commit, tick = Broker._commit, Broker._tick
    late: list[list[Instruction]] = []

    def postpone(_: Broker, deferred: list[Instruction]) -> None:
        late.append(deferred)

    def catch_up(self: Broker) -> None:
        while late:
            commit(self, late.pop(0))
        tick(self)

    Broker._commit, Broker._tick = postpone, catch_up  # type: ignore[method-assign]


SABOTAGE: Final = {
    "spooled files are not synced": _never_sync_spooled_files,
    "bodies are not synced": _never_sync_bodies,
    "names are not synced": _never_sync_names,
    "said before it is stored": _say_before_it_is_stored,
}


if __name__ == "__main__":
    nurse()
