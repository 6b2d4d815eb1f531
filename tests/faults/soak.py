# ruff: noqa: T201 - what it prints is its result
"""`make soak`: every fault at random for an hour, and whether anything grows that should not.

    python -m tests.faults.soak --minutes 60 --seed 1

One client and one worker live through it all; coordinators and the other workers die, hang and run
out of disk. At the end the slopes of memory, file descriptors and threads are printed, by Theil and
Sen, so that a spike is not a trend. Exits with 1 when a job was lost or came twice, or something
grew.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import combinations
from pathlib import Path
from typing import Final

import numpy as np
from attrs import frozen

from attestation.client.client import Client
from attestation.policy.loading import load_policy
from tests.faults.workload import Workload
from tests.scenarios.processes import EnclaveProcess, Site
from tests.simulators.storm import HANG_SECONDS, Storm

SAMPLE_SECONDS: Final = 5.0
WARM_UP: Final = 0.3
"""Part of a life that is not looked at: caches and memories of ended jobs fill first."""
JOBS_IN_FLIGHT: Final = 60
RESULT_SECONDS: Final = 180.0
QUIET_PART: Final = 0.6
"""After this part of the time the coordinator is not killed any more, so that its slope shows."""
STATE_BYTES: Final = 96 << 20

KIB_PER_MINUTE: Final = 48.0
BYTES_PER_JOB: Final = 512
"""What a coordinator or client may keep in mind of an ended job until its memory is full."""
THINGS_PER_MINUTE: Final = 0.2
"""Descriptors and threads."""


@frozen(kw_only=True)
class Sample:
    """One look at one process."""

    minute: float
    kib: int
    descriptors: int
    threads: int


def look(pid: int, minute: float) -> Sample:
    """Read what /proc says of a process."""
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    return Sample(
        minute=minute,
        kib=int(status["VmRSS"].split()[0]),
        descriptors=len(os.listdir(f"/proc/{pid}/fd")),
        threads=int(status["Threads"]),
    )


def slope(points: list[tuple[float, float]]) -> float:
    """Return the median of the slopes between all pairs of points (Theil and Sen)."""
    thinned = points[:: max(1, len(points) // 200)]
    slopes = [(b - a) / (y - x) for (x, a), (y, b) in combinations(thinned, 2) if y > x]
    return statistics.median(slopes) if slopes else 0.0


class Soak(Storm):
    """A storm that also fills the disk and stops coordinators, and spares the eldest worker."""

    def __init__(self, site: Site, *, seed: int) -> None:
        super().__init__(site, seed=seed)
        self.elder = self.workers.pop(0)
        self.quiet = False

    def strike(self) -> None:
        """Let one thing happen."""
        faults = {self.kill_worker: 4, self.hang_worker: 2, self.hang_elder: 2}
        faults |= {self.hang_coordinator: 1, self.fill_disk: 2, self.throw_one_away: 2}
        if not self.quiet:
            faults |= {self.kill_coordinator: 2, self.kill_both: 1}
        self.random.choices(list(faults), weights=list(faults.values()))[0]()

    def hang_elder(self) -> None:
        """The one worker that is never killed hangs for longer than its lease."""
        self.faults["worker stopped"] += 1
        self.elder.pause()
        time.sleep(HANG_SECONDS)
        self.elder.resume()

    def hang_coordinator(self) -> None:
        """SIGSTOP until everybody has given it up."""
        self.faults["coordinator stopped"] += 1
        self.coordinator.pause()
        time.sleep(self.random.uniform(1, 9))
        self.coordinator.resume()

    def fill_disk(self) -> None:
        """Take the rest of the small disk for a while."""
        state = self.site.directory / "state"
        if not state.is_mount():
            return
        self.faults["disk full"] += 1
        ballast = state / "ballast"
        with suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 16))
        time.sleep(self.random.uniform(0.5, 3))
        ballast.unlink()

    def throw_one_away(self) -> None:
        """A client that nobody waits for."""
        thrown = self.site.directory / "thrown.npy"
        np.save(thrown, np.ones((4, 4)))
        self.throw_away(
            [
                *("submit", "nn.affine", "-i", f"x={thrown}", "-p", "scale=1", "-p", "shift=1"),
                *("-o", str(self.site.directory / "thrown"), "--coordinator", self.site.url),
                *("--policy", str(self.site.policy_file), "--timeout", "60"),
            ]
        )


class Gauge:
    """Looks at the long-lived processes now and then."""

    def __init__(self, soak: Soak) -> None:
        self.lives: dict[tuple[str, int], list[Sample]] = defaultdict(list)
        self._soak = soak
        self._began = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            watched: dict[str, int] = {"client": os.getpid()}
            processes: dict[str, EnclaveProcess] = {
                "coordinator": self._soak.coordinator,
                "worker": self._soak.elder,
            }
            watched |= {name: each.popen.pid for name, each in processes.items()}
            minute = (time.monotonic() - self._began) / 60
            for name, pid in watched.items():
                # It may die while it is looked at.
                with suppress(OSError, KeyError, ValueError):
                    self.lives[(name, pid)].append(look(pid, minute))

    def longest(self, name: str) -> list[Sample]:
        """Return the samples of the longest life of that name, warm."""
        lives = [samples for (who, _), samples in self.lives.items() if who == name]
        life = max(lives, key=len, default=[])
        return life[int(len(life) * WARM_UP) :]


@contextmanager
def site_on_a_small_disk() -> Iterator[Site]:
    """A site whose state lies on a file system that can be filled, where we may mount one."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="soak-")))
        state = directory / "state"
        state.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={STATE_BYTES}", "tmpfs", str(state)]
        if os.geteuid() == 0 and not subprocess.run(mount, check=False).returncode:
            stack.callback(subprocess.run, ["umount", "--lazy", str(state)], check=False)
        yield stack.enter_context(Site(directory, lease_seconds=1.5))


