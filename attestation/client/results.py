"""From what a worker sent to arrays: nothing leaves before the receipt proves it.

The receipt is verified against the accepted evidence, our own request and the ciphertext that
arrived (docs/protocol.md, step 11). Outputs that a worker announced are opened as they come, for
nobody to see; only a receipt that names the same headers and segments sets them free.
"""

from collections.abc import Sequence
from typing import Final, Self

from attrs import define, field, frozen

from attestation.client.errors import JobFailedError
from attestation.client.numpy_tensors import Array
from attestation.client.outputs import Outputs
from attestation.client.requests import SealedRequest
from attestation.errors import DecodeError, NotAuthenticError, RemoteProtocolError
from attestation.identifiers import ClientKeyId
from attestation.receipts.commitment import SegmentCommitment
from attestation.receipts.errors import (
    ReceiptKeySetError,
    ReceiptMalformedError,
    ReceiptResultError,
)
from attestation.receipts.receipt import Receipt, ReceiptClaims
from attestation.receipts.verification import ExpectedReceipt, verify_receipt
from attestation.sealing.recycled import RecycledBuffers
from attestation.sealing.sealed_tensor import (
    segment_count,
)
from attestation.wire.client_session import AcceptedWorker
from attestation.wire.frames import Frame, Header
from attestation.wire.messages import ResultHeader

_SEGMENT_OVERHEAD: Final = 32


@define
class EarlyOutputs:
    """Outputs that are opened as they come, and what the receipt must say of their ciphertext."""

    outputs: Outputs
    commitment: SegmentCommitment
    refusal: NotAuthenticError | None = None
    """Why a segment did not open. Kept for `finish`: first the receipt tells what it proves."""

    def add(self, index: int, segment: Frame) -> None:
        """Take the next segment; it is not needed afterwards."""
        self.commitment.add(index, segment)
        if self.refusal is None:
            try:
                self.outputs.open(index, segment)
            except NotAuthenticError as error:
                self.refusal = error

    def finish(self, header: ResultHeader) -> dict[str, Array]:
        """Hand out the arrays, for a header whose digest a verified receipt carries."""
        if self.refusal is not None:
            raise self.refusal
        if self.outputs.headers != header.outputs:
            raise ReceiptResultError("the outputs were announced with other headers")
        return self.outputs.finish()


@frozen(kw_only=True)
class Verified:
    """A verified receipt, who signed it, and the arrays it stands for."""

    outputs: dict[str, Array] = field(repr=False)
    claims: ReceiptClaims
    receipt: Receipt
    accepted: AcceptedWorker = field(repr=False)
    failures: dict[int, str] = field(factory=dict)
    """Of a stack: the number and code of each item that failed."""


@define
class Collector:
    """The output segments of one attempt, in the order they travel."""

    limit: int
    """Segments that the planned outputs have: a worker cannot make us hold more."""
    largest: int
    """Sealed bytes of the largest segment."""
    attempt: int = 0
    count: int = 0
    segments: list[Frame] = field(factory=list, repr=False)
    """What came, unless it was opened at once."""
    early: EarlyOutputs | None = field(default=None, repr=False)
    announced: tuple[int, EarlyOutputs] | None = field(default=None, repr=False)
    """The attempt whose outputs will be opened at once, if its segments come next."""
    bytes_received: int = 0

    @classmethod
    def of(cls, request: SealedRequest) -> "Collector":
        """Return an empty collector for the planned outputs of `request`."""
        size = request.record.segment_bytes
        outputs = request.choice.plan.outputs.values()
        return cls(
            limit=sum(segment_count(spec.nbytes, size) for spec in outputs),
            largest=size + _SEGMENT_OVERHEAD,
        )

    def announce(self, attempt: int, early: EarlyOutputs) -> None:
        """Open the outputs of `attempt` as they come, from segment 0 on."""
        self.announced = attempt, early

    def add(self, attempt: int, index: int, segment: Frame) -> None:
        """Take the next segment; raises `RemoteProtocolError` for one out of order or too large.

        Segment 0 begins again: another attempt, or another delivery after a lost connection.
        """
        if index == 0:
            self._begin(attempt)
        if attempt != self.attempt or index != self.count or index >= self.limit:
            raise RemoteProtocolError(f"output segment {index} of attempt {attempt} is not next")
        if len(segment) > self.largest:
            raise RemoteProtocolError("an output segment is too large")
        if self.early is None:
            self.segments.append(segment)
        else:
            self.early.add(index, segment)
        self.count += 1
        self.bytes_received += len(segment)

    def _begin(self, attempt: int) -> None:
        announced = self.announced
        self.begin_again()
        self.attempt = attempt
        # Each announcement is for one delivery: a segment is opened once.
        if announced is not None and announced[0] == attempt:
            self.early = announced[1]

    def begin_again(self) -> None:
        """Forget what came so far."""
        self.segments.clear()
        self.early = self.announced = None
        self.count = self.bytes_received = 0


