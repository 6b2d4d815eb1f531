"""A disk that fails or fills: new durable jobs are refused, accepted ones are kept, space heals."""

import errno
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from attestation.wire.control import RefusalCode
from tests.faults.actors import HonestClient, HonestWorker, Shape
from tests.faults.broker_process import Nursery
from tests.faults.points import Plan
from tests.faults.runs import RULES, Run, check_whole, left_over
from tests.faults.tally import tally
from tests.faults.wires import Wires

MOST_POINTS = 200
FOREVER = 1 << 30
strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
root = pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a file system")


def serves(run: Run, plan: Plan) -> bool:
    """Start a broker; False when the failing disk kept it from starting, which it then says."""
    run.nursery.start(plan, **RULES)
    if run.nursery.alive():
        return True
    assert run.nursery.status == 1
    assert "StoreError" in run.nursery.log.read_text()
    return False


def refused_only_what_was_not_accepted(client: HonestClient) -> None:
    for wanted in client.wanted:
        assert set(wanted.refusals) <= {RefusalCode.SPOOL_FULL, RefusalCode.CANCELLED}, wanted
        assert not (wanted.accepted and client.ended(wanted)), "an accepted job was given up"


@pytest.mark.scenario
@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC], ids=["EIO", "ENOSPC"])
def test_a_disk_error_anywhere_refuses_what_is_new_and_keeps_what_was_accepted(
    request: pytest.FixtureRequest, nursery: Nursery, error: int
) -> None:
    """Every sync, commit and unlink fails once, one after the other; the clients try again."""
    faults: Counter[str] = Counter()
    for point in range(1, MOST_POINTS):
        nursery.forget()
        run = Run(nursery)
        if serves(run, Plan(at=point, when="instead", error=error)):
            with Wires(nursery.address, run.client, run.worker) as wires:
                wires.connect()
                client_done = partial(getattr, run.client, "done")
                assert wires.pump(client_done, run.seconds), run.state_of_affairs()
                wires.pump(partial(getattr, run, "done"), 0.3)
                assert nursery.alive(), "a disk error ended the coordinator"
            refused_only_what_was_not_accepted(run.client)
        nursery.stop()
        passed = nursery.passed()
        # A file that could not be removed is removed at the next start.
        assert run.live(Plan())
        run.check()
        if len(passed) < point:
            break
        faults[f"{errno.errorcode[error]} at {passed[point - 1]}"] += 1
    tally(request, faults)
    assert faults.total() > 15, faults


@pytest.mark.scenario
def test_a_disk_that_stays_broken_loses_nothing(
    request: pytest.FixtureRequest, nursery: Nursery
) -> None:
    """From some point on nothing can be synced; later the disk is replaced, with what was on it."""
    faults: Counter[str] = Counter()
    for point in range(4, 40, 4):
        nursery.forget()
        run = Run(nursery)
        assert serves(run, Plan(at=point, when="instead", until=FOREVER))
        with Wires(nursery.address, run.client, run.worker) as wires:
            wires.connect()
            wires.pump(partial(getattr, run.client, "done"), 0.4)
            assert nursery.alive(), nursery.log.read_text()
        refused_only_what_was_not_accepted(run.client)
        faults["point on a broken disk"] += max(0, len(nursery.passed()) - point + 1)
        nursery.kill()
        assert run.live(Plan())
        run.check()
    tally(request, faults)


# -- inside SQLite, by its system calls -----------------------------------------------------------


def under_strace(inject: str) -> list[str]:
    call = inject.partition(":")[0]
    quietly = ["strace", "-f", "-qq", "-o", "/dev/null"]
    return [*quietly, "-e", f"trace={call}", "-e", f"inject={inject}"]


