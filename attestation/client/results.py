"""From what a worker sent to arrays: the only place where outputs are opened.

The order is the guarantee (docs/protocol.md, step 11): the receipt is verified against the accepted
evidence, our own request and the ciphertext that arrived; only then is a byte of it opened.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from itertools import pairwise
from typing import Final

from attrs import define, field, frozen

from attestation import limits
from attestation.client.errors import JobFailedError
from attestation.client.numpy_tensors import Array, allocate, as_bytes
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
    Direction,
    Place,
    SealedTensorHeader,
    TensorOpener,
    segment_count,
)
from attestation.wire.client_session import AcceptedWorker
from attestation.wire.frames import Frame
from attestation.wire.messages import ResultHeader

PARALLEL_BYTES: Final = 8 * limits.MIB
"""From here on the segments of an output are opened by several threads."""

_THREADS: Final = min(4, os.cpu_count() or 1)
_SEGMENT_OVERHEAD: Final = 32


@frozen(kw_only=True)
class Delivery:
    """What arrived for a job: ciphertext and claims, nothing of it believed."""

    attempt: int
    header: Frame = field(repr=False)
    receipt: Frame = field(repr=False)
    segments: tuple[Frame, ...] = field(repr=False)


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
    segments: list[Frame] = field(factory=list, repr=False)
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

    def add(self, attempt: int, index: int, segment: Frame) -> None:
        """Take the next segment; raises `RemoteProtocolError` for one out of order or too large.

        Segment 0 begins again: another attempt, or another delivery after a lost connection.
        """
        if index == 0:
            self.begin_again()
            self.attempt = attempt
        if attempt != self.attempt or index != len(self.segments) or index >= self.limit:
            raise RemoteProtocolError(f"output segment {index} of attempt {attempt} is not next")
        if len(segment) > self.largest:
            raise RemoteProtocolError("an output segment is too large")
        self.segments.append(segment)
        self.bytes_received += len(segment)

    def begin_again(self) -> None:
        """Forget what came so far."""
        self.segments.clear()
        self.bytes_received = 0


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
        keyset_id = ReceiptClaims.from_bytes(receipt.claims).keyset_id
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
    outputs = _open(request, header, delivery, buffers)
    return Verified(
        outputs=outputs, claims=claims, receipt=receipt, accepted=accepted, failures=failures
    )


def _failures(header: ResultHeader, items: int) -> dict[int, str]:
    numbers = [number for number, _ in header.failures]
    # In ascending order there is one way to say it, and none to say it twice.
    if numbers != sorted(set(numbers)) or any(number >= items for number in numbers):
        raise ReceiptResultError("the result names failed items that the job does not have")
    return dict(header.failures)


def _open(
    request: SealedRequest, header: ResultHeader, delivery: Delivery, buffers: RecycledBuffers
) -> dict[str, Array]:
    planned = request.choice.plan.outputs
    if len(header.outputs) != len(planned):
        raise ReceiptResultError("the result has another number of outputs than the program")
    openers = []
    for index, (name, spec) in enumerate(planned.items()):
        place = Place(
            job_id=request.job_id,
            direction=Direction.OUTPUT,
            attempt=delivery.attempt,
            index=index,
        )
        sealed = SealedTensorHeader.from_bytes(header.outputs[index])
        opener = TensorOpener(request.content_key, sealed, expected=place)
        if opener.header.name != name or opener.header.spec != spec:
            raise ReceiptResultError(f"output {name!r} is not the tensor that the program makes")
        openers.append(opener)
    ends = [0]
    for opener in openers:
        ends.append(ends[-1] + opener.segment_count)
    if ends[-1] != len(delivery.segments):
        raise NotAuthenticError("the outputs have another number of segments than arrived")
    outputs = {}
    for (start, end), opener, (name, spec) in zip(
        pairwise(ends), openers, planned.items(), strict=True
    ):
        array = allocate(spec, buffers)
        _open_tensor(opener, delivery.segments[start:end], as_bytes(array))
        outputs[name] = array
    return outputs


def _open_tensor(opener: TensorOpener, segments: Sequence[Frame], target: memoryview) -> None:
    if target.nbytes < PARALLEL_BYTES:
        for index, segment in enumerate(segments):
            opener.open_into(index, segment, target)
    else:
        opened = [
            _opening_threads().submit(opener.open_into, index, segment, target)
            for index, segment in enumerate(segments)
        ]
        wait(opened)
        for each in opened:
            each.result()
    opener.finish()


@cache
def _opening_threads() -> ThreadPoolExecutor:
    """Return the threads that open large outputs, of all clients of the process together."""
    return ThreadPoolExecutor(_THREADS, thread_name_prefix="enclave-open")
