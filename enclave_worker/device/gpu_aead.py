"""FLOE segments opened and sealed on the device, byte for byte as `attestation.sealing` does it.

A `Batch` is many segments, of one tensor or of several, under the keys they need. Its keys are
copied to the device, turned into round keys and powers of the hash key there, and overwritten; the
host's copy is the caller's to wipe. Opening and sealing are started by `begin_*` on the current
stream and are over when `settle` returns: it reads a status per segment, which is "refused" until
the kernel that decides has written otherwise, and nothing may be computed from the plaintext, or
sent, before. `open_segments`, `verify` and `seal_segments` do both.

A large batch is opened or sealed part by part (`begin_parts_*`, `open_part`, `seal_part`), on
whatever stream is current then: of the sealed bytes only a window is on the device at a time. Each
segment belongs to exactly one part, and to `settle` one that was left out is one that was refused.

An IV is drawn for every segment each time a batch is sealed, and a batch is sealed once, so no
key meets an IV twice. That a *tensor* is sealed once is `TensorSealer.delegate`'s to see to.
"""

from collections.abc import Callable, Sequence
from enum import Enum
from os import urandom  # by name, as in floe.py: known-answer tests replace it, no argument can
from types import TracebackType
from typing import Final, Self

import numpy as np
from attrs import frozen

from attestation.errors import LocalProtocolError, NotAuthenticError
from attestation.sealing.floe import KEY_BYTES, Buffer, octets, wipe
from enclave_worker.device.cubins import Tuning
from enclave_worker.device.launcher import Launcher, Pointer
from enclave_worker.device.scrub_pool import round_up
from enclave_worker.device.segment_table import (
    ROW,
    Span,
    Table,
    Window,
    check_spans,
    check_table,
    plain_runs,
)
from enclave_worker.errors import KernelError

_SEAL: Final = 1
_CIPHER: Final = 2
_MAC: Final = 4
"""Modes of the kernels."""
_IV_BYTES: Final = 12
_PART_BYTES: Final = 16
_STATUS_BYTES: Final = 4
_UNDECIDED: Final = 0xFF
_MOST_ROWS: Final = 5
"""2^5 blocks per thread hide what a thread block costs to begin; more would idle others."""
_WAVES: Final = 4
_MOST_BLOCKS: Final = (1 << 31) - 1
_ALL: Final = slice(None)


class Pending(Enum):
    """What a batch waits for."""

    NOTHING = "nothing"
    VERIFIED = "verified"
    OPENED = "opened"
    DECRYPTED = "decrypted"
    SEALED = "sealed"


