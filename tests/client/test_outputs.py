"""Outputs that were opened before their receipt came are handed out for that receipt only."""

import pytest

from attestation.client.outputs import Outputs
from attestation.client.results import Delivery, EarlyOutputs, announced_outputs, verify_and_open
from attestation.errors import DecodeError, NotAuthenticError
from attestation.receipts.errors import ReceiptOutputError, ReceiptResultError
from attestation.sealing.recycled import RecycledBuffers
from attestation.wire.messages import ResultHeader
from tests.fuzz import honest


def opened_early(delivered: honest.FinishedRequest, *, upto: int | None = None) -> EarlyOutputs:
    """Announce the outputs of a finished request and open its segments as if they just came."""
    early = announced_outputs(delivered.active.request, 1, delivered.result[0], RecycledBuffers())
    for index, segment in enumerate(delivered.result[2:][:upto]):
        early.add(index, segment)
    return early


def delivery(delivered: honest.FinishedRequest, early: EarlyOutputs) -> Delivery:
    header, receipt, *_ = delivered.result
    return Delivery(attempt=1, header=header, receipt=receipt, segments=(), early=early)


@pytest.fixture
def delivered() -> honest.FinishedRequest:
    return honest.finished_request(durable=True)


def test_what_was_opened_early_is_what_would_have_been_opened_late(
    delivered: honest.FinishedRequest,
) -> None:
    arrived = delivery(delivered, opened_early(delivered))
    verified = verify_and_open(
        delivered.active.request, arrived, delivered.key.key_id, RecycledBuffers()
    )
    outputs = {name: array.tobytes() for name, array in verified.outputs.items()}
    assert outputs == delivered.outputs


def test_a_segment_that_did_not_come_is_missed_by_the_receipt(
    delivered: honest.FinishedRequest,
) -> None:
    early = opened_early(delivered, upto=-1)
    with pytest.raises(ReceiptOutputError):
        verify_and_open(
            delivered.active.request,
            delivery(delivered, early),
            delivered.key.key_id,
            RecycledBuffers(),
        )


def test_arrays_do_not_come_out_for_other_headers_than_they_were_opened_by(
    delivered: honest.FinishedRequest,
) -> None:
    """A worker that announces one sealing and receipts another."""
    early = opened_early(delivered)
    header = ResultHeader.from_bytes(delivered.result[0])
    other = ResultHeader(code="", outputs=header.outputs[::-1], failures=())
    with pytest.raises(ReceiptResultError):
        early.finish(other)
    assert early.finish(header)


def test_arrays_do_not_come_out_before_every_segment_was_opened(
    delivered: honest.FinishedRequest,
) -> None:
    early = opened_early(delivered, upto=-1)
    with pytest.raises(NotAuthenticError):
        early.finish(ResultHeader.from_bytes(delivered.result[0]))


def test_an_announcement_of_other_outputs_than_planned_is_refused(
    delivered: honest.FinishedRequest,
) -> None:
    request, buffers = delivered.active.request, RecycledBuffers()
    header = ResultHeader.from_bytes(delivered.result[0])
    with pytest.raises(ReceiptResultError):
        Outputs(request, header.outputs[:-1], attempt=1, buffers=buffers)
    with pytest.raises(NotAuthenticError):
        Outputs(request, header.outputs, attempt=2, buffers=buffers)
    with pytest.raises(DecodeError):
        announced_outputs(request, 1, b"", buffers)
