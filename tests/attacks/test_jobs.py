"""A coordinator that lies to a worker about jobs."""

import queue
import threading
import time
from collections.abc import Callable, Sequence

import attrs
import numpy as np

from attestation.wire.control import Heartbeat, WorkerListing
from attestation.wire.frames import Header, Kind
from attestation.wire.messages import JobEnvelope, JobHeader
from enclave_worker.jobs import (
    WINDOW_BYTES,
    Bench,
    CreditGranted,
    JobDone,
    JobEnded,
    JobEvent,
    OutputSealed,
    RunningJob,
)
from enclave_worker.refusals import JobRefusedError, RevokedError
from tests.attacks.attack import WINDOW, attack
from tests.attacks.lies import flip_frame, on
from tests.attacks.stage import DamageError, Site, Stage, X, eventually, refusal
from tests.simulators.hostile_coordinator import Leg, Message
from tests.worker.simulated_client import SimulatedClient

SEGMENT = 1 << 16
RNG = np.random.default_rng(5)
STREAMED = RNG.standard_normal((600, 500))
"""More segments than go into one message."""


def refused(site: Site, *, results: int = 1) -> str:
    """Return the code by which a worker refuses a job; `results` are too many."""
    code = site.ended_by_worker(results=results)
    if code is None:
        raise DamageError("the worker ran it")
    return code


def refused_assignment(
    stage: Stage, change: Callable[[Message], Message], **inputs: np.ndarray
) -> str:
    """Return the code by which a worker refuses an assignment that was changed."""
    site = stage.site(lie=on(Leg.TO_WORKER, Kind.ASSIGN, change))
    kernel = "linalg.matmul" if "a" in inputs else "nn.softmax"
    site.client().submit(kernel, inputs, segment_bytes=SEGMENT)
    return refused(site)


def with_header(message: Message, **changes: object) -> Message:
    """Change what a client signed, and leave the signature."""
    envelope = JobEnvelope.from_bytes(message.body[0])
    header = attrs.evolve(JobHeader.from_bytes(envelope.header), **changes)
    changed = attrs.evolve(envelope, header=header.to_bytes())
    return message.but(changed.to_bytes(), *message.body[1:])


# -- again ----------------------------------------------------------------------------------------


def replayed(stage: Stage, attempt: int) -> str:
    site = stage.site()
    assert site.client().submit("nn.softmax", {"x": X}).result(20)
    (assigned,) = site.relay.find(Leg.TO_WORKER, Kind.ASSIGN)
    again = assigned.message.but(attempt=attempt)
    site.relay.inject(Leg.TO_WORKER, assigned.peer, again)
    return refused(site, results=2)


@attack(
    "replayed-job",
    "Give a worker a job again that it has done",
    "G4",
    refused="replayed",
)
def test_a_job_that_was_done_does_not_run_again(stage: Stage) -> str:
    return replayed(stage, 1)


@attack(
    "replayed-job-as-another-attempt",
    "Give a worker a job again that it has done, as the next attempt, to have it billed twice",
    "G4",
    refused="replayed",
)
def test_another_attempt_number_does_not_make_a_job_run_again(stage: Stage) -> str:
    return replayed(stage, 2)


@attack(
    "duplicated-job",
    "Give a worker one job twice at the same time",
    "G4",
    refused="replayed",
)
def test_a_job_that_comes_twice_runs_once(stage: Stage) -> str:
    site = stage.site()
    site.relay.lie = on(Leg.TO_WORKER, Kind.ASSIGN, lambda m: (m, m.but(attempt=2)))
    site.client().submit("nn.softmax", {"x": X})
    site.relay.wait_for(Leg.FROM_WORKER, Kind.RESULT)
    return refused(site, results=2)


@attack(
    "stale-job",
    "Keep a job back and have it run, and billed, after its deadline",
    "G4",
    refused="expired",
)
def test_a_job_does_not_run_after_its_deadline(stage: Stage) -> str:
    site = stage.site()
    client = site.client()
    assert client.submit("nn.softmax", {"x": X}).result(20)

    def late(message: Message) -> Message:
        time.sleep(0.5)
        return message

    site.relay.lie = on(Leg.TO_WORKER, Kind.ASSIGN, late)
    client.submit("nn.softmax", {"x": X}, timeout=0.4)
    return refused(site, results=2)


