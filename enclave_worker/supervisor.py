"""Several workers on one machine: one process per device, started again when one dies.

A process per GPU is what can be brought back to a clean state: a kernel that hangs or a context
that is broken ends with its process, and the driver clears what it held. The processes share
nothing but their settings; each has keys, evidence and a place at the coordinator of its own.

This process holds no keys and opens no device. It waits for its members, passes signals on and
starts again what ended, after a pause that grows with each failure. A member ends with the signal
of its parent's death, so that none outlives us. They are in process groups of their own: a Ctrl-C
reaches them once, through us.
"""

import ctypes
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Final

from attrs import define, field, frozen

from attestation.cli.output import ExitCode
from attestation.errors import UnavailableError
from attestation.logging import get_logger
from enclave_worker.device.driver import list_gpus, load_driver

log: Final = get_logger(__name__)

RESTART: Final = 75
"""Exit status of a worker that only another process can put right (EX_TEMPFAIL)."""

_PR_SET_PDEATHSIG: Final = 1
_SEVERAL: Final = re.compile(r"cpu:([1-9]\d?)", re.ASCII)
_HOPELESS: Final = frozenset({ExitCode.USAGE, ExitCode.ENVIRONMENT})
_LOOK_SECONDS: Final = 0.1
_IDLE_SECONDS: Final = 60.0


class NoGpuError(UnavailableError):
    """`cuda:all` finds no GPU. `enclave worker doctor` says what is missing."""

    code = "no-gpu"


class SupervisorGoneError(UnavailableError):
    """A worker's supervisor ended before it began. Start `enclave worker` again."""

    code = "supervisor-gone"


@frozen(kw_only=True)
class Pauses:
    """How long to wait before another start: doubled with each failure, forgotten after a while."""

    first: float = 1.0
    longest: float = 60.0
    forgotten_after: float = 60.0

    def after(self, failures: int) -> float:
        """Return the pause after so many failures in a row, at least one."""
        return float(min(self.longest, self.first * 2 ** min(failures - 1, 30)))


@frozen(kw_only=True)
class Slot:
    """One worker to keep running: its name in log lines, and the device it is started with."""

    name: str
    device: str


def slots_of(device: str, *, alone: bool) -> tuple[Slot, ...]:
    """Return the workers that `--device` asks for; none if it is one, which needs no supervisor.

    With `alone` a single one is supervised too. Raises `NoGpuError` and `DriverError`.
    """
    if device == "cuda:all":
        gpus = list_gpus(load_driver())
        if not gpus:
            raise NoGpuError("the driver shows no GPU")
        return tuple(Slot(name=f"cuda:{gpu.index}", device=f"cuda:{gpu.index}") for gpu in gpus)
    several = _SEVERAL.fullmatch(device)
    if several is not None:
        return tuple(Slot(name=f"cpu:{number}", device="cpu") for number in range(int(several[1])))
    return (Slot(name=device, device=device),) if alone else ()


@define(kw_only=True, eq=False)
class _Member:
    number: int
    slot: Slot
    ready_file: Path
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    start_at: float | None = 0.0
    """When to start it (again); none while it runs or when it is over."""
    failures: int = 0
    ready: bool = False
    ever_ready: bool = False
    status: int = 0


