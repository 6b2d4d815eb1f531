"""C2SP FLOE (c2sp.org/FLOE): authenticated encryption of a long message in independent segments.

AES-256-GCM, HKDF-Expand-SHA-384, 32-byte message IV. What it gives that a nonce counter does not:
segments are sealed and opened in any order and on several threads, the header commits to the key
and the associated data before any segment is looked at, and no AES key sees more than 2^20
segments.

    header   parameters(10) ‖ iv(32) ‖ header tag(32)
    segment  length field(4) ‖ iv(12) ‖ AES-256-GCM ciphertext ‖ tag(16)

A non-final segment has length field ff ff ff ff and a full plaintext; the final one, of which there
is exactly one, carries its own encrypted length. The AEAD's associated data hold the position and
whether it is the final one, so a segment opens at its own place and no other.

This module does not remember positions: whoever holds a `FloeSealer` seals each position once, and
whoever holds a `FloeOpener` counts them. `sealed_tensor` does both. Buffers belong to the caller,
so that nothing is copied and the caller can wipe them; input and output must not overlap, except
that plaintext may sit exactly where its ciphertext goes.
"""

import hmac
import struct
from functools import lru_cache

# By name and through this module only, so that known-answer tests can replace the source of
# randomness from outside and no argument exists through which production code could.
from os import urandom
from typing import Final, TypeAlias

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from attestation.errors import LocalProtocolError, NotAuthenticError

Buffer: TypeAlias = bytes | bytearray | memoryview

KEY_BYTES: Final = 32
IV_BYTES: Final = 32
HEADER_BYTES: Final = 74
SEGMENT_OVERHEAD: Final = 32
ROTATION_MASK: Final = 20
MAX_SEGMENTS: Final = 1 << 40

_SHA_384: Final = SHA384()
_AES_256_GCM: Final = 0
_HKDF_EXPAND_SHA_384: Final = 0
_PARAMETERS: Final = struct.Struct(">BBII")
_PLACE: Final = struct.Struct(">Q?")
_LENGTH: Final = struct.Struct(">I")
_NOT_FINAL: Final = 0xFFFFFFFF
_MESSAGE_KEY_BYTES: Final = 48
_TAG_BYTES: Final = 32
_PREFIX_BYTES: Final = 16
_WIPE_BYTES: Final = 1 << 20
_GCM_IV: Final = slice(4, 16)
_GCM_IV_BYTES: Final = 12


def octets(buffer: Buffer) -> memoryview:
    """Return `buffer` as bytes without copying; raises `LocalProtocolError` if that is impossible.

    Takes whatever has the buffer protocol and is contiguous, an array's memoryview included.
    """
    view = memoryview(buffer)
    if not view.c_contiguous:
        raise LocalProtocolError("a buffer is not contiguous")
    if view.nbytes == 0:
        return memoryview(bytearray())  # `cast` refuses shapes with a zero in them
    return view if view.format == "B" and view.ndim == 1 else view.cast("B")


def writable(buffer: Buffer) -> memoryview:
    """Return `octets(buffer)`; raises `LocalProtocolError` if it cannot be written to."""
    view = octets(buffer)
    if view.readonly:
        raise LocalProtocolError("an output buffer is read-only")
    return view


def wipe(buffer: Buffer) -> None:
    """Overwrite a caller's buffer with zeros, without needing as much memory again."""
    view = writable(buffer)
    zeros = bytes(min(view.nbytes, _WIPE_BYTES))
    for start in range(0, view.nbytes, _WIPE_BYTES):
        end = min(start + _WIPE_BYTES, view.nbytes)
        view[start:end] = zeros[: end - start]


class _Message:
    """What both directions share: the parameters, the message key, the key of an epoch."""

    __slots__ = ("_aad", "_epoch", "_iv", "_message_key", "_parameters", "_rotation_mask")

    def __init__(
        self, key: Buffer, iv: bytes, aad: bytes, *, segment_length: int, rotation_mask: int
    ) -> None:
        if len(key) != KEY_BYTES:
            raise LocalProtocolError(f"a FLOE key has {KEY_BYTES} bytes")
        self._parameters = encode_parameters(segment_length)
        self._rotation_mask = rotation_mask
        self._iv = iv
        self._aad = aad
        self._message_key = self._derive(key, b"MESSAGE_KEY:", _MESSAGE_KEY_BYTES)
        self._epoch = self._derive_epoch(0)

    def header_tag(self, key: Buffer) -> bytes:
        return self._derive(key, b"HEADER_TAG:", _TAG_BYTES)

    def aead(self, position: int) -> AESGCM:
        if not 0 <= position < MAX_SEGMENTS:
            raise LocalProtocolError("a segment position outside 0 to 2^40 - 1")
        first = position >> self._rotation_mask << self._rotation_mask
        # One reference, replaced whole: threads on either side of an epoch's end may derive a key
        # twice, never use a wrong one.
        epoch = self._epoch
        if epoch[0] != first:
            epoch = self._epoch = self._derive_epoch(first)
        return epoch[1]

    def epoch_keys(self, segments: int) -> tuple[bytearray, ...]:
        """Return the AES key of every epoch that the first `segments` positions fall into."""
        if not 0 < segments <= MAX_SEGMENTS:
            raise LocalProtocolError("not a number of segments")
        keys = []
        for first in range(0, segments, 1 << self._rotation_mask):
            key = bytearray(KEY_BYTES)
            info = self._info(b"DEK:" + first.to_bytes(8, "big"))
            HKDFExpand(_SHA_384, KEY_BYTES, info).derive_into(self._message_key, key)
            keys.append(key)
        return tuple(keys)

    def _derive_epoch(self, first: int) -> tuple[int, AESGCM]:
        purpose = b"DEK:" + first.to_bytes(8, "big")
        return first, AESGCM(self._derive(self._message_key, purpose, KEY_BYTES))

    def _derive(self, key: Buffer, purpose: bytes, length: int) -> bytes:
        return HKDFExpand(_SHA_384, length, self._info(purpose)).derive(key)

    def _info(self, purpose: bytes) -> bytes:
        return self._parameters + self._iv + purpose + self._aad


