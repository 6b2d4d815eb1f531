"""Any bytes parse or are refused with the one error each reader promises; any tensor survives."""

from functools import cache

import pytest
from cryptography.hazmat.primitives.hpke import MLKEM768X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation import limits
from attestation.errors import DecodeError, LocalProtocolError, NotAuthenticError
from attestation.identifiers import Digest, JobId, KeySetId, SessionId
from attestation.sealing.content_key import ContentKey
from attestation.sealing.floe import FloeOpener, FloeSealer
from attestation.sealing.hybrid_kem import generate_key_pair, open_session, public_key_from_bytes
from attestation.sealing.sealed_tensor import (
    Direction,
    Place,
    SealedTensorHeader,
    TensorHeader,
    TensorOpener,
    TensorSealer,
    open_bytes,
    seal_bytes,
)
from attestation.sealing.segments import Layout, segment_count
from attestation.sealing.session_keys import SessionKeys, Transcript, wrap_session_id
from attestation.sealing.tensor_spec import DTYPES, TensorSpec

KEY_BYTES = bytes(range(32))
SEGMENT = limits.SEGMENT_BYTES_MIN
KEY = ContentKey.from_bytes(b"k" * 32)
PLACE = Place(job_id=JobId(b"j" * 16), direction=Direction.INPUT, attempt=0, index=0)
HEADER = TensorHeader.for_tensor(
    TensorSpec(dtype="int16", shape=(2, 3)), name="x", place=PLACE, segment_bytes=SEGMENT
)
SEALER = TensorSealer(KEY, HEADER)
SEALED = SEALER.sealed_header.to_bytes()
SEGMENT_0 = bytes(SEALER.segment(0, bytes(range(12))))
TRANSCRIPT = Transcript(
    keyset_id=KeySetId(bytes(32)),
    evidence_digest=Digest(bytes(32)),
    policy_digest=Digest(bytes(32)),
    client_key=bytes(32),
    session_id=SessionId(bytes(16)),
    nonce=bytes(32),
)


@cache
def private_key() -> MLKEM768X25519PrivateKey:
    return generate_key_pair()[0]


def damaged(original: bytes) -> st.SearchStrategy[bytes]:
    """Byte strings that share much with `original`, so that they get past the first check."""
    edit = st.tuples(st.integers(0, len(original)), st.integers(0, 8), st.binary(max_size=8))
    return st.lists(edit, min_size=1, max_size=4).map(
        lambda edits: _apply(original, edits),
    )


