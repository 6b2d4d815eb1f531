"""A coordinator that changes, swaps, replays and invents. It may waste time; it wins nothing.

Everything but the tampering is real: the workers' keys, evidence, kernels, receipts.
"""

from collections.abc import Callable

import attrs
import numpy as np
import pytest

from attestation.client.client import Client
from attestation.client.errors import (
    ClientClosedError,
    JobFailedError,
    JobRefusedError,
    PolicyUnmetError,
)
from attestation.client.jobs import Job
from attestation.errors import EnclaveError, LocalProtocolError, ReceiptRefusedError
from attestation.receipts.errors import (
    ReceiptAttemptError,
    ReceiptJobError,
    ReceiptMalformedError,
    ReceiptOutputError,
    ReceiptResultError,
    ReceiptSignatureError,
)
from attestation.receipts.receipt import Receipt, ReceiptClaims
from attestation.wire.control import RefusalCode
from attestation.wire.frames import Frame, Header, Kind
from attestation.wire.messages import JobEnvelope, JobHeader, ResultHeader
from tests.client.conftest import Connect
from tests.client.honest import HonestCoordinator, Message

X = np.arange(12, dtype=np.float64).reshape(4, 3)
LARGE = np.random.default_rng(7).standard_normal((700, 500))
SECONDS = 20.0


def tamper_results(change: Callable[[Message], Message]) -> Callable[[Header, Message], Message]:
    return lambda header, message: change(message) if header.kind is Kind.RESULT else message


def flip(frame: Frame, place: int) -> bytes:
    changed = bytearray(frame)
    changed[place] ^= 1
    return bytes(changed)


def outcome(job: Job) -> BaseException:
    error = job.exception(SECONDS)
    assert error is not None, "the result was handed out"
    return error


def refused_result(connect: Connect, change: Callable[[Message], Message]) -> BaseException:
    client = connect(HonestCoordinator(tamper=tamper_results(change)))
    job = client.submit("stats.standardize", {"x": X})
    error = outcome(job)
    with pytest.raises(LocalProtocolError):
        _ = job.receipt
    return error


# -- results --------------------------------------------------------------------------------------


def test_a_changed_output_segment_is_refused_by_its_receipt(connect: Connect) -> None:
    """The tag is the last thing of a segment: changing it changes the commitment."""
    error = refused_result(connect, lambda m: [*m[:3], flip(m[3], -1), *m[4:]])
    assert isinstance(error, ReceiptOutputError)


def test_a_changed_byte_under_an_unchanged_tag_does_not_open(connect: Connect) -> None:
    """A commitment of kind `tags` does not see it; authenticated decryption does."""
    error = refused_result(connect, lambda m: [*m[:3], flip(m[3], 20), *m[4:]])
    assert isinstance(error, EnclaveError)
    assert error.code == "not-authentic"


def test_outputs_in_another_order_are_refused(connect: Connect) -> None:
    error = refused_result(connect, lambda m: [*m[:3], *reversed(m[3:])])
    assert isinstance(error, ReceiptOutputError)


def test_a_result_header_that_the_worker_did_not_sign_is_refused(connect: Connect) -> None:
    def change(message: Message) -> Message:
        header = ResultHeader.from_bytes(message[1])
        swapped = attrs.evolve(header, outputs=tuple(reversed(header.outputs)))
        return [message[0], swapped.to_bytes(), *message[2:]]

    assert isinstance(refused_result(connect, change), ReceiptResultError)


def test_an_invented_failure_is_not_believed(connect: Connect) -> None:
    """Only a worker's receipt can say that the program failed."""

    def change(message: Message) -> Message:
        header = Header.from_bytes(message[0])
        failed = ResultHeader(code="kernel-failed", outputs=())
        return [attrs.evolve(header, count=0).to_bytes(), failed.to_bytes(), message[2]]

    error = refused_result(connect, change)
    assert isinstance(error, ReceiptRefusedError)
    assert not isinstance(error, JobFailedError)


def test_claims_that_were_changed_break_the_signature(connect: Connect) -> None:
    def change(message: Message) -> Message:
        receipt = Receipt.from_bytes(message[2])
        claims = ReceiptClaims.from_bytes(receipt.claims)
        cheaper = attrs.evolve(claims, metering=attrs.evolve(claims.metering, device_ns=1))
        forged = attrs.evolve(receipt, claims=cheaper.to_bytes())
        return [*message[:2], forged.to_bytes(), *message[3:]]

    assert isinstance(refused_result(connect, change), ReceiptSignatureError)


def test_a_receipt_that_does_not_parse_is_refused(connect: Connect) -> None:
    error = refused_result(connect, lambda m: [*m[:2], b"\xff", *m[3:]])
    assert isinstance(error, ReceiptMalformedError)


