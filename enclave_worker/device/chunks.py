"""Where a job's segments lie in its staging buffer, and which of them cross the bus together."""

from collections.abc import Sequence

from attrs import frozen

from attestation.sealing.segments import Layout
from enclave_worker.device.staging import aligned


@frozen(kw_only=True)
class Part:
    """Some segments of one tensor, which follow each other."""

    tensor: int
    rows: slice


@frozen(kw_only=True)
class Chunk:
    """Some bytes of the staging buffer, and the segments in them: whole ones, and no others."""

    start: int
    nbytes: int
    parts: tuple[Part, ...]

    @property
    def where(self) -> slice:
        """The same as a slice of the buffer."""
        return slice(self.start, self.start + self.nbytes)


def sealed_bytes_of(layout: Layout) -> int:
    """Return the bytes of all segments of one tensor."""
    return sum(layout.sealed_length(index) for index in {0, layout.count - 1}) + (
        max(0, layout.count - 2) * layout.sealed_length(0)
    )


class Places:
    """Where each tensor's segments lie in a buffer that holds all of them."""

    def __init__(self, layouts: Sequence[Layout]) -> None:
        """Put the tensors one behind the other, each where the kernels can read it."""
        self.layouts = layouts
        self.starts: list[int] = []
        self.size = 0
        for layout in layouts:
            self.starts.append(self.size)
            self.size += aligned(sealed_bytes_of(layout))
        self.order = [
            (tensor, segment)
            for tensor, layout in enumerate(layouts)
            for segment in range(layout.count)
        ]

    def of(self, index: int) -> slice:
        """Return where segment `index` lies, counted over all tensors as they travel."""
        return self._of(*self.order[index])

    def _of(self, tensor: int, segment: int) -> slice:
        layout = self.layouts[tensor]
        start = self.starts[tensor] + segment * layout.sealed_length(0)
        return slice(start, start + layout.sealed_length(segment))

    def chunks(self, most: int) -> list[Chunk]:
        """Cut everything, in order, into chunks of at most `most` bytes, or of one segment."""
        chunks: list[Chunk] = []
        parts: list[Part] = []
        start = end = 0
        for tensor, layout in enumerate(self.layouts):
            first = 0
            while first < layout.count:
                begin = self._of(tensor, first).start
                room = start + most - begin
                fitting = self._fitting(tensor, first, room)
                if not fitting and parts:
                    chunks.append(Chunk(start=start, nbytes=end - start, parts=tuple(parts)))
                    parts, start = [], begin
                    continue
                rows = slice(first, first + max(1, fitting))
                parts.append(Part(tensor=tensor, rows=rows))
                first, end = rows.stop, self._of(tensor, rows.stop - 1).stop
        return [*chunks, Chunk(start=start, nbytes=end - start, parts=tuple(parts))]

    def _fitting(self, tensor: int, first: int, room: int) -> int:
        """Return how many segments from `first` on fit into so many bytes."""
        layout = self.layouts[tensor]
        count = max(0, min(room // layout.sealed_length(0), layout.count - first))
        rest = first + count == layout.count - 1
        last = count * layout.sealed_length(0) + layout.sealed_length(layout.count - 1)
        return count + 1 if rest and last <= room else count
