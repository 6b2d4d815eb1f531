"""`enclave verify`: what an auditor types."""

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from attestation.appraisal.verifier import EvidenceFileError
from attestation.cli.verify import verify
from attestation.encoding.digests import Label, digest
from attestation.endorsements.collateral import NO_COLLATERAL
from attestation.errors import DecodeError, PolicyError, UnavailableError
from attestation.evidence.binding import NonceTree
from attestation.evidence.bundle import EvidenceRecord
from attestation.policy.template import policy_template
from tests.simulators.evidence import CATALOGUE, bundle_for, collect_insecure, draw_keyset

AT = "2026-06-01T12:00:00Z"
NONCE = os.urandom(32)


@pytest.fixture
def evidence(tmp_path: Path) -> Path:
    return write(tmp_path / "worker.evidence", CATALOGUE)


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "policy.toml"
    path.write_text(policy_template(allow_insecure_evidence=True))
    return path


def write(path: Path, catalogue: bytes) -> Path:
    tree = NonceTree.over([NONCE, bytes(32)])
    record = EvidenceRecord(
        bundle=bundle_for(draw_keyset(), tree, collect_insecure, kind="insecure").to_bytes(),
        nonce=NONCE,
        leaf_index=0,
        tree_size=2,
        path=tree.proofs[0].path,
        catalogue=catalogue,
        collateral=NO_COLLATERAL.to_bytes(),
    )
    path.write_bytes(record.to_bytes())
    return path


def run(*arguments: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(verify, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize("extra", [(), ("--nonce", NONCE.hex()), ("--explain",)])
def test_accepted_evidence_ends_with_zero_and_is_labelled(
    extra: tuple[str, ...], evidence: Path, policy: Path
) -> None:
    code, output, error = run(evidence, "--policy", policy, "--at", AT, *extra)
    assert code == 0
    assert output.startswith("accepted: ")
    assert "INSECURE" in output
    assert "INSECURE" in error


def test_json_is_the_attestation_result(evidence: Path, policy: Path) -> None:
    code, output, _ = run(evidence, "--policy", policy, "--at", AT, "--json")
    document = json.loads(output)
    assert code == 0
    assert (document["accepted"], document["insecure"]) == (True, True)
    assert document["catalogue_digest"] == digest(Label.CATALOGUE, CATALOGUE).hex()


@pytest.mark.parametrize(
    ("at", "nonce", "refused"),
    [
        ("2026-06-01T13:00:01Z", NONCE, "keyset-expired"),
        ("2026-06-01T13:00:00+00:59", NONCE, "ok"),
        ("2026-06-01T10:00:00Z", NONCE, "keyset-not-yet-valid"),
        (AT, bytes(31) + b"\1", "nonce-mismatch"),
    ],
)
def test_refused_evidence_ends_with_one_and_says_why(
    at: str, nonce: bytes, refused: str, evidence: Path, policy: Path
) -> None:
    code, output, _ = run(
        evidence, "--policy", policy, "--at", at, "--nonce", nonce.hex(), "--explain"
    )
    assert f"[{refused}]" in output
    assert code == (0 if refused == "ok" else 1)


@pytest.mark.parametrize(
    ("option", "value"),
    [("--at", "yesterday"), ("--at", "2026-06-01T12:00:00"), ("--nonce", "00"), ("--nonce", "zz")],
)
def test_a_wrong_time_or_challenge_is_a_usage_error(
    option: str, value: str, evidence: Path, policy: Path
) -> None:
    arguments = [evidence, "--policy", policy, "--at", AT, option, value]
    code, output, _ = run(*arguments)
    assert code == 2
    assert output == ""


def test_without_a_time_there_is_no_verdict(evidence: Path, policy: Path) -> None:
    code, _, _ = run(evidence, "--policy", policy)
    assert code == 2


def test_files_that_are_something_else_are_refused(
    tmp_path: Path, evidence: Path, policy: Path
) -> None:
    other = write(tmp_path / "other.evidence", b"other kernels")
    cases: list[tuple[Path, Path, type[Exception]]] = [
        (policy, policy, DecodeError),
        (evidence, evidence, PolicyError),
        (tmp_path / "missing", policy, UnavailableError),
        (other, policy, EvidenceFileError),
    ]
    for file, rules, error in cases:
        with pytest.raises(error, match=file.name if error is DecodeError else None):
            run(file, "--policy", rules, "--at", AT)
