"""Whatever a device says, the worker ends with evidence or with an error of ours.

Answers of any bytes are tried by the bodies of tests/fuzz/hosts.py.
"""

from contextlib import suppress
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.errors import UnavailableError
from enclave_worker.attester import patience, sev_guest
from enclave_worker.attester.nvidia_gpu import _taken
from enclave_worker.attester.patience import PAUSES, AttesterFailedError, persist
from enclave_worker.attester.tsm import TsmAttester
from tests.attester.conftest import certificate_table, unsigned_snp_report
from tests.fuzz.hosts import Kernel

DATA = bytes(range(64))


@given(st.integers(0, 1183), st.integers(1, 255))
def test_a_report_with_one_byte_changed_is_evidence_or_an_error(place: int, change: int) -> None:
    """The worker judges the form and the 64 bytes, and leaves the rest to the client."""
    report = bytearray(unsigned_snp_report(DATA, 0)[0])
    report[place] ^= change
    attester = TsmAttester(Kernel("sev_guest", bytes(report), b""))
    if 0x50 <= place < 0x90:
        with pytest.raises(UnavailableError):
            attester.collect(DATA)
        return
    with suppress(AttesterFailedError):
        assert attester.collect(DATA)


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=8), st.integers(0, 4096))
def test_the_padding_of_a_certificate_table_is_left_out_and_nothing_else(
    contents: list[bytes], padding: int
) -> None:
    table = certificate_table(*contents)
    expected = table if contents else b""
    assert sev_guest._used(table + bytes(padding + 24)) == expected


@given(st.binary(max_size=4096))
def test_a_certificate_table_of_nonsense_is_cut_and_never_grown(table: bytes) -> None:
    assert table.startswith(sev_guest._used(table))


@given(st.binary(max_size=64), st.integers(-(1 << 31), 1 << 32))
def test_sizes_from_a_driver_never_reach_past_its_buffer(buffer: bytes, size: int) -> None:
    try:
        assert _taken(buffer, size) == buffer[:size]
        assert 0 < size <= len(buffer)
    except UnavailableError:
        assert not 0 < size <= len(buffer)


@given(st.lists(st.sampled_from(sorted(patience.PASSING)), max_size=len(PAUSES) + 4))
def test_patience_ends(errors: list[int]) -> None:
    slept: list[float] = []
    left = list(errors)

    def act() -> SimpleNamespace:
        if left:
            raise OSError(left.pop(0), "busy")
        return SimpleNamespace()

    if len(errors) > len(PAUSES):
        with pytest.raises(OSError, match="busy"):
            persist(act, sleep=slept.append)
    else:
        persist(act, sleep=slept.append)
    assert slept == list(PAUSES[: len(errors)])
