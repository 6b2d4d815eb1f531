"""Firmware ids in device certificates: the TCG DICE extensions, as NVIDIA's chips write them.

Hopper and its switches put a `CompositeDeviceID` (TCG Implicit Identity Based Device Attestation)
under 2.23.133.5.4.1, an object identifier that later came to mean `DiceTcbInfo`; Blackwell puts a
`DiceTcbInfo` (TCG DICE Attestation Architecture 1.2, 6.1.1) under 2.23.133.5.4.1.1. Both are read
by their structure, wherever they stand: looking for the last 48 bytes finds the wrong digest.
"""

from typing import Final

from attestation import limits
from attestation.encoding.reader import Reader
from attestation.errors import DecodeError

TCB_INFO_OIDS: Final = ("2.23.133.5.4.1", "2.23.133.5.4.1.1")

_INTEGER: Final = 0x02
_OCTET_STRING: Final = 0x04
_OBJECT_IDENTIFIER: Final = 0x06
_SEQUENCE: Final = 0x30
_FWIDS: Final = 0xA6  # [6] IMPLICIT SEQUENCE OF FWID
_LONG_FORM: Final = 0x80
_HIGH_TAG: Final = 0x1F
_LENGTH_BYTES: Final = 2


def firmware_ids(extension: bytes) -> tuple[bytes, ...]:
    """Return the digests in an extension's value, in order; raises `DecodeError`."""
    reader = Reader(extension, limit=limits.CERTIFICATE_BYTES)
    outer = _expect(reader, _SEQUENCE)
    reader.finish()
    tag, value = _take(outer)
    if tag == _INTEGER:
        _expect(outer, _SEQUENCE)  # subjectPublicKeyInfo
        digest = _firmware_id(_expect(outer, _SEQUENCE))
        outer.finish()
        return (digest,)
    found: tuple[bytes, ...] = ()
    while True:
        if tag == _FWIDS:
            found = _list(_reader(value))
        if not outer.remaining:
            return found
        tag, value = _take(outer)


def _list(reader: Reader) -> tuple[bytes, ...]:
    found = []
    while reader.remaining:
        found.append(_firmware_id(_expect(reader, _SEQUENCE)))
    return tuple(found)


def _firmware_id(reader: Reader) -> bytes:
    _expect(reader, _OBJECT_IDENTIFIER)
    digest = _expect(reader, _OCTET_STRING).take_rest()
    reader.finish()
    return digest


def _expect(reader: Reader, expected: int) -> Reader:
    tag, value = _take(reader)
    if tag != expected:
        raise DecodeError(f"DER tag {tag:#04x} where {expected:#04x} is needed")
    return _reader(value)


def _take(reader: Reader) -> tuple[int, bytes]:
    """Take one DER element with a one-byte tag and a definite length."""
    tag, length = reader.take_uint(1), reader.take_uint(1)
    if tag & _HIGH_TAG == _HIGH_TAG:
        raise DecodeError("a DER tag of more than one byte")
    if length >= _LONG_FORM:
        size = length - _LONG_FORM
        if not 1 <= size <= _LENGTH_BYTES:
            raise DecodeError(f"a DER length of {size} bytes")
        length = reader.take_uint(size)
    return tag, reader.take(length)


def _reader(data: bytes) -> Reader:
    return Reader(data, limit=limits.CERTIFICATE_BYTES)
