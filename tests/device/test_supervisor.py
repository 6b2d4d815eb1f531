"""One process per device: started again when it dies, drained together, never left behind."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from enclave_worker import supervisor as module
from enclave_worker.device.driver import DriverError
from enclave_worker.supervisor import (
    NoGpuError,
    Pauses,
    Slot,
    SupervisorGoneError,
    join_supervisor,
    slots_of,
)
from tests.device.fake_driver import FakeDriver, FakeGpu
from tests.worker.simulated_coordinator import SimulatedCoordinator

# A worker of a few lines: says that it runs, is ready, and does what its slot's name says.
MEMBER = """
import os, pathlib, signal, sys, time
name, ready, log = sys.argv[1:]
with open(log, "a") as file:
    print(name, os.getpid(), file=file)
def drain(*_):
    sys.exit(0)
if name != "deaf":
    signal.signal(signal.SIGTERM, drain)
else:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if name.startswith("exits-"):
    sys.exit(int(name[6:]))
if name == "late":
    time.sleep(0.3)
pathlib.Path(ready + ".new").write_text(name)
os.replace(ready + ".new", ready)
if name == "crashes":
    sys.exit(75)
while True:
    time.sleep(0.05)
"""

# The supervisor installs signal handlers, so it has a process of its own here too.
HARNESS = """
import json, os, pathlib, sys
from attestation import logging
from enclave_worker.supervisor import Pauses, Slot, Supervisor
names, member, log = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3]
logging.configure("json")
def ready(ids):
    pathlib.Path(log + ".new").write_text(" ".join(ids))
    os.replace(log + ".new", log + ".ready")