def test_a_result_under_another_attempt_number_is_refused(connect: Connect) -> None:
    def change(message: Message) -> Message:
        header = attrs.evolve(Header.from_bytes(message[0]), attempt=2)
        return [header.to_bytes(), *message[1:]]

    assert isinstance(refused_result(connect, change), ReceiptAttemptError)


def test_the_result_of_another_job_of_ours_is_refused(connect: Connect) -> None:
    """Two jobs over different tensors: the coordinator answers the second with the first."""
    kept: list[Message] = []

    def tamper(header: Header, message: Message) -> Message:
        if header.kind is not Kind.RESULT:
            return message
        kept.append(message)
        return [message[0], *kept[0][1:]]

    client = connect(HonestCoordinator(tamper=tamper))
    first = client.submit("stats.standardize", {"x": X})
    assert first.result(SECONDS)
    second = client.submit("stats.standardize", {"x": X + 1})
    assert isinstance(outcome(second), ReceiptJobError)


def test_a_truncated_stream_of_outputs_is_never_handed_out(connect: Connect) -> None:
    """The last segment is dropped and the count adapted: the receipt does not agree."""

    def tamper(header: Header, message: Message) -> Message | None:
        if header.kind is Kind.OUTPUT and header.index == 2:
            return None
        if header.kind is Kind.RESULT and header.count > 2:
            return [attrs.evolve(header, count=2).to_bytes(), *message[1:]]
        return message

    client = connect(HonestCoordinator(tamper=tamper))
    job = client.submit("stats.standardize", {"x": LARGE})
    assert isinstance(outcome(job), ReceiptOutputError)


def test_a_reordered_stream_of_outputs_is_never_handed_out(connect: Connect) -> None:
    def tamper(header: Header, message: Message) -> Message:
        if header.kind is Kind.OUTPUT and header.index in (1, 2):
            return [attrs.evolve(header, index=3 - header.index).to_bytes(), *message[1:]]
        return message

    client = connect(HonestCoordinator(tamper=tamper))
    job = client.submit("stats.standardize", {"x": LARGE}, timeout=2.0)
    assert outcome(job)


# -- outputs that are opened as they come ---------------------------------------------------------


def early(client: Client) -> bool:
    """Whether the one job under way keeps no ciphertext of what came for it."""
    (active,) = client._connection.engine._jobs.values()
    return active.collector.count > 0 and not active.collector.segments


def test_announced_outputs_are_opened_as_they_come_and_handed_out_with_the_receipt(
    connect: Connect,
) -> None:
    """G4, G5: until the RESULT is here there is nothing for the user to see."""
    seen: list[tuple[bool, bool]] = []

    def tamper(header: Header, message: Message) -> Message:
        if header.kind is Kind.RESULT:
            seen.append((early(client), job.done()))
        return message

    client = connect(HonestCoordinator(tamper=tamper))
    job = client.submit("stats.standardize", {"x": LARGE})
    z = job.result(SECONDS)["z"]
    assert seen == [(True, False)]
    np.testing.assert_allclose(z.mean(axis=0), 0, atol=1e-9)


@pytest.mark.parametrize(
    "announce",
    [
        pytest.param(lambda message: None, id="withheld"),
        pytest.param(lambda message: [message[0], b""], id="empty"),
        pytest.param(lambda message: [message[0], flip(message[1], -1)], id="changed"),
        pytest.param(
            lambda message: [attrs.evolve(message[0], attempt=7), message[1]], id="other attempt"
        ),
        pytest.param(lambda message: [*message, b"more"], id="a frame too many"),
    ],
)
def test_without_an_announcement_that_holds_outputs_are_opened_at_the_end(
    connect: Connect, announce: Callable[[Message], Message | None]
) -> None:
    def tamper(header: Header, message: Message) -> Message | None:
        if header.kind is not Kind.OUTPUT_HEADERS:
            return message
        changed = announce([header, *message[1:]])
        return None if changed is None else [changed[0].to_bytes(), *changed[1:]]

    client = connect(HonestCoordinator(tamper=tamper))
    job = client.submit("stats.standardize", {"x": LARGE})
    np.testing.assert_allclose(job.result(SECONDS)["z"].mean(axis=0), 0, atol=1e-9)


@pytest.mark.parametrize(
    ("place", "code"), [(-1, "receipt-output-mismatch"), (99, "not-authentic")]
)
def test_a_segment_that_was_opened_at_once_and_did_not_open_is_refused_with_its_result(
    connect: Connect, place: int, code: str
) -> None:
    """The receipt is asked first, as for segments that are opened at the end."""

    def tamper(header: Header, message: Message) -> Message:
        if header.kind is Kind.OUTPUT and header.index == 1:
            return [message[0], flip(message[1], place)]
        return message

    client = connect(HonestCoordinator(tamper=tamper))
    job = client.submit("stats.standardize", {"x": LARGE})
    error = outcome(job)
    assert isinstance(error, EnclaveError)
    assert error.code == code


