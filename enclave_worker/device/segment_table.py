"""Which segments a batch has, as the kernels read it: one row of 48 bytes per FLOE segment.

A batch may hold several tensors, each under keys of its own, since many small launches cost more
than a large one. Whoever puts tensors in one buffer begins each at a multiple of 16 bytes.
"""

from typing import Any, Final, TypeAlias

import numpy as np
from attrs import frozen

from attestation.errors import LocalProtocolError
from attestation.sealing.floe import ROTATION_MASK, SEGMENT_OVERHEAD
from attestation.sealing.segments import Layout

ALIGNMENT: Final = 16
PREFIX_BYTES: Final = 16
"""Of a segment, before its ciphertext: length field and IV."""
LONGEST: Final = 0xFFFFFFFF - SEGMENT_OVERHEAD - 1

ROW: Final = np.dtype(
    [
        ("sealed", "<u8"),
        ("plain", "<u8"),
        ("position", "<u8"),
        ("length", "<u4"),
        ("key", "<u4"),
        ("final", "<u4"),
        ("iv", "<u4", (3,)),
    ]
)
"""`struct Segment` of aes256gcm.cu."""

Table: TypeAlias = np.ndarray[Any, Any]


@frozen(kw_only=True)
class Span:
    """A part of device memory."""

    pointer: int
    nbytes: int


@frozen(kw_only=True)
class Window:
    """The bytes from `start` on of the buffer of sealed bytes: as much of it as is there."""

    span: Span
    start: int = 0

    @property
    def base(self) -> int:
        """Where the buffer's first byte would be."""
        return self.span.pointer - self.start


def tensor_rows(
    layout: Layout,
    *,
    sealed_at: int = 0,
    plain_at: int = 0,
    first_key: int = 0,
    rotation_mask: int = ROTATION_MASK,
) -> Table:
    """Return the rows of one tensor, whose segments follow each other in both buffers.

    Its keys are those of `first_key` and up, one per 2^`rotation_mask` segments.
    """
    table = np.zeros(layout.count, ROW)
    position = np.arange(layout.count, dtype=np.uint64)
    table["position"] = position
    table["sealed"] = sealed_at + position * np.uint64(layout.segment_bytes + SEGMENT_OVERHEAD)
    table["plain"] = plain_at + position * np.uint64(layout.segment_bytes)
    table["length"] = layout.segment_bytes
    table["length"][-1] = layout.plaintext_length(layout.count - 1)
    table["key"] = first_key + (position >> np.uint64(rotation_mask))
    table["final"][-1] = 1
    return table


def in_place(table: Table) -> Table:
    """Return `table` with each plaintext where its ciphertext is.

    The buffer of plaintext is then the sealed one from `PREFIX_BYTES` on.
    """
    moved = table.copy()
    moved["plain"] = moved["sealed"]
    return moved


def check_table(table: Table, *, keys: int) -> None:
    """Refuse, with `LocalProtocolError`, rows that no tensor has: kernels do not check them."""
    if table.dtype != ROW or table.ndim != 1 or not table.size:
        raise LocalProtocolError("a batch of no segments, or not a table of them")
    if (table["sealed"] % ALIGNMENT).any() or (table["plain"] % ALIGNMENT).any():
        raise LocalProtocolError("a segment does not begin at a multiple of 16 bytes")
    if (table["length"] > LONGEST).any() or (table["final"] > 1).any():
        raise LocalProtocolError("a segment of an impossible length")
    if (table["key"] >= keys).any():
        raise LocalProtocolError("a segment under a key that the batch does not have")
    _check_apart(table["sealed"], table["length"].astype(np.uint64) + SEGMENT_OVERHEAD)
    _check_apart(table["plain"], table["length"].astype(np.uint64))


def check_spans(table: Table, *, sealed: Window, plain: Span | None) -> None:
    """Refuse, with `LocalProtocolError`, buffers that the rows do not fit into.

    Sealed bytes and plaintext lie apart, or each plaintext where its ciphertext is.
    """
    span, lengths = sealed.span, table["length"].astype(np.uint64)
    if int(table["sealed"].min()) < sealed.start or sealed.start % ALIGNMENT:
        raise LocalProtocolError("a segment lies before its buffer")
    _check_inside(table["sealed"] - np.uint64(sealed.start), lengths + SEGMENT_OVERHEAD, span)
    if plain is None:
        return
    _check_inside(table["plain"], lengths, plain)
    apart = (
        span.pointer + span.nbytes <= plain.pointer or plain.pointer + plain.nbytes <= span.pointer
    )
    same = plain.pointer == sealed.base + PREFIX_BYTES
    if not apart and not (same and np.array_equal(table["plain"], table["sealed"])):
        raise LocalProtocolError("plaintext and sealed bytes overlap")


def plain_runs(table: Table) -> list[tuple[int, int]]:
    """Return the plaintext's parts as (offset, length), those that touch joined."""
    runs: list[tuple[int, int]] = []
    for start, length in sorted(
        zip(table["plain"].tolist(), table["length"].tolist(), strict=True)
    ):
        if runs and sum(runs[-1]) == start:
            runs[-1] = (runs[-1][0], runs[-1][1] + length)
        else:
            runs.append((start, length))
    return runs


def _check_apart(starts: Table, lengths: Table) -> None:
    order = np.argsort(starts, kind="stable")
    ends = (starts + lengths)[order]
    if (ends < starts[order]).any() or (ends[:-1] > starts[order][1:]).any():
        raise LocalProtocolError("two segments overlap")


def _check_inside(starts: Table, lengths: Table, span: Span) -> None:
    if span.pointer % ALIGNMENT:
        raise LocalProtocolError("a buffer does not begin at a multiple of 16 bytes")
    if int((starts + lengths).max()) > span.nbytes:
        raise LocalProtocolError("a segment lies outside its buffer")
