"""GPUs of a worker: what ties them to its keys, and what comes of them without that."""

import os
from collections.abc import Sequence
from typing import Any

import attrs
import pytest

from attestation.appraisal import nvidia_composite
from attestation.appraisal.result import NOT_REACHED, AttestationResult, Tier
from attestation.appraisal.verifier import appraise
from attestation.endorsements.collateral import Collateral, CollateralKind
from attestation.evidence.binding import NonceTree, gpu_nonce, report_data
from attestation.evidence.bundle import EvidenceBundle
from attestation.evidence.insecure import InsecureEvidence
from attestation.evidence.keyset import KeySet
from attestation.evidence.tpm import Public
from attestation.policy.policy import Policy
from tests.simulators.evidence import NOW, draw_keyset, insecure_policy, tpm_policy
from tests.simulators.nvidia import GPU_POLICY, SimulatedDevice, SimulatedNvidia, evidence
from tests.simulators.tpm import PCRS, SimulatedTpm


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
def rims(vendor: SimulatedNvidia, gpu: SimulatedDevice) -> Collateral:
    documents = [vendor.driver_rim(gpu), vendor.firmware_rim(gpu)]
    return Collateral.from_items([(CollateralKind.NVIDIA_RIM, data) for data in documents])


@pytest.fixture(scope="module")
def tpm() -> SimulatedTpm:
    return SimulatedTpm()


@pytest.fixture
def policy(tpm: SimulatedTpm) -> Policy:
    keys = [Public.from_bytes(tpm.public()).fingerprint()]
    return attrs.evolve(tpm_policy({11: [PCRS[11]]}, keys=keys), gpu=GPU_POLICY)


@attrs.frozen
class Worker:
    """A window of one worker with a TPM and GPUs."""

    nonce: bytes = attrs.field(factory=lambda: os.urandom(32))
    keyset: KeySet = attrs.field(factory=draw_keyset)

    @property
    def tree(self) -> NonceTree:
        return NonceTree.over([self.nonce])

    @property
    def gpu_nonce(self) -> bytes:
        return gpu_nonce(self.keyset.keyset_id(), self.tree.root)

    def gpus(self, devices: Sequence[SimulatedDevice], **changes: Any) -> bytes:
        return evidence(devices, self.gpu_nonce, **changes).to_bytes()

    def bundle(self, tpm: SimulatedTpm, gpus: bytes | None) -> EvidenceBundle:
        data = report_data(self.keyset.keyset_id(), self.tree.root, gpus)
        return EvidenceBundle(
            kind="tpm",
            keyset=self.keyset.to_bytes(),
            nonce_root=self.tree.root,
            gpu_evidence=gpus,
            body=tpm.collect(data),
        )

    def judge(
        self, bundle: EvidenceBundle, policy: Policy, collateral: Collateral
    ) -> AttestationResult:
        return appraise(
            bundle,
            policy=policy,
            nonce=self.nonce,
            path=self.tree.proofs[0],
            now=NOW,
            collateral=collateral,
        )


def codes(result: AttestationResult) -> list[str]:
    return [check.code for check in result.refusals]


def test_a_worker_whose_gpus_are_bound_is_accepted(
    tpm: SimulatedTpm, gpu: SimulatedDevice, policy: Policy, rims: Collateral
) -> None:
    worker = Worker()
    result = worker.judge(worker.bundle(tpm, worker.gpus([gpu])), policy, rims)
    assert codes(result) == []
    assert result.accepted
    assert [check.name for check in result.checks][-18:] == [
        step.name for step in nvidia_composite.STEPS
    ]
    assert gpu.serial in result.claims["gpu 0"]


def test_gpu_evidence_without_a_table_for_it_is_refused(
    tpm: SimulatedTpm, gpu: SimulatedDevice, policy: Policy, rims: Collateral
) -> None:
    """What nobody asked to have looked at must not look like something that was."""
    worker = Worker()
    bundle = worker.bundle(tpm, worker.gpus([gpu]))
    assert codes(worker.judge(bundle, attrs.evolve(policy, gpu=None), rims)) == ["gpu-not-accepted"]


def test_a_worker_without_gpus_is_refused_where_they_are_required(
    tpm: SimulatedTpm, policy: Policy, rims: Collateral
) -> None:
    worker = Worker()
    bundle = worker.bundle(tpm, None)
    assert codes(worker.judge(bundle, policy, rims)) == ["gpu-evidence-missing"]
    optional = attrs.evolve(policy, gpu=attrs.evolve(GPU_POLICY, required=False))
    assert worker.judge(bundle, optional, rims).accepted


def test_gpus_of_another_machine_put_beside_a_workers_evidence_are_refused(
    tpm: SimulatedTpm, gpu: SimulatedDevice, policy: Policy, rims: Collateral
) -> None:
    """The CPU signs a digest of the GPU evidence: nothing can be put in its place later."""
    worker = Worker()
    bundle = attrs.evolve(worker.bundle(tpm, None), gpu_evidence=worker.gpus([gpu]))
    assert codes(worker.judge(bundle, policy, rims)) == ["binding-mismatch", "gpu-not-bound"]


def test_gpus_that_answered_another_key_set_are_refused(
    tpm: SimulatedTpm, gpu: SimulatedDevice, policy: Policy, rims: Collateral
) -> None:
    """A worker that signs a digest of somebody else's GPU evidence has no GPU of its own."""
    worker, other = Worker(), Worker()
    bundle = worker.bundle(tpm, other.gpus([gpu]))
    assert codes(worker.judge(bundle, policy, rims)) == ["gpu-nonce-mismatch"]


