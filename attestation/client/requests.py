"""From what a user asks for to what travels: plan, seal, sign, wrap (docs/protocol.md, step 6).

A `JobSpec` is the wish and holds the arrays. A `SealedRequest` is one sealing of it, under a job id
and a content key of its own: a job that must be sent again is sealed again, never under the same
key. A small request is sealed at once and its arrays may change afterwards; a large one is sealed
segment by segment while it is sent, so that no second copy of it exists.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property
from os import urandom
from typing import Final

from attrs import define, field, frozen

from attestation import limits
from attestation.client.errors import TooLargeError
from attestation.client.keys import ClientKey
from attestation.client.numpy_tensors import Array, as_bytes
from attestation.client.planning import GivenParameters, plan
from attestation.client.workers import ReadyWorker
from attestation.encoding.digests import Label, digest
from attestation.errors import LocalProtocolError, ProgramError
from attestation.identifiers import SHORT_ID_BYTES, Digest, JobId, KeySetId, WorkerId
from attestation.programs.plan import Plan
from attestation.programs.program import Program
from attestation.receipts.commitment import CommitmentKind, SegmentCommitment
from attestation.receipts.signed_batch import sign_batch
from attestation.sealing.content_key import ContentKey
from attestation.sealing.sealed_tensor import (
    Direction,
    Place,
    TensorHeader,
    TensorSealer,
    seal_bytes,
    sealed_length,
    segment_count,
)
from attestation.sealing.tensor_spec import TensorSpec
from attestation.wire.client_session import AcceptedWorker
from attestation.wire.control import SubmitRecord
from attestation.wire.messages import JobBody, JobEnvelope, JobHeader

WRAPS: Final = 1024
"""Workers that one job is wrapped for (`SubmitRecord.wraps`)."""


@frozen(kw_only=True)
class JobSpec:
    """What the user asks for. `program` is a kernel's name or a `Program`."""

    program: Program | str
    parameters: GivenParameters = field(repr=False)
    arrays: Mapping[str, Array] = field(repr=False)
    specs: Mapping[str, TensorSpec]
    durable: bool
    deadline_ms: int
    price_limit: int = 0
    commitment: str = CommitmentKind.TAGS
    segment_bytes: int = limits.SEGMENT_BYTES
    items: int = 0
    """Above 0: every array is a stack of so many, and the program runs on each (`stacking`)."""
    deterministic: bool = False
    """Refuse kernels that cannot promise the same bits again."""

    @cached_property
    def input_segments(self) -> int:
        """Segments of all inputs."""
        return sum([segment_count(s.nbytes, self.segment_bytes) for s in self.specs.values()])

    @cached_property
    def input_bytes(self) -> int:
        """Sealed bytes of all inputs."""
        return sum([sealed_length(s.nbytes, self.segment_bytes) for s in self.specs.values()])

    @cached_property
    def inline(self) -> bool:
        """Whether every input travels inside the submit message."""
        return travel_inline(self.specs.values(), self.segment_bytes)


def travel_inline(tensors: Collection[TensorSpec], segment_bytes: int) -> bool:
    """Tell whether tensors are small and few enough to travel inside the submit message."""
    segments = sum([segment_count(tensor.nbytes, segment_bytes) for tensor in tensors])
    sealed = sum([sealed_length(tensor.nbytes, segment_bytes) for tensor in tensors])
    return segments <= limits.INLINE_SEGMENTS and sealed <= limits.INLINE_BYTES


@frozen(kw_only=True)
class Choice:
    """A spec planned against one catalogue, and the accepted workers that have it."""

    program: Program
    encoded_parameters: bytes = field(repr=False)
    plan: Plan
    catalogue_digest: Digest
    workers: tuple[ReadyWorker, ...]
    output_bytes: int