@lru_cache(maxsize=64)
def encode_parameters(segment_length: int) -> bytes:
    """Return the 10 bytes that name the algorithms, the encrypted segment length, the IV length."""
    if not SEGMENT_OVERHEAD < segment_length < _NOT_FINAL:
        raise LocalProtocolError(f"a segment length of {segment_length}")
    return _PARAMETERS.pack(_AES_256_GCM, _HKDF_EXPAND_SHA_384, segment_length, IV_BYTES)


class FloeSealer:
    """Seals one message under a fresh IV. `header` is sent before or beside the segments."""

    __slots__ = ("_capacity", "_message", "header")

    def __init__(
        self, key: Buffer, aad: bytes, *, segment_length: int, rotation_mask: int = ROTATION_MASK
    ) -> None:
        """Draw the message IV and bind it to `key` and `aad`."""
        iv = urandom(IV_BYTES)
        self._capacity = segment_length - SEGMENT_OVERHEAD
        self._message = _Message(
            key, iv, aad, segment_length=segment_length, rotation_mask=rotation_mask
        )
        self.header = encode_parameters(segment_length) + iv + self._message.header_tag(key)

    def epoch_keys(self, segments: int) -> tuple[bytearray, ...]:
        """Return the AES keys of the first `segments` positions, for a device; the caller wipes."""
        return self._message.epoch_keys(segments)

    def seal_into(self, position: int, plaintext: Buffer, out: Buffer, *, final: bool) -> None:
        """Seal one segment into `out`, which is exactly 32 bytes longer than `plaintext`.

        Safe to call from several threads. Raises `LocalProtocolError` for wrong sizes.
        """
        source, target = octets(plaintext), writable(out)
        if source.nbytes > self._capacity or (not final and source.nbytes != self._capacity):
            raise LocalProtocolError(f"{source.nbytes} bytes do not make this segment")
        if target.nbytes != source.nbytes + SEGMENT_OVERHEAD:
            raise LocalProtocolError("the output buffer is not 32 bytes longer than the input")
        aead = self._message.aead(position)
        iv = urandom(_GCM_IV_BYTES)
        _LENGTH.pack_into(target, 0, target.nbytes if final else _NOT_FINAL)
        target[_GCM_IV] = iv
        place = _PLACE.pack(position, final)
        aead.encrypt_into(iv, source, place, target[_PREFIX_BYTES:])


class FloeOpener:
    """Opens one message. Making one checks that `key` and `aad` are those the header commits to."""

    __slots__ = ("_capacity", "_message")

    def __init__(
        self,
        key: Buffer,
        aad: bytes,
        header: Buffer,
        *,
        segment_length: int,
        rotation_mask: int = ROTATION_MASK,
    ) -> None:
        """Check the header; raises `NotAuthenticError` unless every byte of it is right."""
        head = bytes(header)
        expected = encode_parameters(segment_length)
        if len(head) != HEADER_BYTES or not head.startswith(expected):
            raise NotAuthenticError("a header of another length or with other parameters")
        iv, tag = head[len(expected) : -_TAG_BYTES], head[-_TAG_BYTES:]
        self._capacity = segment_length - SEGMENT_OVERHEAD
        self._message = _Message(
            key, iv, aad, segment_length=segment_length, rotation_mask=rotation_mask
        )
        if not hmac.compare_digest(tag, self._message.header_tag(key)):
            raise NotAuthenticError("the header belongs to another key or other associated data")

    def epoch_keys(self, segments: int) -> tuple[bytearray, ...]:
        """Return the AES keys of the first `segments` positions, for a device; the caller wipes."""
        return self._message.epoch_keys(segments)

    def open_into(self, position: int, segment: Buffer, out: Buffer, *, final: bool) -> None:
        """Open one segment into `out`, which is exactly 32 bytes shorter than `segment`.

        Safe to call from several threads. Raises `NotAuthenticError`, after wiping `out`, unless
        this is the segment that was sealed at `position` with the same finality; the AEAD has
        already written there by the time it knows.
        """
        source, target = octets(segment), writable(out)
        try:
            self._open(position, source, target, final=final)
        except BaseException:
            wipe(target)
            raise

    def _open(self, position: int, source: memoryview, target: memoryview, *, final: bool) -> None:
        length = source.nbytes
        if not SEGMENT_OVERHEAD <= length <= self._capacity + SEGMENT_OVERHEAD:
            raise NotAuthenticError("a segment of an impossible length")
        if not final and length != self._capacity + SEGMENT_OVERHEAD:
            raise NotAuthenticError("a segment that is not the final one was cut")
        if _LENGTH.unpack_from(source)[0] != (length if final else _NOT_FINAL):
            raise NotAuthenticError("a segment's framing says another length or finality")
        if target.nbytes != length - SEGMENT_OVERHEAD:
            raise LocalProtocolError("the output buffer is not 32 bytes shorter than the segment")
        aead = self._message.aead(position)
        place = _PLACE.pack(position, final)
        try:
            aead.decrypt_into(bytes(source[_GCM_IV]), source[_PREFIX_BYTES:], place, target)
        except InvalidTag:
            raise NotAuthenticError("a segment is not the one that was sealed here") from None
