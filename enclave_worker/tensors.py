"""A job's tensors inside the worker: sealed segments in, arrays, sealed segments out.

Inputs are opened straight into pooled secret buffers and the arrays are views on them; kernels make
their outputs in such buffers too, and they are sealed from there.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self, TypeAlias

import numpy as np
from attrs import field, frozen

from attestation.errors import DecodeError, NotAuthenticError
from attestation.identifiers import JobId
from attestation.receipts.commitment import SegmentCommitment
from attestation.sealing.content_key import ContentKey
from attestation.sealing.sealed_tensor import TensorOpener, TensorSealer
from attestation.sealing.tensor_header import Direction, Place, TensorHeader
from attestation.sealing.tensor_spec import TensorSpec
from attestation.wire.frames import Frame
from enclave_worker.buffers import BufferPool, SecretBuffer
from enclave_worker.refusals import JobNotAuthenticError

Array: TypeAlias = np.ndarray[Any, Any]


@frozen(kw_only=True)
class HeldTensor:
    """A tensor in a secret buffer. Whoever holds it gives the buffer back to its pool."""

    spec: TensorSpec
    buffer: SecretBuffer = field(repr=False)

    @classmethod
    def allocate(cls, spec: TensorSpec, pool: BufferPool) -> Self:
        """Take a zeroed buffer for `spec`; raises `LimitError` when the host has no memory."""
        return cls(spec=spec, buffer=pool.take(spec.nbytes))

    def array(self, *, writable: bool = True) -> Array:
        """Return the tensor as an array over the buffer itself."""
        if not self.spec.nbytes:
            array = np.empty(self.spec.shape, dtype=self.spec.dtype)
        else:
            # Not `np.frombuffer`: it takes no hold of the buffer, so nobody would notice an array
            # that outlives its job and looks at the next one's tensors.
            flat = np.asarray(self.buffer.view()).view(self.spec.dtype)
            array = flat.reshape(self.spec.shape)
        array.flags.writeable = writable
        return array


class InputTensors:
    """The inputs of one job, filled segment by segment in the order in which they travel."""

    def __init__(self, openers: Sequence[TensorOpener], *, kind: str, pool: BufferPool) -> None:
        """Allocate for `openers`, whose headers are authentic; commit to segments as `kind`."""
        self._openers = openers
        self._pool = pool
        self._commitment = SegmentCommitment(kind)
        self._order = [
            (tensor, segment)
            for tensor, opener in enumerate(openers)
            for segment in range(opener.segment_count)
        ]
        self._next = 0
        self._held: dict[str, HeldTensor] = {}
        self.sealed_bytes = 0
        try:
            for opener in openers:
                self._held[opener.header.name] = HeldTensor.allocate(opener.header.spec, pool)
        except BaseException:
            self.close()
            raise

    @property
    def segment_count(self) -> int:
        """Segments of all inputs together."""
        return len(self._order)

    @property
    def complete(self) -> bool:
        """Whether every segment was opened."""
        return self._next == len(self._order)

    def add(self, index: int, segment: Frame) -> None:
        """Open segment `index`; raises `JobNotAuthenticError` unless it is the next, unchanged."""
        if index != self._next or self.complete:
            raise JobNotAuthenticError("a segment is repeated, missing or out of order")
        tensor, position = self._order[index]
        try:
            opener = self._openers[tensor]
            opener.open_into(position, segment, self._held[opener.header.name].buffer.view())
            self._commitment.add(index, segment)
        except (NotAuthenticError, DecodeError) as error:
            raise JobNotAuthenticError(str(error)) from error
        self._next += 1
        self.sealed_bytes += len(segment)

    def finish(self) -> None:
        """Vouch for the inputs: raises `JobNotAuthenticError` unless every one is whole."""
        try:
            for opener in self._openers:
                opener.finish()
        except NotAuthenticError as error:
            raise JobNotAuthenticError(str(error)) from error

    def open(self) -> None:
        """Do nothing: segments were opened as they came."""

    def array(self, name: str) -> Array:
        """Return one input as a read-only array.

        Read-only because several steps may read it: a kernel that wrote into it would change what
        the next one sees.
        """
        return self._held[name].array(writable=False)

    def release(self, name: str) -> None:
        """Wipe one input, which no step reads any more."""
        self._pool.give_back(self._held.pop(name).buffer)

    def commitment(self) -> bytes:
        """Return the commitment to every input segment, for the receipt."""
        return self._commitment.root()

    def close(self) -> None:
        """Wipe every input. The arrays see zeros."""
        for name in list(self._held):
            self.release(name)


class OutputTensors:
    """The outputs of one job, in secret buffers until they are sealed."""

    def __init__(
        self,
        outputs: Mapping[str, HeldTensor],
        *,
        content_key: ContentKey,
        job_id: JobId,
        attempt: int,
        segment_bytes: int,
        kind: str,
        pool: BufferPool,
    ) -> None:
        """Take over `outputs`, in their order, and prepare to seal them."""
        self._pool = pool
        self._commitment = SegmentCommitment(kind)
        self._buffers = [held.buffer for held in outputs.values()]
        self._sealers: list[TensorSealer] = []
        self.sealed_bytes = 0
        try:
            for index, (name, held) in enumerate(outputs.items()):
                place = Place(
                    job_id=job_id, direction=Direction.OUTPUT, attempt=attempt, index=index
                )
                header = TensorHeader.for_tensor(
                    held.spec, name=name, place=place, segment_bytes=segment_bytes
                )
                self._sealers.append(TensorSealer(content_key, header))
        except BaseException:
            self.close()
            raise

    @property
    def headers(self) -> tuple[bytes, ...]:
        """The sealed tensor headers, for the result header."""
        return tuple(sealer.sealed_header.to_bytes() for sealer in self._sealers)

    @property
    def segment_count(self) -> int:
        """Segments of all outputs together."""
        return sum(sealer.segment_count for sealer in self._sealers)

    @property
    def sealed_length(self) -> int:
        """Sealed bytes of all outputs together."""
        return sum(sealer.sealed_length for sealer in self._sealers)

    def segments(self) -> Iterator[bytearray]:
        """Seal and return one segment after the other; each tensor is wiped once it is sealed."""
        number = 0
        for sealer, buffer in zip(self._sealers, self._buffers, strict=True):
            for index in range(sealer.segment_count):
                segment = sealer.segment(index, buffer.view())
                self._commitment.add(number, segment)
                self.sealed_bytes += len(segment)
                number += 1
                yield segment
            buffer.wipe()

    def commitment(self) -> bytes:
        """Return the commitment to every output segment sealed so far."""
        return self._commitment.root()

    def close(self) -> None:
        """Wipe every output."""
        for buffer in self._buffers:
            self._pool.give_back(buffer)
        self._buffers.clear()