# -- its inputs -----------------------------------------------------------------------------------


@attack(
    "changed-input",
    "Change a byte of an input",
    "G4",
    refused="not-authentic",
)
def test_a_changed_input_is_refused(stage: Stage) -> str:
    return refused_assignment(stage, lambda message: flip_frame(message, 2, 20), x=X)


@attack(
    "spliced-inputs",
    "Exchange the segments of two inputs of the same shape",
    "G4",
    refused="not-authentic",
)
def test_inputs_that_traded_segments_are_refused(stage: Stage) -> str:
    def splice(message: Message) -> Message:
        envelope, wrap, a, b = message.body
        return message.but(envelope, wrap, b, a)

    square = X[:3]
    return refused_assignment(stage, splice, a=square, b=2 * square)


@attack(
    "input-of-another-job",
    "Give a job the inputs of another job of the same client",
    "G4",
    refused="not-authentic",
)
def test_the_input_of_another_job_is_refused(stage: Stage) -> str:
    first: list[bytes] = []

    def exchange(message: Message) -> Message:
        first.append(message.body[2])
        return message.but(*message.body[:2], first[0])

    site = stage.site(lie=on(Leg.TO_WORKER, Kind.ASSIGN, exchange))
    client = site.client()
    assert client.submit("nn.softmax", {"x": X}).result(20)
    client.submit("nn.softmax", {"x": 2 * X})
    return refused(site, results=2)


@attack(
    "reordered-inputs",
    "Deliver the segments of one input in another order",
    "G4",
    refused="not-authentic",
)
def test_input_segments_in_another_order_are_refused(stage: Stage) -> str:
    held: list[Message] = []

    def reorder(message: Message) -> Message | Sequence[Message] | None:
        if message.header.index == 1:
            held.append(message)
            return None
        if message.header.index == 2:
            (first,) = held
            return (first.but(*message.body), message.but(*first.body))
        return message

    site = stage.site(lie=on(Leg.TO_WORKER, Kind.INPUT, reorder))
    site.client().submit("nn.softmax", {"x": STREAMED}, segment_bytes=SEGMENT)
    return refused(site)


@attack(
    "truncated-inputs",
    "Leave out the last segment of an input, and adapt the count",
    "G4",
    refused="not-authentic",
)
def test_an_input_that_was_cut_short_is_refused(stage: Stage) -> str:
    def cut(message: Message) -> Message:
        assert message.header.count == 2
        return message.but(*message.body[:-1], count=1)

    return refused_assignment(stage, cut, x=RNG.standard_normal((100, 88)))


# -- its terms ------------------------------------------------------------------------------------


@attack(
    "other-commitment",
    "Have the receipt commit to tags where the client asked for SHA-256",
    "G5",
    refused="signature-invalid",
)
def test_the_kind_of_commitment_is_the_clients_choice(stage: Stage) -> str:
    def downgrade(message: Message) -> Message:
        return with_header(message, commitment_kind="tags")

    site = stage.site(lie=on(Leg.TO_WORKER, Kind.ASSIGN, downgrade))
    return refusal(site.client().submit("nn.softmax", {"x": X}, commitment="sha256"))


@attack(
    "raised-price",
    "Raise the price that a client is willing to pay",
    "G5",
    refused="signature-invalid",
)
def test_the_price_that_a_client_signed_cannot_be_raised(stage: Stage) -> str:
    site = stage.site(price=10)
    site.relay.lie = on(Leg.TO_WORKER, Kind.ASSIGN, lambda m: with_header(m, price_limit=100))
    site.client().submit("nn.softmax", {"x": X}, price_limit=5)
    return refused(site)


@attack(
    "dearer-worker",
    "Give a job to a worker that costs more than its client is willing to pay",
    "G5",
    refused="worker-limit",
)
def test_a_worker_that_costs_too_much_refuses_the_job_itself(stage: Stage) -> str:
    site = stage.site(price=10)
    site.client().submit("nn.softmax", {"x": X}, price_limit=5)
    return refused(site)


