"""Programs that treat every segment alone: computed on as it arrives, sealed again in its place.

Elementwise and row by row kernels need not wait for a tensor to be whole, and one that does not
wait overlaps with the network in both directions and needs two segments of memory instead of two
tensors. What G4 asks of it (docs/protocol.md, step 9): a kernel sees a segment only after it was
authenticated, and the last output segment and the receipt wait until the input is verified whole.

Which programs those are follows from their signatures alone. A pattern such as `T[..., n]` says
that slices along the leading dimensions are treated alone; if that holds for every port of every
step, and a segment holds a whole number of slices, then the program means the same for a segment as
for the tensor. There must be one input and one output, of as many bytes, so that their segments
correspond; otherwise `cut` says no and the job runs on whole tensors.
"""

import math
from collections.abc import Callable, Mapping
from typing import Final, Self

import numpy as np
from attrs import evolve, frozen

from attestation.errors import DecodeError, NotAuthenticError, ProgramError, TensorError
from attestation.identifiers import JobId
from attestation.programs import shapes
from attestation.programs.plan import Plan, PlannedStep
from attestation.receipts.commitment import SegmentCommitment
from attestation.sealing.content_key import ContentKey
from attestation.sealing.sealed_tensor import TensorOpener, TensorSealer
from attestation.sealing.tensor_header import Direction, Place, TensorHeader
from attestation.sealing.tensor_spec import TensorSpec
from attestation.wire.frames import Frame
from enclave_worker.prepared import PreparedRun
from enclave_worker.refusals import JobNotAuthenticError

_MINIMUM_SEGMENTS: Final = 2


@frozen(kw_only=True)
class Pieces:
    """A plan cut into one of a whole segment, and one of the final segment."""

    whole: Plan
    final: Plan