@pytest.mark.scenario
@strace
@pytest.mark.parametrize(
    ("call", "numbers"), [("pwrite64", (10, 30, 50)), ("fdatasync", (4, 6, 9))]
)
def test_killed_in_the_middle_of_a_commit_the_store_is_whole(
    request: pytest.FixtureRequest, folder: Path, call: str, numbers: tuple[int, ...]
) -> None:
    """SQLite is killed between the writes of one transaction, not only around it."""
    faults: Counter[str] = Counter()
    for number in numbers:
        with Nursery(folder, under=under_strace(f"{call}:signal=KILL:when={number}")) as nursery:
            nursery.forget()
            run = Run(nursery)
            nursery.start(**RULES)
            with Wires(nursery.address, run.client, run.worker) as wires:
                wires.connect()
                wires.pump(run.over, run.seconds)
            nursery.stop()
            faults[f"killed in {call}"] += nursery.status != 0
        with Nursery(folder) as nursery:
            run.nursery = nursery
            assert run.live(Plan())
            run.check()
    tally(request, faults)
    assert faults.total() >= 2, faults


@pytest.mark.scenario
@strace
def test_an_io_error_inside_a_commit_acknowledges_nothing(
    request: pytest.FixtureRequest, folder: Path
) -> None:
    """The true EIO of fdatasync, in SQLite and in the spool, for a while and then no more."""
    faults: Counter[str] = Counter()
    for first in (3, 7, 10, 13):
        errors = f"fdatasync:error=EIO:when={first}..{first + 3}"
        with Nursery(folder, under=under_strace(errors)) as nursery:
            nursery.forget()
            run = Run(nursery)
            if serves(run, Plan()):
                with Wires(nursery.address, run.client, run.worker) as wires:
                    wires.connect()
                    assert wires.pump(partial(getattr, run, "done"), run.seconds), (
                        run.state_of_affairs()
                    )
                refused_only_what_was_not_accepted(run.client)
                faults["EIO in fdatasync"] += 4
            nursery.stop()
        with Nursery(folder) as nursery:
            run.nursery = nursery
            assert run.live(Plan())
            run.check()
    tally(request, faults)
    assert faults.total() >= 8, faults


# -- a file system that fills up ------------------------------------------------------------------


@pytest.fixture
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of 3 MiB, and a ballast file on it that fills it."""
    disk = folder / "state"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)]
    mounted = subprocess.run(mount, capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"cannot mount a tmpfs: {mounted.stderr.decode().strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def fill(disk: Path) -> Path:
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
    return ballast


@pytest.mark.scenario
@root
def test_a_full_disk_refuses_new_durable_jobs_loses_none_and_recovers(
    request: pytest.FixtureRequest, small_disk: Path, nursery: Nursery
) -> None:
    client, worker = HonestClient(), HonestWorker(capacity=1, run_ms=600_000)
    nursery.start(**(RULES | {"lease_ms": 60_000, "stall_ms": 60_000}))
    with Wires(nursery.address, client, worker) as wires:
        wires.connect()
        assert wires.pump(lambda: bool(client.workers), 5)
        before = [client.want(Shape(n % 2 == 1)) for n in range(4)]
        assert wires.pump(lambda: all(wanted.accepted for wanted in before), 5)

        ballast = fill(small_disk)
        late = [client.want(Shape(n % 2 == 1)) for n in range(4)]
        assert wires.pump(lambda: all(wanted.refusals for wanted in late), 10)
        for wanted in late:
            assert set(wanted.refusals) == {RefusalCode.SPOOL_FULL}
            assert not wanted.accepted, "accepted and refused"
        streamed = client.want(Shape(durable=False))
        assert wires.pump(lambda: streamed.accepted, 5), "a streaming job needs no disk"

        # A result that cannot be stored is not acknowledged to the worker, either.
        worker.run_ms = 0
        for held in worker.held.values():
            held.ready_ms = 0
        wires.pump(lambda: False, 0.5)
        ballast.unlink()
        assert wires.pump(lambda: client.done, 30), [w for w in client.wanted if not w.delivered]
        assert nursery.alive()
        assert wires.pump(lambda: not left_over(small_disk), 5), left_over(small_disk)
    nursery.stop()
    check_whole(small_disk)
    refused_only_what_was_not_accepted(client)
    tally(request, {"durable job on a full disk": sum(len(w.refusals) for w in client.wanted)})
