"""A tensor's keys leave for a device once, and nothing is opened or sealed in two places."""

import os

import pytest

from attestation import limits
from attestation.errors import LocalProtocolError, NotAuthenticError
from attestation.identifiers import JobId
from attestation.sealing.content_key import ContentKey
from attestation.sealing.floe import FloeSealer
from attestation.sealing.sealed_tensor import (
    Direction,
    Place,
    TensorHeader,
    TensorOpener,
    TensorSealer,
)

SEGMENT = limits.SEGMENT_BYTES_MIN
DATA = bytes(2 * SEGMENT + 5)


@pytest.fixture
def content_key() -> ContentKey:
    return ContentKey.generate()


@pytest.fixture
def sealer(content_key: ContentKey) -> TensorSealer:
    header = TensorHeader(
        name="x",
        dtype="uint8",
        shape=(len(DATA),),
        job_id=JobId(os.urandom(16)),
        direction=Direction.INPUT,
        attempt=0,
        index=0,
        segment_bytes=SEGMENT,
    )
    return TensorSealer(content_key, header)


@pytest.fixture
def opener(content_key: ContentKey, sealer: TensorSealer) -> TensorOpener:
    header = TensorHeader.from_bytes(sealer.sealed_header.header)
    place = Place(job_id=header.job_id, direction=header.direction, attempt=0, index=0)
    return TensorOpener(content_key, sealer.sealed_header, expected=place)


def test_what_a_device_seals_is_not_sealed_here_too(sealer: TensorSealer) -> None:
    """Two IVs for one position would let the carrier choose between two versions."""
    assert len(sealer.delegate()) == 1
    with pytest.raises(LocalProtocolError):
        sealer.delegate()
    with pytest.raises(LocalProtocolError):
        sealer.segment(0, DATA)


def test_what_was_sealed_here_is_not_given_to_a_device(sealer: TensorSealer) -> None:
    sealer.segment(1, DATA)
    with pytest.raises(LocalProtocolError):
        sealer.delegate()


def test_a_delegated_tensor_is_not_vouched_for_before_the_device_has_agreed(
    opener: TensorOpener,
) -> None:
    opener.delegate()
    with pytest.raises(NotAuthenticError):
        opener.finish()


def test_agreement_without_delegation_vouches_for_nothing(opener: TensorOpener) -> None:
    with pytest.raises(LocalProtocolError):
        opener.delegated()


def test_what_was_opened_here_is_not_given_to_a_device(
    sealer: TensorSealer, opener: TensorOpener
) -> None:
    opener.open_into(0, sealer.segment(0, DATA), bytearray(len(DATA)))
    with pytest.raises(LocalProtocolError):
        opener.delegate()


def test_what_a_device_opens_is_not_opened_here_too(
    sealer: TensorSealer, opener: TensorOpener
) -> None:
    segment = sealer.segment(0, DATA)
    opener.delegate()
    with pytest.raises(NotAuthenticError):
        opener.open_into(0, segment, bytearray(len(DATA)))


def test_a_tensor_that_was_refused_is_given_to_no_device(
    sealer: TensorSealer, opener: TensorOpener
) -> None:
    segment = sealer.segment(0, DATA)
    segment[20] ^= 1
    with pytest.raises(NotAuthenticError):
        opener.open_into(0, segment, bytearray(len(DATA)))
    with pytest.raises(LocalProtocolError):
        opener.delegate()


def test_there_is_a_key_for_every_epoch_and_each_is_another() -> None:
    sealer = FloeSealer(bytes(32), b"", segment_length=64, rotation_mask=2)
    keys = sealer.epoch_keys(9)
    assert len({bytes(key) for key in keys}) == len(keys) == 3
    assert sealer.epoch_keys(4) == keys[:1]
    for segments in (0, (1 << 40) + 1):
        with pytest.raises(LocalProtocolError):
            sealer.epoch_keys(segments)
