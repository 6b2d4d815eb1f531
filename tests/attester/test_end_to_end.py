"""From the kernel's device to a client's verdict, with AMD's part played by a simulated AMD.

The evidence is made by the code that runs in a worker, through real system calls; the report is
signed by a simulated chip under simulated roots, which count only inside `trusting`.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import attrs
import numpy as np
import pytest

from attestation.appraisal.result import AttestationResult
from attestation.appraisal.verifier import appraise
from attestation.client.client import Client
from attestation.client.errors import NoWorkerError, PolicyUnmetError
from attestation.endorsements.collateral import Collateral, CollateralKind
from attestation.policy.nvidia import GpuPolicy
from attestation.policy.policy import CataloguePolicy, Policy
from enclave_worker.attester.collect import Attester, EvidenceCollector, Window
from enclave_worker.attester.configfs_tsm import ConfigfsTsm
from enclave_worker.attester.nvidia_gpu import NvidiaGpuAttester
from enclave_worker.attester.sev_guest import SevGuest, SevGuestAttester
from enclave_worker.attester.tsm import TsmAttester
from tests.attester.conftest import Mount
from tests.scenarios import processes
from tests.scenarios.processes import Site
from tests.simulators import amd, configfs_tsm, sev_guest
from tests.simulators.amd import SimulatedAmd, SimulatedChip, snp_policy, trusting, whole_policy
from tests.simulators.evidence import NOW, draw_keyset
from tests.simulators.nvidia import SimulatedDevice, SimulatedNvidia
from tests.simulators.nvml import FakeGpu, FakeNvml, loaded

DAY = timedelta(days=1)

COMPOSITE = attrs.evolve(
    whole_policy(snp_policy()),
    gpu=GpuPolicy(
        required=True,
        families=("hopper",),
        minimum_driver=None,
        minimum_firmware=(("hopper", None),),
        devices=None,
        require_rim=True,
        require_ocsp=False,
    ),
)

Items = Sequence[tuple[CollateralKind, bytes]]
Machine = Callable[[SimulatedChip, Mount], Attester]


def firmware(chip: SimulatedChip) -> Callable[[bytes, int], tuple[bytes, bytes]]:
    """Reports of `chip`, and the certificate table that a good host puts beside them."""
    table = amd.table((amd.VCEK_GUID, chip.vendor.certify(chip)))

    def make_report(report_data: bytes, privilege: int) -> tuple[bytes, bytes]:
        return chip.but(vmpl=privilege).report(report_data), table

    return make_report


def new_kernel(chip: SimulatedChip, mount: Mount) -> Attester:
    kernel = configfs_tsm.ConfigfsTsm(make_report=firmware(chip))
    return TsmAttester(ConfigfsTsm(mount(kernel) / "tsm/report"))


def old_kernel(chip: SimulatedChip, mount: Mount) -> Attester:
    driver = sev_guest.SevGuest(make_report=firmware(chip))
    return SevGuestAttester(SevGuest(mount(driver) / "sev-guest"))


def revocations(vendor: SimulatedAmd, *, now: datetime = NOW) -> Collateral:
    return amd.collateral(vendor.crl(begins=now - DAY, ends=now + DAY))


def judged(
    window: Window,
    nonce: bytes,
    vendor: SimulatedAmd,
    policy: Policy,
    *,
    place: int = 0,
    more: Items = (),
) -> AttestationResult:
    return appraise(
        window.bundle,
        policy=policy,
        nonce=nonce,
        path=window.proofs[place],
        now=NOW,
        collateral=Collateral.from_items(more).over(revocations(vendor)),
    )


def collector(attester: Attester, gpus: NvidiaGpuAttester | None = None) -> EvidenceCollector:
    return EvidenceCollector(attester, draw_keyset=draw_keyset, gpu_attester=gpus)


@pytest.mark.parametrize("machine", [new_kernel, old_kernel])
def test_evidence_made_through_the_kernel_is_accepted(machine: Machine, mount: Mount) -> None:
    chip = SimulatedChip()
    nonces = [os.urandom(32) for _ in range(3)]
    window = collector(machine(chip, mount)).collect_window(nonces)
    assert window.bundle.kind == "sev-snp"
    with trusting(chip.vendor):
        for place, nonce in enumerate(nonces):
            result = judged(window, nonce, chip.vendor, whole_policy(snp_policy()), place=place)
            assert result.accepted, result.refusals
            assert result.recipient_key().public_bytes == window.keyset.kem_public_key


@pytest.mark.parametrize("machine", [new_kernel, old_kernel])
def test_without_our_own_roots_the_same_evidence_is_refused(machine: Machine, mount: Mount) -> None:
    """The simulator is nobody: nothing but `trusting` makes its roots count."""
    chip = SimulatedChip()
    nonce = os.urandom(32)
    window = collector(machine(chip, mount)).collect_window([nonce])
    result = judged(window, nonce, chip.vendor, whole_policy(snp_policy()))
    assert not result.accepted


@pytest.mark.parametrize("machine", [new_kernel, old_kernel])
def test_a_guest_with_another_measurement_is_refused(machine: Machine, mount: Mount) -> None:
    chip = SimulatedChip(measurement=bytes(48))
    nonce = os.urandom(32)
    window = collector(machine(chip, mount)).collect_window([nonce])
    with trusting(chip.vendor):
        result = judged(window, nonce, chip.vendor, whole_policy(snp_policy()))
    assert not result.accepted


def test_evidence_of_one_window_beside_the_keys_of_another_is_refused(mount: Mount) -> None:
    """What a coordinator would do that has seen both, or a host that replays a report."""
    chip = SimulatedChip()
    ours = collector(new_kernel(chip, mount))
    nonce = os.urandom(32)
    first, second = ours.collect_window([nonce]), ours.collect_window([nonce])
    mixed = attrs.evolve(second, bundle=attrs.evolve(second.bundle, body=first.bundle.body))
    with trusting(chip.vendor):
        result = judged(mixed, nonce, chip.vendor, whole_policy(snp_policy()))
    assert [check.code for check in result.refusals] == ["binding-mismatch"]


@pytest.fixture
def nvidia(monkeypatch: pytest.MonkeyPatch) -> SimulatedNvidia:
    vendor = SimulatedNvidia()
    vendor.trust(monkeypatch)
    return vendor


def machine_with(devices: Sequence[SimulatedDevice]) -> FakeNvml:
    return FakeNvml(gpus=[FakeGpu(report=each.report, chain=each.pem_chain) for each in devices])


def manifests(nvidia: SimulatedNvidia, device: SimulatedDevice) -> Items:
    documents = (nvidia.driver_rim(device), nvidia.firmware_rim(device))
    return [(CollateralKind.NVIDIA_RIM, document) for document in documents]


def test_processor_and_gpus_of_one_machine_are_accepted_together(
    mount: Mount, nvidia: SimulatedNvidia
) -> None:
    chip, devices = SimulatedChip(), [nvidia.device(), nvidia.device()]
    nonce = os.urandom(32)
    with loaded(machine_with(devices)), trusting(chip.vendor):
        ours = collector(new_kernel(chip, mount), NvidiaGpuAttester())
        window = ours.collect_window([nonce])
        more = manifests(nvidia, devices[0])
        result = judged(window, nonce, chip.vendor, COMPOSITE, more=more)
    assert result.accepted, result.refusals


def test_gpu_evidence_that_was_taken_away_is_missed(mount: Mount, nvidia: SimulatedNvidia) -> None:
    """The processor signs a digest of the GPU evidence, and another one for its absence."""
    chip, nonce = SimulatedChip(), os.urandom(32)
    with loaded(machine_with([nvidia.device()])), trusting(chip.vendor):
        ours = collector(new_kernel(chip, mount), NvidiaGpuAttester())
        window = ours.collect_window([nonce])
        bundle = attrs.evolve(window.bundle, gpu_evidence=None)
        without = attrs.evolve(window, bundle=bundle)
        result = judged(without, nonce, chip.vendor, whole_policy(snp_policy()))
    assert "binding-mismatch" in [check.code for check in result.refusals]


def test_gpu_evidence_of_another_machine_is_refused(mount: Mount, nvidia: SimulatedNvidia) -> None:
    """A machine without confidential GPUs borrows the evidence of one that has some."""
    chip, device, nonce = SimulatedChip(), nvidia.device(), os.urandom(32)
    with loaded(machine_with([device])), trusting(chip.vendor):
        attester = new_kernel(chip, mount)
        borrowed = collector(attester, NvidiaGpuAttester()).collect_window([nonce])
        window = collector(attester).collect_window([nonce])
        mixed = attrs.evolve(
            window,
            bundle=attrs.evolve(window.bundle, gpu_evidence=borrowed.bundle.gpu_evidence),
        )
        more = manifests(nvidia, device)
        result = judged(mixed, nonce, chip.vendor, COMPOSITE, more=more)
    codes = [check.code for check in result.refusals]
    assert "binding-mismatch" in codes
    assert "gpu-nonce-mismatch" in codes


def in_a_machine_with(point: Path) -> list[str]:
    """Return the start of a command line whose /sys/kernel/config is the stand-in at `point`."""
    script = (
        "set -e; mount -t tmpfs none /sys/kernel; mkdir /sys/kernel/config; "
        'mount --bind "$0" /sys/kernel/config; exec "$@"'
    )
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, str(point)]


def require_namespaces(point: Path) -> None:
    if shutil.which("unshare") is None:
        pytest.skip("unshare (util-linux) is not installed")
    tried = subprocess.run(
        [*in_a_machine_with(point), "true"], capture_output=True, timeout=30, check=False
    )
    if tried.returncode:
        pytest.skip(f"mount namespaces are forbidden here ({tried.stderr[:200]!r})")


@pytest.mark.scenario
def test_a_worker_process_in_a_tee_gets_work_from_a_client_who_trusts_it(
    mount: Mount, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole journey: `enclave worker --attester auto` finds the TEE at the kernel's own path.

    A client whose policy wants another measurement gives it nothing.
    """
    chip = SimulatedChip()
    kernel = configfs_tsm.ConfigfsTsm(make_report=firmware(chip))
    point = mount(kernel)
    require_namespaces(point)
    site = tmp_path / "site"
    site.mkdir()
    plain = processes.enclave()
    policy = attrs.evolve(
        whole_policy(snp_policy()), catalogue=CataloguePolicy(accept_any=True, digests=())
    )
    stranger = attrs.evolve(policy, sev_snp=snp_policy(measurements=(bytes(48),)))
    with Site(site) as running, trusting(chip.vendor):
        running.coordinator()
        monkeypatch.setattr(processes, "enclave", lambda: [*in_a_machine_with(point), *plain])
        worker = running.worker("--attester", "auto")
        known = revocations(chip.vendor, now=datetime.now(UTC))
        with Client(running.url, policy=policy, collateral=known) as client:
            x = np.arange(12.0).reshape(3, 4)
            job = client.submit("linalg.matmul", inputs={"a": x, "b": x.T})
            np.testing.assert_allclose(job.result(timeout=60)["c"], x @ x.T)
            assert job.claims.evidence_kind == "sev-snp"
            assert job.claims.confidential
        with (
            Client(running.url, policy=stranger, collateral=known, worker_timeout=3) as client,
            pytest.raises((NoWorkerError, PolicyUnmetError)),
        ):
            client.submit("linalg.matmul", inputs={"a": x, "b": x.T}).result(timeout=60)
        assert '"kind": "sev-snp"' in worker.output
        assert "the kernel offers configfs-tsm of sev_guest" in worker.output
    assert kernel.reports >= 1
    assert kernel.entries == {}
