"""Opens the outputs of one attempt into arrays that nobody has seen: the only place that does.

Segments may be opened as they come, before the receipt is there to prove them: that overlaps with
the network, and ciphertext of a whole result never waits in memory. What is opened stays here until
`finish`, which is called once the receipt was verified against every segment that arrived
(docs/protocol.md, step 11); if it does not, the arrays are dropped unseen.
"""

import os
from bisect import bisect_right
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from itertools import accumulate
from typing import Final

from attestation import limits
from attestation.client.errors import TooLargeError
from attestation.client.numpy_tensors import Array, allocate, as_bytes
from attestation.client.requests import SealedRequest
from attestation.errors import NotAuthenticError
from attestation.receipts.errors import ReceiptResultError
from attestation.sealing.recycled import RecycledBuffers
from attestation.sealing.sealed_tensor import Direction, Place, SealedTensorHeader, TensorOpener
from attestation.wire.frames import Frame

PARALLEL_BYTES: Final = 8 * limits.MIB
"""From here on segments that are all there are opened by several threads."""

_THREADS: Final = min(4, os.cpu_count() or 1)


class Outputs:
    """The arrays of one attempt, on their way from ciphertext."""

    def __init__(
        self,
        request: SealedRequest,
        headers: Sequence[bytes],
        *,
        attempt: int,
        buffers: RecycledBuffers,
    ) -> None:
        """Check the sealed `headers` and take memory of `buffers`.

        Raises `ReceiptResultError` for outputs that the program does not make, `DecodeError` and
        `NotAuthenticError` for headers of another job, attempt or key, `TooLargeError` when there
        is not so much memory.
        """
        planned = request.choice.plan.outputs
        if len(headers) != len(planned):
            raise ReceiptResultError("the result has another number of outputs than the program")
        self.headers = tuple(headers)
        self._openers: list[TensorOpener] = []
        for index, (name, spec) in enumerate(planned.items()):
            place = Place(
                job_id=request.job_id, direction=Direction.OUTPUT, attempt=attempt, index=index
            )
            sealed = SealedTensorHeader.from_bytes(headers[index])
            opener = TensorOpener(request.content_key, sealed, expected=place)
            if opener.header.name != name or opener.header.spec != spec:
                raise ReceiptResultError(f"output {name!r} is not the tensor the program makes")
            self._openers.append(opener)
        self._starts = [0, *accumulate(opener.segment_count for opener in self._openers)]
        try:
            self._arrays = {name: allocate(spec, buffers) for name, spec in planned.items()}
        except MemoryError as error:
            raise TooLargeError("there is no memory for the outputs") from error
        self._targets = [as_bytes(array) for array in self._arrays.values()]

    @property
    def segment_count(self) -> int:
        """Segments of all outputs together."""
        return self._starts[-1]

    def open(self, index: int, segment: Frame) -> None:
        """Open segment `index` of them all; raises `NotAuthenticError`, after wiping its tensor."""
        if not 0 <= index < self.segment_count:
            raise NotAuthenticError("a segment beyond the end of the outputs")
        tensor = bisect_right(self._starts, index) - 1
        opener = self._openers[tensor]
        opener.open_into(index - self._starts[tensor], segment, self._targets[tensor])

    def open_all(self, segments: Sequence[Frame]) -> None:
        """Open every segment, by several threads where that pays; raises `NotAuthenticError`."""
        if len(segments) != self.segment_count:
            raise NotAuthenticError("the outputs have another number of segments than arrived")
        if sum(target.nbytes for target in self._targets) < PARALLEL_BYTES:
            for index, segment in enumerate(segments):
                self.open(index, segment)
            return
        opened = [_threads().submit(self.open, *each) for each in enumerate(segments)]
        wait(opened)
        for each in opened:
            each.result()

    def finish(self) -> dict[str, Array]:
        """Hand out the arrays; raises `NotAuthenticError` unless every segment was opened."""
        for opener in self._openers:
            opener.finish()
        return self._arrays


@cache
def _threads() -> ThreadPoolExecutor:
    """Return the threads that open large outputs, of all clients of the process together."""
    return ThreadPoolExecutor(_THREADS, thread_name_prefix="enclave-open")