def cut(plan: Plan, *, segment_bytes: int) -> Pieces | None:
    """Return `plan` for single segments, or none where a program means something else for them."""
    if len(plan.inputs) != 1 or len(plan.outputs) != 1 or plan.items or not plan.steps:
        return None
    (spec,), (output,) = plan.inputs.values(), plan.outputs.values()
    depth = _slice_depth(plan)
    if depth is None or depth > len(spec.shape) or spec.nbytes != output.nbytes:
        return None
    row = spec.shape[len(spec.shape) - depth :]
    row_bytes = math.prod(row) * np.dtype(spec.dtype).itemsize
    if spec.nbytes < _MINIMUM_SEGMENTS * segment_bytes or segment_bytes % row_bytes:
        return None
    rest = spec.nbytes % segment_bytes or segment_bytes
    try:
        whole, final = (
            _plan_of(plan, TensorSpec(dtype=spec.dtype, shape=(size // row_bytes, *row)))
            for size in (segment_bytes, rest)
        )
    except (ProgramError, TensorError):
        return None
    made = next(iter(whole.outputs.values()))
    if made.dtype != output.dtype or made.nbytes != segment_bytes:
        return None
    return Pieces(whole=whole, final=final)


def _slice_depth(plan: Plan) -> int | None:
    """Return how many trailing dimensions a slice has; none if not all slices are alone."""
    patterns = [
        shapes.parse(port.pattern)
        for step in plan.steps
        for port in (*step.signature.inputs, *step.signature.outputs)
    ]
    if not all(pattern.batched for pattern in patterns):
        return None
    return max(len(pattern.dims) for pattern in patterns)


def _plan_of(plan: Plan, piece: TensorSpec) -> Plan:
    """Return `plan` for an input of the spec `piece`; raises the first `ProgramError`."""
    (name,) = plan.inputs
    tensors = {name: piece}
    steps: list[PlannedStep] = []
    for step in plan.steps:
        specs = {port: tensors[reference] for port, reference in step.inputs.items()}
        outputs = step.signature.infer(specs, step.parameters)
        tensors |= {f"{step.id}.{port}": spec for port, spec in outputs.items()}
        steps.append(evolve(step, outputs=outputs))
    return evolve(
        plan,
        steps=tuple(steps),
        tensors=tensors,
        inputs={name: piece},
        outputs={each: tensors[reference] for each, reference in plan.output_references.items()},
    )


class StreamedInput:
    """The one input of a job, of which the worker holds one segment at a time."""

    def __init__(
        self,
        opener: TensorOpener,
        pieces: Pieces,
        *,
        kind: str,
        prepare: Callable[[Plan], PreparedRun],
    ) -> None:
        """Take memory for one segment of `opener`; commit to segments as `kind`."""
        self._opener = opener
        self._pieces = pieces
        self._prepare = prepare
        self._commitment = SegmentCommitment(kind)
        self._next = 0
        self.sealed_bytes = 0
        self.piece = prepare(pieces.whole)
        """The run whose input is the segment that was added last."""

    @property
    def segment_count(self) -> int:
        """Segments of the input."""
        return self._opener.segment_count

    @property
    def complete(self) -> bool:
        """Whether every segment was opened."""
        return self._next == self.segment_count

    def add(self, index: int, segment: Frame) -> None:
        """Open segment `index` in the place of the one before it.

        Raises `JobNotAuthenticError` unless it is the next, unchanged; for the last one also when
        the input is not whole now.
        """
        if index != self._next or self.complete:
            raise JobNotAuthenticError("a segment is repeated, missing or out of order")
        last = self._opener.layout.is_final(index)
        if last:
            self.piece.close()
            self.piece = self._prepare(self._pieces.final)
        try:
            self._opener.open_into(index, segment, self.piece.input(self._opener.header.name))
            self._commitment.add(index, segment)
            if last:
                self._opener.finish()
        except (NotAuthenticError, DecodeError) as error:
            raise JobNotAuthenticError(str(error)) from error
        self._next += 1
        self.sealed_bytes += len(segment)

    def commitment(self) -> bytes:
        """Return the commitment to every segment, for the receipt."""
        return self._commitment.root()

    def close(self) -> None:
        """Wipe the segment and everything that was made of it. Safe to call twice."""
        self.piece.close()


class StreamedOutput:
    """The one output of such a job, sealed segment by segment."""

    def __init__(self, name: str, sealer: TensorSealer, *, kind: str) -> None:
        """Seal what runs leave in their output `name`; commit to segments as `kind`."""
        self._name = name
        self._sealer = sealer
        self._commitment = SegmentCommitment(kind)
        self._next = 0
        self.sealed_bytes = 0

    @classmethod
    def of(
        cls,
        outputs: Mapping[str, TensorSpec],
        *,
        content_key: ContentKey,
        job_id: JobId,
        attempt: int,
        segment_bytes: int,
        kind: str,
    ) -> Self:
        """Return the output of a plan that has one."""
        ((name, spec),) = outputs.items()
        place = Place(job_id=job_id, direction=Direction.OUTPUT, attempt=attempt, index=0)
        header = TensorHeader.for_tensor(spec, name=name, place=place, segment_bytes=segment_bytes)
        return cls(name, TensorSealer(content_key, header), kind=kind)

    @property
    def headers(self) -> tuple[bytes, ...]:
        """The sealed tensor header, for the result header."""
        return (self._sealer.sealed_header.to_bytes(),)

    @property
    def segment_count(self) -> int:
        """Segments of the output."""
        return self._sealer.segment_count

    @property
    def sealed_length(self) -> int:
        """Sealed bytes of the output."""
        return self._sealer.sealed_length

    def seal(self, piece: PreparedRun, memory: Frame) -> Frame:
        """Seal what `piece` made, as the next segment.

        It goes where the input segment came from if that can be written to: received memory is
        nobody else's, and fresh memory costs more than sealing.
        """
        plain, length = piece.output(self._name), self._sealer.segment_length(self._next)
        if isinstance(memory, memoryview) and not memory.readonly and len(memory) == length:
            self._sealer.seal_into(self._next, plain, memory)
            segment: Frame = memory
        else:
            segment = self._sealer.segment(self._next, plain)
        self._commitment.add(self._next, segment)
        self._next += 1
        self.sealed_bytes += length
        return segment

    def commitment(self) -> bytes:
        """Return the commitment to every segment sealed so far."""
        return self._commitment.root()

    def close(self) -> None:
        """Do nothing: the memory is the run's."""
