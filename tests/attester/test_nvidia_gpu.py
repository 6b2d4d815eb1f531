"""GPU evidence through the real nvidia-ml-py, with real reports behind a stand-in for its library.

A real report answers one nonce that was chosen long ago, so the tests ask with that nonce; whatever
else they ask must be refused.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen

from attestation.evidence.nvidia_gpu import GpuEvidence
from enclave_worker.attester.nvidia_gpu import NvidiaGpuAttester
from enclave_worker.attester.patience import PAUSES, AttesterFailedError, AttesterMissingError
from tests.simulators import nvml
from tests.simulators.nvml import FakeGpu, FakeNvml, loaded

REPORT = "nvmlDeviceGetConfComputeGpuAttestationReport"
CERTIFICATE = "nvmlDeviceGetConfComputeGpuCertificate"
SETTINGS = "nvmlSystemGetConfComputeSettings"
STATE = "nvmlSystemGetConfComputeState"
GET_READY = "nvmlSystemGetConfComputeGpusReadyState"
SET_READY = "nvmlSystemSetConfComputeGpusReadyState"


@frozen(kw_only=True)
class Recorded:
    """A real GPU's answer."""

    nonce: bytes
    report: bytes
    chain: bytes

    def gpu(self) -> FakeGpu:
        return FakeGpu(report=lambda _nonce: self.report, chain=self.chain)


def recorded(vectors: Path, name: str) -> Recorded:
    index = json.loads((vectors / "index.shared.json").read_text())
    (entry,) = [
        entry
        for entry in index["entries"]
        if (entry["kind"], entry["name"]) == ("nvidia-gpu", name)
    ]
    return Recorded(
        nonce=bytes.fromhex(entry["checks"][0]["expected"]["nonce"]),
        report=(vectors / entry["files"]["report"]).read_bytes(),
        chain=(vectors / entry["files"]["cert_chain"]).read_bytes(),
    )


@pytest.fixture(params=["hopper-550.90.07-full", "blackwell-575.32"])
def real(request: pytest.FixtureRequest, vectors: Path) -> Recorded:
    return recorded(vectors, request.param)


@pytest.fixture
def hopper(vectors: Path) -> Recorded:
    return recorded(vectors, "hopper-550.90.07-full")


def echoing(hopper: Recorded) -> FakeGpu:
    """A GPU that answers any nonce: a real report with the nonce put in. Signed by nobody."""
    return FakeGpu(
        report=lambda nonce: hopper.report[:4] + nonce + hopper.report[36:], chain=hopper.chain
    )


def attester(sleep: Callable[[float], None] = lambda _seconds: None) -> NvidiaGpuAttester:
    return NvidiaGpuAttester(sleep=sleep)


def test_a_real_report_and_its_chain_come_out_byte_for_byte(real: Recorded) -> None:
    with loaded(FakeNvml(gpus=[real.gpu()])):
        evidence = GpuEvidence.from_bytes(attester().collect(real.nonce))
    (device,) = evidence.devices
    assert device.report == real.report
    assert len(device.certificates) >= 4
    assert evidence.state.enabled
    assert not evidence.state.developer_tools


def test_a_trailing_byte_of_the_driver_breaks_nothing(vectors: Path) -> None:
    """NVML of R580 counts one byte more than the GPU wrote."""
    real = recorded(vectors, "hopper-580.95.05-trailing-byte")
    with loaded(FakeNvml(gpus=[real.gpu()])):
        assert attester().collect(real.nonce)


def test_every_gpu_of_the_machine_is_asked_with_the_same_nonce(hopper: Recorded) -> None:
    with loaded(FakeNvml(gpus=[hopper.gpu()] * 8)) as library:
        evidence = GpuEvidence.from_bytes(attester().collect(hopper.nonce))
    assert len(evidence.devices) == 8
    assert library.calls[REPORT] == 8


