"""A commitment binds every segment, its place and how many there are."""

import hashlib

import pytest

from attestation.encoding.digests import Label, prefix
from attestation.errors import DecodeError, LocalProtocolError
from attestation.receipts import merkle
from attestation.receipts.commitment import SegmentCommitment

SEGMENTS = [bytes([index]) * 40 for index in range(5)]
KINDS = ["tags", "sha256"]


def leaf(kind: str, segment: bytes) -> bytes:
    summary = segment[-16:] if kind == "tags" else hashlib.sha256(segment).digest()
    return merkle.leaf_hash(prefix(Label.COMMITMENT) + summary)


@pytest.mark.parametrize("kind", KINDS)
def test_the_root_is_the_documented_one(kind: str) -> None:
    root = merkle.root([leaf(kind, segment) for segment in SEGMENTS])
    assert SegmentCommitment.over(kind, SEGMENTS).root() == root


@pytest.mark.parametrize("kind", KINDS)
def test_segments_may_arrive_in_any_order_and_any_buffer(kind: str) -> None:
    commitment = SegmentCommitment(kind)
    for index in (3, 0, 4, 1, 2):
        commitment.add(index, memoryview(bytearray(SEGMENTS[index])))
    assert commitment.root() == SegmentCommitment.over(kind, SEGMENTS).root()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "other",
    [
        SEGMENTS[:-1],
        SEGMENTS[1:],
        [*SEGMENTS, SEGMENTS[0]],
        [SEGMENTS[1], SEGMENTS[0], *SEGMENTS[2:]],
        [SEGMENTS[0][:-1] + b"!", *SEGMENTS[1:]],
        [],
    ],
    ids=["cut", "beginning-cut", "longer", "swapped", "changed", "empty"],
)
def test_other_segments_have_another_commitment(kind: str, other: list[bytes]) -> None:
    assert (
        SegmentCommitment.over(kind, other).root() != SegmentCommitment.over(kind, SEGMENTS).root()
    )


def test_the_two_kinds_never_agree() -> None:
    assert len({SegmentCommitment.over(kind, SEGMENTS).root() for kind in KINDS}) == len(KINDS)


def test_only_sha256_binds_what_comes_before_the_tag() -> None:
    """The documented difference: `tags` relies on AES-GCM, which holds for outsiders only."""
    changed = [b"!" + SEGMENTS[0][1:], *SEGMENTS[1:]]
    assert SegmentCommitment.over("tags", changed).root() == (
        SegmentCommitment.over("tags", SEGMENTS).root()
    )
    assert SegmentCommitment.over("sha256", changed).root() != (
        SegmentCommitment.over("sha256", SEGMENTS).root()
    )


def test_a_missing_segment_is_an_error_and_no_commitment() -> None:
    commitment = SegmentCommitment("tags")
    commitment.add(0, SEGMENTS[0])
    commitment.add(2, SEGMENTS[2])
    with pytest.raises(LocalProtocolError):
        commitment.root()


@pytest.mark.parametrize("index", [0, -1])
def test_a_segment_cannot_be_replaced(index: int) -> None:
    commitment = SegmentCommitment("tags")
    commitment.add(0, SEGMENTS[0])
    with pytest.raises(LocalProtocolError):
        commitment.add(index, SEGMENTS[1])


def test_a_segment_without_room_for_a_tag_is_refused() -> None:
    with pytest.raises(DecodeError):
        SegmentCommitment("tags").add(0, bytes(15))


@pytest.mark.parametrize("kind", ["", "TAGS", "md5"])
def test_an_unknown_kind_is_refused(kind: str) -> None:
    with pytest.raises(DecodeError):
        SegmentCommitment(kind)
