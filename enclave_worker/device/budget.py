"""How much of a device's memory each job may use, so that several fit beside each other.

A job says what its plan needs before it touches the device. One that could never fit is refused
with the figure; one that fits later waits its turn, first come first served, so that a large job is
not overtaken for ever by small ones.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from attestation.programs.plan import Plan
from enclave_worker.device.scrub_pool import Account, round_up
from enclave_worker.refusals import WorkerLimitError

_LOOK_SECONDS: Final = 0.05
"""How often a waiting job looks whether it is still wanted."""
_FIGURE_BITS: Final = 3


class MemoryBudget:
    """The bytes of one device that jobs may hold together. Safe to call from several threads."""

    def __init__(self, total: int) -> None:
        """Give out at most `total` bytes at once."""
        self.total: Final = total
        self._free = total
        self._condition = threading.Condition()
        self._line: deque[object] = deque()

    @property
    def free_bytes(self) -> int:
        """Bytes that no job has reserved."""
        return self._free

    @contextmanager
    def reserve(self, need: int, *, require_wanted: Callable[[], None]) -> Iterator[Account]:
        """Hold what a job of `need` bytes may use, for a `with` statement.

        Kernels' scratch memory is known to nobody, so as much again is reserved where there is as
        much. Waits for room; raises what `require_wanted` raises meanwhile, and `WorkerLimitError`
        with the figure when no amount of waiting would do.
        """
        if need > self.total:
            raise too_large(need, self.total)
        amount = min(2 * need, self.total)
        self._wait(amount, require_wanted)
        try:
            yield Account(limit=amount)
        finally:
            with self._condition:
                self._free += amount
                self._condition.notify_all()

    def _wait(self, amount: int, require_wanted: Callable[[], None]) -> None:
        ticket = object()
        with self._condition:
            self._line.append(ticket)
            try:
                while self._line[0] is not ticket or self._free < amount:
                    require_wanted()
                    self._condition.wait(_LOOK_SECONDS)
                self._free -= amount
            finally:
                self._line.remove(ticket)
                self._condition.notify_all()


def device_need(plan: Plan) -> int:
    """Return the device memory that the tensors of `plan` take, in the pool's blocks."""
    grain = sum(round_up(spec.nbytes) - spec.nbytes for spec in plan.tensors.values())
    return plan.peak_bytes + grain


def too_large(need: int, total: int) -> WorkerLimitError:
    """Return the refusal of a job that needs `need` bytes of a device that has `total` for it."""
    return WorkerLimitError(
        f"the job needs about {figure(need)} of device memory; this worker has {figure(total)}"
    )


def figure(size: int) -> str:
    """Return `size` for people, rounded up to an eighth of its power of two.

    The coordinator reads it: an exact figure would say more of a sealed program than it must.
    """
    step = 1 << max(0, size.bit_length() - 1 - _FIGURE_BITS)
    rounded = -(-size // step) * step
    for unit, bits in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if rounded >= 1 << bits:
            return f"{rounded / (1 << bits):.4g} {unit}"
    return f"{rounded} bytes"
