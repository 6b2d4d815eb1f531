"""Real SEV-SNP reports, and altered ones, get the verdict that their index expects."""

import json
from pathlib import Path
from typing import Any

import pytest

from attestation.appraisal.result import Question
from tests.vectors import run, sev_snp

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "vectors"


def cases() -> list[tuple[dict[str, Any], dict[str, Any]]]:
    index = FOLDER / "index.shared.json"
    if not index.exists():
        return []
    entries = json.loads(index.read_text())["entries"]
    found = [entry for entry in entries if entry["kind"] in sev_snp.KINDS]
    return [(entry, check) for entry in found for check in entry["checks"]]


def name(case: tuple[dict[str, Any], dict[str, Any]]) -> str:
    return f"{case[0]['name']}-{case[1]['id']}"


pytestmark = pytest.mark.skipif(not cases(), reason="no shared vectors beside this checkout")


@pytest.mark.parametrize("case", cases(), ids=name)
def test_a_vector_gets_the_verdict_of_its_index(case: Any) -> None:
    line = run.result(*case, FOLDER)
    assert line["agree"], line


@pytest.mark.parametrize("case", cases(), ids=name)
def test_what_the_index_says_of_a_vector_is_among_the_claims(case: Any) -> None:
    expected = case[1]["expected"]
    _, claims = sev_snp.appraise(*case, FOLDER)
    for member, claim in (("product", "product"), ("signing_key", "signing key")):
        if member in expected:
            assert claims[claim] == expected[member]


def test_a_certificate_that_amd_issued_again_is_accepted() -> None:
    """The same chip, TCB and key on another date."""
    entry, check = next(case for case in cases() if "vcek_reissued" in case[0]["files"])
    chosen = check | {"inputs": {"vcek": "vcek_reissued"}}
    checks, _ = sev_snp.appraise(entry, chosen, FOLDER)
    assert all(found.tier.accepted for found in checks)


def test_a_real_report_about_another_nonce_is_refused_only_for_that() -> None:
    entry, check = next(case for case in cases() if case[0]["name"] == "milan-v2-cmc")
    checks, _ = sev_snp.appraise(entry, check | {"nonce": "24" * 64}, FOLDER)
    refused = [(found.code, found.question) for found in checks if not found.tier.accepted]
    assert refused == [("nonce-mismatch", Question.AUTHENTIC)]
    checks, _ = sev_snp.appraise(entry, check | {"nonce": "23" * 64}, FOLDER)
    assert all(found.tier.accepted for found in checks)
