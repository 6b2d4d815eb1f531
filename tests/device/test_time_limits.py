"""A job that runs too long ends, and neither the next job nor the machine learns of it."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from types import ModuleType

import attrs
import numpy as np
import pytest

from attestation.programs.program import Program
from attestation.wire.control import Refusal, RefusalCode
from attestation.wire.frames import Header, Kind
from attestation.wire.messages import AttestationReply, SessionAccepted
from enclave_worker.admission import Terms
from enclave_worker.assembly import assemble
from enclave_worker.attester.insecure import InsecureAttester
from enclave_worker.buffers import BufferPool
from enclave_worker.device.backend import select_device
from enclave_worker.device.confidential import Mode, ModeWatch
from enclave_worker.engine import ProgramEngine
from enclave_worker.errors import TimeLimitError
from enclave_worker.executor import Clock, JobExecution
from enclave_worker.kernels.registry import Registry
from enclave_worker.keystore import Keystore
from enclave_worker.refusals import ExpiredError, WorkerLimitError
from enclave_worker.runtime import Runtime
from enclave_worker.sessions import SessionTable
from enclave_worker.settings import WorkerSettings
from enclave_worker.timelimits import TimeLimits
from enclave_worker.transport import Transport
from tests.worker.conftest import Workshop
from tests.worker.simulated_client import SimulatedClient, SimulatedJob
from tests.worker.simulated_coordinator import SimulatedCoordinator

SECOND = 1_000_000_000
PEER = b"p" * 16


@pytest.fixture
def workshop(registry: Registry) -> Workshop:
    pool = BufferPool(keep_bytes=1 << 26)
    device = select_device("cpu", memory_bytes=1 << 22)
    return Workshop(
        registry=registry,
        catalogue=registry.catalogue(),
        keystore=Keystore(),
        sessions=SessionTable(),
        pool=pool,
        engine=ProgramEngine(device, registry, pool=pool),
        terms=Terms(max_job_bytes=1 << 26),
    )


class SlowClock:
    """Every look at the monotonic clock takes `step` seconds."""

    def __init__(self, workshop: Workshop, step: float) -> None:
        self._workshop = workshop
        self._step = int(step * SECOND)
        self._now = 0

    @property
    def clock(self) -> Clock:
        return Clock(now_ms=lambda: self._workshop.now_ms, monotonic_ns=self._look)

    def _look(self) -> int:
        self._now += self._step
        return self._now


def execute(
    workshop: Workshop, job: SimulatedJob, clock: Clock, limits: TimeLimits
) -> JobExecution:
    execution = JobExecution(
        workshop.admit(job),
        engine=workshop.engine,
        pool=workshop.pool,
        clock=clock,
        time_limits=limits,
    )
    for index, segment in enumerate(job.segments()):
        execution.add_segment(index, segment)
    return execution


def test_a_job_over_its_time_ends_in_a_signed_code_and_the_next_is_unaffected(
    workshop: Workshop,
) -> None:
    client = workshop.connect()
    limits = TimeLimits(job_seconds=10)
    with execute(workshop, workshop.job(client), SlowClock(workshop, 11).clock, limits) as job:
        job.run()
        assert job.finish().result.code == TimeLimitError.code == "time-limit"
        assert list(job.segments()) == []
    assert workshop.engine._device.budget.free_bytes == 1 << 22
    honest = workshop.job(client)
    with execute(workshop, honest, workshop.clock, limits) as job:
        job.run()
        outputs = [bytes(segment) for segment in job.segments()]
        arrays = honest.open_outputs(job.finish().result, outputs, attempt=1)
    np.testing.assert_array_equal(arrays["y"], 2 * honest.arrays["x"])


def test_a_stack_stops_between_items_and_is_not_taken_apart_for_its_time(
    workshop: Workshop,
) -> None:
    client = workshop.connect()
    stack = workshop.job(client, "test.twice", arrays={"x": np.ones((50, 4))})
    stack.change_header(items=50)
    clock = SlowClock(workshop, 1)
    with execute(workshop, stack, clock.clock, TimeLimits(job_seconds=3)) as job:
        job.run()
        finished = job.finish()
    assert finished.result.code == "time-limit"
    assert finished.result.failures == ()
    assert clock._now < 20 * SECOND


def test_without_a_limit_kernels_may_run_for_ever() -> None:
    TimeLimits().require_time(0, 1 << 62)
    assert not TimeLimits().hung(0, 1 << 62)


def test_a_client_that_no_longer_wants_the_result_frees_the_worker(workshop: Workshop) -> None:
    client = workshop.connect()
    job = workshop.job(client)
    with execute(workshop, job, workshop.clock, TimeLimits()) as execution:
        workshop.now_ms = job.header.not_after_ms
        with pytest.raises(ExpiredError):
            execution.run()


def test_a_job_that_the_device_is_too_small_for_is_refused_with_the_figure_and_not_spent(
    workshop: Workshop,
) -> None:
    """Another worker, or this one with a larger device, may run it under the same key set."""
    client = workshop.connect()
    job = workshop.job(client, arrays={"x": np.zeros(1 << 19)})
    with (
        execute(workshop, job, workshop.clock, TimeLimits()) as execution,
        pytest.raises(WorkerLimitError, match=r"about 8 MiB.*4 MiB"),
    ):
        execution.run()
    workshop.execution(job, attempt=2).close()


def test_a_device_that_runs_out_refuses_the_job_and_stays(
    workshop: Workshop,
    kernels: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What a kernel needs beside its tensors is known only when it runs."""
    client = workshop.connect()
    entry = workshop.registry["test.twice"]

    def short(*_: object) -> None:
        raise MemoryError

    broken = attrs.evolve(entry, function=short)
    monkeypatch.setitem(workshop.registry._kernels, "test.twice", broken)
    with (
        execute(workshop, workshop.job(client), workshop.clock, TimeLimits()) as execution,
        pytest.raises(WorkerLimitError, match="device memory"),
    ):
        execution.run()
    monkeypatch.undo()
    with execute(workshop, workshop.job(client), workshop.clock, TimeLimits()) as execution:
        execution.run()
        assert execution.finish().result.code == ""


