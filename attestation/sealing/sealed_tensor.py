"""Seal and open one tensor, segment by segment, on the caller's buffers.

A `TensorSealer` seals each segment once: the same position under two IVs would let whoever carries
the segments choose between two versions. A `TensorOpener` is told where the tensor belongs, learns
from the header how many segments there must be, opens each once, and vouches for the tensor only in
`finish`. Both may be used from several threads at once; the AEAD releases the interpreter's lock.

The one-shot `seal_bytes` is for small bodies that have a key of their own.
"""

import threading
from os import urandom

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from attestation.errors import LocalProtocolError, NotAuthenticError
from attestation.sealing.content_key import ContentKey
from attestation.sealing.floe import (
    SEGMENT_OVERHEAD,
    Buffer,
    FloeOpener,
    FloeSealer,
    octets,
    wipe,
    writable,
)
from attestation.sealing.recycled import RecycledBuffers
from attestation.sealing.segments import Layout, sealed_length, segment_count
from attestation.sealing.tensor_header import (
    Direction,
    Place,
    SealedTensorHeader,
    TensorHeader,
)

__all__ = [
    "Direction",
    "Place",
    "SealedTensorHeader",
    "TensorHeader",
    "TensorOpener",
    "TensorSealer",
    "open_bytes",
    "seal_bytes",
    "sealed_length",
    "segment_count",
]

_BUFFERS = RecycledBuffers()
_IV_BYTES = 12
_ONE_SHOT_OVERHEAD = _IV_BYTES + 16


class _Once:
    """Which positions were taken: a low-water mark and the few above it.

    Memory grows with what was really done, never with what a header claims.
    """

    __slots__ = ("_above", "_below")

    def __init__(self) -> None:
        self._below = 0
        self._above: set[int] = set()

    def take(self, position: int) -> bool:
        if position < self._below or position in self._above:
            return False
        self._above.add(position)
        while self._below in self._above:
            self._above.remove(self._below)
            self._below += 1
        return True

    def took_all(self, count: int) -> bool:
        return self._below == count

    def take_all(self, count: int) -> bool:
        if self._below or self._above:
            return False
        self._below = count
        return True


class TensorSealer:
    """Seals the tensor that `header` describes, under a key and an IV of its own."""

    __slots__ = ("_floe", "_lock", "_taken", "layout", "sealed_header")

    def __init__(self, content_key: ContentKey, header: TensorHeader) -> None:
        """Derive the tensor's key and draw its IV."""
        aad = header.to_bytes()
        self.layout = Layout.of(header)
        self._floe = FloeSealer(
            content_key.tensor_key(aad),
            aad,
            segment_length=header.segment_bytes + SEGMENT_OVERHEAD,
        )
        self._taken = _Once()
        self._lock = threading.Lock()
        self.sealed_header = SealedTensorHeader(header=aad, floe_header=self._floe.header)

    @property
    def segment_count(self) -> int:
        """How many segments the tensor has."""
        return self.layout.count

    @property
    def sealed_length(self) -> int:
        """The sealed bytes of all segments together."""
        return sealed_length(self.layout.nbytes, self.layout.segment_bytes)

    def segment_length(self, index: int) -> int:
        """Return the sealed bytes of segment `index`."""
        return self.layout.sealed_length(index)

    def seal_into(self, index: int, plaintext: Buffer, out: Buffer) -> None:
        """Seal segment `index` into `out`, which has exactly `segment_length(index)` bytes.

        `plaintext` is the whole tensor or exactly this segment of it. Raises `LocalProtocolError`
        for wrong sizes and for a segment that was sealed before.
        """
        source = self.layout.part(index, octets(plaintext))
        with self._lock:
            if not self._taken.take(index):
                raise LocalProtocolError(f"segment {index} was sealed before")
        self._floe.seal_into(index, source, out, final=self.layout.is_final(index))

    def delegate(self) -> tuple[bytearray, ...]:
        """Hand the AES keys of all segments, one per epoch, to a device that seals every one once.

        Raises `LocalProtocolError` if a segment was sealed before; none can be sealed here any
        more. The caller wipes the keys.
        """
        with self._lock:
            if not self._taken.take_all(self.layout.count):
                raise LocalProtocolError("some of the tensor was sealed before")
        return self._floe.epoch_keys(self.layout.count)

    def segment(self, index: int, plaintext: Buffer) -> bytearray:
        """Return segment `index` in a buffer that nobody else holds; otherwise like `seal_into`."""
        out = _BUFFERS.take(self.segment_length(index))
        self.seal_into(index, plaintext, out)
        return out


