"""Jobs share a device within what it has; one that never fits learns the figure at once."""

import threading
import time

import pytest

from attestation.programs.plan import Plan
from attestation.sealing.tensor_spec import TensorSpec
from enclave_worker.device.budget import MemoryBudget, device_need, figure
from enclave_worker.refusals import RevokedError, WorkerLimitError


def nothing() -> None:
    """Everybody is wanted."""


def test_a_job_that_could_never_fit_is_refused_at_once_with_both_figures() -> None:
    budget = MemoryBudget(1 << 30)
    with (
        pytest.raises(WorkerLimitError, match=r"3 GiB.*1 GiB"),
        budget.reserve(3 << 30, require_wanted=nothing),
    ):
        pass
    assert budget.free_bytes == 1 << 30


def test_scratch_memory_is_reserved_where_there_is_some() -> None:
    budget = MemoryBudget(1000)
    with budget.reserve(400, require_wanted=nothing) as account:
        assert (account.limit, budget.free_bytes) == (800, 200)
    with budget.reserve(900, require_wanted=nothing) as account:
        assert account.limit == 1000


def test_several_jobs_are_in_flight_and_one_more_waits_for_room() -> None:
    budget = MemoryBudget(1000)
    inside, leave = threading.Semaphore(0), threading.Event()

    def job() -> None:
        with budget.reserve(250, require_wanted=nothing):
            inside.release()
            leave.wait(10)

    threads = [threading.Thread(target=job) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert inside.acquire(timeout=5)
    assert inside.acquire(timeout=5)
    assert not inside.acquire(timeout=0.2)
    leave.set()
    assert inside.acquire(timeout=5)
    for thread in threads:
        thread.join(10)
    assert budget.free_bytes == 1000


def test_a_large_job_is_not_overtaken_for_ever() -> None:
    budget = MemoryBudget(1000)
    order: list[str] = []

    def job(name: str, need: int) -> None:
        with budget.reserve(need, require_wanted=nothing):
            order.append(name)

    with budget.reserve(400, require_wanted=nothing):
        large = threading.Thread(target=job, args=("large", 500))
        large.start()
        time.sleep(0.2)
        small = threading.Thread(target=job, args=("small", 50))
        small.start()
        time.sleep(0.2)
        assert order == []
    large.join(5)
    small.join(5)
    assert order == ["large", "small"]


def test_a_job_that_nobody_wants_any_more_stops_waiting() -> None:
    budget = MemoryBudget(1000)
    looks: list[int] = []

    def unwanted() -> None:
        looks.append(1)
        if len(looks) > 2:
            raise RevokedError("taken back")

    with budget.reserve(500, require_wanted=nothing):
        with pytest.raises(RevokedError), budget.reserve(500, require_wanted=unwanted):
            pass
        assert budget.free_bytes == 0
    with budget.reserve(500, require_wanted=nothing):
        pass


def test_memory_comes_back_from_a_job_that_fails() -> None:
    budget = MemoryBudget(1000)
    with pytest.raises(ZeroDivisionError), budget.reserve(500, require_wanted=nothing):
        raise ZeroDivisionError
    assert budget.free_bytes == 1000


@pytest.mark.parametrize(
    ("size", "says"),
    [(0, "0 bytes"), (700, "704 bytes"), (1 << 20, "1 MiB"), ((3 << 30) + 1, "3.25 GiB")],
)
def test_a_figure_is_rounded_up_and_says_no_more_than_it_must(size: int, says: str) -> None:
    assert figure(size) == says


def test_the_need_of_a_plan_counts_whole_blocks() -> None:
    spec = TensorSpec(dtype="float64", shape=(1,))
    plan = Plan(steps=(), tensors={"x": spec}, inputs={"x": spec}, outputs={}, output_references={})
    assert device_need(plan) == 512
