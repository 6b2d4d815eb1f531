"""A header that lies about itself is refused before anything is sized by it."""

from typing import Any

import pytest

from attestation import limits
from attestation.encoding import cbor
from attestation.errors import DecodeError, NotAuthenticError
from attestation.identifiers import JobId
from attestation.sealing.segments import Layout, sealed_length, segment_count
from attestation.sealing.tensor_header import (
    Direction,
    Place,
    SealedTensorHeader,
    SegmentBytesError,
    TensorHeader,
    TensorNameError,
    TensorPlaceError,
)
from attestation.sealing.tensor_spec import TensorSpec

JOB = JobId(b"j" * 16)
HERE = Place(job_id=JOB, direction=Direction.OUTPUT, attempt=2, index=1)
SPEC = TensorSpec(dtype="float32", shape=(3, 5))
SEGMENT = limits.SEGMENT_BYTES_MIN


def header(**changes: Any) -> TensorHeader:
    fields: dict[str, Any] = {"name": "x", "place": HERE, "segment_bytes": SEGMENT} | changes
    return TensorHeader.for_tensor(SPEC, **fields)


def test_header_survives_its_encoding() -> None:
    assert TensorHeader.from_bytes(header().to_bytes()) == header()
    assert header().spec == SPEC
    assert header().place == HERE


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("v", 2),
        ("suite", 0),
        ("suite", 2),
        ("name", ""),
        ("name", "a/b"),
        ("name", "a b"),
        ("name", "x\n"),
        ("name", "\u0661"),
        ("name", "x" * 65),
        ("dtype", "object"),
        ("dtype", "float128"),
        ("shape", [1] * 17),
        ("shape", [-1]),
        ("shape", [1 << 32, 1 << 32]),
        ("shape", [1 << 60, 0]),
        ("shape", [limits.TENSOR_BYTES // 4 + 1]),
        ("shape", [1.5]),
        ("order", "F"),
        ("job_id", b"short"),
        ("direction", "sideways"),
        ("attempt", -1),
        ("attempt", 1 << 32),
        ("index", limits.TENSORS_PER_JOB),
        ("segment_bytes", 0),
        ("segment_bytes", SEGMENT - 1),
        ("segment_bytes", SEGMENT + 1),
        ("segment_bytes", SEGMENT // 2),
        ("segment_bytes", 3 * SEGMENT),
        ("segment_bytes", limits.SEGMENT_BYTES_MAX * 2),
        ("padding", 0),
    ],
)
def test_header_with_a_field_out_of_range_is_refused(field: str, value: cbor.Value) -> None:
    changed = header().to_map() | {field: value}
    with pytest.raises(DecodeError):
        TensorHeader.from_bytes(cbor.encode(changed))


@pytest.mark.parametrize("field", sorted(header().to_map()))
def test_header_without_a_field_is_refused(field: str) -> None:
    changed = header().to_map()
    del changed[field]
    with pytest.raises(DecodeError):
        TensorHeader.from_bytes(cbor.encode(changed))


def test_input_of_a_second_attempt_is_refused() -> None:
    """Inputs are sealed once for every attempt; a second version of one cannot exist."""
    changed = header().to_map() | {"direction": "input"}
    with pytest.raises(DecodeError):
        TensorHeader.from_bytes(cbor.encode(changed))
    place = Place(job_id=JOB, direction=Direction.INPUT, attempt=1, index=0)
    with pytest.raises(TensorPlaceError):
        header(place=place)


def test_header_followed_by_anything_is_refused() -> None:
    with pytest.raises(DecodeError):
        TensorHeader.from_bytes(header().to_bytes() + b"\0")


@pytest.mark.parametrize("name", ["", "a/b", "..\\x", "é", "x" * 65])
def test_name_outside_the_characters_cannot_be_sealed(name: str) -> None:
    with pytest.raises(TensorNameError):
        header(name=name)


def test_segment_size_outside_the_list_cannot_be_sealed() -> None:
    with pytest.raises(SegmentBytesError):
        header(segment_bytes=100_000)


@pytest.mark.parametrize(
    "place",
    [
        Place(job_id=JobId(b"k" * 16), direction=Direction.OUTPUT, attempt=2, index=1),
        Place(job_id=JOB, direction=Direction.INPUT, attempt=2, index=1),
        Place(job_id=JOB, direction=Direction.OUTPUT, attempt=3, index=1),
        Place(job_id=JOB, direction=Direction.OUTPUT, attempt=2, index=0),
    ],
)
def test_header_of_another_job_direction_attempt_or_index_is_refused(place: Place) -> None:
    sealed = SealedTensorHeader(header=header().to_bytes(), floe_header=bytes(74))
    assert sealed.tensor_at(HERE) == header()
    with pytest.raises(NotAuthenticError):
        sealed.tensor_at(place)


@pytest.mark.parametrize("length", [0, 73, 75])
def test_sealed_header_with_a_floe_header_of_another_length_is_refused(length: int) -> None:
    data = cbor.encode({"header": header().to_bytes(), "floe_header": bytes(length)})
    with pytest.raises(DecodeError):
        SealedTensorHeader.from_bytes(data)


@pytest.mark.parametrize(
    ("nbytes", "count"),
    [
        (0, 1),
        (1, 1),
        (SEGMENT - 1, 1),
        (SEGMENT, 1),
        (SEGMENT + 1, 2),
        (2 * SEGMENT, 2),
        (limits.TENSOR_BYTES, limits.TENSOR_BYTES // SEGMENT),
    ],
)
def test_segments_follow_from_the_size_alone(nbytes: int, count: int) -> None:
    assert segment_count(nbytes, SEGMENT) == count
    assert sealed_length(nbytes, SEGMENT) == nbytes + 32 * count


@pytest.mark.parametrize("segment_bytes", [0, -SEGMENT, 1, SEGMENT + 1, 1 << 30])
def test_segments_of_another_size_are_not_counted(segment_bytes: int) -> None:
    with pytest.raises(SegmentBytesError):
        segment_count(1, segment_bytes)


def test_parts_of_a_tensor_cover_it_once() -> None:
    spec = TensorSpec(dtype="uint8", shape=(2 * SEGMENT + 7,))
    of = TensorHeader.for_tensor(spec, name="x", place=HERE, segment_bytes=SEGMENT)
    layout = Layout.of(of)
    parts = [layout.plaintext(index) for index in range(layout.count)]
    assert [part.start for part in parts] == [0, SEGMENT, 2 * SEGMENT]
    assert [layout.sealed_length(index) for index in range(3)] == [SEGMENT + 32, SEGMENT + 32, 39]
    assert parts[-1].stop == spec.nbytes