# -- a whole worker --------------------------------------------------------------------------------


class Site:
    """A coordinator and a worker that has little patience."""

    def __init__(self, coordinator: SimulatedCoordinator, registry: Registry, **parts: object):
        self.coordinator = coordinator
        self.catalogue = registry.catalogue()
        ready: list[bytes] = []
        self.runtime: Runtime = assemble(
            WorkerSettings(
                coordinator=coordinator.url, capacity=2, job_seconds=0.3, grace_seconds=0.3
            ),
            transport=Transport(coordinator.url),
            device=select_device("cpu"),
            attester=InsecureAttester(),
            registry=registry,
            ready=ready.append,
            **parts,
        )
        self.ended: list[bool] = []
        self.thread = threading.Thread(target=lambda: self.ended.append(self.runtime.run()))
        self.thread.start()
        coordinator.wait(lambda: bool(ready))

    def connect(self) -> SimulatedClient:
        client = SimulatedClient()
        reply = self.coordinator.ask(PEER, client.challenge())
        assert isinstance(reply, AttestationReply)
        client.take_reply(reply)
        accepted = self.coordinator.ask(PEER, client.open())
        assert isinstance(accepted, SessionAccepted)
        client.take_accepted(accepted)
        return client

    def assign(self, client: SimulatedClient, kernel: str) -> SimulatedJob:
        job = SimulatedJob(
            client=client,
            program=Program.single(self.catalogue.signature(kernel)),
            catalogue_digest=self.catalogue.digest(),
            arrays={"x": np.arange(10.0)},
        )
        count = sum(sealer.segment_count for sealer in job.sealers)
        header = Header(Kind.ASSIGN, job.job_id, 1, count=count, peer=PEER)
        self.coordinator.send(header, job.envelope(), job.wrap(), *job.segments())
        return job


@pytest.fixture
def coordinator() -> Iterator[SimulatedCoordinator]:
    with SimulatedCoordinator() as coordinator:
        yield coordinator


def test_a_kernel_that_hangs_costs_the_process_and_its_jobs_are_told(
    coordinator: SimulatedCoordinator,
    registry: Registry,
    kernels: ModuleType,
) -> None:
    """Nothing ends a running kernel but its process: the supervisor starts another."""
    kernels.GO_ON.clear()
    site = Site(coordinator, registry)
    try:
        job = site.assign(site.connect(), "test.wait")
        header, (refusal,) = coordinator.expect(Kind.JOB_REFUSED)
        assert header.job_id == job.job_id
        assert Refusal.from_bytes(refusal).code is RefusalCode.KERNEL_FAILED
        coordinator.expect(Kind.DRAINING)
        site.thread.join(10)
        assert site.ended == [False]
        assert site.runtime.must_restart
    finally:
        kernels.GO_ON.set()
        site.runtime.request_stop()
        site.runtime.request_stop()
        site.thread.join(10)


def test_gpus_that_leave_their_mode_end_the_worker_when_its_jobs_are_done(
    coordinator: SimulatedCoordinator,
    registry: Registry,
    caplog: pytest.LogCaptureFixture,
) -> None:
    mode = [Mode.ON]
    watch = ModeWatch(Mode.ON, read=lambda: mode[0], every_seconds=0.02)
    site = Site(coordinator, registry, mode_watch=watch)
    site.connect()
    mode[0] = Mode.DEVELOPER_TOOLS
    coordinator.expect(Kind.DRAINING)
    end = time.monotonic() + 15
    while site.thread.is_alive() and time.monotonic() < end:
        coordinator.pump(0.05)
    assert site.ended == [True]
    assert site.runtime.must_restart
    assert "gpu.mode_changed" in caplog.text


def test_a_process_whose_interpreter_is_held_ends_without_it() -> None:
    """A kernel in C that never gives the interpreter's lock back stops the loop as well."""
    code = (
        "import ctypes, time\n"
        "from enclave_worker.timelimits import DeadMan, TimeLimits\n"
        "DeadMan(TimeLimits(job_seconds=0.2, grace_seconds=0.1)).rewind(1)\n"
        "ctypes.PyDLL(None).sleep(30)\n"
    )
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 1
    assert time.monotonic() - started < 15