@attack(
    "overstated-worker",
    "List a worker as larger than it is, to have it allocate more than its operator allows",
    "G11",
    refused="worker-limit",
)
def test_a_worker_keeps_its_own_limits_whatever_is_said_of_it(stage: Stage) -> str:
    def overstate(message: Message) -> Message:
        listing = WorkerListing.from_bytes(message.body[0])
        workers = tuple(
            attrs.evolve(entry, description=attrs.evolve(entry.description, max_job_bytes=1 << 40))
            for entry in listing.workers
        )
        return message.but(WorkerListing(workers=workers).to_bytes())

    site = stage.site(max_job_bytes=1 << 18)
    site.relay.lie = on(Leg.TO_CLIENT, Kind.WORKERS, overstate)
    site.client().submit("nn.softmax", {"x": STREAMED})
    return refused(site)


@attack(
    "another-clients-name",
    "Submit a job in another client's name, to have it billed to that client",
    "G6",
    refused="signature-invalid",
)
def test_nobody_is_billed_for_a_job_that_somebody_else_signed(stage: Stage) -> str:
    """The coordinator is a client too: it has a session, and names another client in the header."""
    workshop = stage.workshop()
    job = workshop.job(workshop.connect(), "nn.softmax", arrays={"x": X})
    victim = SimulatedClient()
    job.change_header(client_key=victim.public_key)
    try:
        workshop.admit(job)
    except JobRefusedError as error:
        return str(error.code)
    raise DamageError("a client is billed for what it never asked for")


# -- its flow -------------------------------------------------------------------------------------


class CreditLie:
    """Takes every input from the client at once, and gives all of them to a worker unasked."""

    def __init__(self, site: Site) -> None:
        self._relay = site.relay
        self._assignment: tuple[bytes, Message] | None = None
        self._inputs: list[Message] = []

    def __call__(self, leg: Leg, peer: bytes, message: Message) -> Sequence[Message]:
        match leg, message.kind:
            case Leg.TO_WORKER, Kind.ASSIGN:
                self._assignment = peer, message
                header = Header(
                    Kind.INPUT_CREDIT, message.header.job_id, count=message.header.count
                )
                client = self._relay.clients[0]
                self._relay.inject(Leg.TO_CLIENT, client, Message(header))
                return ()
            case Leg.TO_WORKER, Kind.INPUT:
                self._inputs.append(message)
                assert self._assignment is not None
                worker, assignment = self._assignment
                if len(self._inputs) == assignment.header.count:
                    credit = Header(Kind.OUTPUT_CREDIT, message.header.job_id, 1, count=1 << 20)
                    for each in (assignment, *self._inputs, Message(credit)):
                        self._relay.inject(Leg.TO_WORKER, worker, each)
                return ()
        return (message,)


@attack(
    "unasked-inputs",
    "Send a worker more segments than it granted credit for, to fill its memory",
    "G11",
    refused="no-credit",
)
def test_a_worker_takes_no_segments_beyond_its_credit(stage: Stage) -> str:
    site = stage.site()
    site.relay.lie = CreditLie(site)
    client = site.client()
    client.submit("nn.softmax", {"x": np.ones((1300, 1000))}, segment_bytes=SEGMENT)
    return refused(site)


@attack(
    "withheld-inputs",
    "Withhold a job's inputs, so that it keeps its place in the worker for ever",
    "G11",
    refused="worker-limit",
)
def test_a_job_whose_inputs_do_not_come_gives_its_place_up(stage: Stage) -> str:
    workshop = stage.workshop()
    job = workshop.job(workshop.connect(), "nn.softmax", arrays={"x": X})
    bench = Bench(
        admission=workshop.admission,
        engine=workshop.engine,
        pool=workshop.pool,
        clock=workshop.clock,
        stall_seconds=0.1,
    )
    events: queue.SimpleQueue[JobEvent] = queue.SimpleQueue()
    running = RunningJob(workshop.offer(job), (), bench=bench, post=events.put)
    thread = threading.Thread(target=running.run)
    thread.start()
    thread.join(2)
    kept = thread.is_alive()
    running.stop(RevokedError("the test is over"))
    thread.join()
    if kept:
        raise DamageError("the job holds its place for as long as the coordinator likes")
    while not isinstance(event := events.get(timeout=1), JobEnded):
        pass
    assert event.refusal is not None
    return str(event.refusal.code)


