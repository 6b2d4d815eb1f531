"""FLOE refuses what was not sealed at this place, and leaves nothing behind when it does."""

import pytest

from attestation.errors import LocalProtocolError, NotAuthenticError
from attestation.sealing.floe import HEADER_BYTES, SEGMENT_OVERHEAD, FloeOpener, FloeSealer, octets

KEY = bytes(range(32))
AAD = b"associated"
CAPACITY = 64
LENGTH = CAPACITY + SEGMENT_OVERHEAD
PLAINTEXT = [bytes([number]) * CAPACITY for number in range(3)] + [b"the end"]


def sealed(key: bytes = KEY, aad: bytes = AAD) -> tuple[bytes, list[bytes]]:
    sealer = FloeSealer(key, aad, segment_length=LENGTH)
    segments = []
    for position, piece in enumerate(PLAINTEXT):
        out = bytearray(len(piece) + SEGMENT_OVERHEAD)
        sealer.seal_into(position, piece, out, final=position == len(PLAINTEXT) - 1)
        segments.append(bytes(out))
    return sealer.header, segments


def refuse(opener: FloeOpener, position: int, segment: bytes, *, final: bool) -> None:
    """The segment is refused and the output buffer is all zero."""
    out = bytearray(b"\xaa" * max(0, len(segment) - SEGMENT_OVERHEAD))
    with pytest.raises(NotAuthenticError):
        opener.open_into(position, segment, out, final=final)
    assert not any(out)


def opener_for(header: bytes, key: bytes = KEY, aad: bytes = AAD) -> FloeOpener:
    return FloeOpener(key, aad, header, segment_length=LENGTH)


def test_segments_open_in_any_order() -> None:
    header, segments = sealed()
    opener = opener_for(header)
    for position in (3, 0, 2, 1):
        out = bytearray(len(PLAINTEXT[position]))
        opener.open_into(position, segments[position], out, final=position == 3)
        assert bytes(out) == PLAINTEXT[position]


def test_sealing_and_opening_in_place_agree() -> None:
    sealer = FloeSealer(KEY, AAD, segment_length=LENGTH)
    buffer = memoryview(bytearray(LENGTH))
    buffer[16:-16] = PLAINTEXT[1]
    sealer.seal_into(0, buffer[16:-16], buffer, final=True)
    assert PLAINTEXT[1] not in bytes(buffer)
    opener_for(sealer.header).open_into(0, buffer, buffer[16:-16], final=True)
    assert bytes(buffer[16:-16]) == PLAINTEXT[1]


def test_any_flipped_bit_of_the_header_is_refused() -> None:
    header, _ = sealed()
    for bit in range(8 * HEADER_BYTES):
        changed = bytearray(header)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(NotAuthenticError):
            opener_for(bytes(changed))


@pytest.mark.parametrize("length", [0, 10, HEADER_BYTES - 1, HEADER_BYTES + 1])
def test_header_of_another_length_is_refused(length: int) -> None:
    header, _ = sealed()
    with pytest.raises(NotAuthenticError):
        opener_for((header + b"\0")[:length])


def test_header_under_another_key_is_refused_before_any_segment() -> None:
    """The header tag commits to the key: no ciphertext opens under two of them."""
    header, _ = sealed()
    with pytest.raises(NotAuthenticError):
        opener_for(header, key=bytes(32))


def test_header_under_other_associated_data_is_refused() -> None:
    header, _ = sealed()
    with pytest.raises(NotAuthenticError):
        opener_for(header, aad=AAD + b"!")


def test_header_with_another_segment_length_is_refused() -> None:
    header, _ = sealed()
    with pytest.raises(NotAuthenticError):
        FloeOpener(KEY, AAD, header, segment_length=LENGTH * 2)


