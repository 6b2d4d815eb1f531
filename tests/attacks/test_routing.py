"""Clients and workers that lie to an honest coordinator: the true core, without sockets."""

from attestation import limits
from attestation.errors import LocalProtocolError
from attestation.wire.control import ClientHello, ClientProof, HelloChallenge, RefusalCode
from attestation.wire.frames import Header, Kind
from coordinator.core.rules import Rules
from tests.attacks.attack import REVOKED, attack
from tests.attacks.stage import DamageError, Stage
from tests.coordinator.formats import SEALED, submit_record
from tests.coordinator.simulated_broker import SimulatedBroker, SimulatedClient, SimulatedWorker

JOB = b"j" * 16
BODY = (b"s" * 100,)
COUNT = 8


def submit(client: SimulatedClient, *workers: SimulatedWorker, **changes: object) -> None:
    record = submit_record(*(worker.worker_id for worker in workers), **changes)
    segments = changes.get("segments", BODY)
    client.submit(JOB, record, *(segments if isinstance(segments, tuple) else ()))


def revoked(worker: SimulatedWorker) -> str:
    """Return what a worker was told whose message must change nothing."""
    assert worker.take(Kind.REVOKE)
    return REVOKED


# -- clients --------------------------------------------------------------------------------------


@attack(
    "same-job-id",
    "Submit a job under the id of another client's job, to get at its result",
    "G7",
    refused="duplicate-job",
)
def test_a_job_id_belongs_to_whoever_submitted_it_first(stage: Stage) -> str:
    broker = SimulatedBroker()
    worker, owner = SimulatedWorker(broker), SimulatedClient(broker)
    thief = SimulatedClient(broker, seed=2)
    submit(owner, worker)
    submit(thief, worker)
    if thief.take(Kind.ACCEPTED):
        raise DamageError("two clients have one job")
    (code,) = thief.refusals()
    worker.result(JOB, 1, b"o" * 64)
    assert owner.take_one(Kind.RESULT)
    assert not thief.take(Kind.RESULT)
    return str(code)


@attack(
    "another-clients-job",
    "Cancel another client's job",
    "G7",
    refused="no-such-job",
)
def test_another_clients_job_is_not_there(stage: Stage) -> str:
    broker = SimulatedBroker()
    owner, thief = SimulatedClient(broker), SimulatedClient(broker, seed=2)
    submit(owner)
    thief.send(Header(Kind.CANCEL, JOB))
    if JOB not in broker.core.world.jobs:
        raise DamageError("a stranger ended the job")
    (code,) = thief.refusals()
    return str(code)


@attack(
    "another-clients-result",
    "Acknowledge, or reject, another client's result, so that it is deleted",
    "G7",
    refused="no-such-job",
)
def test_another_clients_result_is_kept_for_its_owner(stage: Stage) -> str:
    broker = SimulatedBroker()
    worker, owner = SimulatedWorker(broker), SimulatedClient(broker)
    thief = SimulatedClient(broker, seed=2)
    submit(owner, worker)
    worker.result(JOB, 1, b"o" * 64)
    owner.take(Kind.RESULT)
    thief.acknowledge(JOB)
    thief.send(Header(Kind.RESULT_REJECT, JOB, 1))
    owner.reconnect()
    if not owner.take(Kind.RESULT):
        raise DamageError("a stranger had the result deleted")
    thief.send(Header(Kind.CANCEL, JOB))
    (code,) = thief.refusals()
    return str(code)


@attack(
    "another-clients-key",
    "Say hello with another client's public key, to collect its results",
    "G7",
    refused="bad-proof",
)
def test_results_are_given_to_whoever_proves_the_key(stage: Stage) -> str:
    broker = SimulatedBroker()
    worker, owner = SimulatedWorker(broker), SimulatedClient(broker)
    submit(owner, worker)
    owner.vanish()
    worker.result(JOB, 1, b"o" * 64)
    thief = SimulatedClient(broker, seed=2)
    hello = ClientHello(client_key=owner.key.public_key().public_bytes_raw())
    thief.send(Header(Kind.CLIENT_HELLO), hello.to_bytes())
    HelloChallenge.from_bytes(thief.take_one(Kind.HELLO_CHALLENGE)[1][0])
    thief.send(Header(Kind.CLIENT_PROOF), ClientProof(signature=bytes(64)).to_bytes())
    if thief.take(Kind.RESULT):
        raise DamageError("a stranger was given the result")
    (code,) = thief.refusals()
    return str(code)


@attack(
    "more-input-than-announced",
    "Upload more than was announced, to fill the disk past its quota",
    "G11",
    refused="malformed",
)
def test_a_client_uploads_what_it_announced(stage: Stage) -> str:
    broker = SimulatedBroker()
    client = SimulatedClient(broker)
    submit(client, segments=COUNT, input_bytes=COUNT * 100)
    for index in range(COUNT):
        client.input(JOB, index, bytes(SEALED))
        if sum(len(piece) for pieces in broker.files.values() for piece in pieces) > COUNT * 100:
            raise DamageError("the spool holds more than was announced")
    return str(client.refusals()[0])


