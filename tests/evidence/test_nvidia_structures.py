"""Parsing what NVIDIA's devices write: bounded, by structure, and nothing but `DecodeError`."""

import os
import struct

import pytest

from attestation.errors import DecodeError
from attestation.evidence.dice import firmware_ids
from attestation.evidence.nvidia_gpu import (
    ConfidentialState,
    DeviceKind,
    DeviceReport,
    GpuEvidence,
    certificates_from_pem,
)
from attestation.evidence.nvidia_opaque import MINIMUM_SVN, OpaqueData, OpaqueField
from attestation.evidence.spdm import SignedMeasurements
from tests.simulators.nvidia import GOOD, SimulatedNvidia, firmware_extension, tlv

NONCE = os.urandom(32)
VENDOR = SimulatedNvidia()
GPU = VENDOR.device(mode=2, switch_pdis=[b"12345678", b"abcdefgh"])
REPORT = GPU.report(NONCE)


def opaque(*entries: tuple[int, bytes]) -> bytes:
    return b"".join(struct.pack("<HH", kind, len(value)) + value for kind, value in entries)


def test_a_report_says_what_was_signed() -> None:
    report = DeviceReport.from_bytes(REPORT, DeviceKind.GPU)
    assert report.nonce == NONCE
    assert report.measurements.signed == REPORT[:-96]
    assert (report.driver_version, report.vbios_version) == (GPU.driver, GPU.firmware)
    assert report.fwid == GPU.fwid
    assert (report.mode, report.nvdec0_enabled) == ("protected-pcie", False)
    assert report.switch_pdis == (b"12345678", b"abcdefgh")
    measured = report.measurements.response.measurements
    assert {index: block.value for index, block in measured.items()} == GOOD


def test_the_signature_is_where_the_response_says() -> None:
    parsed = SignedMeasurements.from_bytes(REPORT + b"\0")
    assert parsed.signed == REPORT[:-96]
    assert parsed.response.signature == REPORT[-96:]


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (0, 0x10),  # another SPDM version
        (1, 0xE1),  # another request
        (2, 0x00),  # no signature asked for
        (37, 0x12),
        (38, 0x61),
        (41, 63),  # fewer blocks than the record has
        (41, 65),
        (42, 0xFF),  # a longer record
        (46, 2),  # a measurement of another specification
        (45, 2),  # index 2 twice
        (47, 0),  # a block without room for its head
        (50, 0),  # a value shorter than its block
    ],
)
def test_a_report_of_another_shape_is_malformed(place: int, value: int) -> None:
    changed = bytearray(REPORT)
    changed[place] = value
    with pytest.raises(DecodeError):
        SignedMeasurements.from_bytes(bytes(changed))


def test_every_truncation_of_a_report_is_malformed() -> None:
    for length in range(len(REPORT)):
        with pytest.raises(DecodeError):
            SignedMeasurements.from_bytes(REPORT[:length])


@pytest.mark.parametrize("excess", [b"x" * 17, REPORT, bytes(20_000)])
def test_another_message_after_the_signature_is_malformed(excess: bytes) -> None:
    with pytest.raises(DecodeError):
        SignedMeasurements.from_bytes(REPORT + excess)


# -- opaque data --


def test_entries_that_nobody_knows_are_kept() -> None:
    """Newer firmware writes types that no list has yet."""
    parsed = OpaqueData.from_bytes(opaque((33, b"\7"), (26, b"x"), (999, b"")))
    assert parsed.entries == {33: b"\7", 26: b"x", 999: b""}
    assert parsed.version == 0


def test_the_layout_with_a_header_has_types_of_values() -> None:
    data = b"NVDAOD\0\0\x02\0\0\0" + struct.pack("<HHH", 37, MINIMUM_SVN, 2) + b"\5\0"
    parsed = OpaqueData.from_bytes(data)
    assert (parsed.version, parsed.entries, parsed.value_types) == (
        2,
        {37: b"\5\0"},
        {37: MINIMUM_SVN},
    )


@pytest.mark.parametrize(
    "data",
    [
        opaque((3, b"1"), (3, b"2")),  # an entry twice
        opaque((34, b"\3\0")),  # a later version
        b"NVDAOD\0\0\x03\0\0\0",
        b"NVDAOD\1\0\x02\0\0\0",  # another profile
        b"NVDAOD",
        b"\3\0\xff\xff",  # an entry longer than what is left
        b"\3",
    ],
)
def test_opaque_data_of_another_shape_is_malformed(data: bytes) -> None:
    with pytest.raises(DecodeError):
        OpaqueData.from_bytes(data)