@define(kw_only=True)
class SealedRequest:
    """One job id: what is sent for it, and what its result is checked against."""

    job_id: JobId
    choice: Choice
    header: JobHeader
    request_digest: Digest
    record: SubmitRecord
    envelope: bytes = field(repr=False)
    content_key: ContentKey
    accepted: dict[KeySetId, AcceptedWorker] = field(repr=False)
    wrapped_for: dict[WorkerId, ReadyWorker] = field(repr=False)
    commitment: SegmentCommitment = field(repr=False)
    inline: tuple[bytearray, ...] = field(repr=False)
    """Every sealed segment of a small request, empty for a large one."""
    _unsent: list[tuple[TensorSealer, memoryview]] = field(repr=False)
    segments_sealed: int = 0
    _within: int = 0

    def next_segment(self) -> tuple[int, bytearray]:
        """Seal the next segment of a large request; returns its index over all inputs."""
        if not self._unsent:
            raise LocalProtocolError("every segment of this request was sealed")
        sealer, data = self._unsent[0]
        segment = sealer.segment(self._within, data)
        index = self.segments_sealed
        self.commitment.add(index, segment)
        self.segments_sealed += 1
        self._within += 1
        if self._within == sealer.segment_count:
            del self._unsent[0]
            self._within = 0
        return index, segment

    @property
    def complete(self) -> bool:
        """Whether every input segment is sealed."""
        return self.segments_sealed == self.record.input_segments

    def wrap(self, worker: ReadyWorker) -> bytes:
        """Wrap the content key for one more worker."""
        wrapped = worker.session.wrap(self.content_key, self.request_digest)
        self.accepted[worker.accepted.keyset_id] = worker.accepted
        self.wrapped_for[worker.worker_id] = worker
        return wrapped

    def release(self) -> None:
        """Forget the inputs: nothing of this request will be sealed any more."""
        self._unsent.clear()


def suited_segment_bytes(specs: Iterable[TensorSpec]) -> int:
    """Return how large the segments of a job over such inputs should be."""
    large = any(spec.nbytes >= limits.LARGE_TENSOR_BYTES for spec in specs)
    return limits.LARGE_SEGMENT_BYTES if large else limits.SEGMENT_BYTES


def choose(spec: JobSpec, ready: Sequence[ReadyWorker], max_job_bytes: int) -> Choice:
    """Plan `spec` against the catalogue that most of the `ready` workers have and that fits.

    Raises the `ProgramError` of the most common catalogue when it fits none, `TooLargeError` when
    it is too large for every worker. Nothing was sealed or sent.
    """
    groups: dict[Digest, list[ReadyWorker]] = {}
    for worker in ready:
        groups.setdefault(worker.accepted.keyset.catalogue_digest, []).append(worker)
    refusal: ProgramError | TooLargeError | None = None
    for catalogue_digest, workers in sorted(groups.items(), key=lambda group: -len(group[1])):
        try:
            return _plan(spec, catalogue_digest, workers, max_job_bytes)
        except (ProgramError, TooLargeError) as error:
            refusal = refusal or error
    if refusal is None:
        raise LocalProtocolError("no worker to choose from")
    raise refusal


def _plan(
    spec: JobSpec, catalogue_digest: Digest, workers: list[ReadyWorker], max_job_bytes: int
) -> Choice:
    planned = plan(
        workers[0].accepted.catalogue,
        catalogue_digest,
        spec.program,
        spec.parameters,
        spec.specs,
        items=spec.items,
        deterministic=spec.deterministic,
    )
    output_bytes = sum(
        sealed_length(output.nbytes, spec.segment_bytes) for output in planned.plan.outputs.values()
    )
    needed = spec.input_bytes + output_bytes
    roomy = [worker for worker in workers if worker.description.max_job_bytes >= needed]
    if needed > max_job_bytes or not roomy:
        largest = max(worker.description.max_job_bytes for worker in workers)
        raise TooLargeError(
            f"the job takes {needed} sealed bytes; workers take {largest}, "
            f"the coordinator {max_job_bytes}"
        )
    return Choice(
        program=planned.program,
        encoded_parameters=planned.encoded_parameters,
        plan=planned.plan,
        catalogue_digest=catalogue_digest,
        workers=tuple(roomy[:WRAPS]),
        output_bytes=output_bytes,
    )


