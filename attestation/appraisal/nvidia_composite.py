"""Appraise the GPUs of a worker: the vendor's evidence, and what ties it to the worker's keys.

The devices answer a nonce that is made of the key set and the Challenges, and the CPU's evidence
signs a digest of theirs. Either alone could be had from another machine. The steps run after the
CPU's and have the numbers that follow.
"""

from typing import Final

from attestation.appraisal import nvidia
from attestation.appraisal.checklist import Checklist, Step, Weakness
from attestation.appraisal.claims import Case, Claims
from attestation.appraisal.nvidia_measurements import Device
from attestation.appraisal.nvidia_refusals import (
    ConfidentialModeError,
    DeveloperModeError,
    GpuEvidenceMissingError,
    GpuNotAcceptedError,
    GpuNotBoundError,
    TopologyError,
)
from attestation.appraisal.result import Question
from attestation.evidence.binding import gpu_nonce
from attestation.evidence.bundle import EvidenceBundle
from attestation.evidence.insecure import KIND as INSECURE
from attestation.evidence.nvidia_gpu import ConfidentialState, DeviceKind, GpuEvidence
from attestation.policy.nvidia import GpuPolicy
from attestation.policy.policy import Policy

STEPS: Final = (
    Step.authentic("GPU record"),
    *nvidia.REPORT_STEPS,
    Step.acceptable("GPU mode"),
    Step.acceptable("GPU topology"),
    Step.authentic("GPU binding"),
)

_PROTECTED: Final = (None, "protected-pcie")
_NOWHERE: Final = (bytes(8), b"\xff" * 8)
"""Port identifiers of links that lead to no switch."""


def presence(bundle: EvidenceBundle, policy: Policy) -> str:
    """Check that there is GPU evidence if and only if the policy has a place for it."""
    if bundle.gpu_evidence is None:
        if policy.gpu is not None and policy.gpu.required:
            raise GpuEvidenceMissingError("none, and the policy says gpu.required = true")
        return "none"
    if policy.gpu is None:
        raise GpuNotAcceptedError(f"{len(bundle.gpu_evidence)} bytes, and no [gpu] table")
    return f"{len(bundle.gpu_evidence)} bytes, appraised below"


def appraise(case: Case, policy: GpuPolicy, gpu_evidence: bytes, checks: Checklist) -> Claims:
    """Run the steps; the claims are worth what their verdict is worth."""
    cpu_is_genuine = checks.holds(Question.AUTHENTIC)
    # (1) The record of the devices parses.
    evidence = checks.need("a record of devices", GpuEvidence.from_bytes, gpu_evidence)
    # (2) to (15) Genuine devices answer the nonce of this key set and run what NVIDIA published.
    devices = nvidia.examine(
        evidence.devices,
        nonce=gpu_nonce(case.keyset.keyset_id(), case.bundle.nonce_root),
        policy=policy,
        collateral=case.collateral,
        now=case.now,
        checks=checks,
    )
    # (16) They keep memory to themselves, as the worker's driver says.
    checks.run(_mode, evidence.state)
    # (17) Nothing between them is unknown.
    checks.run(_topology, devices)
    # (18) Genuine hardware, not only somebody, says that they belong to this worker.
    checks.run(_binding, case, cpu_is_genuine=cpu_is_genuine)
    return nvidia.claims_of(devices)


def _mode(state: ConfidentialState) -> str:
    if state.developer_tools:
        raise DeveloperModeError("the driver says that developer mode is on")
    if not state.enabled:
        raise ConfidentialModeError("the driver says that confidential mode is off")
    return "confidential, not for developers, as the worker's driver says"


def _topology(devices: tuple[Device, ...]) -> str:
    shown = {
        pdi
        for device in devices
        if device.identity.kind is DeviceKind.SWITCH
        for pdi in device.report.switch_pdis
    }
    for device in devices:
        report = device.report
        if device.identity.kind is not DeviceKind.GPU or report.mode not in _PROTECTED:
            continue
        for pdi in report.switch_pdis:
            if pdi not in _NOWHERE and pdi not in shown:
                raise TopologyError(f"{device.name} is connected to switch {pdi.hex()}")
    return f"{len(shown)} switches, no GPU is connected to another"


def _binding(case: Case, *, cpu_is_genuine: bool) -> str | Weakness:
    if case.bundle.kind == INSECURE and case.policy.evidence.allow_insecure_evidence:
        return Weakness(
            code="gpu-not-bound",
            detail="INSECURE: no hardware says that these GPUs belong to this worker",
        )
    if case.bundle.kind == INSECURE or not cpu_is_genuine:
        raise GpuNotBoundError("nothing genuine says that these GPUs belong to this worker")
    return f"evidence of kind {case.bundle.kind!r} signs a digest of it"