def _apply(data: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    for start, removed, added in edits:
        data = data[:start] + added + data[start + removed :]
    return data


@given(st.binary(max_size=300) | damaged(HEADER.to_bytes()))
def test_any_bytes_are_a_tensor_header_or_malformed(data: bytes) -> None:
    try:
        header = TensorHeader.from_bytes(data)
    except DecodeError:
        return
    assert header.to_bytes() == data
    assert header.spec.nbytes <= limits.TENSOR_BYTES
    assert Layout.of(header).count <= limits.TENSOR_BYTES // SEGMENT


@given(st.binary(max_size=400) | damaged(SEALED))
def test_any_other_bytes_are_no_sealed_header(data: bytes) -> None:
    if data == SEALED:
        return
    with pytest.raises((DecodeError, NotAuthenticError)):
        TensorOpener(KEY, SealedTensorHeader.from_bytes(data), expected=PLACE)


@given(st.binary(max_size=100) | damaged(SEGMENT_0))
def test_any_other_bytes_are_no_segment_and_leave_nothing(data: bytes) -> None:
    if data == SEGMENT_0:
        return
    opener = TensorOpener(KEY, SEALER.sealed_header, expected=PLACE)
    out = bytearray(b"\xaa" * 12)
    with pytest.raises(NotAuthenticError):
        opener.open_into(0, data, out)
    assert not any(out)


@given(st.binary(max_size=200) | damaged(TRANSCRIPT.to_bytes()))
def test_any_bytes_are_a_transcript_or_malformed(data: bytes) -> None:
    try:
        transcript = Transcript.from_bytes(data)
    except DecodeError:
        return
    assert transcript.to_bytes() == data


@given(st.binary(max_size=160) | st.binary(min_size=76, max_size=76))
def test_any_bytes_are_no_wrap_of_ours(data: bytes) -> None:
    keys = SessionKeys.derive(bytes(32), TRANSCRIPT)
    with pytest.raises((DecodeError, NotAuthenticError)):
        keys.unwrap(data, Digest(bytes(32)))
    if len(data) == 76:
        assert wrap_session_id(data) == data[:16]


@given(st.binary(max_size=64) | st.binary(min_size=1216, max_size=1216))
@settings(max_examples=50)
def test_any_bytes_are_a_public_key_or_malformed(data: bytes) -> None:
    try:
        public_key_from_bytes(data)
    except DecodeError:
        return
    assert len(data) == 1216


@given(st.binary(max_size=64) | st.binary(min_size=1168, max_size=1168))
@settings(max_examples=50)
def test_any_bytes_are_no_session_of_ours(data: bytes) -> None:
    with pytest.raises(NotAuthenticError):
        open_session(private_key(), data, TRANSCRIPT)


@given(st.binary(max_size=80))
def test_any_bytes_are_no_body_of_ours(data: bytes) -> None:
    with pytest.raises(NotAuthenticError):
        open_bytes(bytes(32), b"aad", data)


@given(st.binary(max_size=600), st.binary(max_size=40))
def test_any_body_survives(data: bytes, aad: bytes) -> None:
    assert open_bytes(bytes(32), aad, seal_bytes(bytes(32), aad, data)) == data


@given(st.data(), st.integers(1, 40), st.binary(max_size=200), st.integers(0, 4))
def test_any_message_survives_floe_in_any_order(
    data: st.DataObject, capacity: int, message: bytes, rotation_mask: int
) -> None:
    pieces = [message[i : i + capacity] for i in range(0, len(message), capacity)] or [b""]
    length, last = capacity + 32, len(pieces) - 1
    sealer = FloeSealer(KEY_BYTES, b"aad", segment_length=length, rotation_mask=rotation_mask)
    segments = {}
    for position in data.draw(st.permutations(range(len(pieces)))):
        segments[position] = bytearray(len(pieces[position]) + 32)
        sealer.seal_into(position, pieces[position], segments[position], final=position == last)
    opener = FloeOpener(
        KEY_BYTES, b"aad", sealer.header, segment_length=length, rotation_mask=rotation_mask
    )
    for position in data.draw(st.permutations(range(len(pieces)))):
        out = bytearray(len(pieces[position]))
        opener.open_into(position, segments[position], out, final=position == last)
        assert bytes(out) == pieces[position]


@given(st.integers(0, limits.TENSOR_BYTES), st.integers(16, 24))
def test_segments_cover_a_tensor_exactly_once(nbytes: int, exponent: int) -> None:
    spec = TensorSpec(dtype="uint8", shape=(nbytes,))
    header = TensorHeader.for_tensor(spec, name="x", place=PLACE, segment_bytes=1 << exponent)
    layout = Layout.of(header)
    assert layout.count == segment_count(nbytes, 1 << exponent) >= 1
    last = layout.plaintext(layout.count - 1)
    assert last.stop == nbytes
    assert last.start == (layout.count - 1) << exponent
    assert 0 <= last.stop - last.start <= 1 << exponent
    assert last.start < last.stop or nbytes == 0
    with pytest.raises(LocalProtocolError):
        layout.plaintext(layout.count)


@given(st.sampled_from(sorted(DTYPES)), st.lists(st.integers(0, 1 << 70), max_size=20))
def test_any_shape_is_described_within_the_limits_or_refused(dtype: str, shape: list[int]) -> None:
    data = HEADER.to_map() | {"dtype": dtype, "shape": [min(d, (1 << 64) - 1) for d in shape]}
    try:
        header = TensorHeader.from_map(data)
    except DecodeError:
        return
    assert len(header.shape) <= limits.TENSOR_RANK
    assert header.spec.nbytes <= limits.TENSOR_BYTES
