"""Mistakes that other systems shipped about GPUs, each as a test that this one does not."""

import attrs
import pytest

from attestation.appraisal.nvidia_refusals import GpuMeasurementsUnknownError
from attestation.appraisal.result import Question, Tier
from attestation.endorsements.collateral import Collateral, CollateralKind
from attestation.errors import MissingError
from attestation.evidence.nvidia_gpu import DeviceKind
from attestation.evidence.tpm import Public
from attestation.policy.policy import Policy
from tests.appraisal import test_nvidia as devices
from tests.appraisal import test_nvidia_composite as composite
from tests.appraisal import test_nvidia_eat as tokens
from tests.simulators.evidence import tpm_policy
from tests.simulators.nvidia import SimulatedDevice, SimulatedNvidia, root
from tests.simulators.tpm import PCRS, SimulatedTpm

NONCE = devices.NONCE


@pytest.fixture(scope="module")
def vendor() -> SimulatedNvidia:
    return SimulatedNvidia()


@pytest.fixture(autouse=True)
def trusted(vendor: SimulatedNvidia, monkeypatch: pytest.MonkeyPatch) -> None:
    vendor.trust(monkeypatch)


@pytest.fixture(scope="module")
def gpu(vendor: SimulatedNvidia) -> SimulatedDevice:
    return vendor.device()


@pytest.fixture(scope="module")
def rims(vendor: SimulatedNvidia, gpu: SimulatedDevice) -> list[bytes]:
    return [vendor.driver_rim(gpu), vendor.firmware_rim(gpu)]


def bound_case(gpu: SimulatedDevice, rims: list[bytes]) -> tuple[SimulatedTpm, Policy, Collateral]:
    tpm = SimulatedTpm()
    keys = [Public.from_bytes(tpm.public()).fingerprint()]
    policy = attrs.evolve(tpm_policy({11: [PCRS[11]]}, keys=keys), gpu=composite.GPU_POLICY)
    items = [(CollateralKind.NVIDIA_RIM, data) for data in rims]
    return tpm, policy, Collateral.from_items(items)


def test_what_a_token_says_counts_for_nothing_without_its_signature() -> None:
    """A token was parsed with signature checks off, and its claims taken as they were."""
    stranger = root("anybody").issue("anybody", ca=False)
    checks = tokens.appraise(tokens.bundle(stranger), [tokens.key_set(stranger)])
    assert tokens.codes(checks) == ["chain-not-anchored"]
    assert checks[2].question is Question.AUTHENTIC


def test_gpu_evidence_is_tied_to_the_key_exchange(gpu: SimulatedDevice, rims: list[bytes]) -> None:
    """GPU evidence was checked beside a session whose keys had nothing to do with it."""
    tpm, policy, collateral = bound_case(gpu, rims)
    mine, theirs = composite.Worker(), composite.Worker()
    bundle = mine.bundle(tpm, theirs.gpus([gpu]))
    assert "gpu-nonce-mismatch" in composite.codes(mine.judge(bundle, policy, collateral))


def test_a_machine_without_gpus_does_not_look_like_a_verified_one(
    gpu: SimulatedDevice, rims: list[bytes]
) -> None:
    """A VM without a GPU produced the same verdict as one whose GPU had been attested."""
    tpm, policy, collateral = bound_case(gpu, rims)
    worker = composite.Worker()
    result = worker.judge(worker.bundle(tpm, None), policy, collateral)
    assert composite.codes(result) == ["gpu-evidence-missing"]


def test_developer_mode_does_not_pass(gpu: SimulatedDevice, rims: list[bytes]) -> None:
    """Confidential-compute developer mode passed; in it, debuggers read the GPU's memory."""
    tpm, policy, collateral = bound_case(gpu, rims)
    worker = composite.Worker()
    bundle = worker.bundle(tpm, worker.gpus([gpu], developer_tools=True))
    assert composite.codes(worker.judge(bundle, policy, collateral)) == ["gpu-developer-mode"]


def test_no_policy_can_say_that_developer_mode_is_fine() -> None:
    """There is no word for it: a flag that exists is a flag that somebody sets in production."""
    assert not [name for name in dir(devices.GPU_POLICY) if "develop" in name or "debug" in name]


