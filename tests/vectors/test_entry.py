"""What an index says of a check: times, nonces and files in the forms that people keep them in."""

import base64
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from attestation import limits
from attestation.errors import DecodeError
from tests.vectors.entry import (
    ANY_TIME,
    RoleMissingError,
    binary,
    event_log,
    expected_nonce,
    need,
    nonce_of,
    read_files,
    time_of,
)

DATA = bytes(range(256))


@pytest.mark.parametrize(
    "kept",
    [
        DATA,
        DATA.hex().encode(),
        b"0x" + DATA.hex().upper().encode() + b"\n",
        b"\n".join(DATA.hex()[at : at + 64].encode() for at in range(0, 512, 64)),
        base64.b64encode(DATA),
        base64.encodebytes(DATA),
        base64.urlsafe_b64encode(DATA).rstrip(b"="),
    ],
)
def test_evidence_in_text_is_the_same_evidence(kept: bytes) -> None:
    assert binary(kept) == DATA


@pytest.mark.parametrize("kept", [b"", b"-----BEGIN CERTIFICATE-----\nAAAA", b"{}", b"\0\1"])
def test_what_is_no_such_text_stays_what_it_is(kept: bytes) -> None:
    assert binary(kept) == kept


@pytest.mark.parametrize("fill", [b"\0", b"\xff"])
def test_the_memory_behind_a_log_is_left_out(fill: bytes) -> None:
    log = b"a log".ljust(limits.EVENT_LOG_BYTES, fill)
    assert event_log({"ccel": log + fill * 9}, "ccel") == log
    assert event_log({"ccel": log + fill + b"more"}, "ccel") == log + fill + b"more"
    assert event_log({"ccel": b"a log"}, "ccel") == b"a log"
    assert event_log({}, "ccel") is None


def test_an_input_names_a_file_or_a_role(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_text(name)
    entry = {"files": {"crl": "one", "other": "two", "none": None}}
    assert read_files(entry, {}, tmp_path) == {"crl": b"one", "other": b"two"}
    assert read_files(entry, {"inputs": {"crl": "other"}}, tmp_path)["crl"] == b"two"
    assert read_files(entry, {"inputs": {"new": "one"}}, tmp_path)["new"] == b"one"
    with pytest.raises(RoleMissingError):
        need({"crl": b""}, "vcek", "vlek")


def test_a_check_is_judged_at_its_time_then_at_that_of_its_entry() -> None:
    at, other = "2025-06-25T00:00:00Z", {"verify_at": "2024-01-01T00:00:00"}
    assert time_of(other, {"verify_at": at}) == datetime(2025, 6, 25, tzinfo=UTC)
    assert time_of(other, {"verify_at": None}) == datetime(2024, 1, 1, tzinfo=UTC)
    assert time_of({}, {}) == ANY_TIME


@pytest.mark.parametrize("value", ["tomorrow", 7, True])
def test_a_time_that_is_none_is_malformed(value: Any) -> None:
    with pytest.raises(DecodeError):
        time_of({}, {"verify_at": value})


def test_the_nonce_of_the_check_counts_before_that_of_the_entry() -> None:
    entry = {"expected_verdict": {"nonce": "02"}}
    assert nonce_of({"nonce": "01", "expected": {"nonce": "03"}}) == b"\1"
    assert expected_nonce(entry, {"expected": {"nonce": "03"}}) == b"\3"
    assert expected_nonce(entry, {"expected": {"nonce": ""}}) == b""
    assert expected_nonce(entry, {}) == b"\2"
    assert nonce_of({"expected": {"nonce": None}}) is None


@pytest.mark.parametrize("value", ["xyz", "0", 7, ["00"]])
def test_a_nonce_that_is_no_hexadecimal_is_malformed(value: Any) -> None:
    with pytest.raises(DecodeError):
        nonce_of({"nonce": value})
