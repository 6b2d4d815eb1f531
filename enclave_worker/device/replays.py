"""Small inputs opened by one graph instead of a launch for each kernel.

What opening a few segments costs is launches, not work. A CUDA graph holds them with their
addresses, so everything that it touches stays where it is: a `Replay` has the rows, keys, contexts
and buffers of one shape, and belongs to one lane, whose own stream puts its uses in order.

    first time    a shape is only noted: shapes that never come back are not worth a recording,
                  and kernels that never ran cannot be loaded while a stream is recorded
    second time   buffers are made, the launches recorded, and the graph runs
    from then on  keys and ciphertext are copied in, the graph runs, statuses are read

Keys, contexts and parts of MACs are overwritten after every use, plaintext by whoever held it, and
all of the plaintext's buffer again when it comes back. What lanes keep is charged to an account of
its own, which jobs cannot reserve; when it is full the oldest of the lane's shapes goes.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final, TypeAlias

import numpy as np

from attestation import limits
from attestation.errors import LimitError
from attestation.logging import get_logger
from attestation.sealing.floe import KEY_BYTES, Buffer
from attestation.sealing.segments import Layout
from enclave_worker.device.chunks import Places
from enclave_worker.device.gpu_aead import GpuAead
from enclave_worker.device.launcher import Launcher, Memory
from enclave_worker.device.segment_table import Span, tensor_rows
from enclave_worker.device.staging import Ciphertext, aligned

log: Final = get_logger(__name__)

SMALL_BYTES: Final = limits.MIB
"""Of ciphertext: from there on the work counts and not the launches."""
SMALL_SEGMENTS: Final = 64
_SHAPES: Final = 8
"""That a lane keeps."""
_NOTED: Final = 64

Shape: TypeAlias = tuple[Layout, ...]


class Replay:
    """Opens inputs of one shape, one job at a time."""

    def __init__(self, launcher: Launcher, layouts: Shape) -> None:
        """Make its buffers and record its launches; raises `MemoryError`."""
        self._launcher = launcher
        places = Places(layouts)
        tables = []
        self.plain_at: list[int] = []
        size = 0
        for index, layout in enumerate(layouts):
            start = places.starts[index]
            tables.append(tensor_rows(layout, sealed_at=start, plain_at=size, first_key=index))
            self.plain_at.append(size)
            size += aligned(max(layout.nbytes, 1))
        self._sealed: Memory = launcher.allocate(places.size)
        self.plain: Memory = launcher.allocate(size)
        self._spans = {"sealed": _span(self._sealed), "plain": _span(self.plain)}
        keys = [bytes(KEY_BYTES) for _ in layouts]
        self._batch = GpuAead(launcher).batch(np.concatenate(tables), keys)
        try:
            self._run = launcher.record(lambda: self._batch.record_open(**self._spans))
        finally:
            self._batch.rest()

    def open(self, keys: Sequence[Buffer], stage: Ciphertext) -> None:
        """Open what is staged; raises `NotAuthenticError`, with no plaintext left."""
        batch = self._batch
        try:
            batch.upload_keys(keys)
            self._launcher.copy_in(self._sealed.pointer, stage[: self._sealed.nbytes].data)
            batch.begin_open(**self._spans, replay=self._run)
            batch.settle()
        finally:
            batch.abandon()
            batch.rest()

    def wipe(self) -> None:
        """Zero the plaintext; the next job of this shape may come."""
        self._launcher.fill(self.plain.pointer, 0, self.plain.nbytes)


class Replays:
    """What one lane has recorded. Its jobs follow each other; there is no lock."""

    def __init__(self, launcher: Launcher, keep: Callable[[], AbstractContextManager[Any]]) -> None:
        """Charge what is kept to the account that `keep` makes the thread's."""
        self._launcher = launcher
        self._keep = keep
        self._noted: OrderedDict[Shape, None] = OrderedDict()
        self._ready: OrderedDict[Shape, Replay] = OrderedDict()
        self._broken = False

    def of(self, layouts: Shape, sealed_bytes: int) -> Replay | None:
        """Return what opens `layouts`, or none if it is too large, new, or has no room."""
        segments = sum(layout.count for layout in layouts)
        if self._broken or not segments or sealed_bytes > SMALL_BYTES or segments > SMALL_SEGMENTS:
            return None
        ready = self._ready.pop(layouts, None)
        # A kernel that kept an array would see the next job's input in it: the memory is its now.
        if ready is not None and not ready.plain.shared:
            self._ready[layouts] = ready
            return ready
        if layouts not in self._noted:
            self._noted[layouts] = None
            if len(self._noted) > _NOTED:
                self._noted.popitem(last=False)
            return None
        return self._record(layouts)

    def _record(self, layouts: Shape) -> Replay | None:
        while len(self._ready) >= _SHAPES:
            self._ready.popitem(last=False)
        while True:
            try:
                with self._keep():
                    self._ready[layouts] = Replay(self._launcher, layouts)
            except (MemoryError, LimitError):
                if not self._ready:
                    return None
                self._ready.popitem(last=False)
            except Exception as error:  # noqa: BLE001 - CUDA's errors have no common base with ours
                # A driver that records nothing: launches do the same, more slowly.
                log.warning("device.no_graphs", error=type(error).__name__)
                self._broken = True
                return None
            else:
                return self._ready[layouts]


def _span(memory: Memory) -> Span:
    return Span(pointer=memory.pointer, nbytes=memory.nbytes)