supervisor = Supervisor(
    slots=[Slot(name=name, device="cpu") for name in names],
    command=lambda _n, slot, path: [sys.executable, "-c", member, slot.name, str(path), log],
    ready=ready,
    pauses=Pauses(first=0.05, longest=0.4, forgotten_after=60),
)
sys.exit(supervisor.run())
"""


class Run:
    """A supervisor and its members, as processes."""

    def __init__(self, folder: Path, *names: str) -> None:
        self.log = folder / "log"
        self.process = subprocess.Popen(
            [sys.executable, "-c", HARNESS, json.dumps(names), MEMBER, str(self.log)],
            stderr=subprocess.PIPE,
            text=True,
        )

    def started(self, name: str) -> list[int]:
        """Return the process ids that the slot has had."""
        if not self.log.exists():
            return []
        lines = [line.split() for line in self.log.read_text().splitlines()]
        return [int(pid) for which, pid in lines if which == name]

    def wait(self, condition: Callable[[], bool], seconds: float = 20.0) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "it did not happen in time"
            time.sleep(0.01)

    def ready(self) -> bool:
        return self.log.with_suffix(".ready").exists()

    def end(self) -> tuple[int, list[dict[str, object]]]:
        _, errors = self.process.communicate(timeout=20)
        lines = [json.loads(line) for line in errors.splitlines() if line.startswith("{")]
        return self.process.returncode, lines

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        if self.log.exists():
            for line in self.log.read_text().splitlines():
                with suppress(ProcessLookupError):
                    os.kill(int(line.split()[1]), signal.SIGKILL)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    runs: list[Run] = []

    def start(*names: str) -> Run:
        runs.append(Run(tmp_path, *names))
        return runs[-1]

    yield start
    for each in runs:
        each.close()


def test_one_that_is_killed_is_started_again_and_the_others_go_on(run: Callable[..., Run]) -> None:
    members = run("cuda:0", "cuda:1")
    members.wait(members.ready)
    (first,), (second,) = members.started("cuda:0"), members.started("cuda:1")
    os.kill(first, signal.SIGKILL)
    members.wait(lambda: len(members.started("cuda:0")) == 2)
    assert members.started("cuda:1") == [second]
    assert alive(second)
    members.process.send_signal(signal.SIGTERM)
    status, lines = members.end()
    assert status == 0
    ended = [line for line in lines if line["event"] == "slot.ended"]
    assert (ended[0]["slot"], ended[0]["status"]) == ("cuda:0", -9)
    assert not alive(second)


def test_the_pauses_grow_while_one_keeps_dying(run: Callable[..., Run]) -> None:
    """A GPU that fell off the bus must not turn into a busy loop."""
    members = run("crashes")
    members.wait(lambda: len(members.started("crashes")) >= 4)
    members.process.send_signal(signal.SIGTERM)
    _, lines = members.end()
    pauses = [line["milliseconds"] for line in lines if line["event"] == "slot.restarting"]
    assert pauses[:4] == [50, 100, 200, 400][: len(pauses[:4])]


@pytest.mark.parametrize(("number", "times"), [(signal.SIGTERM, 1), (signal.SIGINT, 1)])
def test_a_request_to_stop_drains_every_worker(
    run: Callable[..., Run], number: signal.Signals, times: int
) -> None:
    members = run("a", "b", "late")
    members.wait(members.ready)
    assert members.log.with_suffix(".ready").read_text() == "a b late"
    members.process.send_signal(number)
    status, lines = members.end()
    assert status == 0
    assert [line["event"] for line in lines].count("slot.ended") == 3
    assert not any(alive(pid) for name in ("a", "b", "late") for pid in members.started(name))


def test_one_that_does_not_listen_is_killed_at_the_third_request(run: Callable[..., Run]) -> None:
    members = run("deaf")
    members.wait(members.ready)
    for count in range(1, 4):
        members.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        assert alive(members.started("deaf")[0]) == (count < 3)
    status, _ = members.end()
    assert status == 128 + 9


@pytest.mark.parametrize("status", [2, 3])
def test_a_worker_that_cannot_start_is_not_started_for_ever(
    run: Callable[..., Run], status: int
) -> None:
    """A missing key file stays missing: the operator is told by the exit status."""
    members = run(f"exits-{status}", f"exits-{status}")
    code, lines = members.end()
    assert code == status
    assert [line["event"] for line in lines].count("slot.given_up") == 2
    assert len(members.started(f"exits-{status}")) == 2


def test_one_that_cannot_start_takes_nobody_with_it(run: Callable[..., Run]) -> None:
    members = run("exits-3", "good")
    members.wait(lambda: bool(members.started("good")))
    time.sleep(0.3)
    assert members.process.poll() is None
    members.process.send_signal(signal.SIGTERM)
    assert members.end()[0] == 3


def test_one_that_was_drained_by_hand_stays_away(run: Callable[..., Run]) -> None:
    members = run("a", "b")
    members.wait(members.ready)
    (a,), (b,) = members.started("a"), members.started("b")
    os.kill(a, signal.SIGTERM)
    members.wait(lambda: not alive(a))
    time.sleep(0.3)
    assert members.started("a") == [a]
    os.kill(b, signal.SIGTERM)
    assert members.end()[0] == 0


def test_pauses_have_an_end() -> None:
    assert [Pauses().after(failures) for failures in (1, 2, 3, 7, 1000)] == [1, 2, 4, 60, 60]


# -- which workers ---------------------------------------------------------------------------------


def test_every_gpu_has_a_worker_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "load_driver", lambda: FakeDriver(gpus=[FakeGpu()] * 3))
    names = [slot.name for slot in slots_of("cuda:all", alone=False)]
    assert names == ["cuda:0", "cuda:1", "cuda:2"]
    assert all(slot.device == slot.name for slot in slots_of("cuda:all", alone=False))


def test_no_gpu_is_an_error_and_not_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "load_driver", lambda: FakeDriver(init=100))
    with pytest.raises(NoGpuError):
        slots_of("cuda:all", alone=False)
    monkeypatch.undo()
    monkeypatch.setattr("enclave_worker.device.driver.LIBRARY", "libcuda-is-not-here.so.1")
    with pytest.raises(DriverError):
        slots_of("cuda:all", alone=True)


def test_one_device_needs_no_supervisor_unless_it_may_have_to_be_started_again() -> None:
    assert slots_of("cpu", alone=False) == slots_of("auto", alone=False) == ()
    assert slots_of("cuda:1", alone=True) == (Slot(name="cuda:1", device="cuda:1"),)
    assert [slot.name for slot in slots_of("cpu:2", alone=False)] == ["cpu:0", "cpu:1"]


@pytest.mark.parametrize("device", ["cpu:0", "cpu:", "cpu:x", "cpu:100", "cuda:al", "cpu:٣"])
def test_other_words_are_left_for_who_opens_the_device_to_refuse(device: str) -> None:
    assert slots_of(device, alone=False) == ()


def test_a_worker_without_its_supervisor_does_not_begin() -> None:
    code = (
        "from enclave_worker.supervisor import join_supervisor, SupervisorGoneError\n"
        "try:\n    join_supervisor('cuda:0@1234567')\n"
        "except SupervisorGoneError as error:\n    print(error.code)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == SupervisorGoneError.code
    assert join_supervisor


# -- real workers ----------------------------------------------------------------------------------


class Workers:
    """`enclave worker --device cpu:2`, at a coordinator that the test plays."""

    def __init__(self, coordinator: SimulatedCoordinator, folder: Path) -> None:
        self.coordinator = coordinator
        self.ready = folder / "ready"
        code = "from attestation.cli.root import main; main()"
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-c", code, "--log-format", "json", "worker"),
                *("--coordinator", coordinator.url, "--attester", "insecure"),
                *("--device", "cpu:2", "--ready-file", str(self.ready)),
            ],
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[dict[str, object]] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if line.startswith("{"):
                self.lines.append(json.loads(line))

    def pids(self, slot: str) -> list[int]:
        return [
            int(str(line["pid"]))
            for line in list(self.lines)
            if line["event"] == "slot.started" and line["slot"] == slot
        ]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for slot in ("cpu:0", "cpu:1"):
            for pid in self.pids(slot):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._reader.join(10)


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Workers]:
    with SimulatedCoordinator() as coordinator:
        workers = Workers(coordinator, tmp_path)
        try:
            yield workers
        finally:
            workers.close()


@pytest.mark.scenario
def test_real_workers_come_back_after_kill_9_and_drain_together(workers: Workers) -> None:
    coordinator = workers.coordinator
    coordinator.wait(workers.ready.exists)
    assert len(workers.ready.read_text().splitlines()) == 2
    assert len(coordinator.hellos) >= 2
    (victim,), (other,) = workers.pids("cpu:0"), workers.pids("cpu:1")
    instances = {hello.instance for hello in coordinator.hellos}
    os.kill(victim, signal.SIGKILL)
    coordinator.wait(lambda: len({h.instance for h in coordinator.hellos} - instances) == 1)
    assert alive(other)
    workers.process.send_signal(signal.SIGTERM)
    coordinator.wait(lambda: workers.process.poll() is not None)
    assert workers.process.returncode == 0
    joined = [line for line in workers.lines if line["event"] == "worker.ready"]
    assert {line["slot"] for line in joined} == {"cpu:0", "cpu:1"}


@pytest.mark.scenario
def test_no_worker_outlives_a_supervisor_that_is_killed(workers: Workers) -> None:
    """Else the next supervisor would find its GPUs taken by workers that nobody watches."""
    coordinator = workers.coordinator
    coordinator.wait(workers.ready.exists)
    pids = [*workers.pids("cpu:0"), *workers.pids("cpu:1")]
    assert len(pids) == 2
    workers.process.kill()
    coordinator.wait(lambda: not any(map(alive, pids)))