def test_an_announcement_of_one_job_opens_nothing_of_another(connect: Connect) -> None:
    """G4: the headers are bound to job, attempt and key."""
    kept: list[Message] = []

    def tamper(header: Header, message: Message) -> Message:
        if header.kind is Kind.OUTPUT_HEADERS:
            kept.append(message)
            return [message[0], *kept[0][1:]]
        return message

    client = connect(HonestCoordinator(tamper=tamper))
    assert client.submit("stats.standardize", {"x": LARGE}).result(SECONDS)
    second = client.submit("stats.standardize", {"x": LARGE + 1})
    np.testing.assert_allclose(second.result(SECONDS)["z"].mean(axis=0), 0, atol=1e-9)
    assert len(kept) == 2


def test_the_worker_of_a_refused_result_gets_no_more_keys(connect: Connect) -> None:
    """G11: whoever sent something false is fenced, and the other worker goes on."""
    liar: list[bytes] = []

    def tamper(header: Header, message: Message) -> Message:
        if header.kind is not Kind.RESULT:
            return message
        liar.append(liar[0] if liar else header.peer)
        return message if header.peer != liar[0] else [*message[:3], flip(message[3], -1)]

    coordinator = HonestCoordinator(2, tamper=tamper)
    client = connect(coordinator)
    job = client.submit("nn.softmax", {"x": X})
    assert job.result(SECONDS)
    assert job.claims.attempt == 2
    assert client.submit("nn.softmax", {"x": X}).result(SECONDS)
    # The job that met the liar moved on without being sent again.
    assert [len(record.wraps) for _, record in coordinator.submitted] == [2, 1]


def test_a_streaming_job_that_met_a_liar_is_sealed_again_for_the_others(connect: Connect) -> None:
    """G11: the liar gets no key of the second submission."""
    liar: list[bytes] = []

    def tamper(header: Header, message: Message) -> Message:
        if header.kind is not Kind.RESULT:
            return message
        liar.append(liar[0] if liar else header.peer)
        return message if header.peer != liar[0] else [*message[:3], flip(message[3], -1)]

    coordinator = HonestCoordinator(2, tamper=tamper)
    job = connect(coordinator).submit("nn.softmax", {"x": X}, durable=False)
    assert job.result(SECONDS)
    (first, first_record), (second, second_record) = coordinator.submitted
    assert first != second
    assert liar[0] in dict(first_record.wraps)
    assert liar[0] not in dict(second_record.wraps)


def test_a_job_that_every_worker_lies_about_fails_with_what_was_wrong(connect: Connect) -> None:
    def tamper(header: Header, message: Message) -> Message:
        lie = header.kind is Kind.RESULT
        return [*message[:3], flip(message[3], -1)] if lie else message

    client = connect(HonestCoordinator(3, tamper=tamper))
    job = client.submit("nn.softmax", {"x": X})
    assert isinstance(outcome(job), ReceiptRefusedError)


# -- evidence and sessions ------------------------------------------------------------------------


def test_evidence_swapped_between_two_workers_opens_no_session(connect: Connect) -> None:
    """Each worker's reply answers another nonce, so both are refused."""
    waiting: list[tuple[Header, Message]] = []
    coordinator = HonestCoordinator(2)

    def tamper(header: Header, message: Message) -> Message | None:
        if header.kind is not Kind.END_TO_END:
            return message
        if not waiting:
            waiting.append((header, message))
            return None
        other, held = waiting.pop()
        coordinator.tamper = None
        coordinator.to_client(attrs.evolve(other, peer=other.peer), message[1])
        coordinator.tamper = tamper
        return [message[0], held[1]]

    coordinator.tamper = tamper
    client = connect(coordinator)
    with pytest.raises(PolicyUnmetError) as refused:
        client.submit("nn.softmax", {"x": X})
    assert set(refused.value.refusals) == {worker.worker_id for worker in coordinator.workers}
    assert coordinator.submitted == []


