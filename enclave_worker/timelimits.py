"""How long the kernels of one job may run, and what happens when they run longer.

Three things look, each where the one before cannot:

    between steps   and between the items of a stack, the job's own thread looks at the clock and
                    ends the job with the code `time-limit`, in a signed receipt;
    the loop        sees a job whose kernel does not come back: `grace` after the limit it gives the
                    worker's jobs up and leaves the process, for nothing ends a running kernel, on a
                    processor or a GPU, but the end of its process; the supervisor starts another;
    the process     has a timer outside Python (`faulthandler`) that ends it when not even the loop
                    comes to run, as when a kernel holds the interpreter's lock.

Waiting for inputs, for memory and for credit does not count.
"""

import faulthandler
from typing import Final

from attrs import frozen

from enclave_worker.errors import TimeLimitError

_NANOSECONDS: Final = 1_000_000_000
_REWIND_NS: Final = _NANOSECONDS
_SLACK_SECONDS: Final = 5.0
"""A loop with nothing to do comes by once a second."""


@frozen(kw_only=True)
class TimeLimits:
    """What an operator allows. Zero seconds mean no limit."""

    job_seconds: float = 0.0
    grace_seconds: float = 10.0

    def require_time(self, started_ns: int, now_ns: int) -> None:
        """Raise `TimeLimitError` when kernels that started at `started_ns` ran too long."""
        if self.job_seconds and now_ns - started_ns > self.job_seconds * _NANOSECONDS:
            raise TimeLimitError(f"more than {self.job_seconds:g} seconds")

    def hung(self, started_ns: int, now_ns: int) -> bool:
        """Whether a kernel did not come back when its time was up."""
        allowed = (self.job_seconds + self.grace_seconds) * _NANOSECONDS
        return bool(self.job_seconds) and now_ns - started_ns > allowed


NO_LIMITS: Final = TimeLimits()


class DeadMan:
    """Ends the process when `rewind` is not called for a job's longest time. Needs no interpreter.

    What it prints before is where each thread was: names of functions, never their data.
    """

    def __init__(self, limits: TimeLimits) -> None:
        """Arm nothing yet; without a time limit it never does."""
        self._limits = limits
        self._next_ns = 0

    def rewind(self, now_ns: int) -> None:
        """Begin again. Cheap enough for every turn of a loop."""
        if self._limits.job_seconds and now_ns >= self._next_ns:
            self._next_ns = now_ns + _REWIND_NS
            after = self._limits.job_seconds + 2 * self._limits.grace_seconds + _SLACK_SECONDS
            faulthandler.dump_traceback_later(after, exit=True)

    def disarm(self) -> None:
        """Stop watching, as the loop ends."""
        if self._limits.job_seconds:
            faulthandler.cancel_dump_traceback_later()