def run(minutes: float, seed: int) -> tuple[Gauge, Counter[str], Workload]:
    """Live through it; raises AssertionError or a client's error when a promise is broken."""
    with site_on_a_small_disk() as site:
        soak = Soak(site, seed=seed)
        with Client(site.url, policy=load_policy(site.policy_file)) as client:
            gauge, workload = Gauge(soak), Workload(client, disk_fills=True)
            began = time.monotonic()
            while (passed := (time.monotonic() - began) / 60) < minutes:
                soak.quiet = passed > QUIET_PART * minutes
                workload.submit(JOBS_IN_FLIGHT - len(workload.jobs))
                soak.pause()
                soak.strike()
                workload.check(RESULT_SECONDS, leave=JOBS_IN_FLIGHT // 3)
                if soak.faults.total() % 50 == 0:
                    print(f"{passed:6.1f} min  {workload.submitted} jobs", dict(soak.faults))
            workload.check(RESULT_SECONDS)
            gauge.stop()
        status = soak.coordinator.terminate()
        assert status == 0, soak.coordinator.output[-2000:]
    return gauge, soak.faults, workload


def report(gauge: Gauge, jobs: int, minutes: float) -> bool:
    """Print the slopes; return whether all of them are flat."""
    flat = True
    allowed_kib = KIB_PER_MINUTE + BYTES_PER_JOB * jobs / minutes / 1024
    print(f"{'':12} {'life':>8} {'KiB/min':>10} {'fds/min':>10} {'threads/min':>12} {'RSS':>10}")
    for name in ("client", "coordinator", "worker"):
        life = gauge.longest(name)
        if len(life) < 3:
            print(f"{name:12} lived too short to say")
            continue
        kib = slope([(each.minute, each.kib) for each in life])
        descriptors = slope([(each.minute, each.descriptors) for each in life])
        threads = slope([(each.minute, each.threads) for each in life])
        lived = life[-1].minute - life[0].minute
        print(
            f"{name:12} {lived:5.1f}min {kib:10.1f} {descriptors:10.3f} {threads:12.3f}"
            f" {life[-1].kib / 1024:6.0f}MiB"
        )
        flat &= kib < allowed_kib and max(descriptors, threads) < THINGS_PER_MINUTE
    print(f"flat means less than {allowed_kib:.0f} KiB and {THINGS_PER_MINUTE} things a minute")
    return flat


def main() -> int:
    """Parse the arguments, run, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    gauge, faults, workload = run(arguments.minutes, arguments.seed)
    print(f"{workload.submitted} jobs, each right, proven and handed over once")
    print(f"{faults.total()} faults:", dict(faults), f"{workload.refused} refused as spool-full")
    return 0 if report(gauge, workload.submitted, arguments.minutes) else 1


if __name__ == "__main__":
    sys.exit(main())