@frozen(kw_only=True)
class Delivery:
    """What arrived for a job: ciphertext and claims, nothing of it believed."""

    attempt: int
    header: Frame = field(repr=False)
    receipt: Frame = field(repr=False)
    segments: tuple[Frame, ...] = field(repr=False)
    early: EarlyOutputs | None = field(default=None, repr=False)
    """In place of segments that were opened as they came."""

    @classmethod
    def of(cls, header: Header, frames: Sequence[Frame], collector: Collector) -> Self:
        """Return what a RESULT of these frames delivers, with the segments that came before it."""
        segments, early = tuple(frames[3:]), None
        # A program that failed after its first outputs returns none.
        if not segments and header.count:
            segments, early = tuple(collector.segments), collector.early
        if (len(segments) if early is None else collector.count) != header.count:
            raise RemoteProtocolError("a result with another number of segments than arrived")
        return cls(
            attempt=header.attempt,
            header=frames[1],
            receipt=frames[2],
            segments=segments,
            early=early,
        )


def announced_outputs(
    request: SealedRequest, attempt: int, body: Frame, buffers: RecycledBuffers
) -> EarlyOutputs:
    """Return what opens the outputs that a worker announces.

    Raises what `Outputs` raises, and `DecodeError`. Nothing of it is believed: the header that the
    receipt carries must name the same outputs.
    """
    header = ResultHeader.from_bytes(body)
    outputs = Outputs(request, header.outputs, attempt=attempt, buffers=buffers)
    return EarlyOutputs(outputs, SegmentCommitment(request.header.commitment_kind))


def verify_and_open(
    request: SealedRequest,
    delivery: Delivery,
    client_key_id: ClientKeyId,
    buffers: RecycledBuffers,
) -> Verified:
    """Return the arrays, in memory of `buffers`, of a delivery whose receipt proves them.

    Raises a `ReceiptRefusedError` when it does not, `NotAuthenticError` when the outputs do not
    open, and `JobFailedError` (which carries a verified code) when the program failed.
    """
    try:
        header = ResultHeader.from_bytes(delivery.header)
        receipt = Receipt.from_bytes(delivery.receipt)
        keyset_id = receipt.parsed.keyset_id
        if delivery.early is not None:
            commitment = delivery.early.commitment
        else:
            commitment = SegmentCommitment.over(request.header.commitment_kind, delivery.segments)
    except DecodeError as error:
        raise ReceiptMalformedError(f"the result cannot be read: {error}") from error
    # Only to find the evidence by: verification compares it again.
    accepted = request.accepted.get(keyset_id)
    if accepted is None:
        raise ReceiptKeySetError("the receipt names a key set that this job was not wrapped for")
    claims = verify_receipt(
        receipt,
        keyset=accepted.keyset,
        evidence_digest=accepted.result.evidence_digest,
        evidence_kind=accepted.result.kind,
        expected=ExpectedReceipt(
            job_id=request.job_id,
            client_key_id=client_key_id,
            attempt=delivery.attempt,
            request_digest=request.request_digest,
            program_digest=request.header.program_digest,
            parameters_commitment=request.header.parameters_commitment,
            catalogue_digest=request.header.catalogue_digest,
            commitment_kind=request.header.commitment_kind,
            input_commitment=request.commitment.root(),
            result_digest=header.digest(),
            output_commitment=commitment.root(),
        ),
    )
    if claims.code != header.code:
        raise ReceiptResultError("receipt and result disagree on whether the program ran")
    if claims.code:
        raise JobFailedError(claims.code, receipt=receipt, accepted=accepted)
    failures = _failures(header, request.header.items)
    return Verified(
        outputs=_arrays(request, header, delivery, buffers),
        claims=claims,
        receipt=receipt,
        accepted=accepted,
        failures=failures,
    )


def _failures(header: ResultHeader, items: int) -> dict[int, str]:
    numbers = [number for number, _ in header.failures]
    # In ascending order there is one way to say it, and none to say it twice.
    if numbers != sorted(set(numbers)) or any(number >= items for number in numbers):
        raise ReceiptResultError("the result names failed items that the job does not have")
    return dict(header.failures)


def _arrays(
    request: SealedRequest, header: ResultHeader, delivery: Delivery, buffers: RecycledBuffers
) -> dict[str, Array]:
    early = delivery.early
    if early is not None:
        return early.finish(header)
    outputs = Outputs(request, header.outputs, attempt=delivery.attempt, buffers=buffers)
    outputs.open_all(delivery.segments)
    return outputs.finish()
