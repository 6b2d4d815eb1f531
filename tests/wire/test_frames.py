"""The routing header: 48 bytes, known kinds, nothing else."""

import struct

import pytest

from attestation import limits
from attestation.errors import DecodeError
from attestation.identifiers import JobId
from attestation.wire.frames import HEADER_BYTES, Header, Kind, check_message

HEADER = Header(Kind.INPUT, JobId(b"j" * 16), 3, 7, 9, b"p" * 16)


def test_the_layout_is_the_documented_one() -> None:
    assert HEADER.to_bytes() == (
        b"EW\x01" + bytes([61]) + struct.pack(">III", 3, 7, 9) + b"j" * 16 + b"p" * 16
    )
    assert Header.from_bytes(HEADER.to_bytes()) == HEADER


@pytest.mark.parametrize("kind", list(Kind))
def test_every_kind_survives_the_wire(kind: Kind) -> None:
    assert Header.from_bytes(Header(kind).to_bytes()).kind is kind


@pytest.mark.parametrize(
    "data",
    [
        b"",
        HEADER.to_bytes()[:-1],
        HEADER.to_bytes() + b"\x00",
        b"XX" + HEADER.to_bytes()[2:],
        b"EW\x02" + HEADER.to_bytes()[3:],
        b"EW\x01\x00" + HEADER.to_bytes()[4:],
        b"EW\x01\xff" + HEADER.to_bytes()[4:],
    ],
)
def test_another_length_magic_version_or_kind_is_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        Header.from_bytes(data)


def test_a_message_of_no_or_too_many_frames_is_refused() -> None:
    with pytest.raises(DecodeError):
        check_message([])
    with pytest.raises(DecodeError):
        check_message([HEADER.to_bytes()] * (limits.FRAMES_PER_MESSAGE + 1))


def test_a_frame_over_the_limit_is_refused_before_the_header_is_read() -> None:
    with pytest.raises(DecodeError):
        check_message([HEADER.to_bytes(), bytes(limits.FRAME_BYTES + 1)])


def test_a_header_is_48_bytes() -> None:
    assert HEADER_BYTES == 48
