"""ATTESTATION_REPORT parses as AMD wrote it down, and nothing else does."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.errors import DecodeError
from attestation.evidence.sev_snp import GuestPolicy, Report, SevSnpEvidence, Signer
from attestation.evidence.sev_snp_tcb import LAYOUTS, Product, Tcb, product_of_cpuid
from tests.simulators.amd import SimulatedAmd, SimulatedChip

VECTORS = Path(__file__).resolve().parents[3] / "shared" / "vectors"
GOOD = SimulatedChip(version=5).report(bytes(range(64)))


def entries() -> list[dict[str, Any]]:
    index = VECTORS / "index.shared.json"
    if not index.exists():
        return []
    found = json.loads(index.read_text())["entries"]
    return [entry for entry in found if entry["kind"] == "sev-snp" and entry["expected_fields"]]


@pytest.mark.skipif(not entries(), reason="no shared vectors beside this checkout")
@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry["name"])
def test_the_fields_of_real_reports_are_read(entry: dict[str, Any]) -> None:
    expected = entry["expected_fields"]
    report = Report.from_bytes((VECTORS / entry["files"]["report"]).read_bytes())
    product = Product(expected["product"].lower())
    assert {name: value for name, value in fields(report, product).items() if name in expected} == {
        name: value for name, value in expected.items() if name != "product"
    }
    assert report.product in (product, None)


def fields(report: Report, product: Product) -> dict[str, Any]:
    """Return a report in the words of the index."""
    octets = ("family_id", "image_id", "report_data", "measurement", "host_data", "id_key_digest")
    octets += ("author_key_digest", "report_id", "report_id_ma", "chip_id")
    numbers = ("version", "guest_svn", "vmpl")
    tcbs = ("current_tcb", "reported_tcb", "committed_tcb", "launch_tcb")
    return {
        **{name: getattr(report, name) for name in numbers},
        **{name: getattr(report, name).hex() for name in octets},
        **{name: tcb(getattr(report, name), product) for name in tcbs},
        "policy": f"{report.policy:#x}",
        "policy_debug": report.allows(GuestPolicy.DEBUG),
        "policy_smt": report.allows(GuestPolicy.SMT),
        "policy_migrate_ma": report.allows(GuestPolicy.MIGRATE_MA),
        "policy_single_socket": report.allows(GuestPolicy.SINGLE_SOCKET),
        "signing_key": None if report.signer is None else report.signer.value.upper(),
        "mask_chip_key": int(report.mask_chip_key),
        "author_key_en": int(report.author_key_en),
        "platform_info": f"{report.platform_info:#x}",
        "cpuid_fms": None if report.cpuid is None else bytes(report.cpuid).hex(),
        "current_version": ".".join(map(str, report.current_version)),
        "committed_version": ".".join(map(str, report.committed_version)),
        "launch_mit_vector": vector(report.launch_mitigations),
        "current_mit_vector": vector(report.current_mitigations),
    }


def vector(value: int | None) -> str | None:
    return None if value is None else value.to_bytes(8, "little").hex()


def tcb(raw: bytes, product: Product) -> dict[str, Any]:
    return {"raw": raw.hex(), **Tcb.from_bytes(raw, product).parts}


@pytest.mark.parametrize("version", [2, 3, 4, 5])
def test_each_version_adds_fields_and_moves_none(version: int) -> None:
    chip = SimulatedChip(version=version)
    report = Report.from_bytes(chip.report(bytes(range(64))))
    assert report.version == version
    assert report.report_data == bytes(range(64))
    assert report.reported_tcb == chip.tcb
    assert (report.cpuid is None) is (version < 3)
    assert (report.current_mitigations is None) is (version < 5)


def test_without_cpuid_bytes_a_report_names_no_product() -> None:
    """Version 2: taking the zeros there for a family would name one."""
    assert Report.from_bytes(SimulatedChip(version=2).report(bytes(64))).product is None


@pytest.mark.parametrize(
    ("family", "model", "product"),
    [
        (0x19, 0x01, Product.MILAN),
        (0x19, 0x11, Product.GENOA),
        (0x19, 0xA0, Product.GENOA),
        (0x19, 0xAF, Product.GENOA),
        (0x1A, 0x02, Product.TURIN),
        (0x1A, 0x11, Product.TURIN),
        (0x19, 0x20, None),
        (0x1A, 0x50, None),
        (0x17, 0x31, None),
        (0, 0, None),
    ],
)
def test_cpu_models_belong_to_products(family: int, model: int, product: Product | None) -> None:
    assert product_of_cpuid(family, model) is product


def test_the_tcb_layout_goes_with_the_product_and_not_with_the_version() -> None:
    raw = bytes(range(1, 9))
    old = {"bootloader": 1, "tee": 2, "snp": 7, "microcode": 8}
    new = {"fmc": 1, "bootloader": 2, "tee": 3, "snp": 4, "microcode": 8}
    assert Tcb.from_bytes(raw, Product.MILAN).parts == old
    assert Tcb.from_bytes(raw, Product.GENOA).parts == old
    assert Tcb.from_bytes(raw, Product.TURIN).parts == new


@pytest.mark.parametrize("product", list(Product))
def test_a_tcb_lacks_every_part_that_is_below(product: Product) -> None:
    """Comparing the 64-bit numbers instead would let a high part hide a low one."""
    parts = LAYOUTS[product]
    found = Tcb.from_bytes(bytes([5] * 8), product)
    assert found.lacking(dict.fromkeys(parts, 5)) == []
    for part in parts:
        assert found.lacking({**dict.fromkeys(parts, 0), part: 6}) == [part]
    assert found.lacking({"unheard-of": 0}) == ["unheard-of"]


def test_a_tcb_of_another_length_does_not_parse() -> None:
    with pytest.raises(DecodeError):
        Tcb.from_bytes(bytes(7), Product.GENOA)


def test_a_report_cut_anywhere_does_not_parse() -> None:
    for length in range(len(GOOD)):
        with pytest.raises(DecodeError):
            Report.from_bytes(GOOD[:length])


@pytest.mark.parametrize("tail", [b"\0", bytes(20), GOOD])
def test_a_report_with_something_behind_it_does_not_parse(tail: bytes) -> None:
    with pytest.raises(DecodeError):
        Report.from_bytes(GOOD + tail)


@pytest.mark.parametrize("version", [0, 1, 6, 0xFFFFFFFF])
def test_a_version_that_nobody_has_read_does_not_parse(version: int) -> None:
    with pytest.raises(DecodeError):
        Report.from_bytes(struct.pack("<I", version) + GOOD[4:])


@pytest.mark.parametrize("algorithm", [0, 2])
def test_another_signature_algorithm_does_not_parse(algorithm: int) -> None:
    with pytest.raises(DecodeError):
        Report.from_bytes(GOOD[:0x34] + struct.pack("<I", algorithm) + GOOD[0x38:])


@pytest.mark.parametrize("offset", [0x2A0 + 48, 0x2A0 + 71, 0x2E8 + 48, 0x330, 0x49F])
def test_bytes_that_nothing_signs_have_to_be_zero(offset: int) -> None:
    """Else one report has many encodings, and something can be hidden in the others."""
    with pytest.raises(DecodeError):
        Report.from_bytes(GOOD[:offset] + b"\1" + GOOD[offset + 1 :])


@pytest.mark.parametrize(
    ("key_info", "signer"),
    [(0, Signer.VCEK), (4, Signer.VLEK), (8, None), (0b11100, None), (2, None), (6, None)],
)
def test_a_key_that_is_masked_or_unknown_signs_nothing(
    key_info: int, signer: Signer | None
) -> None:
    report = Report.from_bytes(SimulatedChip(key_info=key_info).report(bytes(64)))
    assert report.signer is signer


@given(st.binary(max_size=1400))
def test_any_bytes_are_a_report_or_a_decode_error(data: bytes) -> None:
    try:
        report = Report.from_bytes(data)
    except DecodeError:
        return
    assert report.signed == data[:0x2A0]


@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255))
def test_a_changed_report_parses_or_is_a_decode_error(offset: int, value: int) -> None:
    changed = GOOD[:offset] + bytes([value]) + GOOD[offset + 1 :]
    try:
        report = Report.from_bytes(changed)
    except DecodeError:
        return
    assert report.signed == changed[:0x2A0]


@given(st.binary(max_size=200))
def test_any_bytes_are_a_body_or_a_decode_error(data: bytes) -> None:
    try:
        SevSnpEvidence.from_bytes(data)
    except DecodeError:
        return


def test_the_body_keeps_the_vendors_bytes() -> None:
    evidence = SimulatedChip(vendor=SimulatedAmd()).evidence(bytes(64))
    assert SevSnpEvidence.from_bytes(evidence.to_bytes()) == evidence
    assert "report" not in repr(evidence)
