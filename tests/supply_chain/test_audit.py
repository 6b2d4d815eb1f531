"""An audit that could not ask does not pass for one that found nothing."""

import json
from typing import Any

import pytest

from tests.supply_chain.audit import NOT_AUDITED, OK, VULNERABLE, judge

CLEAN = {"name": "attrs", "version": "25.3", "vulns": []}
UNKNOWN = {"name": "own", "skip_reason": "Dependency not found on PyPI and could not be audited"}
FINDING = {"id": "PYSEC-2026-1", "fix_versions": ["1.1"], "aliases": [], "description": ""}
BROKEN = {"name": "broken", "version": "1.0", "vulns": [FINDING]}


def said(*dependencies: dict[str, Any]) -> str:
    return json.dumps({"dependencies": dependencies, "fixes": []})


def test_only_an_answer_about_everything_is_a_pass() -> None:
    assert judge(0, said(CLEAN), "").status == OK


@pytest.mark.parametrize(
    ("output", "errors"),
    [
        pytest.param(said(UNKNOWN), "", id="the service knows none of the names"),
        pytest.param(said(CLEAN, UNKNOWN), "", id="the service knows some of the names"),
        pytest.param(said(), "", id="nothing was asked"),
        pytest.param("", "requests.exceptions.ConnectionError: no such host", id="offline"),
        pytest.param("{", "", id="half an answer"),
        pytest.param('{"dependencies": null}', "", id="another answer"),
        pytest.param("[]", "", id="an answer of another shape"),
    ],
)
def test_no_answer_is_not_a_pass(output: str, errors: str) -> None:
    """pip-audit itself ends with 0 when every name was skipped."""
    verdict = judge(0, output, errors)
    assert verdict.status == NOT_AUDITED
    assert verdict.lines


def test_a_vulnerable_distribution_is_named_with_its_fix_even_among_unknown_ones() -> None:
    verdict = judge(1, said(CLEAN, BROKEN, UNKNOWN), "")
    assert verdict.status == VULNERABLE
    assert verdict.lines[0] == "audit: broken 1.0: PYSEC-2026-1 (fixed in 1.1)"


def test_an_offline_audit_says_so_in_one_line() -> None:
    trace = "Traceback ...\n  File ...\nConnectionError: cannot resolve the service's name"
    lines = judge(1, "", trace).lines
    assert lines[0].endswith("ConnectionError: cannot resolve the service's name")
    assert lines[-1] == "audit: nothing was audited"
