"""docs/policy.md and docs/appraisal.md say what the code does."""

import re
from pathlib import Path

import pytest

from attestation.appraisal import (
    azure_vtpm,
    insecure,
    nitro,
    nvidia_composite,
    nvidia_eat,
    sev_snp,
    sgx,
    tdx,
    tpm,
    verifier,
)
from attestation.appraisal.checklist import Step
from attestation.appraisal.explanation import ADVICE
from attestation.policy.loading import parse_policy
from tests.simulators.vendor import Operator, pem


def test_the_policies_in_the_documentation_load(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "operator-root.pem").write_bytes(pem(Operator().root))
    page = (repository / "docs/policy.md").read_text()
    whole, *_, fragment = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    documented = parse_policy(whole, directory=tmp_path)
    assert documented.tpm is not None
    tables = whole.split("\n\n")
    rest = [table for table in tables if not table.startswith(("[evidence]", "[tpm"))]
    loaded = parse_policy("\n\n".join([*rest, fragment]), directory=tmp_path)
    assert loaded.evidence.allow_insecure_evidence


def test_every_code_of_a_refusal_is_documented(repository: Path) -> None:
    page = (repository / "docs/appraisal.md").read_text()
    assert [code for code in ADVICE if f"`{code}`" not in page] == []


@pytest.mark.parametrize(
    ("first", "steps"),
    [
        (1, verifier.STEPS),
        (8, tpm.STEPS),
        (8, sev_snp.STEPS),
        (8, tdx.STEPS),
        (8, sgx.STEPS),
        (8, nitro.STEPS),
        (9, azure_vtpm.VTPM_STEPS),
        (8, insecure.STEPS),
        (1, nvidia_composite.STEPS),
        (1, nvidia_eat.STEPS),
    ],
)
def test_steps_carry_the_numbers_of_the_documentation(
    first: int, steps: tuple[Step, ...], repository: Path
) -> None:
    page = (repository / "docs/appraisal.md").read_text()
    for number, name in enumerate((step.name for step in steps), start=first):
        assert re.search(rf"^\| {number} \| {name}\b", page, re.MULTILINE), (number, name)
