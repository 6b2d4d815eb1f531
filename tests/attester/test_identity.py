"""`enclave identity`: what it prints makes a policy that accepts this TPM, and no other state."""

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from attestation.appraisal.verifier import appraise
from attestation.cli.output import ExitCode
from attestation.errors import EvidenceRefusedError
from attestation.policy.loading import load_policy
from attestation.policy.policy import Policy
from enclave_worker.attester.collect import EvidenceCollector
from enclave_worker.attester.tpm import TpmAttester, TpmUnavailableError
from enclave_worker.identity import identity
from tests.simulators.evidence import draw_keyset
from tests.simulators.swtpm import Swtpm, extend, require_swtpm, running_swtpm

HEAD = """\
version = 1
[evidence]
kinds = ["tpm"]
max_age_seconds = 60
[keys]
max_lifetime_seconds = 3600
[catalogue]
digests = "any"
"""
NONCE = hashlib.sha256(b"a client's challenge").digest()


@pytest.fixture
def swtpm(tmp_path: Path) -> Iterator[Swtpm]:
    require_swtpm()
    with running_swtpm(tmp_path / "tpm") as tpm:
        yield tpm


def printed_policy(swtpm: Swtpm, path: Path) -> Policy:
    run = CliRunner().invoke(identity, ["--tpm-tcti", swtpm.tcti, "--tpm-pcrs", "0,11"])
    assert run.exit_code == ExitCode.OK, run.output
    path.write_text(HEAD + run.stdout)
    return load_policy(path)


def verdict(swtpm: Swtpm, policy: Policy) -> None:
    now = datetime.now(UTC)
    attester = TpmAttester(tcti=swtpm.tcti, pcrs=(0, 11))
    try:
        collector = EvidenceCollector(attester, draw_keyset=lambda: draw_keyset(now=now))
        window = collector.collect_window([NONCE])
    finally:
        attester.close()
    proof = window.proofs[0]
    appraise(window.bundle, policy=policy, nonce=NONCE, path=proof, now=now).require_accepted()


def test_what_is_printed_is_a_policy_that_accepts_this_tpm(swtpm: Swtpm, tmp_path: Path) -> None:
    verdict(swtpm, printed_policy(swtpm, tmp_path / "policy.toml"))


def test_the_same_tpm_is_refused_once_it_has_measured_something_else(
    swtpm: Swtpm, tmp_path: Path
) -> None:
    policy = printed_policy(swtpm, tmp_path / "policy.toml")
    extend(swtpm, 11, hashlib.sha256(b"another image").digest())
    with pytest.raises(EvidenceRefusedError, match="pcr"):
        verdict(swtpm, policy)


def test_no_tpm_prints_nothing() -> None:
    run = CliRunner().invoke(identity, ["--tpm-tcti", "swtpm:host=127.0.0.1,port=1"])
    assert isinstance(run.exception, TpmUnavailableError)
    assert not run.stdout