def seal_request(spec: JobSpec, choice: Choice, key: ClientKey) -> SealedRequest:
    """Seal `spec` under a fresh job id and content key, wrapped for every worker of `choice`."""
    job_id = JobId(urandom(SHORT_ID_BYTES))
    content_key = ContentKey.generate()
    sealers = list(_sealers(spec, choice, job_id, content_key))
    body = JobBody(
        program=choice.program.to_bytes(),
        parameters=choice.encoded_parameters,
        salt=urandom(32),
    )
    header = JobHeader(
        job_id=job_id,
        client_key=key.public_bytes,
        program_digest=choice.program.digest(),
        catalogue_digest=choice.catalogue_digest,
        parameters_commitment=body.commitment(),
        content_key_commitment=content_key.commitment(job_id),
        commitment_kind=spec.commitment,
        inputs=tuple(sealer.sealed_header.to_bytes() for sealer, _ in sealers),
        segment_bytes=spec.segment_bytes,
        not_after_ms=spec.deadline_ms,
        price_limit=spec.price_limit,
        items=spec.items,
        deterministic=spec.deterministic,
    )
    signed = header.to_bytes()
    request_digest = digest(Label.JOB_HEADER, signed)
    commitment = SegmentCommitment(spec.commitment)
    inline = _seal_inline(sealers, commitment) if spec.inline else ()
    accepted: dict[KeySetId, AcceptedWorker] = {}
    wraps = []
    for worker in choice.workers:
        wraps.append((worker.worker_id, worker.session.wrap(content_key, request_digest)))
        accepted[worker.accepted.keyset_id] = worker.accepted
    return SealedRequest(
        job_id=job_id,
        choice=choice,
        header=header,
        request_digest=request_digest,
        record=SubmitRecord(
            program_digest=header.program_digest,
            catalogue_digest=header.catalogue_digest,
            durable=spec.durable,
            segment_bytes=spec.segment_bytes,
            input_segments=spec.input_segments,
            input_bytes=spec.input_bytes,
            output_bytes_max=choice.output_bytes,
            deadline_ms=spec.deadline_ms,
            price_limit=spec.price_limit,
            wraps=tuple(wraps),
        ),
        envelope=_envelope(signed, body, content_key, request_digest, key),
        content_key=content_key,
        accepted=accepted,
        wrapped_for={worker.worker_id: worker for worker in choice.workers},
        commitment=commitment,
        inline=inline,
        unsent=[] if spec.inline else sealers,
        segments_sealed=len(inline),
    )


def _sealers(
    spec: JobSpec, choice: Choice, job_id: JobId, content_key: ContentKey
) -> Iterable[tuple[TensorSealer, memoryview]]:
    # In the order of the names, which is the order in which the worker expects the segments.
    for index, (name, tensor) in enumerate(choice.plan.inputs.items()):
        header = TensorHeader.for_tensor(
            tensor,
            name=name,
            place=Place(job_id=job_id, direction=Direction.INPUT, attempt=0, index=index),
            segment_bytes=spec.segment_bytes,
        )
        yield TensorSealer(content_key, header), as_bytes(spec.arrays[name])


def _seal_inline(
    sealers: Iterable[tuple[TensorSealer, memoryview]], commitment: SegmentCommitment
) -> tuple[bytearray, ...]:
    segments: list[bytearray] = []
    for sealer, data in sealers:
        for index in range(sealer.segment_count):
            segment = sealer.segment(index, data)
            commitment.add(len(segments), segment)
            segments.append(segment)
    return tuple(segments)


def _envelope(
    signed: bytes,
    body: JobBody,
    content_key: ContentKey,
    request_digest: Digest,
    key: ClientKey,
) -> bytes:
    (signature,) = sign_batch([signed], label=Label.JOB_SIGNATURE, key_id=key.key_id, sign=key.sign)
    sealed = seal_bytes(content_key.body_key(request_digest), request_digest, body.to_bytes())
    return JobEnvelope(header=signed, signature=signature.to_bytes(), body=sealed).to_bytes()
