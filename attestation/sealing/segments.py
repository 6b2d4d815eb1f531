"""How many segments a tensor has and how long each is: arithmetic on a header's claims.

Everything here is known before a byte of the tensor is allocated or read, and depends on nothing
but the tensor's size and the segment's. A full segment holds `segment_bytes` of plaintext; the
final one holds the rest, and an empty tensor has one empty segment.
"""

from typing import Self

from attrs import frozen

from attestation.errors import LocalProtocolError
from attestation.sealing.floe import SEGMENT_OVERHEAD
from attestation.sealing.tensor_header import TensorHeader, check_segment_bytes


def segment_count(nbytes: int, segment_bytes: int) -> int:
    """Return the number of segments, at least 1; raises `SegmentBytesError`."""
    check_segment_bytes(segment_bytes)
    if nbytes < 0:
        raise LocalProtocolError("a negative number of bytes")
    return max(1, -(-nbytes // segment_bytes))


def sealed_length(nbytes: int, segment_bytes: int) -> int:
    """Return the bytes of all segments together, headers not included."""
    return nbytes + SEGMENT_OVERHEAD * segment_count(nbytes, segment_bytes)


@frozen
class Layout:
    """The segments of one tensor."""

    nbytes: int
    segment_bytes: int
    count: int

    @classmethod
    def of(cls, header: TensorHeader) -> Self:
        """Return the layout that a valid header implies."""
        nbytes = header.spec.nbytes
        return cls(nbytes, header.segment_bytes, segment_count(nbytes, header.segment_bytes))

    def is_final(self, index: int) -> bool:
        """Whether the tensor ends with segment `index`."""
        return index == self.count - 1

    def plaintext(self, index: int) -> slice:
        """Return where in the tensor the bytes of segment `index` are."""
        if not 0 <= index < self.count:
            raise LocalProtocolError(f"segment {index} of {self.count}")
        start = index * self.segment_bytes
        return slice(start, min(start + self.segment_bytes, self.nbytes))

    def plaintext_length(self, index: int) -> int:
        """Return the plaintext bytes of segment `index`."""
        where = self.plaintext(index)
        return int(where.stop - where.start)

    def sealed_length(self, index: int) -> int:
        """Return the bytes of segment `index` as it travels."""
        return self.plaintext_length(index) + SEGMENT_OVERHEAD

    def part(self, index: int, tensor: memoryview) -> memoryview:
        """Return the bytes of segment `index`, given the whole tensor or exactly that part."""
        if tensor.nbytes == self.nbytes:
            return tensor[self.plaintext(index)]
        if tensor.nbytes == self.plaintext_length(index):
            return tensor
        raise LocalProtocolError("a buffer that is neither the tensor nor this segment of it")
