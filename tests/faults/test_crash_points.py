"""The coordinator dies at every point where it touches its disk, one after the other.

For each point: a small workload of inline and spooled jobs runs until the coordinator kills itself
there (SIGKILL); with `power`, what was not synced is taken away as well. It starts again, dies once
more in its recovery, starts a last time, and then every job that was accepted must end with one
result, nothing may be left over, and the database must be whole.
"""

from collections import Counter

import pytest

from tests.faults.broker_process import SABOTAGE, Nursery
from tests.faults.points import Plan
from tests.faults.runs import RUN_SECONDS, Run
from tests.faults.tally import tally

MOST_POINTS = 400


def crash_everywhere(
    nursery: Nursery, when: str, *, power: bool, sabotage: str = ""
) -> Counter[str]:
    """Die at point 1, 2, 3 ... until the workload comes through without meeting its point."""
    deaths: Counter[str] = Counter()
    for point in range(1, MOST_POINTS):
        nursery.forget()
        seconds = 3.0 if sabotage else RUN_SECONDS
        run = Run(nursery, power=power, sabotage=sabotage, seconds=seconds)
        if point % 2:
            # Half the time an older life has come to an orderly end here.
            nursery.start(shadow=power, sabotage=sabotage)
            nursery.stop()
        survived = run.live(Plan(at=point, when=when))
        # Recovery, and what comes right after it, is killed, too.
        if not survived and not run.live(Plan(at=1 + point % 5, when=when)):
            assert run.live(Plan()), run.state_of_affairs()
        run.check()
        deaths.update(run.faults)
        if survived:
            return deaths
    raise AssertionError("there is no end to the points")


@pytest.mark.scenario
@pytest.mark.parametrize("power", [False, True], ids=["kill", "power"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_nothing_accepted_is_lost_wherever_the_coordinator_dies(
    request: pytest.FixtureRequest, nursery: Nursery, when: str, power: bool
) -> None:
    deaths = crash_everywhere(nursery, when, power=power)
    tally(request, deaths)
    # Which of the two a point meets depends on what shares a turn.
    assert deaths["killed at append"] + deaths["killed at fdatasync"] > 2, deaths
    for kind in ("commit", "fsync", "unlink"):
        assert deaths[f"killed at {kind}"] > 2, deaths


@pytest.mark.scenario
@pytest.mark.parametrize("sabotage", SABOTAGE)
def test_a_coordinator_that_was_built_wrong_is_found_out(nursery: Nursery, sabotage: str) -> None:
    """The test above is worth something only if it fails when a defence is gone."""
    with pytest.raises(AssertionError, match="accepted, delivered"):
        crash_everywhere(nursery, "after", power=True, sabotage=sabotage)
