"""Logs of measured boots: what they lead to, and what is no log."""

import struct

import pytest

from attestation import limits
from attestation.errors import DecodeError
from attestation.evidence.event_log import EventLog
from attestation.evidence.tpm import PcrBank
from tests.simulators.event_log import (
    BOOT,
    NO_ACTION,
    Measured,
    agile_event,
    agile_log,
    old_event,
    old_log,
    values,
)


@pytest.mark.parametrize("bank", ["sha1", "sha256", "sha384"])
def test_a_log_leads_to_what_a_tpm_holds_in_every_bank(bank: str) -> None:
    log = EventLog.from_bytes(agile_log(BOOT, ("sha1", "sha256", "sha384")))
    assert log.replay(PcrBank(bank)) == values(BOOT, bank)


def test_a_log_of_the_old_format_has_one_bank() -> None:
    log = EventLog.from_bytes(old_log(BOOT))
    assert log.banks == {PcrBank.SHA1}
    assert log.replay(PcrBank.SHA1) == values(BOOT, "sha1")


def test_an_old_log_without_its_header_is_one_too() -> None:
    log = EventLog.from_bytes(b"".join(map(old_event, BOOT)))
    assert log.replay(PcrBank.SHA1) == values(BOOT, "sha1")


@pytest.mark.parametrize("locality", [0, 3, 4])
def test_pcr_0_starts_with_the_startup_locality(locality: int) -> None:
    """PC Client Platform Firmware Profile, section 10.4.5.3: what came before the firmware."""
    says = Measured(0, b"StartupLocality\0" + bytes([locality]), NO_ACTION)
    log = EventLog.from_bytes(agile_log([says, *BOOT]))
    assert log.replay(PcrBank.SHA256) == values(BOOT, locality=locality)


def test_a_locality_that_another_pcr_states_changes_nothing() -> None:
    says = Measured(1, b"StartupLocality\0\3", NO_ACTION)
    assert EventLog.from_bytes(agile_log([says, *BOOT])).replay(PcrBank.SHA256) == values(BOOT)


def test_pcrs_of_a_dynamic_launch_start_with_ones() -> None:
    log = EventLog.from_bytes(agile_log([Measured(17, b"launch")]))
    zeros = values([Measured(17, b"launch")])
    assert log.replay(PcrBank.SHA256)[17] != zeros[17]


def test_a_bank_that_is_unknown_here_is_passed_over() -> None:
    log = EventLog.from_bytes(agile_log(BOOT, ("sha256", "sm3_256")))
    assert log.banks == {PcrBank.SHA256}
    assert log.replay(PcrBank.SHA256) == values(BOOT)


@pytest.mark.parametrize("fill", [b"\0", b"\xff"])
@pytest.mark.parametrize("count", [1, 27, 28, 4000])
@pytest.mark.parametrize("make", [agile_log, old_log])
def test_reserved_memory_behind_a_log_is_passed_over(make: object, fill: bytes, count: int) -> None:
    data = make(BOOT)  # type: ignore[operator]
    assert EventLog.from_bytes(data + fill * count) == EventLog.from_bytes(data)


@pytest.mark.parametrize("make", [agile_log, old_log])
@pytest.mark.parametrize("fill", [b"\0", b"\xff"])
def test_something_behind_the_padding_is_refused(make: object, fill: bytes) -> None:
    """Else each stretch of zeros would be looked through again and again."""
    data = make(BOOT)  # type: ignore[operator]
    with pytest.raises(DecodeError):
        EventLog.from_bytes(data + fill * 64 + b"\1")


@pytest.mark.parametrize("make", [agile_log, old_log])
def test_no_log_cut_within_an_event_parses(make: object) -> None:
    data: bytes = make(BOOT)  # type: ignore[operator]
    whole = EventLog.from_bytes(data)
    for length in range(len(data)):
        try:
            log = EventLog.from_bytes(data[:length])
        except DecodeError:
            continue
        assert log.events == whole.events[: len(log.events)]


def header(banks: bytes, count: int | None = None) -> bytes:
    number = len(banks) // 4 if count is None else count
    head = b"Spec ID Event03\0" + struct.pack("<IBBBBI", 0, 0, 2, 0, 2, number)
    return old_event(Measured(0, head + banks + b"\0", NO_ACTION))


SHA256 = struct.pack("<HH", 0x0B, 32)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(header(b""), id="no banks"),
        pytest.param(header(SHA256 * 2), id="a bank twice"),
        pytest.param(header(SHA256 * 17), id="too many banks"),
        pytest.param(header(SHA256, count=1 << 31), id="more banks than bytes"),
        pytest.param(header(struct.pack("<HH", 0x0B, 20)), id="a bank of another size"),
        pytest.param(header(struct.pack("<HH", 0x12, 0)), id="a bank of no size"),
        pytest.param(header(SHA256) + agile_event(BOOT[0]), id="another number of digests"),
        pytest.param(header(SHA256) + agile_event(BOOT[0], ("sha384",)), id="another bank"),
        pytest.param(header(SHA256) + agile_event(Measured(24, b"x"), ("sha256",)), id="PCR 24"),
        pytest.param(old_event(Measured(0xFFFFFFFF, b"x")), id="no PCR, and yet measured"),
        pytest.param(old_event(BOOT[0])[:28] + b"\xff\xff\xff\xff", id="an event of 4 GiB"),
        pytest.param(bytes(limits.EVENT_LOG_BYTES + 1), id="too long"),
    ],
)
def test_what_is_no_log_is_malformed(data: bytes) -> None:
    with pytest.raises(DecodeError):
        EventLog.from_bytes(data)


def test_a_log_of_too_many_events_is_malformed() -> None:
    one = old_event(Measured(0, b"x"))
    fits = limits.EVENT_LOG_EVENTS + 1  # the first is the header's place
    EventLog.from_bytes(one * fits)
    with pytest.raises(DecodeError):
        EventLog.from_bytes(one * (fits + 1))


def test_a_digest_that_an_event_repeats_is_refused() -> None:
    """Two digests of one bank would let a reader choose."""
    twice = struct.pack("<III", 0, 4, 2) + (struct.pack("<H", 0x0B) + bytes(32)) * 2 + bytes(4)
    with pytest.raises(DecodeError):
        EventLog.from_bytes(header(SHA256 + struct.pack("<HH", 0x04, 20)) + twice)
