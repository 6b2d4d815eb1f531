"""A job's secret stays where it is, and each thing derived from it is good for one purpose."""

import copy
import pickle
from collections.abc import Callable

import pytest

from attestation.encoding.digests import Label, digest
from attestation.errors import LocalProtocolError
from attestation.identifiers import Digest, JobId
from attestation.sealing.content_key import ContentKey

RAW = b"\xa7secret content key of one job!!\xa7"[:32]
JOB = JobId(b"j" * 16)
REQUEST = digest(Label.JOB_HEADER, b"request")


def test_derived_keys_never_coincide() -> None:
    key = ContentKey.from_bytes(RAW)
    derived = {
        key.commitment(JOB),
        key.commitment(JobId(b"k" * 16)),
        key.tensor_key(b"header"),
        key.tensor_key(b"headers"),
        key.body_key(REQUEST),
        key.body_key(Digest(bytes(32))),
        key.tensor_key(REQUEST),
        RAW,
    }
    assert len(derived) == 8


def test_commitment_tells_keys_apart_before_anything_is_opened() -> None:
    first, second = ContentKey.generate(), ContentKey.generate()
    assert first.commitment(JOB) != second.commitment(JOB)


def test_key_is_hidden_from_repr() -> None:
    assert repr(ContentKey.from_bytes(RAW)) == "ContentKey(...)"


@pytest.mark.parametrize("leave", [copy.copy, copy.deepcopy, pickle.dumps])
def test_key_does_not_leave_its_process(leave: Callable[[ContentKey], object]) -> None:
    with pytest.raises(LocalProtocolError):
        leave(ContentKey.from_bytes(RAW))


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_key_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(LocalProtocolError):
        ContentKey.from_bytes(bytes(length))


def test_wiped_key_is_overwritten_and_refuses_to_work() -> None:
    key = ContentKey.from_bytes(RAW)
    held, extracted = memoryview(key._key), memoryview(key._extracted)
    key.wipe()
    assert bytes(held) == bytes(32)
    assert bytes(extracted) == bytes(48)
    with pytest.raises(LocalProtocolError):
        key.commitment(JOB)
    with pytest.raises(LocalProtocolError):
        key.body_key(REQUEST)


def test_wiping_leaves_the_callers_copy_alone() -> None:
    mine = bytearray(RAW)
    ContentKey.from_bytes(mine).wipe()
    assert bytes(mine) == RAW
