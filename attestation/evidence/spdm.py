"""SPDM 1.1 measurements: the request that carries a nonce, and the signed response to it.

DMTF DSP0274 1.1, GET_MEASUREMENTS (10.11) and MEASUREMENTS (10.12), integers little-endian. The
signature is taken where the response says that it begins, never from the end of the bytes: some
collectors hand on a buffer that is longer than what the device wrote.
"""

from collections.abc import Mapping
from typing import Final, Self

from attrs import field, frozen

from attestation import limits
from attestation.encoding.reader import Reader
from attestation.errors import DecodeError

NONCE_BYTES: Final = 32
REQUEST_BYTES: Final = 4 + NONCE_BYTES + 1
SIGNATURE_BYTES: Final = 96
"""ECDSA P-384, r then s, big-endian."""

_VERSION: Final = 0x11
_GET_MEASUREMENTS: Final = 0xE0
_MEASUREMENTS: Final = 0x60
_SIGNATURE_REQUESTED: Final = 0x01
_DMTF: Final = 0x01

_EXCESS_BYTES: Final = 16
"""Bytes other than zero that may follow the signature: nothing signs them, nothing reads them."""


@frozen(kw_only=True)
class Measurement:
    """One DMTF measurement: `kind` is DMTFSpecMeasurementValueType."""

    kind: int
    value: bytes


@frozen(kw_only=True)
class MeasurementRequest:
    """GET_MEASUREMENTS. `operation` 0xff asks for all measurements."""

    nonce: bytes
    operation: int
    slot: int

    @classmethod
    def from_reader(cls, reader: Reader) -> Self:
        """Take the fixed 37 bytes."""
        reader.expect(bytes([_VERSION, _GET_MEASUREMENTS]))
        attributes, operation = reader.take_uint(1), reader.take_uint(1)
        if not attributes & _SIGNATURE_REQUESTED:
            raise DecodeError("a request that asks for no signature")
        nonce = reader.take(NONCE_BYTES)
        return cls(nonce=nonce, operation=operation, slot=reader.take_uint(1))


@frozen(kw_only=True)
class MeasurementResponse:
    """MEASUREMENTS: blocks by their index, the device's own nonce, and vendor data."""

    measurements: Mapping[int, Measurement] = field(repr=False)
    nonce: bytes
    opaque: bytes = field(repr=False)
    signature: bytes = field(repr=False)

    @classmethod
    def from_reader(cls, reader: Reader) -> Self:
        """Take one response; what follows it is left."""
        reader.expect(bytes([_VERSION, _MEASUREMENTS])).take(2)
        blocks = reader.take_uint(1)
        record = reader.take(_little(reader, 3))
        measurements = _measurements(record, blocks)
        nonce = reader.take(NONCE_BYTES)
        opaque = reader.take(_little(reader, 2))
        signature = reader.take(SIGNATURE_BYTES)
        return cls(measurements=measurements, nonce=nonce, opaque=opaque, signature=signature)


@frozen(kw_only=True)
class SignedMeasurements:
    """A request and its response, as `nvmlDeviceGetConfComputeGpuAttestationReport` gives them."""

    request: MeasurementRequest
    response: MeasurementResponse
    signed: bytes = field(repr=False)
    """Everything before the signature: request and response."""

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parse, or raise `DecodeError`."""
        reader = Reader(data, limit=limits.SPDM_BYTES)
        request = MeasurementRequest.from_reader(reader)
        response = MeasurementResponse.from_reader(reader)
        end = len(data) - reader.remaining - SIGNATURE_BYTES
        if len(reader.take_rest().rstrip(b"\0")) > _EXCESS_BYTES:
            raise DecodeError("something else follows the signature")
        return cls(request=request, response=response, signed=bytes(data[:end]))


def _measurements(record: bytes, blocks: int) -> dict[int, Measurement]:
    reader = Reader(record, limit=limits.SPDM_BYTES)
    found: dict[int, Measurement] = {}
    for _ in range(blocks):
        index, specification = reader.take_uint(1), reader.take_uint(1)
        block = Reader(reader.take(_little(reader, 2)), limit=limits.SPDM_BYTES)
        if specification != _DMTF:
            raise DecodeError(f"measurement {index} is of specification {specification}")
        kind = block.take_uint(1)
        value = block.take(_little(block, 2))
        block.finish()
        if index in found:
            raise DecodeError(f"measurement {index} occurs twice")
        found[index] = Measurement(kind=kind, value=value)
    reader.finish()
    return found


def _little(reader: Reader, count: int) -> int:
    return int.from_bytes(reader.take(count), "little")