def test_a_report_that_answers_another_nonce_is_refused(hopper: Recorded) -> None:
    """A driver, or whoever sits below it, replays a good report."""
    with (
        loaded(FakeNvml(gpus=[hopper.gpu()])),
        pytest.raises(AttesterFailedError, match="another nonce"),
    ):
        attester().collect(bytes(32))


def test_one_bad_gpu_among_good_ones_is_no_evidence_at_all(hopper: Recorded) -> None:
    replaying = FakeGpu(
        report=lambda _nonce: hopper.report[:4] + bytes(32) + hopper.report[36:],
        chain=hopper.chain,
    )
    with (
        loaded(FakeNvml(gpus=[hopper.gpu(), replaying])),
        pytest.raises(AttesterFailedError, match="GPU 1"),
    ):
        attester().collect(hopper.nonce)


@pytest.mark.parametrize("nonce", [b"", bytes(31), bytes(33), bytes(64)])
def test_a_nonce_of_another_length_reaches_no_gpu(hopper: Recorded, nonce: bytes) -> None:
    with loaded(FakeNvml(gpus=[hopper.gpu()])) as library:
        with pytest.raises(AttesterFailedError, match="nonce"):
            attester().collect(nonce)
        assert library.calls[REPORT] == 0


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"confidential": 0}, "is off"),
        ({"confidential": 0, "multi_gpu": 2}, "is off"),
        ({"developer_tools": 1}, "developer tools"),
        ({"environment": 1}, "simulated"),
        ({"environment": 0}, "simulated"),
        ({"gpus": ()}, "no GPU"),
        ({"absent": frozenset({SETTINGS, STATE})}, "knows no confidential mode"),
        ({"failures": {"nvmlInitWithFlags": [nvml.DRIVER_NOT_LOADED]}}, "no NVIDIA driver"),
    ],
)
def test_gpus_outside_confidential_mode_have_nothing_to_say(
    hopper: Recorded, changes: dict[str, Any], reason: str
) -> None:
    """Developer mode too: it looks confidential and lets debuggers read the GPU's memory."""
    with (
        loaded(FakeNvml(**{"gpus": [hopper.gpu()], **changes})),
        pytest.raises(AttesterMissingError, match=reason),
    ):
        attester()


def test_a_mode_that_is_turned_off_later_is_noticed(hopper: Recorded) -> None:
    with loaded(FakeNvml(gpus=[hopper.gpu()])) as library:
        ours = attester()
        library.developer_tools = 1
        with pytest.raises(AttesterMissingError, match="developer tools"):
            ours.collect(hopper.nonce)


def test_protected_pcie_counts_as_confidential(hopper: Recorded) -> None:
    with loaded(FakeNvml(gpus=[hopper.gpu()], confidential=0, multi_gpu=1)):
        assert attester().collect(hopper.nonce)


def test_a_failing_settings_call_is_not_taken_for_an_answer(hopper: Recorded) -> None:
    """nvidia-ml-py returns its code where every other function raises."""
    library = FakeNvml(gpus=[hopper.gpu()], failures={SETTINGS: [nvml.GPU_IS_LOST]})
    with loaded(library), pytest.raises(AttesterFailedError, match="lost"):
        attester()


def test_a_driver_that_knows_only_the_older_call_is_asked_with_it(hopper: Recorded) -> None:
    with loaded(FakeNvml(gpus=[hopper.gpu()], absent=frozenset({SETTINGS}))) as library:
        assert attester().collect(hopper.nonce)
        library.confidential = 0
        with pytest.raises(AttesterMissingError):
            attester()


@pytest.mark.parametrize("code", [nvml.IN_USE, nvml.TIMEOUT])
def test_a_busy_gpu_is_waited_for_so_long_and_no_longer(hopper: Recorded, code: int) -> None:
    slept: list[float] = []
    library = FakeNvml(gpus=[hopper.gpu()], failures={REPORT: [code, code]})
    with loaded(library):
        assert attester(slept.append).collect(hopper.nonce)
        library.failures[REPORT] = [code] * 100
        slept.clear()
        with pytest.raises(AttesterFailedError):
            attester(slept.append).collect(hopper.nonce)
    assert slept == list(PAUSES)


