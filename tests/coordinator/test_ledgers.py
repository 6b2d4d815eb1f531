"""The core's own books: a wrong entry is our defect, and is an error at once."""

import pytest

from attestation.errors import DecodeError, LimitError, LocalProtocolError
from coordinator.core.budget import Budget
from coordinator.core.credit import ask_inputs, grant_outputs, pump_inputs, rewind_inputs
from coordinator.core.job import Attempt, State
from coordinator.core.lengths import MAX_RUNS, Cursor, SegmentLengths
from coordinator.core.timers import PRUNE_AT, Alarm, Timers
from coordinator.core.validation import validate_state
from tests.coordinator.simulated_broker import SimulatedBroker, SimulatedClient, SimulatedWorker
from tests.coordinator.test_core import JOB, jobs_known, submit

LANE = ("run", JOB)
ME, YOU = b"me", b"you"


def lane(number: int) -> tuple[str, bytes]:
    return ("run", bytes([number]) * 16)


# -- memory ---------------------------------------------------------------------------------------


def test_a_key_reserves_once() -> None:
    budget = Budget(100, share=100)
    assert budget.hold(LANE, 10, ME)
    with pytest.raises(LocalProtocolError):
        budget.hold(LANE, 10, ME)


@pytest.mark.parametrize("how", ["request", "reserve_for_dispatch"])
def test_a_request_that_can_never_be_met_is_our_error(how: str) -> None:
    """It would stand at the head of the line for ever, and everybody behind it."""
    budget = Budget(100, share=100)
    with pytest.raises(LocalProtocolError):
        getattr(budget, how)(LANE, 101, lambda: None, ME)


def test_nobody_overtakes_the_one_whose_turn_it_is() -> None:
    budget, granted = Budget(100, share=100), []
    assert budget.hold(lane(0), 90, ME)
    budget.request(lane(1), 50, lambda: granted.append(1), YOU)
    assert not budget.hold(lane(2), 5, ME), "five bytes are free, and not ours to take"
    budget.request(lane(3), 5, lambda: granted.append(3), ME)
    assert granted == []
    budget.release(lane(0))
    assert granted == [1, 3]
    assert budget.used == budget.total_held() == 55


def test_accounts_take_turns_and_one_beyond_its_share_waits_for_itself() -> None:
    budget, granted = Budget(100, share=40), []
    for number in range(4):
        budget.request(lane(number), 30, lambda n=number: granted.append(n), ME)
    budget.request(lane(9), 30, lambda: granted.append(9), YOU)
    assert granted == [0, 9], "the second of ME is beyond its share; YOU does not wait for it"
    budget.release(lane(0))
    assert granted == [0, 9, 1]


def test_giving_up_a_place_in_the_line_lets_the_next_go() -> None:
    budget, granted = Budget(100, share=100), []
    budget.hold(lane(0), 60, ME)
    budget.request(lane(1), 100, lambda: granted.append(1), YOU)
    budget.request(lane(2), 40, lambda: granted.append(2), YOU)
    budget.release(lane(1))
    assert granted == [2]
    assert budget.waiting == 0
    budget.release(lane(7))
    assert budget.used == 100


def test_dispatch_stands_in_line_once_and_chooses_when_its_turn_comes() -> None:
    budget, turns = Budget(100, share=100), []

    def schedule() -> None:
        turns.append(budget.reserve_for_dispatch(lane(5), 80, schedule, ME))

    budget.hold(lane(0), 90, YOU)
    assert not budget.reserve_for_dispatch(lane(5), 80, schedule, ME)
    assert not budget.reserve_for_dispatch(lane(6), 80, schedule, ME)
    assert budget.waiting == 1
    budget.release(lane(0))
    assert turns == [True]
    assert budget.holds(lane(5)) == 80
    assert budget.holds(lane(6)) == 0


def test_dispatch_that_needs_more_than_it_stood_in_line_for_keeps_its_place() -> None:
    budget, turns = Budget(100, share=100), []

    def schedule() -> None:
        turns.append(budget.reserve_for_dispatch(lane(5), 100, schedule, ME))

    budget.hold(lane(0), 60, YOU)
    budget.hold(lane(1), 40, YOU)
    assert not budget.reserve_for_dispatch(lane(4), 30, schedule, ME)
    budget.release(lane(1))
    assert turns == [False]
    budget.request(lane(8), 10, lambda: turns.append(8), YOU)
    budget.release(lane(0))
    assert turns == [False, True], "YOU came later and is served later"


# -- lengths --------------------------------------------------------------------------------------


def test_a_cursor_walks_to_the_end_and_no_further() -> None:
    lengths = SegmentLengths()
    for length in (10, 10, 7, 10):
        lengths.append(length)
    cursor = Cursor(lengths)
    assert [cursor.take() for _ in range(4)] == [(0, 10), (10, 10), (20, 7), (27, 10)]
    with pytest.raises(LocalProtocolError):
        cursor.take()
    for index, offset in ((0, 0), (1, 10), (2, 20), (3, 27), (4, 37)):
        cursor.seek(index)
        assert (cursor.index, cursor.offset) == (index, offset)
    with pytest.raises(LocalProtocolError):
        cursor.take()


