"""What the worker process gives up before it holds a secret: core dumps, tracing, heap residue.

There is no option to skip any of it. A host that cannot grant the first two gets no worker.
"""

import ctypes
import resource
from typing import Final

from attestation.errors import UnavailableError
from attestation.logging import get_logger

log: Final = get_logger(__name__)

_PR_GET_DUMPABLE: Final = 3
_PR_SET_DUMPABLE: Final = 4
_M_PERTURB: Final = -6
_PERTURB_BYTE: Final = 0xFF


class HardeningError(UnavailableError):
    """The host does not let a worker turn its core dumps off. Run it on Linux, less confined."""

    code = "hardening-failed"


def harden_process() -> None:
    """Turn off core dumps and tracing by other users, and have freed heap memory overwritten.

    Raises `HardeningError` unless the first two are known to hold afterwards.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        # A process that is not dumpable is not attachable by its own user either, and its
        # /proc/PID/mem belongs to root.
        refused = libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0
    except (OSError, ValueError, AttributeError) as error:
        raise HardeningError("core dumps cannot be turned off") from error
    if refused or libc.prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise HardeningError("the process is still dumpable")
    log.info("worker.hardened", heap_overwritten=_overwrite_freed_memory(libc))


def _overwrite_freed_memory(libc: ctypes.CDLL) -> bool:
    # Kernels make temporaries that no buffer of ours holds. glibc fills a chunk with this byte when
    # it is freed, and gives larger ones back to the kernel, which zeroes them. musl has no mallopt.
    try:
        return bool(libc.mallopt(_M_PERTURB, _PERTURB_BYTE))
    except AttributeError:
        return False
