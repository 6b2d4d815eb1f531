"""What the worker process gives up before it holds a secret: core dumps, tracing, heap residue.

There is no option to skip any of it. A host that cannot grant the first two gets no worker.

Our own buffers are wiped where they are used. Whatever else a job leaves on the heap - temporaries
of kernels, Python's strings and numbers, keys on their way into OpenSSL - is overwritten when it is
freed: Python objects by its debug hooks, which know each block's size, the rest by glibc. Both are
chosen when a process starts, so the worker starts itself again, once, before it loads anything;
glibc's cache per thread, which takes blocks before they are overwritten, goes at the same time.
(`PYTHONMALLOC=malloc` would let glibc do all of it. It costs more, and leaves the last 8 bytes of
every other block, where a Python float has its value.)

What it costs is in docs/worker.md. What is still kept is for `scrubbing`. Seen to be needed, part
by part: tests/residue/test_removed_defences.py.
"""

import ctypes
import os
import resource
import sys
from collections.abc import Mapping, MutableMapping
from typing import Final

from attestation.errors import UnavailableError
from attestation.logging import get_logger

log: Final = get_logger(__name__)

_PR_GET_DUMPABLE: Final = 3
_PR_SET_DUMPABLE: Final = 4
_M_PERTURB: Final = -6
_PERTURB_BYTE: Final = 0xFF
_PROBE_BYTES: Final = 48
"""A size for which both caches would keep the block: most keys and numbers are that small."""
_PROBES: Final = 128
"""More than what happens to be reused before we look."""
_PROBE_LINKS: Final = 16
"""glibc links free blocks through their first two words."""

_TUNABLES: Final = "GLIBC_TUNABLES"
_NO_THREAD_CACHE: Final = "glibc.malloc.tcache_count=0"
_PYTHON_ALLOCATOR: Final = "PYTHONMALLOC"


class HardeningError(UnavailableError):
    """The host does not let a worker turn its core dumps off. Run it on Linux, less confined."""

    code = "hardening-failed"


def start_again_with_plain_heap() -> None:
    """Replace this process by itself, with an allocator that forgets, unless it has it already.

    Returns in the process that has it. Call it first: nothing that was opened or loaded survives.
    """
    environment = dict(os.environ)
    if want_plain_heap(environment):
        # Our own command line, by absolute path and without a shell.
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)  # noqa: S606


def want_plain_heap(environment: MutableMapping[str, str]) -> bool:
    """Change `environment` to what the heap needs; false when it is so already."""
    wanted = _plain_heap(environment)
    if all(environment.get(name) == value for name, value in wanted.items()):
        return False
    environment.update(wanted)
    return True


def _plain_heap(environment: Mapping[str, str]) -> dict[str, str]:
    others = [
        each
        for each in environment.get(_TUNABLES, "").split(":")
        if each and each.partition("=")[0] != _NO_THREAD_CACHE.partition("=")[0]
    ]
    return {_PYTHON_ALLOCATOR: "pymalloc_debug", _TUNABLES: ":".join([*others, _NO_THREAD_CACHE])}


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
    overwritten = _overwrite_freed_memory(libc)
    report = log.info if overwritten else log.warning
    report("worker.hardened", heap_overwritten=overwritten)


def _overwrite_freed_memory(libc: ctypes.CDLL) -> bool:
    # glibc fills a chunk with this byte when it is freed, and gives larger ones back to the kernel,
    # which zeroes them. musl has no mallopt.
    try:
        asked = bool(libc.mallopt(_M_PERTURB, _PERTURB_BYTE))
    except AttributeError:
        return False
    return asked and _small_objects_are_overwritten()


def _small_objects_are_overwritten() -> bool:
    """Free small Python objects and look at where they were: what was asked for may not be so.

    (A Python started with `-E` ignores the first setting, another libc the second.)
    """
    mark = os.urandom(_PROBE_BYTES // 2).hex().encode()
    probes = [bytearray(mark) for _ in range(_PROBES)]
    # Every other one stays, so that the memory between them stays mapped while we look.
    addresses = [ctypes.addressof(ctypes.c_char.from_buffer(probe)) for probe in probes[::2]]
    del probes[::2]
    end = mark[_PROBE_LINKS:]
    return not any(end in ctypes.string_at(address, _PROBE_BYTES) for address in addresses)
