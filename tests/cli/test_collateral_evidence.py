"""What evidence says that it will need, on real evidence: what its verdict then used."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.cli.collateral_evidence import wishes_of
from attestation.errors import DecodeError
from attestation.evidence.bundle import EvidenceBundle
from attestation.evidence.nvidia_gpu import (
    ConfidentialState,
    DeviceKind,
    GpuDevice,
    GpuEvidence,
    certificates_from_pem,
)
from attestation.evidence.sev_snp import Report, SevSnpEvidence
from attestation.evidence.sgx import SgxEvidence
from attestation.evidence.tdx import TdxEvidence

VECTORS = Path(__file__).resolve().parents[2] / ".." / "shared" / "vectors"
INDEX = VECTORS / "index.shared.json"
KINDS = ("sev-snp", "tdx", "sgx", "azure-snp-vtpm", "azure-tdx-vtpm")


def entries(kind: str) -> list[dict[str, Any]]:
    if not INDEX.is_file():
        return []
    return [entry for entry in json.loads(INDEX.read_text())["entries"] if entry["kind"] == kind]


def bundle(kind: str, body: bytes, gpu: bytes | None = None) -> EvidenceBundle:
    return EvidenceBundle(kind=kind, keyset=b"", nonce_root=bytes(32), gpu_evidence=gpu, body=body)


def read(entry: dict[str, Any], role: str) -> bytes:
    return (VECTORS / entry["files"][role]).read_bytes()


def named(kinds: tuple[str, ...], *roles: str) -> list[Any]:
    found = [
        pytest.param(entry, id=f"{kind}-{entry['name']}")
        for kind in kinds
        for entry in entries(kind)
        if all(role in entry["files"] for role in roles)
    ]
    missing = pytest.mark.skip(reason="the shared vectors are not on this machine")
    return found or [pytest.param({}, marks=missing)]


@pytest.mark.parametrize("entry", named(("tdx", "sgx"), "quote"))
def test_a_quote_asks_for_the_collateral_that_its_vector_comes_with(entry: dict[str, Any]) -> None:
    record = TdxEvidence if entry["kind"] == "tdx" else SgxEvidence
    kind = entry["kind"]
    try:
        wishes = wishes_of(bundle(kind, record(quote=read(entry, "quote")).to_bytes()))
    except DecodeError:
        pytest.skip("a quote without its PCK certificate")
    [platform] = wishes.intel
    assert platform.tee == kind.upper()
    names = {check.get("inputs", {}).get("collateral", "") for check in entry["checks"]}
    for name in filter(None, names):
        told = json.loads(json.loads((VECTORS / name).read_text())["tcb_info"])["fmspc"].lower()
        assert platform.fmspc.hex() == told


@pytest.mark.parametrize("entry", named(("sev-snp",), "report"))
def test_a_report_asks_for_its_chip_and_its_product(entry: dict[str, Any]) -> None:
    data = read(entry, "report")[:1184]
    body = SevSnpEvidence(report=data, certificates=(), certificate_table=b"").to_bytes()
    try:
        report = Report.from_bytes(data)
        wishes = wishes_of(bundle("sev-snp", body))
    except DecodeError:
        pytest.skip("a report of version 2, which does not name its product")
    assert wishes.amd == (report.product,)
    if "vlek" in entry["files"] or not any(report.chip_id):
        assert wishes.amd_vcek == ()
    else:
        [chip] = wishes.amd_vcek
        assert (chip.chip_id, chip.tcb) == (report.chip_id, report.reported_tcb)


@pytest.mark.parametrize("entry", named(("nvidia-gpu", "nvidia-nvswitch"), "report", "cert_chain"))
def test_a_device_asks_for_the_manifests_of_its_vector(entry: dict[str, Any]) -> None:
    kind = DeviceKind.GPU if entry["kind"] == "nvidia-gpu" else DeviceKind.SWITCH
    if entry["nature"] != "hardware":
        pytest.skip("a forgery asks for whatever it likes")
    device = GpuDevice(
        kind=kind,
        report=read(entry, "report"),
        certificates=certificates_from_pem(read(entry, "cert_chain")),
    )
    state = ConfidentialState(enabled=True, developer_tools=False)
    gpu = GpuEvidence(state=state, devices=(device,)).to_bytes()
    wishes = wishes_of(bundle("insecure", b"", gpu))
    for role, path in entry["files"].items():
        stem = Path(path).stem.removeprefix("bad_").removesuffix("_expired")
        if role.startswith("rim:") and "tampered" not in stem:
            assert stem in wishes.nvidia_rim
    assert len(wishes.nvidia_ocsp) == 1


@given(st.sampled_from(KINDS), st.binary(max_size=100), st.none() | st.binary(max_size=100))
def test_any_evidence_names_its_needs_or_raises_decode_error(
    kind: str, body: bytes, gpu: bytes | None
) -> None:
    with pytest.raises(DecodeError):
        wishes_of(bundle(kind, body, gpu))


def test_evidence_of_a_kind_without_collateral_needs_none() -> None:
    wishes = wishes_of(bundle("insecure", b"anything"))
    assert (wishes.amd, wishes.intel, wishes.nvidia_rim) == ((), (), ())
