"""A coordinator that lies to a client about its jobs' results."""

from collections.abc import Callable, Sequence

import attrs
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.client.errors import JobFailedError
from attestation.encoding.digests import Label
from attestation.receipts.commitment import SegmentCommitment
from attestation.receipts.receipt import Receipt, ReceiptClaims
from attestation.receipts.signed_batch import sign_batch
from attestation.wire.frames import Header, Kind
from attestation.wire.messages import JobEnvelope, JobHeader, ResultHeader
from tests.attacks.attack import DROPPED, attack
from tests.attacks.lies import OneWindow, both, flip_frame, on
from tests.attacks.stage import DamageError, Stage, X, eventually, refusal
from tests.simulators.hostile_coordinator import Leg, Message

SEGMENT = 1 << 16
FLOOD = 500
STREAMED = np.random.default_rng(3).standard_normal((600, 500))
SEGMENTS = -(-STREAMED.nbytes // SEGMENT)
"""More than go into one message."""


def refused(stage: Stage, change: Callable[[Message], Message | None], **options: object) -> str:
    """Return the code by which a client refuses a result that was changed."""
    site = stage.site(lie=on(Leg.TO_CLIENT, Kind.RESULT, change))
    return refusal(site.client().submit("stats.standardize", {"x": X}, **options))


class First:
    """Keeps the first result, and gives parts of it out again."""

    def __init__(self, rewrite: Callable[[Message, Message], Message]) -> None:
        self._rewrite = rewrite
        self._kept: Message | None = None

    def __call__(self, message: Message) -> Message:
        if self._kept is None:
            self._kept = message
            return message
        return self._rewrite(message, self._kept)


# -- whose result ---------------------------------------------------------------------------------


@attack(
    "results-of-two-jobs",
    "Answer a job with the result of another job of the same client",
    "G5",
    refused="receipt-job-mismatch",
)
def test_the_result_of_another_job_is_refused(stage: Stage) -> str:
    site = stage.site()
    replay = First(lambda message, first: message.but(*first.body))
    site.relay.lie = on(Leg.TO_CLIENT, Kind.RESULT, replay)
    client = site.client()
    assert client.submit("nn.softmax", {"x": X}).result(20)
    return refusal(client.submit("nn.softmax", {"x": X[::-1]}))


@attack(
    "results-of-two-clients",
    "Answer a client with the result of another client, of the same worker and key set",
    "G5",
    refused="receipt-job-mismatch",
)
def test_the_result_of_another_client_is_refused(stage: Stage) -> str:
    site = stage.site()
    replay = First(lambda message, first: message.but(*first.body))
    site.relay.lie = both(OneWindow(site.relay, 2), on(Leg.TO_CLIENT, Kind.RESULT, replay))
    first, second = site.client(), site.client()
    assert first.submit("nn.softmax", {"x": X}).result(20)
    return refusal(second.submit("nn.softmax", {"x": X[::-1]}))


@attack(
    "receipt-of-another-job",
    "Deliver the true outputs with the receipt of another job",
    "G5",
    refused="receipt-job-mismatch",
)
def test_true_outputs_with_the_receipt_of_another_job_are_refused(stage: Stage) -> str:
    def exchange(message: Message, first: Message) -> Message:
        return message.but(message.body[0], first.body[1], *message.body[2:])

    site = stage.site(lie=on(Leg.TO_CLIENT, Kind.RESULT, First(exchange)))
    client = site.client()
    assert client.submit("nn.softmax", {"x": X}).result(20)
    return refusal(client.submit("nn.softmax", {"x": X}))


@attack(
    "other-attempt",
    "Deliver a result as that of another attempt",
    "G5",
    refused="receipt-attempt-mismatch",
)
def test_a_result_under_another_attempt_is_refused(stage: Stage) -> str:
    return refused(stage, lambda message: message.but(attempt=2))


@attack(
    "reflected-input",
    "Hand the client's own sealed input back to it as the result",
    "G4",
    refused="receipt-result-mismatch",
)
def test_an_input_is_not_taken_for_an_output(stage: Stage) -> str:
    site = stage.site()

    def reflect(message: Message) -> Message:
        (submitted,) = site.relay.find(Leg.FROM_CLIENT, Kind.SUBMIT)
        _, envelope, *segments = submitted.message.body
        sealed = JobHeader.from_bytes(JobEnvelope.from_bytes(envelope).header).inputs
        result = ResultHeader(code="", outputs=sealed)
        return message.but(result.to_bytes(), message.body[1], *segments)

    site.relay.lie = on(Leg.TO_CLIENT, Kind.RESULT, reflect)
    return refusal(site.client().submit("nn.softmax", {"x": X}))


# -- what is in it --------------------------------------------------------------------------------


@attack(
    "changed-output",
    "Change a byte of an output and leave its tag",
    "G4",
    refused="not-authentic",
)
def test_a_changed_output_is_refused(stage: Stage) -> str:
    return refused(stage, lambda message: flip_frame(message, 2, 20))


@attack(
    "changed-output-under-sha256",
    "Change a byte of an output that the receipt commits to with SHA-256",
    "G4",
    refused="receipt-output-mismatch",
)
def test_a_changed_output_is_refused_by_its_receipt(stage: Stage) -> str:
    return refused(stage, lambda message: flip_frame(message, 2, 20), commitment="sha256")


@attack(
    "spliced-outputs",
    "Exchange the segments of two outputs of the same size",
    "G4",
    refused="receipt-output-mismatch",
)
def test_outputs_that_traded_segments_are_refused(stage: Stage) -> str:
    def splice(message: Message) -> Message:
        header, receipt, mean, scale, z = message.body
        return message.but(header, receipt, scale, mean, z)

    return refused(stage, splice)


@attack(
    "reordered-outputs",
    "Deliver the segments of one output in another order",
    "G4",
    refused="receipt-output-mismatch",
)
def test_segments_in_another_order_are_refused(stage: Stage) -> str:
    held: list[Message] = []

    def reorder(message: Message) -> Message | Sequence[Message] | None:
        if message.header.index == 1:
            held.append(message)
            return None
        if message.header.index == 2:
            (first,) = held
            return (first.but(*message.body), message.but(*first.body))
        return message

    site = stage.site(lie=on(Leg.TO_CLIENT, Kind.OUTPUT, reorder))
    return refusal(site.client().submit("nn.softmax", {"x": STREAMED}, segment_bytes=SEGMENT))


@attack(
    "truncated-outputs",
    "Leave out the last segment of a result, and adapt the count",
    "G4",
    refused="receipt-output-mismatch",
)
def test_a_result_that_was_cut_short_is_refused(stage: Stage) -> str:
    site = stage.site()
    site.relay.lie = both(
        on(Leg.TO_CLIENT, Kind.OUTPUT, lambda m: None if m.header.index == SEGMENTS - 1 else m),
        on(Leg.TO_CLIENT, Kind.RESULT, lambda m: m.but(count=SEGMENTS - 1)),
    )
    return refusal(site.client().submit("nn.softmax", {"x": STREAMED}, segment_bytes=SEGMENT))


# -- what vouches for it --------------------------------------------------------------------------


def cheaper(message: Message, **changes: object) -> ReceiptClaims:
    claims = ReceiptClaims.from_bytes(Receipt.from_bytes(message.body[1]).claims)
    metering = attrs.evolve(claims.metering, device_ns=1)
    return attrs.evolve(claims, metering=metering, **changes)


@attack(
    "changed-claims",
    "Change what a receipt says of the job's cost",
    "G5",
    refused="receipt-signature-invalid",
)
def test_changed_claims_are_refused(stage: Stage) -> str:
    def change(message: Message) -> Message:
        receipt = Receipt.from_bytes(message.body[1])
        forged = attrs.evolve(receipt, claims=cheaper(message).to_bytes())
        return message.but(message.body[0], forged.to_bytes(), *message.body[2:])

    return refused(stage, change)


@attack(
    "own-receipt",
    "Sign a receipt of one's own in the worker's name",
    "G5",
    refused="receipt-signature-invalid",
)
def test_a_receipt_under_the_coordinators_key_is_refused(stage: Stage) -> str:
    key = Ed25519PrivateKey.generate()

    def forge(message: Message) -> Message:
        claims = cheaper(message)
        leaf = claims.to_bytes()
        (proof,) = sign_batch([leaf], label=Label.RECEIPT, key_id=claims.keyset_id, sign=key.sign)
        receipt = Receipt(claims=leaf, proof=proof.to_bytes())
        return message.but(message.body[0], receipt.to_bytes(), *message.body[2:])

    return refused(stage, forge)


@attack(
    "invented-failure",
    "Say, in the worker's name, that the program failed",
    "G5",
    refused="receipt-signature-invalid",
)
def test_a_failure_that_nobody_signed_is_not_believed(stage: Stage) -> str:
    def forge(message: Message) -> Message:
        result = ResultHeader(code="kernel-failed", outputs=())
        nothing = SegmentCommitment("tags").root()
        claims = cheaper(
            message,
            code=result.code,
            result_digest=result.digest(),
            output_commitment=nothing,
        )
        receipt = Receipt.from_bytes(message.body[1])
        forged = attrs.evolve(receipt, claims=claims.to_bytes())
        return Message(
            attrs.evolve(message.header, count=0), (result.to_bytes(), forged.to_bytes())
        )

    site = stage.site(lie=on(Leg.TO_CLIENT, Kind.RESULT, forge))
    job = site.client().submit("nn.softmax", {"x": X})
    code = refusal(job)
    if isinstance(job.exception(), JobFailedError):
        raise DamageError("the client believes that its program failed")
    return code


# -- what is said about it ------------------------------------------------------------------------


@attack(
    "withheld-result",
    "Withhold the result",
    "G11",
    refused="timeout",
)
def test_a_result_that_never_comes_ends_with_a_timeout(stage: Stage) -> str:
    site = stage.site(lie=on(Leg.TO_CLIENT, Kind.RESULT, lambda _: None))
    client = site.client()
    assert eventually(lambda: bool(client.surroundings.ready))
    job = client.submit("nn.softmax", {"x": X}, timeout=0.5)
    if not eventually(job.done, seconds=6):
        raise DamageError("the client waits for ever")
    return refusal(job)


@attack(
    "output-flood",
    "Send more output segments than the program has",
    "G11",
    refused=DROPPED,
)
def test_a_client_holds_no_more_output_than_its_program_makes(stage: Stage) -> str:
    site = stage.site()
    site.relay.lie = on(Leg.TO_CLIENT, Kind.RESULT, lambda _: None)
    client = site.client()
    job = client.submit("nn.softmax", {"x": STREAMED}, segment_bytes=SEGMENT)
    outputs = site.relay.wait_for(Leg.TO_CLIENT, Kind.OUTPUT, count=SEGMENTS)
    for index in range(SEGMENTS, 10 * SEGMENTS):
        more = outputs[1].message.but(index=index)
        site.relay.inject(Leg.TO_CLIENT, outputs[1].peer, more)
    client.jobs()  # a question and its answer: whatever came before them has been dealt with
    if job.progress.bytes_received > job.progress.bytes_to_receive:
        raise DamageError("the client holds whatever it is sent")
    return DROPPED


@attack(
    "forged-loss",
    "Tell the client that the worker of a durable job is lost, so that it runs twice",
    "G7",
    refused=DROPPED,
)
def test_a_durable_job_is_not_sent_again_because_somebody_says_so(stage: Stage) -> str:
    site = stage.site(lie=on(Leg.TO_CLIENT, Kind.RESULT, lambda _: None))
    client = site.client()
    job = client.submit("nn.softmax", {"x": X}, durable=True)
    lost = Message(Header(Kind.LOST, job.job_id))
    site.relay.wait_for(Leg.FROM_CLIENT, Kind.SUBMIT)
    site.relay.inject(Leg.TO_CLIENT, site.relay.clients[0], lost)
    client.jobs()  # it was told
    client.jobs()  # and what it did about it has arrived
    if len(site.relay.find(Leg.FROM_CLIENT, Kind.SUBMIT)) > 1:
        raise DamageError("the job was sealed and sent a second time")
    return DROPPED


@attack(
    "loss-flood",
    "Say again and again that a streaming job is lost, so that it is sealed for ever",
    "G11",
    refused="attempts-exhausted",
)
def test_a_job_that_is_always_lost_is_given_up(stage: Stage) -> str:
    site = stage.site()

    def lose(leg: Leg, peer: bytes, message: Message) -> Sequence[Message]:
        if leg is Leg.FROM_CLIENT and message.kind is Kind.SUBMIT:
            lost = Message(Header(Kind.LOST, message.header.job_id))
            site.relay.inject(Leg.TO_CLIENT, peer, lost)
            return ()
        return (message,)

    site.relay.lie = lose
    job = site.client().submit("nn.softmax", {"x": X}, durable=False)

    def submissions() -> int:
        return len(site.relay.find(Leg.FROM_CLIENT, Kind.SUBMIT))

    assert eventually(lambda: job.done() or submissions() > 20)
    if not job.done():
        raise DamageError("the client seals for whoever asks, as often as he asks")
    return refusal(job)


@attack(
    "wrap-flood",
    "Want wraps for workers without end, so that the client remembers each of them",
    "G11",
    refused=DROPPED,
)
def test_a_client_remembers_no_worker_that_nobody_lists(stage: Stage) -> str:
    site = stage.site(lie=on(Leg.TO_CLIENT, Kind.RESULT, lambda _: None))
    client = site.client()
    job = client.submit("nn.softmax", {"x": X})
    for number in range(1, 1 + FLOOD):
        wanted = Header(Kind.WRAP_WANTED, job.job_id, peer=number.to_bytes(16, "big"))
        site.relay.inject(Leg.TO_CLIENT, site.relay.clients[0], Message(wanted))
    client.jobs()
    remembered = sum(map(len, client._connection.engine._wraps_wanted.values()))
    if remembered >= FLOOD:
        raise DamageError("the client remembers whatever is named to it")
    return DROPPED