class TensorOpener:
    """Opens one tensor. Nothing it wrote may be acted on before `finish` returned.

    A segment-wise kernel may read a segment once it is open, if its last result and its receipt
    wait for `finish` (G4).
    """

    __slots__ = ("_failed", "_floe", "_lock", "_opened", "_taken", "header", "layout")

    def __init__(
        self, content_key: ContentKey, sealed_header: SealedTensorHeader, *, expected: Place
    ) -> None:
        """Check the headers before anything is allocated for the tensor.

        Raises `DecodeError` for a malformed header, `NotAuthenticError` for one of another place,
        key or content.
        """
        self.header = sealed_header.tensor_at(expected)
        self.layout = Layout.of(self.header)
        self._floe = FloeOpener(
            content_key.tensor_key(sealed_header.header),
            sealed_header.header,
            sealed_header.floe_header,
            segment_length=self.header.segment_bytes + SEGMENT_OVERHEAD,
        )
        self._taken = _Once()
        self._opened = 0
        self._failed = False
        self._lock = threading.Lock()

    @property
    def segment_count(self) -> int:
        """How many segments the tensor has."""
        return self.layout.count

    def segment_length(self, index: int) -> int:
        """Return the sealed bytes that segment `index` must have."""
        return self.layout.sealed_length(index)

    def open_into(self, index: int, segment: Buffer, out: Buffer) -> None:
        """Open segment `index` into `out`: the whole tensor or exactly this segment of it.

        Raises `NotAuthenticError` and wipes all of `out` unless this is that segment, unchanged and
        for the first time. One refusal ends the tensor: every later call refuses and wipes too, so
        no thread leaves plaintext behind in a buffer that was given up.
        """
        whole = writable(out)
        try:
            self._begin(index, segment)
            target = self.layout.part(index, whole)
            final = self.layout.is_final(index)
            self._floe.open_into(index, segment, target, final=final)
            self._end()
        except BaseException:
            self._failed = True
            wipe(whole)
            raise

    def delegate(self) -> tuple[bytearray, ...]:
        """Hand the AES keys of all segments, one per epoch, to a device that opens every one.

        Raises `LocalProtocolError` if a segment was opened before. The caller wipes the keys, and
        calls `delegated` once the device has accepted every segment; until then `finish` refuses.
        """
        with self._lock:
            if self._failed or not self._taken.take_all(self.layout.count):
                raise LocalProtocolError("some of the tensor was opened before")
        return self._floe.epoch_keys(self.layout.count)

    def delegated(self) -> None:
        """Note that the device has accepted every segment."""
        with self._lock:
            if self._opened or not self._taken.took_all(self.layout.count):
                raise LocalProtocolError("the tensor was not handed to a device")
            self._opened = self.layout.count

    def finish(self) -> None:
        """Vouch for the tensor: raises `NotAuthenticError` unless every segment was opened."""
        with self._lock:
            if self._failed or self._opened != self.layout.count:
                self._failed = True
                raise NotAuthenticError("the tensor is not complete")

    def _begin(self, index: int, segment: Buffer) -> None:
        with self._lock:
            if self._failed:
                raise NotAuthenticError("another segment of this tensor was refused")
            if not 0 <= index < self.layout.count:
                raise NotAuthenticError("a segment beyond the end of the tensor")
            if not self._taken.take(index):
                raise NotAuthenticError("a segment came twice")
        if octets(segment).nbytes != self.layout.sealed_length(index):
            raise NotAuthenticError("a segment has not the length that the header implies")

    def _end(self) -> None:
        with self._lock:
            if self._failed:
                raise NotAuthenticError("another segment of this tensor was refused")
            self._opened += 1


def seal_bytes(key: Buffer, aad: bytes, data: Buffer) -> bytes:
    """Return `iv(12) ‖ AES-256-GCM ciphertext ‖ tag(16)` under a key that seals nothing else."""
    iv = urandom(_IV_BYTES)
    return iv + AESGCM(key).encrypt(iv, data, aad)


def open_bytes(key: Buffer, aad: bytes, sealed: Buffer) -> bytes:
    """Return what `seal_bytes` sealed, or raise `NotAuthenticError`."""
    view = octets(sealed)
    if view.nbytes < _ONE_SHOT_OVERHEAD:
        raise NotAuthenticError("sealed bytes were cut")
    try:
        return AESGCM(key).decrypt(view[:_IV_BYTES], view[_IV_BYTES:], aad)
    except InvalidTag:
        raise NotAuthenticError("sealed bytes were changed, or belong elsewhere") from None
