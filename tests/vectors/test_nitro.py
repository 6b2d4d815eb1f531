"""Documents of real Nitro enclaves, with the verdicts of the index that came with them.

The vectors lie beside the repository (`../shared/vectors`, licences in their index) and are skipped
with a reason where they are absent.
"""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from attestation.appraisal.checklist import CannotContinueError, Checklist
from attestation.appraisal.nitro import REPORT_STEPS, examine
from attestation.appraisal.result import Check
from attestation.endorsements.collateral import NO_COLLATERAL
from attestation.errors import DecodeError
from attestation.evidence.nitro import NitroDocument, NitroEvidence
from tests.vectors import nitro
from tests.vectors.run import judge_one
from tests.vectors.verdict import agrees

VECTORS = Path(__file__).resolve().parents[2] / ".." / "shared" / "vectors"
INDEX = VECTORS / "index.shared.json"

pytestmark = pytest.mark.skipif(not INDEX.exists(), reason="no ../shared/vectors beside this tree")


@cache
def entries() -> Mapping[str, Any]:
    document = json.loads(INDEX.read_text()) if INDEX.exists() else {"entries": []}
    return {entry["name"]: entry for entry in document["entries"] if entry["kind"] in nitro.KINDS}


def document(name: str) -> bytes:
    return (VECTORS / entries()[name]["files"]["document"]).read_bytes()


CHECKS = [
    pytest.param(name, check, id=f"{name}-{check['id']}")
    for name, entry in entries().items()
    for check in entry["checks"]
]
each_document = pytest.mark.parametrize("name", entries())


@pytest.mark.parametrize(("name", "check"), CHECKS)
def test_the_verdict_is_that_of_the_index(name: str, check: Mapping[str, Any]) -> None:
    got = judge_one(entries()[name], check, VECTORS)
    assert agrees(check["expected"], got), got


@each_document
def test_the_fields_are_those_of_the_index(name: str) -> None:
    expected = entries()[name]["expected_fields"]
    parsed = NitroDocument.from_bytes(document(name))
    assert parsed.module_id == expected["module_id"]
    assert parsed.timestamp_ms == expected["timestamp_ms"]
    assert {str(index): value.hex() for index, value in parsed.pcrs.items()} == expected["pcrs"]
    assert len(parsed.cabundle) == expected["cabundle"]
    for name_ in ("user_data", "nonce", "public_key"):
        value = getattr(parsed, name_)
        assert (None if value is None else value.hex()) == expected[name_]


def judge(data: bytes, *, shift: timedelta = timedelta()) -> tuple[Check, ...]:
    """Judge at the time that the untouched document states, give or take `shift`."""
    made = NitroDocument.from_bytes(document(NAME)).timestamp_ms / 1000
    checks = Checklist()
    checks.announce(REPORT_STEPS)
    with suppress(CannotContinueError):
        examine(
            NitroEvidence(document=data),
            policy=nitro.POLICY,
            collateral=NO_COLLATERAL,
            now=datetime.fromtimestamp(made, UTC) + shift,
            checks=checks,
        )
    return checks.finish()


def accepted(checks: tuple[Check, ...]) -> bool:
    return all(check.tier.accepted for check in checks)


NAME = "dstack-2025"
EVERY = bool(os.environ.get("EVERY_FLIP"))
"""EVERY_FLIP=1 changes every byte; a signature check each takes half a minute."""


def test_a_tag_in_front_changes_nothing() -> None:
    """RFC 9052 section 2: some that pass a document on put the tag for COSE_Sign1 there."""
    assert accepted(judge(document(NAME)))
    assert accepted(judge(b"\xd2" + document(NAME)))


def test_no_flipped_byte_of_a_real_document_is_accepted() -> None:
    """Nothing in it is unsigned but the frame, and that has no byte to spare."""
    data = document(NAME)
    for offset in range(0, len(data), 1 if EVERY else 7):
        changed = data[:offset] + bytes([data[offset] ^ 1 << offset % 8]) + data[offset + 1 :]
        assert not accepted(judge(changed)), f"byte {offset}"


def test_no_truncation_of_a_real_document_parses() -> None:
    data = document(NAME)
    for length in range(0, len(data), 3):
        with pytest.raises(DecodeError):
            NitroDocument.from_bytes(data[:length])


@pytest.mark.parametrize("shift", [timedelta(hours=-1), timedelta(hours=4)])
def test_a_real_document_is_refused_outside_the_life_of_its_key(shift: timedelta) -> None:
    assert not accepted(judge(document(NAME), shift=shift))