def test_gpu_evidence_taken_away_is_refused(
    tpm: SimulatedTpm, gpu: SimulatedDevice, policy: Policy, rims: Collateral
) -> None:
    worker = Worker()
    bundle = attrs.evolve(worker.bundle(tpm, worker.gpus([gpu])), gpu_evidence=None)
    optional = attrs.evolve(policy, gpu=attrs.evolve(GPU_POLICY, required=False))
    assert codes(worker.judge(bundle, optional, rims)) == ["binding-mismatch"]


def test_one_of_the_gpus_left_out_is_refused(
    tpm: SimulatedTpm,
    vendor: SimulatedNvidia,
    gpu: SimulatedDevice,
    policy: Policy,
    rims: Collateral,
) -> None:
    worker = Worker()
    bundle = worker.bundle(tpm, worker.gpus([gpu, vendor.device()]))
    fewer = attrs.evolve(bundle, gpu_evidence=worker.gpus([gpu]))
    assert "binding-mismatch" in codes(worker.judge(fewer, policy, rims))


@pytest.mark.parametrize("data", [b"", b"a GPU", b"\xa0"])
def test_garbage_instead_of_gpu_evidence_is_malformed(
    data: bytes, tpm: SimulatedTpm, policy: Policy, rims: Collateral
) -> None:
    worker = Worker()
    assert codes(worker.judge(worker.bundle(tpm, data), policy, rims)) == ["malformed"]


def test_gpus_beside_insecure_evidence_are_never_affirming(
    gpu: SimulatedDevice, rims: Collateral
) -> None:
    """Nothing says that they belong to the worker: anyone can ask some GPU to sign this nonce."""
    worker = Worker()
    gpus = worker.gpus([gpu])
    data = report_data(worker.keyset.keyset_id(), worker.tree.root, gpus)
    bundle = EvidenceBundle(
        kind="insecure",
        keyset=worker.keyset.to_bytes(),
        nonce_root=worker.tree.root,
        gpu_evidence=gpus,
        body=InsecureEvidence(report_data=data).to_bytes(),
    )
    allowed = attrs.evolve(insecure_policy(), gpu=GPU_POLICY)
    result = worker.judge(bundle, allowed, rims)
    assert (result.tier, result.checks[-1].code) == (Tier.WARNING, "gpu-not-bound")
    assert result.insecure
    refused = attrs.evolve(insecure_policy(allow=False), gpu=GPU_POLICY)
    assert codes(worker.judge(bundle, refused, rims)) == ["insecure-refused", "gpu-not-bound"]


def test_gpus_beside_a_cpu_that_is_not_genuine_are_not_bound(
    gpu: SimulatedDevice, policy: Policy, rims: Collateral
) -> None:
    worker = Worker()
    result = worker.judge(worker.bundle(SimulatedTpm(), worker.gpus([gpu])), policy, rims)
    assert codes(result) == ["ak-not-endorsed", "gpu-not-bound"]
    assert result.tier is Tier.CONTRAINDICATED


def test_gpus_are_not_looked_at_where_the_cpus_evidence_makes_no_sense(
    tpm: SimulatedTpm, gpu: SimulatedDevice, policy: Policy, rims: Collateral
) -> None:
    worker = Worker()
    bundle = attrs.evolve(worker.bundle(tpm, worker.gpus([gpu])), body=b"no quote")
    result = worker.judge(bundle, policy, rims)
    assert codes(result) == ["malformed"]
    assert {check.code for check in result.checks[-18:]} == {NOT_REACHED}


# -- mode --


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"enabled": False}, "gpu-not-confidential"),
        ({"developer_tools": True}, "gpu-developer-mode"),
    ],
)
def test_gpus_that_others_can_read_are_refused(
    change: dict[str, bool],
    code: str,
    tpm: SimulatedTpm,
    gpu: SimulatedDevice,
    policy: Policy,
    rims: Collateral,
) -> None:
    worker = Worker()
    result = worker.judge(worker.bundle(tpm, worker.gpus([gpu], **change)), policy, rims)
    assert codes(result) == [code]


@pytest.mark.parametrize("mode", [None, 2])
def test_a_gpu_behind_a_switch_that_is_not_attested_is_refused(
    mode: int | None, tpm: SimulatedTpm, vendor: SimulatedNvidia, policy: Policy
) -> None:
    """In protected-PCIe mode, links between GPUs are in clear inside the switches."""
    first, second = os.urandom(8), os.urandom(8)
    gpu = vendor.device(mode=mode, switch_pdis=[first, second, bytes(8), b"\xff" * 8])
    switches = [vendor.device("LS_10", switch_pdis=[pdi]) for pdi in (first, second)]
    documents = [
        vendor.driver_rim(gpu),
        vendor.firmware_rim(gpu),
        vendor.firmware_rim(switches[0]),
    ]
    rims = Collateral.from_items([(CollateralKind.NVIDIA_RIM, data) for data in documents])
    worker = Worker()
    whole = worker.bundle(tpm, worker.gpus([gpu, *switches]))
    assert codes(worker.judge(whole, policy, rims)) == []
    fewer = worker.bundle(tpm, worker.gpus([gpu, switches[0]]))
    assert codes(worker.judge(fewer, policy, rims)) == ["gpu-switch-not-attested"]