@pytest.mark.parametrize(
    "entries",
    [
        [(3, b"\xff\xfe")],  # a driver version that is no text
        [(3, b"1\n2\0")],
        [(6, b"\0" * 7)],  # a VBIOS version of another length
        [(20, b"\0" * 47)],
        [(22, b"1234567")],
        [(11, b"\x00")],
    ],
)
def test_entries_that_appraisal_reads_have_their_form(entries: list[tuple[int, bytes]]) -> None:
    device = GPU.but(driver=None, fwid=None, mode=None, switch_pdis=(), more=entries)
    kind = DeviceKind.GPU if (6, b"\0" * 7) in entries else DeviceKind.SWITCH
    data = device.opaque() if kind is DeviceKind.SWITCH else opaque(*entries)
    changed = device.report(NONCE).replace(device.opaque(), data)
    if kind is DeviceKind.GPU:
        head = struct.pack("<H", len(device.opaque())) + data
        changed = changed.replace(head, struct.pack("<H", len(data)) + data)
    with pytest.raises(DecodeError):
        DeviceReport.from_bytes(changed, DeviceKind.GPU)


def test_what_firmware_does_not_say_is_none() -> None:
    device = GPU.but(driver=None, fwid=None, mode=None, switch_pdis=(), more=())
    report = DeviceReport.from_bytes(device.report(NONCE), DeviceKind.GPU)
    assert (report.driver_version, report.fwid, report.mode, report.nvdec0_enabled) == (
        None,
        None,
        None,
        None,
    )
    assert report.opaque.value(OpaqueField.CHIP_INFO) is None


def test_a_mode_that_nobody_knows_is_said_by_its_number() -> None:
    report = DeviceReport.from_bytes(GPU.but(mode=7).report(NONCE), DeviceKind.GPU)
    assert report.mode == "mode 7"


def test_the_version_of_a_switch_is_text() -> None:
    switch = VENDOR.device("LS_10")
    report = DeviceReport.from_bytes(switch.report(NONCE), DeviceKind.SWITCH)
    assert report.vbios_version == "96.10.55.00.01"


# -- firmware ids --


@pytest.mark.parametrize("chip", ["GH100", "GB100"])
def test_a_firmware_id_is_found_by_structure(chip: str) -> None:
    """On Blackwell it is not what the last 48 bytes are."""
    fwid = os.urandom(48)
    value = firmware_extension(chip, fwid).value
    assert firmware_ids(value)[0] == fwid
    assert (value[-48:] == fwid) == (chip == "GH100")


@pytest.mark.parametrize("chip", ["GH100", "GB100"])
def test_every_truncation_of_a_firmware_id_is_malformed(chip: str) -> None:
    value = firmware_extension(chip, os.urandom(48)).value
    for length in range(len(value)):
        with pytest.raises(DecodeError):
            firmware_ids(value[:length])


@pytest.mark.parametrize(
    "value",
    [
        tlv(0x31, b""),
        tlv(0x30, b""),
        tlv(0x30, b"\x02\x01\x01"),
        tlv(0x30, tlv(0xA6, tlv(0x30, tlv(0x04, b"no algorithm")))),
        tlv(0x30, b"\x1f\x81\x01\x00"),
        b"\x30\x80\x00\x00",
        b"\x30\x84\x00\x00\x00\x00",
        tlv(0x30, b"\x02\x01\x01") + b"\0",
    ],
)
def test_der_of_another_shape_is_malformed(value: bytes) -> None:
    with pytest.raises(DecodeError):
        firmware_ids(value)


def test_an_extension_without_firmware_ids_has_none() -> None:
    assert firmware_ids(tlv(0x30, tlv(0x80, b"NVIDIA"))) == ()


# -- records --


def test_a_pem_chain_of_nvml_ends_at_its_nul() -> None:
    """NVML's buffer is fixed, and is handed on whole."""
    assert certificates_from_pem(GPU.pem_chain + bytes(100)) == GPU.certificates


@pytest.mark.parametrize("data", [b"", b"\0", b"-----BEGIN CERTIFICATE-----", b"x" * 600_000])
def test_what_is_no_pem_chain_is_malformed(data: bytes) -> None:
    with pytest.raises(DecodeError):
        certificates_from_pem(data)


def test_evidence_of_no_device_cannot_be_made_or_parsed() -> None:
    state = ConfidentialState(enabled=True, developer_tools=False)
    with pytest.raises(DecodeError):
        GpuEvidence(state=state, devices=())
