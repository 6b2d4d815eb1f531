"""The inputs of large jobs: sealed when the coordinator asks for them and the socket takes them.

Credit is the coordinator's word. One that grants more than it reads would have us hold every input
sealed, so nothing is sealed while something waits to be sent: the socket's queue is the bound.
"""

from collections.abc import Sequence
from typing import Final, Protocol

from attestation.client.active import Active
from attestation.identifiers import JobId
from attestation.wire.frames import Frame, Header, Kind

BURST: Final = 64
"""Segments sealed before messages get their turn."""

_MOST_CREDIT: Final = 1 << 32
"""More segments than any job has."""


class Outgoing(Protocol):
    """The way to the coordinator."""

    @property
    def congested(self) -> bool:
        """Whether messages wait here because the coordinator does not take them."""
        ...

    def send(self, frames: Sequence[Frame]) -> object:
        """Queue one message; frames must not change afterwards."""
        ...

    def forget_queued(self) -> None:
        """Drop what waits: it was meant for a coordinator that no longer knows us."""
        ...


class Uploads:
    """Jobs whose coordinator takes more of their inputs; they take turns."""

    def __init__(self, outgoing: Outgoing) -> None:
        self._outgoing = outgoing
        self._jobs: dict[JobId, Active] = {}

    def grant(self, active: Active, count: int) -> None:
        """Take the coordinator's credit for `count` more segments of a job."""
        active.credit = min(active.credit + count, _MOST_CREDIT)
        self._enter(active)

    def stop(self, active: Active) -> None:
        """Send no more of a job."""
        active.credit = 0
        self._jobs.pop(active.request.job_id, None)

    def advance(self) -> int:
        """Seal and send what may go now; return how many segments that were."""
        count = 0
        while self._jobs and count < BURST and self._may_send():
            active = self._jobs.pop(next(iter(self._jobs)))
            index, segment = active.request.next_segment()
            header = Header(Kind.INPUT, active.request.job_id, index=index)
            self._outgoing.send([header.to_bytes(), segment])
            active.credit -= 1
            active.count_sent()
            self._enter(active)
            count += 1
        return count

    def _may_send(self) -> bool:
        return not self._outgoing.congested

    def _enter(self, active: Active) -> None:
        if active.credit and not active.request.complete:
            self._jobs[active.request.job_id] = active
