"""Receipts call a worker confidential only where hardware keeps its operator out."""

import queue
from os import urandom

import attrs
import pytest

from attestation.identifiers import KeySetId
from attestation.receipts.receipt import CONFIDENTIAL_KINDS, DeviceClaims
from attestation.wire.messages import Challenge
from enclave_worker.attester.collect import GpuAttester
from enclave_worker.attesting import Attestations, Collected
from enclave_worker.device.confidential import Mode
from enclave_worker.issuing import ReceiptIssuer
from enclave_worker.keystore import Keystore
from enclave_worker.sessions import SessionTable
from tests.attester.test_batched_freshness import CATALOGUE, NOW_MS

PROCESSOR = DeviceClaims(backend="numpy", name="cpu", sm_count=0, cuda="", libraries={})
GPU = DeviceClaims(
    backend="cupy",
    name="H100",
    sm_count=132,
    cuda="13.0",
    libraries={},
    confidential_mode="on",
)


class Hardware:
    def __init__(self, kind: str) -> None:
        self.kind = kind

    def collect(self, report_data: bytes) -> bytes:
        return report_data


class Gpus:
    def collect(self, nonce: bytes) -> bytes:
        return nonce


def is_confidential(kind: str, device: DeviceClaims, gpus: GpuAttester | None = None) -> bool:
    """Return what the receipts of a window's key set will say."""
    return issuer(kind, device, gpus)[1]._identity.confidential


def issuer(
    kind: str, device: DeviceClaims, gpus: GpuAttester | None = None
) -> tuple[Attestations, ReceiptIssuer]:
    posted: queue.SimpleQueue[Collected] = queue.SimpleQueue()
    attestations = Attestations(
        keystore=Keystore(),
        sessions=SessionTable(),
        attester=Hardware(kind),
        gpu_attester=gpus,
        catalogue=CATALOGUE,
        device=device,
        now_ms=lambda: NOW_MS,
        post=posted.put,
    )
    attestations.receive(bytes(16), Challenge(nonce=urandom(32)).to_bytes(), NOW_MS)
    attestations.tick(NOW_MS + 1000)
    collected = posted.get(timeout=10)
    attestations.collected(collected)
    assert collected.window is not None
    keyset_id: KeySetId = collected.window.keyset.keyset_id()
    return attestations, attestations.issuer(keyset_id)


@pytest.mark.parametrize("kind", sorted(CONFIDENTIAL_KINDS))
def test_a_tee_is_confidential_where_jobs_stay_inside_it(kind: str) -> None:
    assert is_confidential(kind, PROCESSOR)
    assert is_confidential(kind, GPU, Gpus())


@pytest.mark.parametrize("kind", sorted(CONFIDENTIAL_KINDS))
def test_a_tee_with_a_gpu_that_nothing_vouches_for_is_not_confidential(kind: str) -> None:
    """The host reads that GPU's memory, whatever the processor attests."""
    assert not is_confidential(kind, GPU)


@pytest.mark.parametrize("kind", ["tpm", "insecure"])
@pytest.mark.parametrize("device", [PROCESSOR, GPU])
def test_without_a_tee_nothing_is_confidential(kind: str, device: DeviceClaims) -> None:
    assert not is_confidential(kind, device, Gpus())


@pytest.mark.parametrize("mode", ["", *(mode for mode in Mode if mode is not Mode.ON)])
def test_a_gpu_in_any_other_mode_is_never_called_confidential(mode: str) -> None:
    """Even with GPU evidence: what the worker itself sees of the mode counts as well."""
    device = attrs.evolve(GPU, confidential_mode=str(mode))
    assert not any(is_confidential(kind, device, Gpus()) for kind in CONFIDENTIAL_KINDS)


def test_receipts_of_jobs_that_still_run_promise_nothing_once_the_mode_is_lost() -> None:
    attestations, receipts = issuer("sev-snp", GPU, Gpus())
    assert receipts._identity.confidential
    attestations.disclaim(Mode.DEVELOPER_TOOLS)
    assert not receipts._identity.confidential
    assert receipts._identity.device.confidential_mode == "developer-tools"