@frozen(kw_only=True)
class Shape:
    """How the work is cut: pieces per segment, and how many blocks each thread of a piece takes."""

    pieces: int
    log_rows: int

    @classmethod
    def of(
        cls,
        table: Table,
        launcher: Launcher,
        log_rows: int | None = None,
        at_once: int | None = None,
    ) -> Self:
        """Return pieces as large as they can be while every multiprocessor has some.

        `at_once` is how many bytes are launched together, if not all.
        """
        tuning = launcher.tuning
        row = 16 * tuning.threads
        if log_rows is None:
            blocks = launcher.sm_count * tuning.blocks_per_sm * _WAVES
            together = int(table["length"].sum(dtype=np.uint64))
            rows = min(together, at_once or together) // (row * blocks)
            log_rows = min(_MOST_ROWS, max(rows, 1).bit_length() - 1)
        pieces = max(1, -(-int(table["length"].max()) // (row << log_rows)))
        if pieces * table.size > _MOST_BLOCKS:
            raise LocalProtocolError("a batch of too many pieces; split it")
        return cls(pieces=pieces, log_rows=log_rows)


class GpuAead:
    """Opens and seals batches on one device."""

    def __init__(self, launcher: Launcher) -> None:
        """Use the kernels of `launcher`."""
        self._launcher = launcher

    def batch(
        self,
        table: Table,
        keys: Sequence[Buffer],
        *,
        log_rows: int | None = None,
        at_once: int | None = None,
    ) -> "Batch":
        """Copy `table` and `keys` to the device; a context manager that wipes what it derived.

        `at_once` is how many bytes are launched together. Raises `LocalProtocolError` for
        segments that no tensor has.
        """
        check_table(table, keys=len(keys))
        shape = Shape.of(table, self._launcher, log_rows, at_once)
        return Batch(self._launcher, table, keys, shape=shape)

    @staticmethod
    def scratch_bytes(tuning: Tuning, *, nbytes: int, segments: int, keys: int) -> int:
        """Return what a batch of so much plaintext takes beside its buffers, or a little more."""
        row = 16 * tuning.threads
        # Every segment has the pieces of the longest, which is at most twice the mean of full ones.
        pieces = segments + 2 * nbytes // row
        rows = segments * (ROW.itemsize + _STATUS_BYTES) + pieces * _PART_BYTES
        blocks = (rows, keys * KEY_BYTES, keys * tuning.context_bytes)
        return sum(map(round_up, blocks)) + 2 * round_up(1)

    def open_segments(
        self, batch: "Batch", *, sealed: Span, plain: Span, verify_first: bool = False
    ) -> None:
        """Open every segment, or raise `NotAuthenticError` with none of them left behind.

        With `verify_first` no plaintext exists, anywhere, before every tag was checked.
        """
        if verify_first:
            self.verify(batch, sealed=sealed)
            batch.begin_decrypt(sealed=sealed, plain=plain)
        else:
            batch.begin_open(sealed=sealed, plain=plain)
        batch.settle()

    def verify(self, batch: "Batch", *, sealed: Span) -> None:
        """Check every segment and write nothing; raises `NotAuthenticError`."""
        batch.begin_verify(sealed=sealed)
        batch.settle()

    def seal_segments(self, batch: "Batch", *, plain: Span, sealed: Span) -> None:
        """Seal every segment, framing included; raises `LocalProtocolError` for a second time."""
        batch.begin_seal(plain=plain, sealed=sealed)
        batch.settle()


class Batch:
    """Segments and what was derived from their keys, on the device until `wipe`."""

    def __init__(
        self, launcher: Launcher, table: Table, keys: Sequence[Buffer], *, shape: Shape
    ) -> None:
        """Begin with `keys` on the device; `table` has been checked."""
        self.shape = shape
        self.table = table.copy()
        self._launcher = launcher
        self._key_count = len(keys)
        self._pending = Pending.NOTHING
        self._opening: Span | None = None
        self._verifying: Span | None = None
        self._verified: Span | None = None
        self._sealed = False
        self._wiped = False
        count = self.table.size
        self._left = np.zeros(count, np.bool_)
        """The segments that are to be opened or sealed in parts, and are in none so far."""
        self._rows = launcher.allocate(self.table.nbytes)
        self._parts = launcher.allocate(count * self.shape.pieces * _PART_BYTES)
        self._statuses = launcher.allocate(count * _STATUS_BYTES)
        self._keys = launcher.allocate(len(keys) * KEY_BYTES)
        self._contexts = launcher.allocate(len(keys) * launcher.tuning.context_bytes)
        try:
            launcher.upload(self._rows.pointer, self.table.tobytes())
            self.load_keys(keys)
        except BaseException:
            self.wipe()
            raise

    def load_keys(self, keys: Sequence[Buffer]) -> None:
        """Derive everything from other keys: the next tensors of this shape can be opened."""
        self.upload_keys(keys)
        self.derive()

    def upload_keys(self, keys: Sequence[Buffer]) -> None:
        """Copy keys to where `derive` finds them; raises `LocalProtocolError` if some are odd."""
        if len(keys) != self._key_count or any(octets(k).nbytes != KEY_BYTES for k in keys):
            raise LocalProtocolError("not as many keys of 32 bytes as the batch has")
        self._require_idle()
        self._verified = None
        together = bytearray().join(octets(key) for key in keys)
        try:
            self._launcher.upload(self._keys.pointer, together)
        finally:
            wipe(together)

    def derive(self) -> None:
        """Start the kernel that turns the uploaded keys into contexts, and overwrites them."""
        tuning = self._launcher.tuning
        arguments = (
            Pointer(self._keys.pointer),
            Pointer(self._contexts.pointer),
            self.shape.log_rows,
        )
        self._launcher.launch(
            "gcm_setup", self._key_count, tuning.setup_threads, tuning.setup_bytes, arguments
        )

    def begin_open(
        self, *, sealed: Span, plain: Span, replay: Callable[[], None] | None = None
    ) -> None:
        """Start to decrypt and check every segment. `plain` is not to be read before `settle`.

        `replay` launches a CUDA graph that recorded `record_open` over the same buffers.
        """
        self._begin(_CIPHER | _MAC, sealed=sealed, plain=plain, replay=replay)
        self._pending, self._opening = Pending.OPENED, plain

    def record_open(self, *, sealed: Span, plain: Span) -> None:
        """Launch all that opening under newly uploaded keys takes, for a CUDA graph to record."""
        window = Window(span=sealed)
        check_spans(self.table, sealed=window, plain=plain)
        self.derive()
        self._launch(_CIPHER | _MAC, _ALL, sealed=window, plain=plain)

    def begin_verify(self, *, sealed: Span) -> None:
        """Start to check every segment; nothing is written but statuses."""
        self._begin(_MAC, sealed=sealed, plain=None)
        self._pending, self._verifying = Pending.VERIFIED, sealed

    def begin_decrypt(self, *, sealed: Span, plain: Span) -> None:
        """Start to decrypt what `verify` accepted, once; raises `LocalProtocolError` otherwise."""
        if self._verified != sealed:
            raise LocalProtocolError("these segments have not been verified")
        self._verified = None
        self._begin(_CIPHER, sealed=sealed, plain=plain)
        self._pending, self._opening = Pending.DECRYPTED, plain

    def begin_seal(self, *, plain: Span, sealed: Span) -> None:
        """Start to encrypt every segment under a fresh IV; raises `LocalProtocolError` if done."""
        check_spans(self.table, sealed=Window(span=sealed), plain=plain)
        self._draw()
        self._begin(_SEAL | _CIPHER | _MAC, sealed=sealed, plain=plain)
        self._pending = Pending.SEALED

    def begin_parts_to_open(self, plain: Span) -> None:
        """Prepare to open part by part; every part has to be behind this."""
        self._begin_parts()
        self._pending, self._opening = Pending.OPENED, plain

    def begin_parts_to_seal(self) -> None:
        """Draw every IV, and prepare to seal part by part; every part has to be behind this."""
        self._draw()
        self._begin_parts()
        self._pending = Pending.SEALED

    def open_part(self, rows: slice, *, sealed: Window) -> None:
        """Start to open some segments, which are in no other part."""
        if self._pending is not Pending.OPENED or self._opening is None:
            raise LocalProtocolError("this batch is not being opened in parts")
        self._launch_part(_CIPHER | _MAC, rows, sealed=sealed, plain=self._opening)

    def seal_part(self, rows: slice, *, plain: Span, sealed: Window) -> None:
        """Start to seal some segments, which are in no other part."""
        if self._pending is not Pending.SEALED:
            raise LocalProtocolError("this batch is not being sealed in parts")
        self._launch_part(_SEAL | _CIPHER | _MAC, rows, sealed=sealed, plain=plain)

    def settle(self) -> None:
        """Wait for what was begun, and read every status.

        Raises `NotAuthenticError`, after zeroing all plaintext of the batch, if a segment is not
        the one that was sealed in its place; `KernelError` if the device came to no decision about
        a segment that it sealed.
        """
        pending, opening, verifying = self._pending, self._opening, self._verifying
        if pending is Pending.NOTHING:
            raise LocalProtocolError("nothing was begun")
        self._pending, self._opening, self._verifying = Pending.NOTHING, None, None
        statuses = np.full(self.table.size, 0xFFFFFFFF, np.uint32)
        try:
            self._launcher.download(self._statuses.pointer, statuses.data)
        except BaseException:
            self._forget(opening)
            raise
        refused = int(np.count_nonzero(statuses))
        if not refused:
            self._verified = verifying
            return
        self._forget(opening)
        if pending is Pending.SEALED:
            raise KernelError("the device did not seal every segment")
        raise NotAuthenticError(f"{refused} of {self.table.size} segments were refused")

    def wipe(self) -> None:
        """Overwrite keys, contexts and parts of MACs. Every later use raises."""
        self._wiped = True
        self.rest()

    def rest(self) -> None:
        """Overwrite the same, and wait for other keys."""
        self._verified = None
        for memory in (self._keys, self._contexts, self._parts, self._statuses):
            self._launcher.fill(memory.pointer, 0, memory.nbytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.abandon()
        self.wipe()

    def abandon(self) -> None:
        """Zero what was begun and not settled: nobody knows whether it is authentic."""
        opening, self._opening, self._pending = self._opening, None, Pending.NOTHING
        self._forget(opening)

    def _require_idle(self) -> None:
        if self._wiped:
            raise LocalProtocolError("this batch was wiped")
        if self._pending is not Pending.NOTHING:
            raise LocalProtocolError("what was begun before has not been settled")

    def _begin(
        self,
        mode: int,
        *,
        sealed: Span,
        plain: Span | None,
        replay: Callable[[], None] | None = None,
    ) -> None:
        self._require_idle()
        check_spans(self.table, sealed=Window(span=sealed), plain=plain)
        self._undecide()
        if replay is None:
            self._launch(mode, _ALL, sealed=Window(span=sealed), plain=plain)
        else:
            replay()

    def _begin_parts(self) -> None:
        self._require_idle()
        self._undecide()
        self._left[:] = True

    def _draw(self) -> None:
        if self._sealed:
            raise LocalProtocolError("a batch is sealed once")
        self._require_idle()
        self._sealed = True
        drawn = np.frombuffer(urandom(_IV_BYTES * self.table.size), "<u4")
        self.table["iv"] = drawn.reshape(self.table.size, 3)
        self._launcher.upload(self._rows.pointer, self.table.tobytes())

    def _undecide(self) -> None:
        self._launcher.fill(self._statuses.pointer, _UNDECIDED, self._statuses.nbytes)

    def _launch_part(self, mode: int, rows: slice, *, sealed: Window, plain: Span) -> None:
        part = self._left[rows]
        if rows.step is not None or not part.size or not part.all():
            raise LocalProtocolError("a part without segments, or with one of another part")
        check_spans(self.table[rows], sealed=sealed, plain=plain)
        part[:] = False
        self._launch(mode, rows, sealed=sealed, plain=plain)

    def _launch(self, mode: int, rows: slice, *, sealed: Window, plain: Span | None) -> None:
        tuning, shape = self._launcher.tuning, self.shape
        first, end, _ = rows.indices(self.table.size)
        count = end - first
        before = (
            Pointer(self._contexts.pointer),
            Pointer(self._rows.pointer + first * ROW.itemsize),
            Pointer(sealed.base),
            # Nothing is written without _CIPHER, but the kernel wants an address.
            Pointer(sealed.base if plain is None else plain.pointer),
            Pointer(self._parts.pointer + first * shape.pieces * _PART_BYTES),
        )
        after = (shape.pieces, shape.log_rows, mode)
        pieces = count * shape.pieces
        self._launcher.launch(
            "gcm_body", pieces, tuning.threads, tuning.shared_bytes, (*before, *after)
        )
        threads = tuning.finish_threads
        decided = Pointer(self._statuses.pointer + first * _STATUS_BYTES)
        self._launcher.launch(
            "gcm_finish", -(-count // threads), threads, 0, (*before, decided, count, *after)
        )

    def _forget(self, plain: Span | None) -> None:
        if plain is not None:
            for start, length in plain_runs(self.table):
                self._launcher.fill(plain.pointer + start, 0, length)
            self._launcher.synchronize()
