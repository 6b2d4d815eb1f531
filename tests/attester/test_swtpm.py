"""The whole path on a real TPM 2.0: manufacture, enrolment, quote, appraisal."""

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from attestation.appraisal.result import Tier
from attestation.appraisal.verifier import appraise
from attestation.errors import EvidenceRefusedError
from attestation.evidence.tpm import Attest, Public, TpmEvidence
from attestation.policy.policy import Policy
from enclave_worker.attester.collect import EvidenceCollector
from enclave_worker.attester.selection import select_attester
from enclave_worker.attester.tpm import TpmAttester, TpmUnavailableError
from tests.simulators.evidence import draw_keyset, tpm_policy
from tests.simulators.swtpm import Swtpm, enrol, extend, require_swtpm, running_swtpm
from tests.simulators.vendor import Operator

IMAGE = hashlib.sha256(b"worker image").digest()
PCR_11 = hashlib.sha256(bytes(32) + IMAGE).digest()
"""What PCR 11 must be after the image was measured: known without asking any TPM."""


@pytest.fixture(scope="module")
def swtpm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swtpm]:
    require_swtpm()
    with running_swtpm(tmp_path_factory.mktemp("tpm")) as tpm:
        extend(tpm, 11, IMAGE)
        yield tpm


@pytest.fixture(scope="module")
def operator() -> Operator:
    return Operator()


@pytest.fixture(scope="module")
def certificates(
    swtpm: Swtpm, operator: Operator, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    return enrol(swtpm, operator, tmp_path_factory.mktemp("operator") / "ak.pem")


@pytest.fixture
def attester(swtpm: Swtpm, certificates: Path) -> Iterator[TpmAttester]:
    attester = TpmAttester(tcti=swtpm.tcti, ak_certificates=certificates)
    yield attester
    attester.close()


@pytest.fixture
def collector(attester: TpmAttester) -> EvidenceCollector:
    return EvidenceCollector(attester, draw_keyset=lambda: draw_keyset(now=datetime.now(UTC)))


@pytest.fixture
def policy(operator: Operator) -> Policy:
    return tpm_policy({11: [PCR_11]}, roots=[operator.root_der])


def test_an_enrolled_tpm_is_accepted_for_each_challenge_of_its_window(
    collector: EvidenceCollector, policy: Policy
) -> None:
    """This operator issues no revocation list, and the policy permits that."""
    nonces = [os.urandom(32) for _ in range(3)]
    window = collector.collect_window(nonces)
    for nonce, proof in zip(nonces, window.proofs, strict=True):
        result = appraise(
            window.bundle, policy=policy, nonce=nonce, path=proof, now=datetime.now(UTC)
        )
        assert result.accepted, result.refusals
        warnings = [check.code for check in result.checks if check.tier is Tier.WARNING]
        assert warnings == ["revocation-unknown"]
        assert result.recipient_key().public_bytes == window.keyset.kem_public_key


def test_a_real_tpm_with_another_image_is_refused(
    collector: EvidenceCollector, operator: Operator
) -> None:
    other = hashlib.sha256(bytes(32) + hashlib.sha256(b"another image").digest()).digest()
    _refused_for(
        collector, tpm_policy({11: [other]}, roots=[operator.root_der]), "pcr-not-accepted"
    )


def test_a_real_tpm_that_this_operator_never_enrolled_is_refused(
    collector: EvidenceCollector,
) -> None:
    stranger = tpm_policy({11: [PCR_11]}, roots=[Operator().root_der])
    _refused_for(collector, stranger, "ak-not-endorsed")


def test_a_key_pin_endorses_without_certificates(swtpm: Swtpm) -> None:
    attester = TpmAttester(tcti=swtpm.tcti, pcrs=[11])
    body = TpmEvidence.from_bytes(attester.collect(bytes(64)))
    collector = EvidenceCollector(attester, draw_keyset=lambda: draw_keyset(now=datetime.now(UTC)))
    nonce = os.urandom(32)
    window = collector.collect_window([nonce])
    attester.close()
    pinned = tpm_policy({11: [PCR_11]}, keys=[Public.from_bytes(body.ak_public).fingerprint()])
    result = appraise(
        window.bundle, policy=pinned, nonce=nonce, path=window.proofs[0], now=datetime.now(UTC)
    )
    assert result.accepted, result.refusals


def test_the_tpm_makes_the_same_key_after_a_reconnect(attester: TpmAttester) -> None:
    first = TpmEvidence.from_bytes(attester.collect(bytes(64)))
    attester.close()
    again = TpmEvidence.from_bytes(attester.collect(bytes(64)))
    assert first.ak_public == again.ak_public


def test_an_attester_serves_several_threads(attester: TpmAttester) -> None:
    inputs = [os.urandom(64) for _ in range(8)]
    with ThreadPoolExecutor(4) as pool:
        bodies = list(pool.map(attester.collect, inputs))
    signed = [Attest.from_bytes(TpmEvidence.from_bytes(body).attest).extra_data for body in bodies]
    assert signed == [hashlib.sha256(data).digest() for data in inputs]


def test_auto_takes_the_tpm_that_answers(swtpm: Swtpm) -> None:
    attester, reason = select_attester("auto", tcti=swtpm.tcti)
    assert isinstance(attester, TpmAttester)
    attester.close()
    assert attester.kind == "tpm"
    assert reason.startswith("a TPM answers; no configfs-tsm")


def test_a_tpm_that_dies_is_unavailable_and_not_a_crash(tmp_path: Path) -> None:
    require_swtpm()
    with running_swtpm(tmp_path / "short-lived") as tpm:
        attester = TpmAttester(tcti=tpm.tcti)
        attester.check()
    with pytest.raises(TpmUnavailableError):
        attester.collect(bytes(64))


def _refused_for(collector: EvidenceCollector, policy: Policy, code: str) -> None:
    nonce = os.urandom(32)
    window = collector.collect_window([nonce])
    result = appraise(
        window.bundle, policy=policy, nonce=nonce, path=window.proofs[0], now=datetime.now(UTC)
    )
    assert [check.code for check in result.refusals] == [code]
    with pytest.raises(EvidenceRefusedError):
        result.recipient_key()