@define(kw_only=True, eq=False)
class Supervisor:
    """Keeps a worker running in every slot until it is told to stop."""

    slots: Sequence[Slot]
    command: Callable[[int, Slot, Path], list[str]]
    """The command line of a worker, which writes its id to the path when it is welcome."""
    ready: Callable[[list[str]], None] = lambda _ids: None
    """Called once, with every worker's id, when all were welcome."""
    pauses: Pauses = Pauses()
    clock: Callable[[], float] = time.monotonic
    _members: list[_Member] = field(factory=list, init=False)
    _signals: int = field(default=0, init=False)
    _told: bool = field(default=False, init=False)

    def run(self) -> int:
        """Supervise until every worker has ended; returns the exit status for all of them."""
        ours, theirs = socket.socketpair()
        theirs.settimeout(0)
        before = {
            number: signal.signal(number, self._on_signal)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
        }
        wakeup = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        try:
            with tempfile.TemporaryDirectory(prefix="enclave-worker-") as folder:
                self._members = [
                    _Member(number=number, slot=slot, ready_file=Path(folder) / str(number))
                    for number, slot in enumerate(self.slots)
                ]
                log.info("supervisor.started", count=len(self._members))
                try:
                    self._loop(ours)
                finally:
                    self._kill_all()
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)
            ours.close()
            theirs.close()
        status = self._status()
        log.info("supervisor.stopped", status=status)
        return status

    # -- the loop ----------------------------------------------------------------------------------

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if number != signal.SIGCHLD:
            self._signals += 1

    def _loop(self, wake: socket.socket) -> None:
        heeded = 0
        while True:
            if self._signals > heeded:
                heeded = self._signals
                self._stop(heeded)
            for member in self._members:
                self._look_at(member)
            self._tell()
            if all(each.process is None and each.start_at is None for each in self._members):
                return
            wake.settimeout(self._patience())
            with suppress(TimeoutError):
                wake.recv(4096)

    def _patience(self) -> float:
        now = self.clock()
        due = [each.start_at - now for each in self._members if each.start_at is not None]
        if any(each.process is not None and not each.ready for each in self._members):
            due.append(_LOOK_SECONDS)
        return max(0.01, min([*due, _IDLE_SECONDS]))

    def _look_at(self, member: _Member) -> None:
        if member.process is not None:
            status = member.process.poll()
            if not member.ready and member.ready_file.exists():
                member.ready = member.ever_ready = True
                log.info("slot.ready", slot=member.slot.name, pid=member.process.pid)
            if status is not None:
                self._ended(member, status)
        elif member.start_at is not None and self.clock() >= member.start_at:
            self._start(member)

    # -- members -----------------------------------------------------------------------------------

    def _start(self, member: _Member) -> None:
        member.ready_file.unlink(missing_ok=True)
        member.ready = False
        member.start_at = None
        member.started = self.clock()
        # Our own command line, by absolute path and without a shell.
        member.process = subprocess.Popen(  # noqa: S603
            self.command(member.number, member.slot, member.ready_file), process_group=0
        )
        log.info("slot.started", slot=member.slot.name, pid=member.process.pid)

    def _ended(self, member: _Member, status: int) -> None:
        member.process = None
        member.status = status
        ran = self.clock() - member.started
        log.info(
            "slot.ended",
            slot=member.slot.name,
            status=status,
            milliseconds=int(ran * 1000),
        )
        if self._signals or status == ExitCode.OK:
            # Drained, by us or by whoever sent it a signal of its own; or we met it half started.
            member.status = 0 if status == -signal.SIGTERM else status
            return
        if status in _HOPELESS and not member.ever_ready:
            # It never worked here: what it said on its way out is for the operator.
            log.error("slot.given_up", slot=member.slot.name, status=status)
            return
        member.failures = 1 if ran >= self.pauses.forgotten_after else member.failures + 1
        pause = self.pauses.after(member.failures)
        member.start_at = self.clock() + pause
        log.warning("slot.restarting", slot=member.slot.name, milliseconds=int(pause * 1000))

    def _tell(self) -> None:
        if not self._told and all(each.ready for each in self._members):
            self._told = True
            self.ready([each.ready_file.read_text("ascii").strip() for each in self._members])

    # -- endings -----------------------------------------------------------------------------------

    def _stop(self, times: int) -> None:
        """Drain at the first request, stop at once at the second, kill at the third."""
        log.info("supervisor.draining", count=times)
        for member in self._members:
            member.start_at = None
            if member.process is not None and member.process.poll() is None:
                member.process.send_signal(signal.SIGTERM if times < 3 else signal.SIGKILL)

    def _kill_all(self) -> None:
        for member in self._members:
            if member.process is not None:
                member.process.kill()
                member.process.wait()

    def _status(self) -> int:
        """Return the worst that a member ended with; a signal's as a shell would say it."""
        worst = max(
            each.status if each.status >= 0 else 128 - each.status for each in self._members
        )
        return int(worst)


def member_command(
    options: Callable[[int], Sequence[str]],
) -> Callable[[int, Slot, Path], list[str]]:
    """Return what makes a worker's command line: this process's own, with `options` of its number.

    Of an option that is given twice the last one counts.
    """

    def command(number: int, slot: Slot, ready_file: Path) -> list[str]:
        return [
            sys.executable,
            *sys.orig_argv[1:],
            *options(number),
            *("--device", slot.device),
            *("--ready-file", str(ready_file)),
            *("--supervised", f"{slot.name}@{os.getpid()}"),
        ]

    return command


def join_supervisor(supervised: str) -> str:
    """Make this process end with its supervisor, as `--supervised` says; returns the slot's name.

    Raises `SupervisorGoneError` when it has ended already.
    """
    name, _, parent = supervised.rpartition("@")
    # SIGTERM and not SIGKILL: what runs may finish, and its result is recorded.
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if str(os.getppid()) != parent:
        raise SupervisorGoneError("the process that started this worker has ended")
    return name
