"""Which collateral a piece of evidence will need, read from the evidence itself.

Nothing is verified here: evidence that lies makes somebody fetch something of no use.
"""

from collections.abc import Callable, Mapping
from typing import Final

from cryptography import x509

from attestation.cli.collateral_wishes import Chip, Platform, Wishes
from attestation.endorsements.chains import parse_certificate
from attestation.endorsements.intel_chain import split_certificates
from attestation.endorsements.intel_pck import PckCa, read_pck, read_pck_ca
from attestation.errors import DecodeError
from attestation.evidence import azure_vtpm, sev_snp, sgx, tdx
from attestation.evidence.bundle import EvidenceBundle
from attestation.evidence.intel_quote import Quote
from attestation.evidence.nvidia_gpu import DeviceKind, DeviceReport, GpuDevice, GpuEvidence
from attestation.evidence.nvidia_opaque import OpaqueField

_BOARD: Final = (OpaqueField.PROJECT, OpaqueField.PROJECT_SKU, OpaqueField.CHIP_SKU)
_SWITCH_BOARD: Final = "5612_0002_890"
"""A switch does not report its board; the LS10 of Hopper machines is the one that attests."""


def wishes_of(bundle: EvidenceBundle) -> Wishes:
    """Return what an appraisal of `bundle` will look for; raises `DecodeError`."""
    read = _READERS.get(bundle.kind)
    wishes = Wishes() if read is None else read(bundle.body)
    if bundle.gpu_evidence is not None:
        for device in GpuEvidence.from_bytes(bundle.gpu_evidence).devices:
            wishes = wishes.and_those_of(_gpu(device))
    return wishes


def _sev_snp(body: bytes) -> Wishes:
    evidence = sev_snp.SevSnpEvidence.from_bytes(body)
    present = bool(evidence.certificates or evidence.certificate_table)
    return _amd(evidence.report, certificate_present=present)


def _azure_snp(body: bytes) -> Wishes:
    evidence = azure_vtpm.AzureSnpVtpmEvidence.from_bytes(body)
    report = azure_vtpm.HclReport.from_bytes(evidence.hcl_report).hardware_report
    return _amd(report, certificate_present=bool(evidence.snp_certificates))


def _amd(data: bytes, *, certificate_present: bool) -> Wishes:
    report = sev_snp.Report.from_bytes(data)
    if report.product is None:
        raise DecodeError("a report that does not name its product: use --amd and --amd-vcek")
    chip = Chip(product=report.product, chip_id=report.chip_id, tcb=report.reported_tcb)
    # A VLEK is its provider's, and a hidden id names no chip: AMD gives out neither.
    wanted = report.signer is sev_snp.Signer.VCEK and any(report.chip_id)
    return Wishes(
        amd=(report.product,), amd_vcek=(chip,) if wanted and not certificate_present else ()
    )


def _tdx(body: bytes) -> Wishes:
    evidence = tdx.TdxEvidence.from_bytes(body)
    return _intel(evidence.quote, evidence.certificates)


def _sgx(body: bytes) -> Wishes:
    evidence = sgx.SgxEvidence.from_bytes(body)
    return _intel(evidence.quote, evidence.certificates)


def _azure_tdx(body: bytes) -> Wishes:
    return _intel(azure_vtpm.AzureTdxVtpmEvidence.from_bytes(body).td_quote, ())


def _intel(data: bytes, beside: tuple[bytes, ...]) -> Wishes:
    quote = Quote.from_bytes(data)
    certification = quote.certification
    chain = split_certificates(certification.data) if certification.has_certificates else beside
    if not chain:
        raise DecodeError("a quote without its PCK certificate: use --intel")
    leaf = parse_certificate(chain[0])
    ca = read_pck_ca(leaf.issuer) or PckCa.PLATFORM
    platform = Platform(tee=quote.tee, fmspc=read_pck(leaf).fmspc, ca=ca)
    return Wishes(intel=(platform,))


def _gpu(device: GpuDevice) -> Wishes:
    chain = tuple(map(parse_certificate, device.certificates))
    return Wishes(nvidia_rim=_rims(device, chain), nvidia_ocsp=(chain,))


def _rims(device: GpuDevice, chain: tuple[x509.Certificate, ...]) -> tuple[str, ...]:
    """Return the ids of the RIM service (NVIDIA, "RIM ID Naming Convention")."""
    report = DeviceReport.from_bytes(device.report, device.kind)
    version = (report.vbios_version or "").replace(".", "").upper()
    if device.kind is DeviceKind.SWITCH:
        return (f"NV_SWITCH_BIOS_{_SWITCH_BOARD}_{version}",) if version else ()
    board = [report.opaque.text(name) for name in _BOARD]
    found = []
    if report.driver_version is not None:
        found.append(f"NV_GPU_DRIVER_{_chip(chain)}_{report.driver_version}")
    if version and None not in board:
        found.append("_".join(["NV_GPU_VBIOS", *(part or "" for part in board), version]).upper())
    return tuple(found)


def _chip(chain: tuple[x509.Certificate, ...]) -> str:
    names = chain[0].subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME) if chain else []
    if not names:
        raise DecodeError("a device certificate without a name")
    return str(names[0].value).split(" ")[0].upper()


_READERS: Final[Mapping[str, Callable[[bytes], Wishes]]] = {
    sev_snp.KIND: _sev_snp,
    tdx.KIND: _tdx,
    sgx.KIND: _sgx,
    azure_vtpm.SNP_KIND: _azure_snp,
    azure_vtpm.TDX_KIND: _azure_tdx,
}
"""Kinds of which vendors give out anything. A TPM's maker has no service that all of them have."""