def test_gpus_are_attested_with_every_key_set_and_not_at_boot_only(
    gpu: SimulatedDevice, rims: list[bytes]
) -> None:
    """Evidence of the GPU was taken once, at boot, and shown for ever after."""
    tpm, policy, collateral = bound_case(gpu, rims)
    boot, now = composite.Worker(), composite.Worker()
    old = boot.gpus([gpu])
    assert "gpu-nonce-mismatch" in composite.codes(
        now.judge(now.bundle(tpm, old), policy, collateral)
    )


def test_a_manifest_that_is_not_found_is_neither_a_pass_nor_a_forgery(
    gpu: SimulatedDevice,
) -> None:
    """New firmware without a manifest broke attestation, or passed it; it is its own outcome."""
    checks = devices.appraise([gpu.show(NONCE)])
    assert all(check.tier is not Tier.CONTRAINDICATED for check in checks)
    assert any(check.tier is Tier.UNVERIFIABLE for check in checks)
    assert issubclass(GpuMeasurementsUnknownError, MissingError)


def test_the_verdict_needs_no_vendor_service(gpu: SimulatedDevice, rims: list[bytes]) -> None:
    """An outage of the vendor's services was an outage of everyone who appraised."""
    assert devices.codes(devices.appraise([gpu.show(NONCE)], rims)) == []
    strict = devices.with_policy(require_ocsp=True)
    checks = devices.appraise([gpu.show(NONCE)], rims, policy=strict)
    assert devices.codes(checks) == ["ocsp-missing", "ocsp-missing"]


def test_an_answer_about_one_certificate_is_not_taken_for_another(
    vendor: SimulatedNvidia, gpu: SimulatedDevice, rims: list[bytes]
) -> None:
    """NVIDIA's own verifier compared neither the serial number nor the window of OCSP answers."""
    identity = vendor.device_root.issue("somebody else")
    answer = vendor.device_root.answer(identity.certificate, devices.NOW)
    strict = devices.with_policy(require_ocsp=True)
    checks = devices.appraise([gpu.show(NONCE)], rims, answers=[answer] * 3, policy=strict)
    assert checks[2].code == "ocsp-missing"


def test_the_evidence_cannot_choose_a_verifier_that_is_easier(
    gpu: SimulatedDevice, rims: list[bytes]
) -> None:
    """A field of the evidence selected a mock; here it can only say what the certificate says."""
    shown = gpu.show(NONCE)
    for kind in set(DeviceKind) - {gpu.kind}:
        checks = devices.appraise([attrs.evolve(shown, kind=kind)], rims)
        assert devices.codes(checks)


def test_no_root_arrives_with_the_evidence(gpu: SimulatedDevice, rims: list[bytes]) -> None:
    """A chain was verified up to whatever root came along in it."""
    impostor = SimulatedNvidia().device()
    assert devices.codes(devices.appraise([impostor.show(NONCE)], rims)) == ["chain-not-anchored"]


def test_a_device_that_is_shown_twice_is_not_two(gpu: SimulatedDevice, rims: list[bytes]) -> None:
    """Four copies of one switch's report counted as four switches."""
    checks = devices.appraise([gpu.show(NONCE)] * 4, rims)
    assert devices.codes(checks) == ["gpu-duplicate"]


def test_the_exact_bytes_of_the_gpu_evidence_are_bound(
    gpu: SimulatedDevice, rims: list[bytes]
) -> None:
    """Evidence was bound as JSON that each side serialised in its own way: honest ones failed."""
    tpm, policy, collateral = bound_case(gpu, rims)
    worker = composite.Worker()
    gpus = worker.gpus([gpu])
    bundle = worker.bundle(tpm, gpus)
    assert bundle.gpu_evidence == gpus
    assert worker.judge(bundle, policy, collateral).accepted
    padded = attrs.evolve(bundle, gpu_evidence=gpus + b"\0")
    assert "binding-mismatch" in composite.codes(worker.judge(padded, policy, collateral))
