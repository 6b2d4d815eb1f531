"""What is counted, and that the page says so."""

import re
from itertools import pairwise
from pathlib import Path

import pytest

from attestation.observability.exposition import Family, Histogram, render
from attestation.wire.control import RefusalCode
from coordinator.core.core import Core
from coordinator.core.rules import Rules
from coordinator.metrics import Traffic
from coordinator.metrics import families as of_coordinator
from enclave_worker.metrics import Laps, Levels, Meters, Phase
from tests.observability.scrape import total, types


def coordinator_families() -> list[Family]:
    core = Core(Rules(), random_bytes=bytes)
    return list(of_coordinator(core, Traffic()))


def worker_families() -> list[Family]:
    return list(Meters().families(Levels(jobs=0, capacity=1, keysets=0, idle_bytes=0)))


def test_the_page_lists_every_number_with_its_type_and_no_other(repository: Path) -> None:
    page = (repository / "docs" / "observability.md").read_text()
    listed: dict[str, tuple[str, str]] = {}
    for names, kind, label in re.findall(
        r"^\| (`enclave_[^|]*) \| (\w+) \|([^|]*)\|", page, re.MULTILINE
    ):
        for name in re.findall(r"`(\w+)`", names):
            assert name not in listed
            listed[name] = kind, label.strip().strip("`")
    counted = [*coordinator_families(), *worker_families()]
    assert listed == {each.name: (each.kind.value, each.label) for each in counted}


def test_another_implementation_reads_every_number() -> None:
    for found in (coordinator_families(), worker_families()):
        text = render(found)
        assert types(text) == {each.name: each.kind.value for each in found}


def test_every_code_is_there_before_anybody_was_refused() -> None:
    """A rate needs a zero to grow from."""
    for found, name in (
        (coordinator_families(), "enclave_coordinator_refusals_total"),
        (worker_families(), "enclave_worker_refusals_total"),
    ):
        text = render(found)
        for code in RefusalCode:
            assert total(text, name, code=code.value) == 0


def test_sizes_are_of_sealed_bytes_and_there_is_one_bucket_per_factor_of_eight() -> None:
    """Exact sizes are the coordinator's to know; a page of numbers need not repeat them."""
    (found,) = (each for each in worker_families() if each.name == "enclave_worker_job_bytes")
    assert isinstance(found.values, Histogram)
    bounds = found.values.bounds
    assert all(high / low >= 8 for low, high in pairwise(bounds))


def test_time_is_put_down_to_the_phase_that_it_was_spent_in() -> None:
    now = iter([0, 5, 12, 13, 20, 30])
    laps = Laps(lambda: next(now))
    for phase in (Phase.WAIT, Phase.OPEN, Phase.WAIT, Phase.OPEN, Phase.KERNEL):
        laps.lap(phase)
    assert laps.spent_ns == {Phase.WAIT: 6, Phase.OPEN: 14, Phase.KERNEL: 10}
    assert laps.ended_ns[Phase.OPEN] == 20
    meters = Meters()
    meters.ended(laps)
    text = render(meters.families(Levels(jobs=0, capacity=1, keysets=0, idle_bytes=0)))
    name = "enclave_worker_job_phase_seconds_total"
    assert total(text, name, phase="open") == pytest.approx(14e-9)
    assert total(text, name) == pytest.approx(30e-9)
