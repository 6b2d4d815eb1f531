"""Results that are sent and not yet recorded: sent again if the coordinator forgot us meanwhile.

Only results whose outputs travel inside the message can be sent again; a streamed one would need
its segments kept. What is kept is ciphertext and a signed receipt, and it is bounded: the oldest
goes first, and its job is run again elsewhere when its lease ends.
"""

from collections.abc import Iterator
from typing import Final

from attrs import field, frozen

from attestation import limits
from attestation.identifiers import JobId
from attestation.wire.frames import Frame

KEPT_BYTES: Final = 64 * limits.MIB


@frozen(kw_only=True)
class SentResult:
    """The frames of one RESULT."""

    job_id: JobId
    attempt: int
    frames: tuple[Frame, ...] = field(repr=False)

    @property
    def size(self) -> int:
        """Bytes of all frames."""
        return sum(len(frame) for frame in self.frames)


class UnrecordedResults:
    """Results the coordinator has not acknowledged, oldest first."""

    def __init__(self, *, keep_bytes: int = KEPT_BYTES) -> None:
        """Keep at most `keep_bytes`."""
        self._keep_bytes = keep_bytes
        self._bytes = 0
        self._sent: dict[JobId, SentResult] = {}

    def __len__(self) -> int:
        return len(self._sent)

    def __iter__(self) -> Iterator[SentResult]:
        return iter(tuple(self._sent.values()))

    def add(self, result: SentResult) -> None:
        """Keep `result` until it is recorded."""
        self.forget(result.job_id)
        self._sent[result.job_id] = result
        self._bytes += result.size
        while self._bytes > self._keep_bytes:
            self.forget(next(iter(self._sent)))

    def forget(self, job_id: JobId, *, attempt: int | None = None) -> None:
        """The result is recorded or unwanted. Another attempt's answer changes nothing."""
        result = self._sent.get(job_id)
        if result is not None and attempt in (None, result.attempt):
            del self._sent[job_id]
            self._bytes -= result.size