def test_lengths_of_no_honest_job_are_refused() -> None:
    lengths = SegmentLengths()
    for number in range(MAX_RUNS):
        lengths.append(number)
    with pytest.raises(LimitError):
        lengths.append(1 << 20)
    assert SegmentLengths.from_bytes(lengths.to_bytes()).runs == lengths.runs
    for data in (b"1234567", bytes(8 * (MAX_RUNS + 1))):
        with pytest.raises(DecodeError):
            SegmentLengths.from_bytes(data)


# -- timers ---------------------------------------------------------------------------------------


def test_timers_of_ended_jobs_do_not_pile_up() -> None:
    timers = Timers()
    for number in range(PRUNE_AT + 10):
        timers.set(number, Alarm.RETENTION, number.to_bytes(16, "big"))
        if number == 5:
            timers.prune(set())
    alive = {number.to_bytes(16, "big") for number in range(3)}
    timers.prune(alive)
    assert {job_id for _, job_id in timers.due(10**9)} == alive
    assert timers.next_ms() is None


# -- the check of all of it -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "spoil",
    [
        lambda job, _: setattr(job, "state", State.FINISHED),
        lambda job, _: setattr(job, "state", State.REFUSED),
        lambda job, _: setattr(job, "attempt", None),
        lambda job, _: setattr(job, "attempt_number", 7),
        lambda job, _: setattr(job, "disk_bytes", 7),
        lambda job, world: world.waiting.add(job),
        lambda job, world: world.jobs_of.clear(),
        lambda job, world: world.peers.clear(),
        lambda job, world: next(iter(world.workers.values())).running.clear(),
        lambda job, world: next(iter(world.workers.values())).running.add(b"?" * 16),
        lambda job, world: setattr(world.budget, "used", 1),
        lambda job, world: world.budget.hold(("run", b"?" * 16), 1, b""),
    ],
)
def test_a_state_that_cannot_be_is_noticed(spoil: object) -> None:
    """Tests look at the state after every event: what they look for must be found."""
    broker = SimulatedBroker()
    client, worker = SimulatedClient(broker), SimulatedWorker(broker)
    submit(client, worker)
    world = broker.core.world
    validate_state(world)
    spoil(jobs_known(broker)[JOB], world)
    with pytest.raises(LocalProtocolError):
        validate_state(world)


def test_a_job_id_is_entered_once() -> None:
    broker = SimulatedBroker()
    client = SimulatedClient(broker)
    submit(client)
    job = jobs_known(broker)[JOB]
    with pytest.raises(LocalProtocolError):
        broker.core.world.add_job(job)


# -- acts that come too late ----------------------------------------------------------------------


def test_what_is_asked_of_a_job_without_lease_or_result_moves_nothing() -> None:
    """Grants and timers fire after their job has moved on: each looks before it acts."""
    broker = SimulatedBroker()
    client, worker = SimulatedClient(broker), SimulatedWorker(broker)
    submit(client)
    world, job = broker.core.world, jobs_known(broker)[JOB]
    peer = world.workers[worker.worker_id]
    delivering, results = broker.core._delivering, broker.core._results
    world.out = []
    before = (job.state, world.budget.used, job.client_credit)
    grant_outputs(world, job, peer)
    ask_inputs(world, job)
    assert not pump_inputs(world, job, peer)
    assert not delivering.pump(job)
    delivering.start(job)
    delivering.stop(job)
    delivering.rewind(job, 0)
    delivering._begin(job, None)
    results.recording_failed(job)
    results.reject(job, 1)
    assert world.out == []
    assert (job.state, world.budget.used, job.client_credit) == before
    validate_state(world)


def test_inputs_are_not_rewound_beyond_what_was_sent() -> None:
    attempt = Attempt(worker_id=b"w" * 16, number=1, window=1, expires_ms=0, progress_ms=0)
    rewind_inputs(attempt, 0)
    lengths = SegmentLengths()
    lengths.append(10)
    attempt.in_cursor, attempt.in_sent = Cursor(lengths), 0
    rewind_inputs(attempt, 1)
    assert (attempt.in_cursor.index, attempt.in_sent) == (0, 0)


def test_a_grant_that_frees_memory_serves_the_line_once() -> None:
    """A grant may end its transfer at once; the line goes on from where it is."""
    budget, granted = Budget(100, share=100), []
    budget.hold(lane(0), 100, ME)
    for number in (1, 2, 3):

        def grant(number: int = number) -> None:
            granted.append(number)
            budget.release(lane(number))

        budget.request(lane(number), 100, grant, ME)
    budget.release(lane(0))
    assert granted == [1, 2, 3]
    assert budget.used == 0
