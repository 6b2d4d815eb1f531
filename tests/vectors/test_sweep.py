"""A changed bit or a missing end of any real evidence is judged, and never authentic.

The vectors lie beside the repository (`../shared/vectors`, licences in their index) and are skipped
with a reason where they are absent. EVERY_FLIP=1 changes every byte.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.vectors import run

VECTORS = Path(__file__).resolve().parents[2] / ".." / "shared" / "vectors"
INDEX = VECTORS / "index.shared.json"

pytestmark = pytest.mark.skipif(not INDEX.exists(), reason="no ../shared/vectors beside this tree")

SIGNED = ("report", "quote", "document", "attest", "td_quote", "eat", "runtime_claims")
"""Roles whose every byte something signs, or has to be zero.

HCL reports have a header that nothing signs, manifests a root that the pinned one replaces: both
have tests of their own.
"""
STEPS = 2000 if os.environ.get("EVERY_FLIP") else 60


def _cases() -> list[Any]:
    if not INDEX.exists():
        return []
    return [
        pytest.param(entry, check, role, id=f"{entry['kind']}-{entry['name']}-{role}")
        for entry in json.loads(INDEX.read_text())["entries"]
        for check in entry["checks"][:1]
        if check["expected"]["verdict"] == "authentic"
        for role in SIGNED
        if role in entry["files"]
    ]


@pytest.mark.parametrize(("entry", "check", "role"), _cases())
def test_no_changed_bit_and_no_missing_end_is_authentic(
    entry: Mapping[str, Any], check: Mapping[str, Any], role: str, tmp_path: Path
) -> None:
    data = (VECTORS / entry["files"][role]).read_bytes()
    changed = {**entry, "files": {**entry["files"], role: str(tmp_path / "changed")}}

    def judged(content: bytes) -> str:
        (tmp_path / "changed").write_bytes(content)
        got = run.result(changed, check, VECTORS)["got"]
        assert not str(got["reasons"][:1]).startswith("['not-judged"), got
        return str(got["verdict"])

    assert judged(data) == "authentic"
    end = len(data.rstrip(b"\0"))
    stride = max(1, len(data) // STEPS)
    for offset in range(0, len(data), stride):
        flipped = data[:offset] + bytes([data[offset] ^ 1]) + data[offset + 1 :]
        assert judged(flipped) != "authentic", f"byte {offset}"
        if offset < end:
            assert judged(data[:offset]) != "authentic", f"cut at {offset}"
