"""Our three kernels by what they do, with AES-GCM of the processor: quick, where order counts.

They read and write the same memory at the same launches as the real ones; `gcm_body` does nothing
and `gcm_finish`, behind it on the same stream, all. That the real ones compute the same is
tests/gpu_aead's to show.
"""

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from enclave_worker.device.cubins import Tuning
from enclave_worker.device.segment_table import ROW

_SEAL, _CIPHER, _MAC = 1, 2, 4
_KEY, _TAG = 32, 16


class QuickKernels:
    """Launches as `HostLauncher` has them."""

    def __init__(self, tuning: Tuning) -> None:
        self._tuning = tuning

    def launch(
        self, kernel: str, blocks: int, threads: int, shared: int, arguments: Sequence[int]
    ) -> None:
        if kernel == "gcm_setup":
            self._setup(blocks, *arguments)
        elif kernel == "gcm_finish":
            self._finish(*arguments)

    def _setup(self, count: int, keys: int, contexts: int, _log_rows: int) -> None:
        for index in range(count):
            ctypes.memmove(contexts + index * self._tuning.context_bytes, keys + _KEY * index, _KEY)
        ctypes.memset(keys, 0, _KEY * count)

    def _finish(self, *arguments: int) -> None:
        contexts, rows, sealed, plain, _parts, statuses, count, _pieces, _log_rows, mode = arguments
        decided = np.frombuffer((ctypes.c_uint32 * count).from_address(statuses), np.uint32)
        table = np.frombuffer(ctypes.string_at(rows, count * ROW.itemsize), ROW)
        for index, row in enumerate(table):
            key = ctypes.string_at(contexts + int(row["key"]) * self._tuning.context_bytes, _KEY)
            decided[index] = _segment(row, AESGCM(key), sealed, plain, mode)


def _segment(row: Any, aead: AESGCM, sealed: int, plain: int, mode: int) -> int:
    head, inside, length = (
        sealed + int(row["sealed"]),
        plain + int(row["plain"]),
        int(row["length"]),
    )
    final = int(row["final"])
    aad = int(row["position"]).to_bytes(8, "big") + bytes([final])
    field = (length + 32 if final else 0xFFFFFFFF).to_bytes(4, "big")
    if mode & _SEAL:
        iv = row["iv"].tobytes()
        text = aead.encrypt(iv, ctypes.string_at(inside, length), aad)
        ctypes.memmove(head, field + iv + text, 16 + len(text))
        return 0
    framed = ctypes.string_at(head, 16 + length + _TAG)
    try:
        text = aead.decrypt(framed[4:16], framed[16:], aad)
    except InvalidTag:
        text = None
    if mode & _CIPHER:
        # Like the real ones, which write before they know: what is refused must be wiped.
        ctypes.memmove(inside, text if text is not None else b"\xcc" * length, length)
    return 0 if text is not None and framed[:4] == field else 1
