"""Our own mistakes around sealing are errors at once, not sealed bytes that nobody can open."""

from typing import Any

import numpy as np
import pytest

from attestation import limits
from attestation.errors import LocalProtocolError
from attestation.identifiers import Digest, JobId
from attestation.sealing.content_key import ContentKey
from attestation.sealing.floe import octets, writable
from attestation.sealing.sealed_tensor import TensorOpener, TensorSealer
from attestation.sealing.segments import segment_count
from attestation.sealing.session_keys import SessionKeys, Transcript
from attestation.sealing.tensor_header import Direction, Place, TensorHeader, TensorPlaceError
from attestation.sealing.tensor_spec import TensorSpec

SEGMENT = limits.SEGMENT_BYTES_MIN
JOB = JobId(b"j" * 16)


def header(**changes: Any) -> TensorHeader:
    place = {"job_id": JOB, "direction": Direction.OUTPUT, "attempt": 1, "index": 0} | changes
    spec = TensorSpec(dtype="uint8", shape=(SEGMENT + 1,))
    return TensorHeader.for_tensor(spec, name="x", place=Place(**place), segment_bytes=SEGMENT)


@pytest.mark.parametrize(
    "changes",
    [
        {"index": -1},
        {"index": limits.TENSORS_PER_JOB},
        {"attempt": -1},
        {"attempt": 1 << 32},
        {"direction": Direction.INPUT, "attempt": 1},
        {"job_id": JobId(b"")},
        {"job_id": JobId(b"j" * 17)},
    ],
)
def test_a_place_that_no_tensor_can_have_is_not_sealed_for(changes: dict[str, Any]) -> None:
    with pytest.raises(TensorPlaceError):
        header(**changes)


@pytest.mark.parametrize("array", [np.zeros((3, 3)).T[1:], np.zeros(8)[::2]])
def test_an_array_with_gaps_is_refused(array: np.ndarray) -> None:
    """What lies between its elements is somebody else's."""
    with pytest.raises(LocalProtocolError):
        octets(memoryview(array))


@pytest.mark.parametrize("dtype", ["complex128", "float16", ">f4", "bool"])
def test_an_array_of_any_dtype_is_seen_as_its_bytes(dtype: str) -> None:
    array = np.arange(6).astype(dtype).reshape(2, 3)
    assert octets(memoryview(array)).tobytes() == array.tobytes()


def test_a_read_only_buffer_takes_no_plaintext() -> None:
    with pytest.raises(LocalProtocolError):
        writable(b"constant")


def test_a_negative_size_has_no_segments() -> None:
    with pytest.raises(LocalProtocolError):
        segment_count(-1, SEGMENT)


def test_a_key_is_wrapped_for_a_whole_request_digest_only() -> None:
    """A truncated digest would bind the key to many requests."""
    transcript = Transcript(
        keyset_id=bytes(32),
        evidence_digest=Digest(bytes(32)),
        policy_digest=Digest(bytes(32)),
        client_key=bytes(32),
        session_id=bytes(16),
        nonce=bytes(32),
    )
    keys = SessionKeys.derive(bytes(32), transcript)
    with pytest.raises(LocalProtocolError):
        keys.wrap(ContentKey.generate(), Digest(bytes(31)))


def test_both_ends_know_the_length_of_every_segment_beforehand() -> None:
    key = ContentKey.generate()
    sealer = TensorSealer(key, header())
    opener = TensorOpener(key, sealer.sealed_header, expected=header().place)
    data = bytes(SEGMENT + 1)
    sealed = [len(sealer.segment(index, data)) for index in range(sealer.segment_count)]
    assert sealed == [opener.segment_length(index) for index in range(opener.segment_count)]
    assert sealed == [sealer.segment_length(index) for index in range(sealer.segment_count)]
