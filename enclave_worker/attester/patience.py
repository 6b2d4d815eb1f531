"""Devices that are busy, and what a device's errno means to the person who runs the worker.

Firmware serves one request at a time and hypervisors throttle guests, so a first refusal says
little. How long we insist is bounded: clients wait, and a worker that is silent looks dead.
"""

import errno
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final, TypeVar

from attestation.errors import UnavailableError

T = TypeVar("T")

PASSING: Final = frozenset({errno.EBUSY, errno.EINTR, errno.EAGAIN})
"""What passes by itself. EWOULDBLOCK is EAGAIN on Linux."""

PAUSES: Final = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 2.0, 2.0, 2.0)
"""Seconds between attempts, 10 in all; a TDX quote that is under way takes a few."""


class AttesterMissingError(UnavailableError):
    """The hardware that was asked for is not here. `--attester auto` says what this machine has.

    In a virtual machine it is the cloud's instance type or the hypervisor that provides it.
    """

    code = "attester-missing"


class AttesterFailedError(UnavailableError):
    """The hardware is there and gave no Evidence. The message says what the device answered.

    The kernel's log (`dmesg`) often says more.
    """

    code = "attester-failed"


def passes(error: Exception) -> bool:
    """Whether a system call failed for a reason that passes by itself."""
    return isinstance(error, OSError) and error.errno in PASSING


def persist(
    action: Callable[[], T],
    *,
    passing: Callable[[Exception], bool] = passes,
    pauses: Sequence[float] = PAUSES,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """Return what `action` returns, trying again after each pause while its error is `passing`."""
    for pause in pauses:
        try:
            return action()
        except Exception as error:
            if not passing(error):
                raise
        sleep(pause)
    return action()


@contextmanager
def explained(device: str, advice: Mapping[int, str], *, absent: frozenset[int]) -> Iterator[None]:
    """Turn an `OSError` of `device` into an error of ours that says how to go on.

    An errno in `absent` means that this machine has no such hardware: `AttesterMissingError`. Every
    other is `AttesterFailedError`, so that `--attester auto` never passes over hardware that is
    there and merely locked.
    """
    try:
        yield
    except OSError as error:
        number = error.errno or 0
        name = errno.errorcode.get(number, "an error")
        reason = f"{device}: {name}, {os.strerror(number).lower()}"
        if number in advice:
            reason = f"{reason}; {advice[number]}"
        kind = AttesterMissingError if number in absent else AttesterFailedError
        raise kind(reason) from error
