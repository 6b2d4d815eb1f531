"""The coordinator's wall clock jumps by days, as after a bad time server: nothing hangs on it.

Leases, silence, stalls and retention are measured on the monotonic clock. A deadline is a moment of
the wall clock; how far it is off is looked at once, when the job comes.
"""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from attestation.wire.control import RefusalCode
from tests.faults.actors import MIXED, HonestClient, HonestWorker, Shape
from tests.faults.broker_process import Nursery
from tests.faults.runs import RULES
from tests.faults.wires import Wires

pytestmark = pytest.mark.scenario

DAYS = 86_400
JUMPS = {"ten days ahead": 10 * DAYS, "ten days back": -10 * DAYS}


def unix_ms() -> int:
    return time.time_ns() // 1_000_000


class Site:
    """A client and a worker at a broker whose wall clock a test sets."""

    def __init__(self, nursery: Nursery, *, run_ms: int = 0) -> None:
        self.nursery = nursery
        self.client = HonestClient()
        self.worker = HonestWorker(capacity=4, run_ms=run_ms)
        nursery.start(**RULES)
        self.wires = Wires(nursery.address, self.client, self.worker)
        self.wires.connect()
        assert self.wires.pump(lambda: bool(self.client.workers), 5)

    def jump(self, seconds: int) -> None:
        fresh = self.nursery.clock.with_suffix(".new")
        fresh.write_text(str(seconds))
        fresh.replace(self.nursery.clock)
        # The turn that is under way has read the clock already.
        self.wires.pump(lambda: False, 0.05)


@pytest.fixture
def site(nursery: Nursery) -> Iterator[Site]:
    made = Site(nursery)
    yield made
    made.wires.cut()


@pytest.mark.parametrize("seconds", JUMPS.values(), ids=JUMPS)
def test_running_and_waiting_jobs_do_not_notice(site: Site, seconds: int) -> None:
    site.worker.run_ms = 1_500
    jobs = [site.client.want(shape, deadline_ms=unix_ms() + 60_000) for shape in MIXED]
    assert site.wires.pump(lambda: len(site.worker.held) == len(jobs), 5)
    site.jump(seconds)
    assert site.wires.pump(lambda: site.client.done, 20)
    assert [wanted.delivered for wanted in jobs] == [1] * len(jobs)
    assert [wanted.result[0] for wanted in jobs if wanted.result] == [1] * len(jobs), "attempts"
    assert "lease.lost" not in site.nursery.log.read_text()


@pytest.mark.parametrize("seconds", JUMPS.values(), ids=JUMPS)
def test_a_deadline_stays_as_far_off_as_it_was(site: Site, seconds: int) -> None:
    """One second from now is one second from now, whatever the clock says then."""
    site.worker.run_ms = 600_000
    job = site.client.want(Shape(), deadline_ms=unix_ms() + 1_000)
    assert site.wires.pump(lambda: job.accepted, 5)
    site.jump(seconds)
    began = time.monotonic()
    assert not site.wires.pump(lambda: bool(job.refusals), 0.4), "too early"
    assert site.wires.pump(lambda: bool(job.refusals), 5), "never"
    assert job.refusals == [RefusalCode.DEADLINE_PASSED]
    assert 0.4 < time.monotonic() - began < 2.5


def test_a_job_that_is_late_by_the_coordinators_clock_is_refused_before_it_is_accepted(
    site: Site,
) -> None:
    site.jump(10 * DAYS)
    job = site.client.want(Shape(), deadline_ms=unix_ms() + 60_000)
    assert site.wires.pump(lambda: bool(job.refusals), 5)
    assert job.refusals[0] is RefusalCode.DEADLINE_PASSED
    assert not job.accepted


@pytest.mark.parametrize("seconds", JUMPS.values(), ids=JUMPS)
def test_a_restart_with_another_clock_keeps_what_was_accepted(
    nursery: Nursery, site: Site, seconds: int, folder: Path
) -> None:
    site.worker.run_ms = 600_000
    jobs = [site.client.want(shape) for shape in MIXED]
    assert site.wires.pump(lambda: all(wanted.accepted for wanted in jobs), 5)
    nursery.kill()
    site.jump(seconds)
    nursery.start(**RULES)
    site.worker.run_ms = 0
    site.worker.held.clear()
    site.worker.spent.clear()
    site.wires.connect()
    assert site.wires.pump(lambda: site.client.done, 20)
    assert [wanted.delivered for wanted in jobs] == [1] * len(jobs)