def too_much_held(held: int, bound: int) -> str:
    """Return the bound, if it holds."""
    if held > bound:
        raise DamageError(f"{held} sealed segments wait for somebody who does not take them")
    assert held, "nothing was sealed at all"
    return WINDOW


@attack(
    "forged-output-credit",
    "Grant a worker credit without end and read nothing, so that it holds every output sealed",
    "G11",
    refused=WINDOW,
)
def test_a_worker_seals_no_more_outputs_than_leave(stage: Stage) -> str:
    workshop = stage.workshop()
    array = np.ones((1300, 1000))  # 160 segments
    job = workshop.job(workshop.connect(), "nn.softmax", arrays={"x": array})
    segments, sealed = job.segments(), 0
    bench = Bench(
        admission=workshop.admission,
        engine=workshop.engine,
        pool=workshop.pool,
        clock=workshop.clock,
        stall_seconds=0.5,
    )
    events: queue.SimpleQueue[JobEvent] = queue.SimpleQueue()
    running = RunningJob(workshop.offer(job), (), bench=bench, post=events.put)
    for _ in range(3):
        running.grant((1 << 32) - 1)
    thread = threading.Thread(target=running.run)
    thread.start()
    fed = 0
    while not isinstance(event := events.get(timeout=20), JobEnded | JobDone):
        if isinstance(event, CreditGranted):
            for index in range(fed, fed + event.count):
                running.feed(index, segments[index])
            fed += event.count
        sealed += isinstance(event, OutputSealed)
    thread.join()
    return too_much_held(sealed, WINDOW_BYTES // SEGMENT)


@attack(
    "forged-input-credit",
    "Grant a client credit without end and read nothing, so that it holds every input sealed",
    "G11",
    refused=WINDOW,
)
def test_a_client_seals_no_more_inputs_than_leave(stage: Stage) -> str:
    site = stage.site(
        lie=on(Leg.TO_CLIENT, Kind.INPUT_CREDIT, lambda message: message.but(count=(1 << 32) - 1))
    )
    client = site.client()
    client._port.room = 4
    client.submit("nn.softmax", {"x": np.ones((1300, 1000))}, segment_bytes=SEGMENT)

    def held() -> int:
        return len(site.relay.find(Leg.FROM_CLIENT, Kind.INPUT))

    site.relay.wait_for(Leg.FROM_CLIENT, Kind.INPUT)
    eventually(lambda: held() > 4, 0.5)
    return too_much_held(held(), 4)


@attack(
    "assignment-flood",
    "Give a worker all jobs at once, and none of them its inputs",
    "G11",
    refused="queue-full",
)
def test_a_worker_holds_a_bounded_number_of_jobs(stage: Stage) -> str:
    site = stage.site(lie=on(Leg.TO_CLIENT, Kind.INPUT_CREDIT, lambda _: None))
    client = site.client()
    for _ in range(12):
        client.submit("nn.softmax", {"x": STREAMED}, segment_bytes=SEGMENT)
    site.relay.wait_for(Leg.TO_WORKER, Kind.ASSIGN, count=12)

    def most_held() -> int:
        beats = site.relay.find(Leg.FROM_WORKER, Kind.HEARTBEAT)
        held = (len(Heartbeat.from_bytes(beat.message.body[0]).running) for beat in beats)
        return max(held, default=0)

    assert site.relay.wait_until(
        lambda: most_held() == 12 or bool(site.relay.find(Leg.FROM_WORKER, Kind.JOB_REFUSED))
    )
    if most_held() == 12:
        raise DamageError("the worker holds every job that it is given")
    return site.refused_by_worker()
