"""A worker keeps its place: it is heard from in rhythm, and comes back as itself."""

from attestation.encoding.digests import Label, digest
from attestation.identifiers import JobId, WorkerId
from attestation.wire.control import Heartbeat, WorkerDescription, WorkerHello, WorkerWelcome
from attestation.wire.frames import Header, Kind
from enclave_worker.membership import HELLO_MS, Membership, Outgoing
from enclave_worker.results import SentResult, UnrecordedResults

HELLO = WorkerHello(
    instance=bytes(16),
    description=WorkerDescription(
        backend="numpy",
        device="cpu",
        evidence_kind="insecure",
        catalogue_digest=digest(Label.CATALOGUE, b""),
        capacity=2,
        max_job_bytes=1,
    ),
)
WELCOME = WorkerWelcome(worker_id=WorkerId(bytes(16)), heartbeat_ms=100, lease_ms=1000)
RUNNING = ((JobId(b"j" * 16), 3),)


def kinds(messages: list[Outgoing]) -> list[Kind]:
    return [message.header.kind for message in messages]


def joined(now_ms: int = 0) -> Membership:
    membership = Membership(HELLO)
    membership.heard(now_ms)
    membership.welcomed(WELCOME, now_ms)
    return membership


def test_hello_is_said_until_it_is_answered_and_not_more_often_than_needed() -> None:
    membership = Membership(HELLO)
    assert kinds(membership.tick(0, ())) == [Kind.WORKER_HELLO]
    assert membership.tick(HELLO_MS - 1, ()) == []
    assert kinds(membership.tick(HELLO_MS, ())) == [Kind.WORKER_HELLO]
    assert not membership.joined


def test_heartbeats_keep_the_rhythm_and_renew_the_leases() -> None:
    membership = joined()
    (first,) = membership.tick(0, RUNNING)
    assert first.record == Heartbeat(running=RUNNING)
    assert membership.tick(99, RUNNING) == []
    assert membership.due_in_ms(60) == 40
    assert kinds(membership.tick(100, RUNNING)) == [Kind.HEARTBEAT]


def test_a_coordinator_that_forgot_us_gets_the_same_instance_once_per_second() -> None:
    """A flood of NOT_WELCOME does not become a flood of hellos."""
    membership = joined()
    membership.not_welcome(10)
    (again,) = membership.tick(10, ())
    assert again.record == HELLO
    membership.not_welcome(20)
    assert membership.tick(20, ()) == []


def test_silence_of_three_heartbeats_means_hello_again() -> None:
    membership = joined()
    assert kinds(membership.tick(300, ())) == [Kind.HEARTBEAT]
    assert kinds(membership.tick(400, ())) == [Kind.WORKER_HELLO]
    membership.heard(500)
    membership.welcomed(WELCOME, 500)
    assert kinds(membership.tick(500, ())) == [Kind.HEARTBEAT]


def test_a_draining_worker_says_so_at_every_welcome() -> None:
    membership = Membership(HELLO)
    assert membership.drain() == []
    assert kinds(membership.welcomed(WELCOME, 0)) == [Kind.DRAINING]


def test_a_rhythm_of_zero_is_not_a_busy_loop() -> None:
    membership = Membership(HELLO)
    hasty = WorkerWelcome(worker_id=WorkerId(bytes(16)), heartbeat_ms=0, lease_ms=0)
    membership.heard(0)
    membership.welcomed(hasty, 0)
    membership.tick(0, ())
    assert membership.due_in_ms(0) > 0


def test_more_jobs_than_a_heartbeat_holds_do_not_break_it() -> None:
    running = tuple((JobId(n.to_bytes(16, "big")), 1) for n in range(5000))
    (beat,) = joined().tick(0, running)
    assert len(Heartbeat.from_bytes(beat.frames()[1]).running) == 4096


def result(number: int, attempt: int = 1, size: int = 100) -> SentResult:
    job_id = JobId(number.to_bytes(16, "big"))
    return SentResult(job_id=job_id, attempt=attempt, frames=(bytes(size),))


def test_results_are_kept_until_they_are_recorded() -> None:
    kept = UnrecordedResults()
    kept.add(result(1))
    kept.forget(result(1).job_id, attempt=2)
    assert len(kept) == 1
    kept.forget(result(1).job_id, attempt=1)
    kept.forget(result(1).job_id, attempt=1)
    assert len(kept) == 0


def test_results_that_nobody_records_are_bounded() -> None:
    kept = UnrecordedResults(keep_bytes=250)
    for number in range(4):
        kept.add(result(number))
    assert [each.job_id[-1] for each in kept] == [2, 3]
    kept.add(result(9, size=1000))
    assert len(kept) == 0


def test_a_message_without_a_body_is_its_header() -> None:
    assert Outgoing(Header(Kind.DRAINING)).frames() == [Header(Kind.DRAINING).to_bytes()]