@pytest.mark.parametrize("function", [REPORT, CERTIFICATE])
@pytest.mark.parametrize("code", [nvml.NOT_SUPPORTED, nvml.GPU_IS_LOST, 999])
def test_a_gpu_that_fails_is_an_error_of_ours(hopper: Recorded, function: str, code: int) -> None:
    library = FakeNvml(gpus=[hopper.gpu()], failures={function: [code]})
    with loaded(library), pytest.raises(AttesterFailedError, match="NVML"):
        attester().collect(hopper.nonce)


@pytest.mark.parametrize("sizes", [(0, 100), (8193, 100), (1 << 31, 100), (4000, 0), (4000, 5121)])
def test_sizes_that_do_not_fit_nvmls_buffers_are_refused(
    hopper: Recorded, sizes: tuple[int, int]
) -> None:
    with loaded(FakeNvml(gpus=[hopper.gpu()], sizes=sizes)), pytest.raises(AttesterFailedError):
        attester().collect(hopper.nonce)


@pytest.mark.parametrize(
    "gpu",
    [
        FakeGpu(report=lambda _nonce: b"\x00" * 500, chain=b"none"),
        FakeGpu(report=lambda nonce: b"\x11\xe0\x01\xff" + nonce + b"\x00", chain=b"none"),
    ],
)
def test_what_is_no_report_is_refused(gpu: FakeGpu) -> None:
    with loaded(FakeNvml(gpus=[gpu])), pytest.raises(AttesterFailedError, match="not readable"):
        attester().collect(bytes(32))


def test_a_chain_that_is_no_pem_is_refused(hopper: Recorded) -> None:
    gpu = FakeGpu(report=lambda _nonce: hopper.report, chain=b"-----BEGIN CERTIFICATE-----\nA")
    with loaded(FakeNvml(gpus=[gpu])), pytest.raises(AttesterFailedError, match="not readable"):
        attester().collect(hopper.nonce)


def test_gpus_are_made_ready_after_all_of_them_attested(hopper: Recorded) -> None:
    with loaded(FakeNvml(gpus=[echoing(hopper)] * 2)) as library:
        assert attester().make_ready()
        assert library.ready == 1
        assert library.calls[REPORT] == 2
        assert not attester().make_ready()
        assert library.calls[SET_READY] == 1


@pytest.mark.parametrize("second", ["replays", "fails", "nonsense"])
def test_gpus_are_not_made_ready_when_one_of_them_does_not_attest(
    hopper: Recorded, second: str
) -> None:
    """Ready lets programs use the GPUs: it must be the consequence of an attestation."""
    library = FakeNvml(gpus=[echoing(hopper), echoing(hopper)])
    if second == "fails":
        library.failures[REPORT] = [nvml.SUCCESS, 999]
    else:
        answer = hopper.report if second == "replays" else b"\0" * 300
        library.gpus = [echoing(hopper), FakeGpu(report=lambda _n: answer, chain=hopper.chain)]
    with loaded(library), pytest.raises(AttesterFailedError):
        attester().make_ready()
    assert library.ready == 0
    assert library.calls[SET_READY] == 0


def test_a_driver_without_a_ready_state_needs_none(hopper: Recorded) -> None:
    library = FakeNvml(gpus=[echoing(hopper)], failures={GET_READY: [nvml.NOT_SUPPORTED]})
    with loaded(library):
        assert not attester().make_ready()
    assert library.calls[SET_READY] == 0


def test_a_worker_that_may_not_make_them_ready_says_the_command(hopper: Recorded) -> None:
    library = FakeNvml(gpus=[echoing(hopper)], failures={SET_READY: [nvml.NO_PERMISSION]})
    with loaded(library), pytest.raises(AttesterFailedError, match="conf-compute -srs 1"):
        attester().make_ready()


def test_too_many_gpus_are_refused(hopper: Recorded) -> None:
    with loaded(FakeNvml(gpus=[hopper.gpu()] * 65)), pytest.raises(AttesterFailedError):
        attester()
