"""What the kernel says of a process and its children: time on processors, memory, where it may run.

Linux's /proc only; elsewhere the benchmark does not run.
"""

import contextlib
import os
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from attrs import frozen

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PROC: Final = Path("/proc")


@frozen(kw_only=True)
class Memory:
    """Resident bytes of a group of processes."""

    now: int
    peak: int
    """The sum of each one's highest so far."""


def family(pid: int) -> list[int]:
    """Return `pid` and all its living descendants."""
    children: dict[int, list[int]] = {}
    for folder in _PROC.iterdir():
        if folder.name.isdigit():
            fields = _stat(int(folder.name))
            if fields:
                children.setdefault(int(fields[1]), []).append(int(folder.name))
    found, waiting = [], [pid]
    while waiting:
        each = waiting.pop()
        found.append(each)
        waiting += children.get(each, [])
    return found


def cpu_seconds(pids: Iterable[int]) -> float:
    """Return the user and system time of these processes so far."""
    total = 0
    for pid in pids:
        fields = _stat(pid)
        if fields:
            total += int(fields[11]) + int(fields[12])  # utime, stime: proc(5)
    return total / _TICKS


def busy_seconds() -> float:
    """Return the processor time that anybody has used since the machine started."""
    fields = (_PROC / "stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, _idle, _waiting, irq, softirq, *_ = map(int, fields)
    return (user + nice + system + irq + softirq) / _TICKS


def memory(pids: Iterable[int]) -> Memory:
    """Return what these processes hold; pages that several share count for each."""
    now = peak = 0
    for pid in pids:
        try:
            lines = (_PROC / str(pid) / "status").read_text().splitlines()
        except OSError:  # it has ended
            continue
        sizes = {
            name: int(value.split()[0]) * 1024
            for name, value in (line.split(":", 1) for line in lines)
            if name in ("VmRSS", "VmHWM")
        }
        now += sizes.get("VmRSS", 0)
        peak += sizes.get("VmHWM", 0)
    return Memory(now=now, peak=peak)


def pin(pids: Iterable[int], cores: set[int]) -> None:
    """Let every thread of these processes run on `cores` only."""
    for pid in pids:
        for thread in (_PROC / str(pid) / "task").iterdir():
            os.sched_setaffinity(int(thread.name), cores)


def kill(pids: Iterable[int]) -> None:
    """End what is left of these processes, at once; for pids that were ours a moment ago."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat after the command's name; empty when it has ended."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return []
    return text.rsplit(")", 1)[1].split()
