"""GPU evidence: what NVIDIA GPUs and NVSwitches of one machine signed over one nonce.

It travels as `EvidenceBundle.gpu_evidence`, beside evidence of the CPU that signs its digest. Here
it is parsed and not yet believed. A device's own words are in its report; `ConfidentialState` is
what the driver says on the worker, and as trustworthy as the machine that the CPU evidence
describes, since that evidence signs a digest of it.
"""

from enum import StrEnum
from typing import Final, Self

from attrs import field, frozen
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from attestation import limits
from attestation.encoding.record import Record, array, boolean, item, octets, record, word
from attestation.errors import DecodeError
from attestation.evidence.nvidia_opaque import OpaqueData, OpaqueField
from attestation.evidence.spdm import SignedMeasurements

_PDI_BYTES: Final = 8
_VBIOS_BYTES: Final = 8
_FWID_BYTES: Final = 48
_ON: Final = b"\xaa"
_OFF: Final = b"\x55"
_MODE_VERSION: Final = 1


class DeviceKind(StrEnum):
    """What a device is: the RIMs that describe it depend on this."""

    GPU = "gpu"
    SWITCH = "switch"


_MODES: Final = ("single", "multi", "protected-pcie")
"""FEATURE_FLAG: how the GPUs of one machine work together."""


@frozen(kw_only=True)
class ConfidentialState(Record):
    """What the driver says of the machine's mode (nvmlSystemGetConfComputeState)."""

    enabled: bool = item(boolean())
    developer_tools: bool = item(boolean())
    """Developer mode: memory of the GPU can be read by debuggers and profilers."""


@frozen(kw_only=True)
class GpuDevice(Record):
    """One device: its SPDM request and response, and DER certificates, the leaf's first."""

    kind: DeviceKind = item(word(DeviceKind))
    report: bytes = item(octets(limit=limits.SPDM_BYTES), secret=True)
    certificates: tuple[bytes, ...] = item(
        array(octets(limit=limits.CERTIFICATE_BYTES), limit=limits.CERTIFICATES), secret=True
    )


@frozen(kw_only=True)
class GpuEvidence(Record):
    """The devices of one machine. All reports answer the same nonce (`binding.gpu_nonce`)."""

    VERSION = 1
    LIMIT = limits.EVIDENCE_BYTES

    state: ConfidentialState = item(record(ConfidentialState))
    devices: tuple[GpuDevice, ...] = item(array(record(GpuDevice), limit=limits.GPU_DEVICES))

    def __attrs_post_init__(self) -> None:
        """Refuse evidence of nothing."""
        if not self.devices:
            raise DecodeError("GPU evidence without a device")


@frozen(kw_only=True)
class DeviceReport:
    """A device's signed words. None and empty mean that its firmware does not say."""

    measurements: SignedMeasurements
    opaque: OpaqueData = field(repr=False)
    driver_version: str | None
    vbios_version: str | None
    fwid: bytes | None
    nvdec0_enabled: bool | None
    mode: str | None
    switch_pdis: tuple[bytes, ...]
    gpu_pdis: tuple[bytes, ...]

    @classmethod
    def from_bytes(cls, data: bytes, kind: DeviceKind) -> Self:
        """Parse, or raise `DecodeError`. `kind` decides how a VBIOS version is written."""
        measurements = SignedMeasurements.from_bytes(data)
        opaque = OpaqueData.from_bytes(measurements.response.opaque)
        return cls(
            measurements=measurements,
            opaque=opaque,
            driver_version=opaque.text(OpaqueField.DRIVER_VERSION),
            vbios_version=_vbios(opaque, kind),
            fwid=_sized(opaque, OpaqueField.FWID, _FWID_BYTES),
            nvdec0_enabled=_nvdec0(opaque),
            mode=_mode(opaque),
            switch_pdis=opaque.pieces(OpaqueField.SWITCH_PDI, _PDI_BYTES),
            gpu_pdis=opaque.pieces(OpaqueField.GPU_PDI, _PDI_BYTES),
        )

    @property
    def nonce(self) -> bytes:
        """The nonce of the request, which the device signed."""
        return self.measurements.request.nonce


def certificates_from_pem(data: bytes) -> tuple[bytes, ...]:
    """Return the DER of each certificate in a PEM chain as NVML gives it, or raise `DecodeError`.

    NVML's buffer is fixed: a NUL and whatever is after it are left out.
    """
    text = data.split(b"\0")[0]
    if len(text) > limits.CERTIFICATES * limits.CERTIFICATE_BYTES:
        raise DecodeError(f"a certificate chain of {len(text)} bytes")
    try:
        certificates = x509.load_pem_x509_certificates(text)
    except (ValueError, x509.InvalidVersion) as error:
        raise DecodeError(f"not a PEM chain ({error})") from error
    return tuple(entry.public_bytes(serialization.Encoding.DER) for entry in certificates)


def _vbios(opaque: OpaqueData, kind: DeviceKind) -> str | None:
    if kind is DeviceKind.SWITCH:
        return opaque.text(OpaqueField.VBIOS_VERSION)
    value = opaque.value(OpaqueField.VBIOS_VERSION)
    if value is None:
        return None
    if len(value) != _VBIOS_BYTES:
        raise DecodeError(f"a VBIOS version of {len(value)} bytes")
    # Two little-endian words; the lowest byte of the second one is the last part: 96.00.9F.00.01.
    parts = [*reversed(value[:4]), value[4]]
    return ".".join(f"{part:02X}" for part in parts)


def _sized(opaque: OpaqueData, kind: OpaqueField, size: int) -> bytes | None:
    value = opaque.value(kind)
    if not value:
        return None
    if len(value) != size:
        raise DecodeError(f"opaque entry {kind.name} has {len(value)} bytes")
    return value


def _nvdec0(opaque: OpaqueData) -> bool | None:
    value = opaque.value(OpaqueField.NVDEC0_STATUS)
    if value is None:
        return None
    # It decides whether a measurement is left out, so a third value must not mean one of the two.
    if value not in (_ON, _OFF):
        raise DecodeError("NVDEC0 is neither on nor off")
    return value == _ON


def _mode(opaque: OpaqueData) -> str | None:
    value = opaque.value(OpaqueField.FEATURE_FLAG)
    if value is None or opaque.version < _MODE_VERSION:
        return None
    number = int.from_bytes(value, "little")
    return _MODES[number] if number < len(_MODES) else f"mode {number}"