@pytest.mark.parametrize("position", range(len(PLAINTEXT)))
def test_any_flipped_bit_of_a_segment_is_refused(position: int) -> None:
    header, segments = sealed()
    opener = opener_for(header)
    for bit in range(8 * len(segments[position])):
        changed = bytearray(segments[position])
        changed[bit // 8] ^= 1 << bit % 8
        refuse(opener, position, bytes(changed), final=position == 3)


@pytest.mark.parametrize("position", range(len(PLAINTEXT)))
def test_segment_cut_at_any_byte_is_refused(position: int) -> None:
    header, segments = sealed()
    opener = opener_for(header)
    for length in range(len(segments[position])):
        refuse(opener, position, segments[position][:length], final=position == 3)


def test_segment_at_another_position_is_refused() -> None:
    header, segments = sealed()
    opener = opener_for(header)
    refuse(opener, 1, segments[0], final=False)
    refuse(opener, 0, segments[1], final=False)


def test_final_segment_as_one_that_is_not_final_is_refused() -> None:
    header, segments = sealed()
    refuse(opener_for(header), 3, segments[3], final=False)


def test_full_final_segment_with_rewritten_framing_is_refused() -> None:
    """Finality is in the associated data, not only in the length field that anyone can rewrite."""
    sealer = FloeSealer(KEY, AAD, segment_length=LENGTH)
    out = bytearray(LENGTH)
    sealer.seal_into(0, PLAINTEXT[0], out, final=True)
    out[:4] = b"\xff" * 4
    refuse(opener_for(sealer.header), 0, bytes(out), final=False)


def test_segment_before_the_end_posing_as_the_final_one_is_refused() -> None:
    header, segments = sealed()
    opener = opener_for(header)
    refuse(opener, 2, segments[2], final=True)
    refuse(opener, 2, LENGTH.to_bytes(4, "big") + segments[2][4:], final=True)


def test_segment_of_another_message_under_the_same_key_is_refused() -> None:
    header, _ = sealed()
    _, others = sealed()
    refuse(opener_for(header), 0, others[0], final=False)


def test_short_segment_from_a_holder_of_the_key_is_refused() -> None:
    """One that a careless or hostile writer authenticated: FLOE has a single layout per message."""
    sealer = FloeSealer(KEY, AAD, segment_length=LENGTH)
    iv, place = bytes(12), bytes(8) + b"\0"
    short = b"\xff" * 4 + iv + sealer._message.aead(0).encrypt(iv, b"short", place)
    refuse(opener_for(sealer.header), 0, short, final=False)


def test_sealing_twice_never_gives_the_same_bytes() -> None:
    first, second = sealed(), sealed()
    assert first[0] != second[0]
    assert not set(first[1]) & set(second[1])


def test_short_segment_before_the_end_cannot_be_made() -> None:
    sealer = FloeSealer(KEY, AAD, segment_length=LENGTH)
    with pytest.raises(LocalProtocolError):
        sealer.seal_into(0, b"short", bytearray(5 + SEGMENT_OVERHEAD), final=False)


@pytest.mark.parametrize("position", [-1, 1 << 40])
def test_position_outside_the_format_cannot_be_sealed(position: int) -> None:
    sealer = FloeSealer(KEY, AAD, segment_length=LENGTH)
    with pytest.raises(LocalProtocolError):
        sealer.seal_into(position, b"", bytearray(SEGMENT_OVERHEAD), final=True)


def test_output_buffer_of_another_length_is_a_defect_of_ours() -> None:
    header, segments = sealed()
    with pytest.raises(LocalProtocolError):
        opener_for(header).open_into(0, segments[0], bytearray(CAPACITY + 1), final=False)
    with pytest.raises(LocalProtocolError):
        FloeSealer(KEY, AAD, segment_length=LENGTH).seal_into(0, b"x", bytearray(32), final=True)


def test_read_only_output_buffer_is_a_defect_of_ours() -> None:
    header, segments = sealed()
    with pytest.raises(LocalProtocolError):
        opener_for(header).open_into(0, segments[0], bytes(CAPACITY), final=False)


@pytest.mark.parametrize("length", [0, SEGMENT_OVERHEAD, 0xFFFFFFFF, 1 << 32])
def test_impossible_segment_length_cannot_be_chosen(length: int) -> None:
    with pytest.raises(LocalProtocolError):
        FloeSealer(KEY, AAD, segment_length=length)


@pytest.mark.parametrize("key", [b"", bytes(16), bytes(33)])
def test_key_of_another_length_cannot_be_used(key: bytes) -> None:
    with pytest.raises(LocalProtocolError):
        FloeSealer(key, AAD, segment_length=LENGTH)


def test_buffer_that_is_not_contiguous_is_refused() -> None:
    """Taking it would seal bytes the caller did not mean."""
    with pytest.raises(LocalProtocolError):
        octets(memoryview(bytearray(8))[::2])
