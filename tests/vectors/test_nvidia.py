"""Real evidence of NVIDIA's devices and service: checks agree, parsers return the fields."""

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from attestation.endorsements.nvidia_device import DeviceIdentity
from attestation.endorsements.nvidia_rim import Rim
from attestation.evidence.nvidia_eat import TokenBundle
from attestation.evidence.nvidia_gpu import DeviceReport
from attestation.evidence.nvidia_opaque import OpaqueField
from tests.vectors import nvidia, run
from tests.vectors.entry import read_files
from tests.vectors.verdict import agrees

FOLDER = Path(__file__).resolve().parents[2] / ".." / "shared" / "vectors"
INDEX = FOLDER / "index.shared.json"

pytestmark = pytest.mark.skipif(not INDEX.is_file(), reason="the vectors are not on this machine")


def entries() -> list[dict[str, Any]]:
    if not INDEX.is_file():
        return []
    every = json.loads(INDEX.read_text())["entries"]
    return [entry for entry in every if entry["kind"] in nvidia.KINDS]


CHECKS = [(entry, check) for entry in entries() for check in entry["checks"]]


@pytest.mark.parametrize(
    ("entry", "check"), CHECKS, ids=[f"{e['name']}-{c['id']}" for e, c in CHECKS]
)
def test_each_check_agrees(entry: Mapping[str, Any], check: Mapping[str, Any]) -> None:
    got = run.judge_one(entry, check, FOLDER)
    assert agrees(check["expected"], got), got


def devices() -> Iterator[tuple[str, Any, Mapping[str, Any]]]:
    for entry in entries():
        fields = entry.get("expected_fields") or {}
        if entry["kind"] not in ("nvidia-gpu", "nvidia-nvswitch") or not fields:
            continue
        listed = fields.get("devices", [fields])
        for number, device in enumerate(nvidia.devices_of(entry, read_files(entry, {}, FOLDER))):
            yield f"{entry['name']}-{number}", device, listed[number]


DEVICES = list(devices())


@pytest.mark.parametrize(
    ("device", "expected"), [entry[1:] for entry in DEVICES], ids=[entry[0] for entry in DEVICES]
)
def test_a_report_has_the_fields_that_are_known_of_it(
    device: Any, expected: Mapping[str, Any]
) -> None:
    report = DeviceReport.from_bytes(device.report, device.kind)
    response = report.measurements.response
    found = {
        "request_nonce": report.nonce.hex(),
        "response_nonce": response.nonce.hex(),
        "slot": report.measurements.request.slot,
        "measurement_blocks": len(response.measurements),
        "vbios_version": report.vbios_version,
        "driver_version": report.driver_version,
        "project": report.opaque.text(OpaqueField.PROJECT),
        "project_sku": report.opaque.text(OpaqueField.PROJECT_SKU),
        "chip_sku": report.opaque.text(OpaqueField.CHIP_SKU),
        "chip_info": report.opaque.text(OpaqueField.CHIP_INFO),
        "fwid": None if report.fwid is None else report.fwid.hex(),
        "nvdec0_status": _hex(report, OpaqueField.NVDEC0_STATUS),
        "protected_pcie_status": _hex(report, OpaqueField.PROTECTED_PCIE_STATUS),
        "feature_flag": _hex(report, OpaqueField.FEATURE_FLAG),
        "opaque_data_version": _hex(report, OpaqueField.OPAQUE_DATA_VERSION),
        "position_id": _hex(report, OpaqueField.POSITION_ID),
        "lock_switch_status": _hex(report, OpaqueField.LOCK_SWITCH_STATUS),
        "switch_pdi": [pdi.hex() for pdi in report.switch_pdis],
        "gpu_pdi": [pdi.hex() for pdi in report.gpu_pdis],
    }
    known = {name: value for name, value in expected.items() if name in found}
    assert {name: found[name] for name in known} == known


@pytest.mark.parametrize(
    ("device", "expected"),
    [entry[1:] for entry in DEVICES if not entry[0].startswith("pair-")],
    ids=[entry[0] for entry in DEVICES if not entry[0].startswith("pair-")],
)
def test_a_chain_names_the_device_that_is_known(device: Any, expected: Mapping[str, Any]) -> None:
    now = datetime.fromisoformat("2026-06-10T00:00:00Z")
    identity = DeviceIdentity.verify(device.certificates, now=now)
    assert identity.chip == expected["architecture"].replace("_", "")
    assert [identity.serial.upper()] == expected["device_serial"]


RIMS = [entry for entry in entries() if entry["kind"] == "nvidia-rim"]
VALID = [entry for entry in RIMS if entry["checks"][0]["expected"]["verdict"] == "authentic"]


@pytest.mark.parametrize("entry", VALID, ids=[entry["name"] for entry in VALID])
def test_a_manifest_has_the_fields_that_are_known_of_it(entry: Mapping[str, Any]) -> None:
    now = datetime.fromisoformat(entry["checks"][0]["verify_at"])
    rim = Rim.verify((FOLDER / entry["files"]["rim"]).read_bytes(), now=now)
    expected = entry["expected_fields"]
    assert (rim.head.version, rim.head.product) == (expected["version"], expected["product"])
    assert sorted(rim.active) == expected["active"]


TOKENS = [entry for entry in entries() if "eat" in entry["files"] and entry.get("expected_fields")]


@pytest.mark.parametrize("entry", TOKENS, ids=[entry["name"] for entry in TOKENS])
def test_tokens_have_the_claims_that_are_known_of_them(entry: Mapping[str, Any]) -> None:
    bundle = TokenBundle.from_bytes((FOLDER / entry["files"]["eat"]).read_bytes())
    expected = entry["expected_fields"]
    assert bundle.overall.header == expected["header"]
    assert bundle.overall.claims == expected["overall"]
    assert {name: token.claims for name, token in bundle.devices.items()} == expected["devices"]


def _hex(report: DeviceReport, kind: OpaqueField) -> str | None:
    value = report.opaque.value(kind)
    return None if value is None else value.hex()
