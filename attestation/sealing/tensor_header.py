"""The two headers of a sealed tensor: what it is, and that with the FLOE header beside it.

The canonical bytes of `TensorHeader` are the associated data of everything sealed below it, so each
field in it is authenticated: a segment of another tensor, job, direction or attempt does not open.
"""

import re
from enum import StrEnum
from functools import cached_property
from typing import Any, Final, Self

from attrs import frozen

from attestation import limits
from attestation.encoding.record import Record, array, item, octets, text, uint, word
from attestation.errors import DecodeError, NotAuthenticError, TensorError
from attestation.identifiers import SHORT_ID_BYTES, JobId
from attestation.sealing import floe
from attestation.sealing.tensor_spec import TensorSpec

SUITE: Final = 1
"""AES-256-GCM in C2SP FLOE with HKDF-Expand-SHA-384. The only suite, so nothing to downgrade to."""

_NAME: Final = re.compile(rf"[A-Za-z0-9_.-]{{1,{limits.NAME_CHARACTERS}}}", re.ASCII)
_UINT32: Final = (1 << 32) - 1


class TensorNameError(TensorError):
    """A tensor's name is not 1 to 64 of the characters `A-Z a-z 0-9 _ . -`. Rename it."""

    code = "tensor-name-refused"


class SegmentBytesError(TensorError):
    """A segment is not a power of two from 64 KiB to 16 MiB. Choose one; 1 MiB is the default."""

    code = "segment-bytes-refused"


class TensorPlaceError(TensorError):
    """Index or attempt are not ones that a tensor of this direction can have."""

    code = "tensor-place-refused"


class Direction(StrEnum):
    """Which way a tensor travels: to the worker or back."""

    INPUT = "input"
    OUTPUT = "output"


class Order(StrEnum):
    """How elements follow each other: row-major, little-endian. Nothing else is carried."""

    C = "C"


@frozen(kw_only=True)
class Place:
    """Where a receiver expects a tensor: it knows this before any header arrives.

    `attempt` is 0 for inputs, which are sealed once for all attempts, and the fencing token of the
    dispatch for outputs. `index` counts the tensors of one direction from 0.
    """

    job_id: JobId
    direction: Direction
    attempt: int
    index: int


def check_segment_bytes(segment_bytes: int) -> None:
    """Raise `SegmentBytesError` unless this is an allowed plaintext size of a full segment."""
    in_range = limits.SEGMENT_BYTES_MIN <= segment_bytes <= limits.SEGMENT_BYTES_MAX
    if not in_range or segment_bytes.bit_count() != 1:
        raise SegmentBytesError(f"a segment of {segment_bytes} bytes")


@frozen(kw_only=True)
class TensorHeader(Record):
    """What one tensor is and where it belongs. Made locally or parsed, it is always valid.

    Making one raises `TensorError`; parsing one raises `DecodeError`.
    """

    VERSION = 1
    LIMIT = 2 * limits.KIB

    suite: int = item(uint(), default=SUITE)
    name: str = item(text())
    dtype: str = item(text())
    shape: tuple[int, ...] = item(array(uint(), limit=limits.TENSOR_RANK))
    order: Order = item(word(Order), default=Order.C)
    job_id: JobId = item(octets(exactly=SHORT_ID_BYTES))
    direction: Direction = item(word(Direction))
    attempt: int = item(uint(_UINT32))
    index: int = item(uint(limits.TENSORS_PER_JOB - 1))
    segment_bytes: int = item(uint(limits.SEGMENT_BYTES_MAX), default=limits.SEGMENT_BYTES)

    def __attrs_post_init__(self) -> None:
        """Refuse what no receiver would accept."""
        if self.suite != SUITE:
            raise TensorError(f"unknown suite {self.suite}")
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise TensorNameError("a name that is not 1 to 64 of A-Z a-z 0-9 _ . -")
        check_segment_bytes(self.segment_bytes)
        if not 0 <= self.index < limits.TENSORS_PER_JOB or not 0 <= self.attempt <= _UINT32:
            raise TensorPlaceError("an index or an attempt outside its range")
        if self.direction is Direction.INPUT and self.attempt != 0:
            raise TensorPlaceError("inputs are sealed once, for all attempts")
        if len(self.job_id) != SHORT_ID_BYTES:
            raise TensorPlaceError("a job id of another length")
        self.spec  # noqa: B018 - making one checks dtype, shape and size

    @classmethod
    def for_tensor(
        cls,
        spec: TensorSpec,
        *,
        name: str,
        place: Place,
        segment_bytes: int = limits.SEGMENT_BYTES,
    ) -> Self:
        """Describe a tensor that is about to be sealed; raises `TensorError`."""
        return cls(
            name=name,
            dtype=spec.dtype,
            shape=spec.shape,
            job_id=place.job_id,
            direction=place.direction,
            attempt=place.attempt,
            index=place.index,
            segment_bytes=segment_bytes,
        )

    @classmethod
    def from_map(cls, value: Any) -> Self:
        """Check a decoded map; raises `DecodeError` where making one would raise `TensorError`."""
        try:
            return super().from_map(value)
        except TensorError as error:
            raise DecodeError(f"TensorHeader: {error}") from error

    @cached_property
    def spec(self) -> TensorSpec:
        """Element type and shape."""
        return TensorSpec(dtype=self.dtype, shape=self.shape)

    @property
    def place(self) -> Place:
        """Where the tensor says it belongs, for a receiver to compare with what it expects."""
        return Place(
            job_id=self.job_id,
            direction=self.direction,
            attempt=self.attempt,
            index=self.index,
        )


@frozen(kw_only=True)
class SealedTensorHeader(Record):
    """What travels ahead of the segments: an entry of `JobHeader.inputs` or `ResultHeader.outputs`.

    `header` stays the bytes that were sealed, because they are the associated data.
    """

    LIMIT = 4 * limits.KIB

    header: bytes = item(octets(limit=TensorHeader.LIMIT))
    floe_header: bytes = item(octets(exactly=floe.HEADER_BYTES), secret=True)

    @cached_property
    def tensor(self) -> TensorHeader:
        """The inner header, parsed; raises `DecodeError`."""
        return TensorHeader.from_bytes(self.header)

    def tensor_at(self, expected: Place) -> TensorHeader:
        """Parse the inner header and refuse, with `NotAuthenticError`, one of another place."""
        tensor = self.tensor
        if tensor.place != expected:
            raise NotAuthenticError("a tensor of another job, direction, attempt or index")
        return tensor
