"""Evidence of real confidential VMs in Azure, with the verdicts of the index that came with it.

The vectors lie beside the repository (`../shared/vectors`, licences in their index) and are skipped
with a reason where they are absent.
"""

import json
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import attrs
import pytest

from attestation.appraisal.result import Check
from attestation.errors import DecodeError
from attestation.evidence.azure_vtpm import HclReport, read_runtime_data
from attestation.evidence.tpm import Attest
from tests.vectors import azure
from tests.vectors.entry import read_files, time_of
from tests.vectors.run import judge_one
from tests.vectors.test_tpm import check_fields
from tests.vectors.verdict import agrees

VECTORS = Path(__file__).resolve().parents[2] / ".." / "shared" / "vectors"
INDEX = VECTORS / "index.shared.json"

pytestmark = pytest.mark.skipif(not INDEX.exists(), reason="no ../shared/vectors beside this tree")

MILAN = "milan-v3-trustee-v1"
EVERY = bool(os.environ.get("EVERY_FLIP"))
"""EVERY_FLIP=1 changes every byte of the runtime data."""
AT = {"verify_at": "2025-05-11T00:00:00Z"}


@cache
def entries() -> Mapping[str, Any]:
    document = json.loads(INDEX.read_text()) if INDEX.exists() else {"entries": []}
    return {entry["name"]: entry for entry in document["entries"] if entry["kind"] in azure.KINDS}


def files(name: str) -> dict[str, bytes]:
    return read_files(entries()[name], {}, VECTORS)


CHECKS = [
    pytest.param(name, check, id=f"{name}-{check['id']}")
    for name, entry in entries().items()
    for check in entry["checks"]
]
each_vm = pytest.mark.parametrize(
    "name", [name for name, entry in entries().items() if entry["expected_fields"]]
)


@pytest.mark.parametrize(("name", "check"), CHECKS)
def test_the_verdict_is_that_of_the_index(name: str, check: Mapping[str, Any]) -> None:
    got = judge_one(entries()[name], check, VECTORS)
    assert agrees(check["expected"], got), got


@each_vm
def test_the_fields_are_those_of_the_index(name: str) -> None:
    expected, parts = entries()[name]["expected_fields"], files(name)
    check_fields(Attest.from_bytes(parts["attest"]), expected["vtpm"])
    runtime = read_runtime_data(parts.get("hcl_report") or parts["runtime_claims"])
    assert runtime.claims().document == expected["runtime_data"]
    if "hcl_report" in parts:
        report = HclReport.from_bytes(parts["hcl_report"])
        assert report.version == expected["hcl_version"]
        assert report.runtime.report_type == expected["hcl_report_type"]


def judge(**changes: Any) -> tuple[Check, ...]:
    evidence = attrs.evolve(azure.snp_evidence(files(MILAN)), **changes)
    return azure.examine_snp(evidence, files(MILAN), AT, time_of({}, AT))[0]


def accepted(checks: tuple[Check, ...]) -> bool:
    return all(check.tier.accepted for check in checks)


def test_no_flipped_byte_of_a_real_report_is_accepted() -> None:
    """But in the paravisor's header, which nothing signs and nothing reads.

    Of the hardware report a sample: flips of it have a test of their own kind.
    """
    report = files(MILAN)["hcl_report"]
    assert accepted(judge())
    unsigned = set(range(4, 32))
    data = range(1216, len(report), 1 if EVERY else 3)
    for offset in [*range(32), *range(32, 1216, 37), *data]:
        changed = report[:offset] + bytes([report[offset] ^ 1]) + report[offset + 1 :]
        assert accepted(judge(hcl_report=changed)) == (offset in unsigned), f"byte {offset}"


@pytest.mark.parametrize("field", ["attest", "signature"])
def test_no_flipped_byte_of_a_real_vtpms_quote_is_accepted(field: str) -> None:
    data = getattr(azure.snp_evidence(files(MILAN)), field)
    for offset in range(len(data)):
        changed = data[:offset] + bytes([data[offset] ^ 1]) + data[offset + 1 :]
        assert not accepted(judge(**{field: changed})), f"byte {offset}"


def test_no_truncation_of_a_real_report_within_its_data_parses() -> None:
    report = files(MILAN)["hcl_report"]
    end = len(report.rstrip(b"\0"))
    for length in range(end):
        with pytest.raises(DecodeError):
            HclReport.from_bytes(report[:length])
    assert HclReport.from_bytes(report[:end]) == HclReport.from_bytes(report)