def test_a_worker_whose_evidence_is_damaged_does_not_stop_the_others(connect: Connect) -> None:
    coordinator = HonestCoordinator(2)
    damaged = coordinator.workers[0].worker_id

    def tamper(header: Header, message: Message) -> Message:
        if header.kind is Kind.END_TO_END and header.peer == damaged:
            return [message[0], flip(message[1], len(message[1]) // 2)]
        return message

    coordinator.tamper = tamper
    client = connect(coordinator)
    assert client.submit("nn.softmax", {"x": X}).result(SECONDS)
    ((_, record),) = coordinator.submitted
    assert [worker_id for worker_id, _ in record.wraps] == [coordinator.workers[1].worker_id]
    verdicts = {status.entry.worker_id: status for status in client.workers()}
    assert not verdicts[damaged].accepted
    assert verdicts[damaged].refusals


# -- jobs -----------------------------------------------------------------------------------------


def test_a_lost_streaming_job_is_never_sealed_twice_under_one_key(connect: Connect) -> None:
    coordinator = HonestCoordinator()
    envelopes: list[JobHeader] = []
    honest = coordinator.dispatch
    submit = coordinator._submit

    def keep(header: Header, body: list[bytes]) -> None:
        envelopes.append(JobHeader.from_bytes(JobEnvelope.from_bytes(body[1]).header))
        submit(header, body)
        if len(envelopes) == 1:
            coordinator.to_client(Header(Kind.LOST, header.job_id))

    coordinator._submit = keep  # type: ignore[method-assign]
    coordinator.dispatch = lambda job_id, record: (
        None if len(envelopes) == 1 else honest(job_id, record)
    )
    client = connect(coordinator)
    job = client.submit("nn.softmax", {"x": X}, durable=False)
    assert job.result(SECONDS)
    first, second = envelopes
    assert first.job_id != second.job_id == job.job_id
    assert first.content_key_commitment != second.content_key_commitment
    assert first.inputs != second.inputs


def test_a_job_that_is_lost_again_and_again_is_given_up(connect: Connect) -> None:
    coordinator = HonestCoordinator()
    coordinator.dispatch = lambda job_id, _record: coordinator.to_client(Header(Kind.LOST, job_id))
    client = connect(coordinator)
    error = outcome(client.submit("nn.softmax", {"x": X}, durable=False))
    assert isinstance(error, JobRefusedError)
    assert error.code == RefusalCode.ATTEMPTS_EXHAUSTED


def test_a_refusal_keeps_its_code(connect: Connect) -> None:
    coordinator = HonestCoordinator()
    coordinator.dispatch = lambda job_id, _record: coordinator.refuse(
        job_id, RefusalCode.SPOOL_FULL
    )
    error = outcome(connect(coordinator).submit("nn.softmax", {"x": X}))
    assert isinstance(error, JobRefusedError)
    assert error.code == "spool-full"


def test_a_coordinator_without_room_is_asked_again_with_the_same_bytes(connect: Connect) -> None:
    coordinator = HonestCoordinator()
    honest = coordinator.dispatch

    def busy_at_first(job_id, record):  # type: ignore[no-untyped-def]
        if len(coordinator.submitted) > 2:
            return honest(job_id, record)
        coordinator.refuse(job_id, RefusalCode.QUEUE_FULL)
        return None

    coordinator.dispatch = busy_at_first
    coordinator.tamper = lambda header, message: (
        None if header.kind is Kind.ACCEPTED and len(coordinator.submitted) < 3 else message
    )
    assert connect(coordinator).submit("nn.softmax", {"x": X}).result(SECONDS)
    assert len({job_id for job_id, _ in coordinator.submitted}) == 1


def test_a_result_that_is_delivered_twice_is_acknowledged_twice_and_taken_once(
    connect: Connect,
) -> None:
    coordinator = HonestCoordinator()

    def tamper(header: Header, message: Message) -> Message:
        if header.kind is Kind.RESULT:
            coordinator.tamper = None
            coordinator.to_client(header, *message[1:])
        return message

    coordinator.tamper = tamper
    client = connect(coordinator)
    done: list[Job] = []
    job = client.submit("nn.softmax", {"x": X})
    job.add_done_callback(lambda _: done.append(job))
    job.result(SECONDS)
    client.submit("nn.softmax", {"x": X}).result(SECONDS)
    acknowledged = [h.job_id for h in coordinator.sent if h.kind is Kind.RESULT_ACK]
    assert acknowledged.count(job.job_id) == 2
    assert len(done) == 1


def test_nonsense_between_messages_changes_nothing(connect: Connect) -> None:
    coordinator = HonestCoordinator()
    client = connect(coordinator)
    for kind in Kind:
        coordinator.to_client(Header(kind), b"\xff")
        coordinator.to_client(Header(kind, client.submit("nn.softmax", {"x": X}).job_id), b"\xff")
    assert client.submit("nn.softmax", {"x": X}).result(SECONDS)


def test_a_coordinator_that_falls_silent_keeps_the_client_waiting_not_crashing(
    connect: Connect,
) -> None:
    coordinator = HonestCoordinator()
    client = connect(coordinator)
    client.submit("nn.softmax", {"x": X}).result(SECONDS)
    coordinator.silent = True
    job = client.submit("nn.softmax", {"x": X})
    with pytest.raises(TimeoutError):
        job.result(0.2)
    client.close()
    assert isinstance(outcome(job), ClientClosedError)