@attack(
    "input-without-credit",
    "Upload without waiting for credit, to fill the coordinator's memory",
    "G11",
    refused="no-credit",
)
def test_a_client_sends_what_it_was_granted(stage: Stage) -> str:
    broker = SimulatedBroker(Rules(window_bytes=2 * SEALED))
    client = SimulatedClient(broker)
    submit(client, segments=COUNT)
    granted = sum(header.count for header, _ in client.take(Kind.INPUT_CREDIT))
    upload = broker.core.world.jobs[JOB].upload
    assert upload is not None
    # The broker is quick and would grant more; the attack is on one that is not.
    upload.window = 0
    for index in range(granted + 1):
        client.input(JOB, index, bytes(SEALED))
    if upload.received > granted:
        raise DamageError("the coordinator takes whatever is sent")
    return str(client.refusals()[0])


@attack(
    "job-flood",
    "Submit jobs without end",
    "G11",
    refused="queue-full",
)
def test_a_client_has_a_bounded_number_of_jobs(stage: Stage) -> str:
    broker = SimulatedBroker(Rules(max_jobs_per_client=10))
    client = SimulatedClient(broker)
    for number in range(1, 21):
        client.submit(number.to_bytes(16, "big"), submit_record(), *BODY)
    if len(broker.core.world.jobs) > 10:
        raise DamageError("one client's jobs fill the coordinator")
    return str(client.refusals()[-1])


# -- workers --------------------------------------------------------------------------------------


@attack(
    "result-of-a-job-it-never-had",
    "Return a result for a job that another worker holds",
    "G11",
    refused=REVOKED,
)
def test_a_worker_cannot_answer_a_job_it_never_had(stage: Stage) -> str:
    broker = SimulatedBroker()
    holder, client = SimulatedWorker(broker), SimulatedClient(broker)
    liar = SimulatedWorker(broker, instance=2)
    submit(client, holder)
    try:
        liar.result(JOB, 1, b"x" * 64)
    except LocalProtocolError as error:
        raise DamageError("the core contradicts itself") from error
    if client.take(Kind.RESULT):
        raise DamageError("the result of a worker that never had the job was taken")
    return revoked(liar)


@attack(
    "result-of-a-lost-lease",
    "Return the result of an attempt whose lease another attempt has taken over",
    "G7",
    refused=REVOKED,
)
def test_a_worker_cannot_answer_after_its_lease(stage: Stage) -> str:
    broker = SimulatedBroker()
    worker, client = SimulatedWorker(broker), SimulatedClient(broker)
    submit(client, worker)
    worker.assigned()
    worker.decline(JOB, 1, RefusalCode.INTERNAL)
    client.send(Header(Kind.WRAP, JOB, peer=worker.worker_id), b"again")
    assert worker.assigned() == (JOB, 2)
    worker.result(JOB, 1, b"x" * 64)
    if client.take(Kind.RESULT):
        raise DamageError("the result of an attempt that was over was taken")
    return revoked(worker)


@attack(
    "overstated-capacity",
    "Announce more capacity than any worker has, to be given every job there is",
    "G11",
    refused="512",
)
def test_a_worker_is_given_a_bounded_number_of_jobs(stage: Stage) -> str:
    """A worker that lies about its capacity holds up 512 jobs at most, and not all of them."""
    broker = SimulatedBroker(Rules(memory_limit=1 << 34))
    liar, client = SimulatedWorker(broker, capacity=4096), SimulatedClient(broker)
    record = submit_record(liar.worker_id)
    for number in range(1, 521):
        client.submit(number.to_bytes(16, "big"), record, *BODY)
    given = len(liar.take(Kind.ASSIGN))
    if given == 520:
        raise DamageError("the liar was given every job")
    return str(given)


@attack(
    "more-output-than-announced",
    "Return more output than the job can have, to fill the disk past its quota",
    "G11",
    refused=REVOKED,
)
def test_a_worker_returns_no_more_than_the_job_can_have(stage: Stage) -> str:
    broker = SimulatedBroker()
    worker, client = SimulatedWorker(broker), SimulatedClient(broker)
    submit(client, worker, output_bytes_max=limits.INLINE_BYTES + SEALED)
    worker.assigned()
    for index in range(2 * limits.INLINE_BYTES // SEALED):
        worker.output(JOB, 1, index, bytes(SEALED))
    held = sum(len(piece) for pieces in broker.files.values() for piece in pieces)
    if held > limits.INLINE_BYTES + SEALED:
        raise DamageError("the spool holds more than the job can have")
    return revoked(worker)
