"""Appraise NVIDIA GPUs and NVSwitches: the GPU steps of docs/appraisal.md.

A set is judged as a whole: each step looks at every device, and the first that fails is named. This
is the vendor's evidence alone; what ties it to a worker is in `nvidia_composite`.
"""

import itertools
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final

from attrs import frozen
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from attestation.appraisal.checklist import Checklist, Step, Weakness
from attestation.appraisal.claims import Claims
from attestation.appraisal.nvidia_measurements import Device, Manifests, compare
from attestation.appraisal.nvidia_refusals import (
    DeviceKindError,
    DeviceNotAcceptedError,
    DuplicateDeviceError,
    FirmwareIdError,
    GpuNonceError,
    GpuSignatureError,
    GpuVersionError,
    MixedDevicesError,
)
from attestation.endorsements.collateral import Collateral, CollateralKind
from attestation.endorsements.nvidia_chains import p384_key
from attestation.endorsements.nvidia_device import DeviceIdentity
from attestation.endorsements.nvidia_rim import RimKind
from attestation.endorsements.ocsp import OcspMissingError, OcspStaleError, check_ocsp
from attestation.errors import DecodeError, MissingError, VerificationError
from attestation.evidence.nvidia_gpu import DeviceKind, DeviceReport, GpuDevice
from attestation.evidence.spdm import SIGNATURE_BYTES
from attestation.policy.nvidia import GpuPolicy, version_numbers

REPORT_STEPS: Final = (
    Step.authentic("GPU format"),
    Step.authentic("GPU certificates"),
    Step.authentic("GPU revocation"),
    Step.authentic("GPU nonce"),
    Step.authentic("GPU signature"),
    Step.authentic("GPU firmware id"),
    Step.acceptable("GPU duplicates"),
    Step.acceptable("GPU devices"),
    Step.acceptable("GPU versions"),
    Step.acceptable("GPU set"),
    Step.acceptable("driver RIM"),
    Step.acceptable("firmware RIM"),
    Step.acceptable("RIM revocation"),
    Step.acceptable("GPU measurements"),
)

_DECIMAL: Final = 10
_HEXADECIMAL: Final = 16


@frozen(kw_only=True)
class _Setting:
    """What every step judges by."""

    devices: tuple[Device, ...]
    shown: tuple[GpuDevice, ...]
    policy: GpuPolicy
    manifests: Manifests
    ocsp: tuple[bytes, ...]
    now: datetime


def examine(
    shown: Sequence[GpuDevice],
    *,
    nonce: bytes,
    policy: GpuPolicy,
    collateral: Collateral,
    now: datetime,
    checks: Checklist,
) -> tuple[Device, ...]:
    """Run `REPORT_STEPS`; return the devices, which are worth what the verdict is worth."""
    # (1) Every report parses.
    reports = checks.need(f"{len(shown)} devices", _parse, shown)
    # (2) Their certificates lead to NVIDIA's device root.
    identities = checks.need("to the Device Identity CA", _identify, shown, now)
    devices = tuple(
        Device(name=f"{entry.kind.value} {number}", identity=identity, report=report)
        for number, (entry, identity, report) in enumerate(
            zip(shown, identities, reports, strict=True)
        )
    )
    setting = _Setting(
        devices=devices,
        shown=tuple(shown),
        policy=policy,
        manifests=Manifests(documents=collateral.of(CollateralKind.NVIDIA_RIM), now=now),
        ocsp=collateral.of(CollateralKind.NVIDIA_OCSP),
        now=now,
    )
    # (3) None of them was revoked.
    checks.run(_revocation, setting)
    # (4) They answer this nonce, (5) signed by the key of the firmware that (6) they name.
    checks.run(_nonce, devices, nonce)
    checks.run(_signatures, devices)
    checks.run(_firmware_ids, devices)
    # (7) Each is another device, (8) of a kind that the policy names, (9) new enough, (10) alike.
    checks.run(_duplicates, setting)
    checks.run(_accepted, setting)
    checks.run(_versions, setting)
    checks.run(_alike, devices)
    # (11), (12) NVIDIA published manifests of what runs, (13) whose signers are not revoked,
    checks.run(_rims, setting, (RimKind.DRIVER,))
    checks.run(_rims, setting, (RimKind.VBIOS, RimKind.SWITCH_BIOS))
    checks.run(_rim_revocation, setting)
    # (14) and that is what was measured.
    checks.run(_measurements, setting)
    return devices


def claims_of(devices: Sequence[Device]) -> Claims:
    """Return what the devices say, by their names."""
    return {device.name: _claim(device) for device in devices}


def _claim(device: Device) -> str:
    report, identity = device.report, device.identity
    parts = [identity.chip, f"serial {identity.serial}"]
    if report.driver_version is not None:
        parts.append(f"driver {report.driver_version}")
    parts.append(f"firmware {report.vbios_version or 'not told'}")
    parts.append("firmware id " + ("not told" if report.fwid is None else report.fwid.hex()[:16]))
    if report.mode is not None:
        parts.append(f"mode {report.mode}")
    return ", ".join(parts)


def _parse(shown: Sequence[GpuDevice]) -> tuple[DeviceReport, ...]:
    return tuple(DeviceReport.from_bytes(entry.report, entry.kind) for entry in shown)


def _identify(shown: Sequence[GpuDevice], now: datetime) -> tuple[DeviceIdentity, ...]:
    return tuple(DeviceIdentity.verify(entry.certificates, now=now) for entry in shown)


def _revocation(setting: _Setting) -> str | Weakness:
    # The leaf is made anew by the boot ROM for each firmware; nobody answers for it.
    return _not_revoked(setting, [device.identity.line[1:] for device in setting.devices])


def _not_revoked(setting: _Setting, lines: Sequence[Sequence[x509.Certificate]]) -> str | Weakness:
    pairs = dict.fromkeys(pair for line in lines for pair in itertools.pairwise(line))
    unknown: Exception | None = None
    for certificate, issuer in pairs:
        try:
            check_ocsp(certificate, issuer=issuer, responses=setting.ocsp, now=setting.now)
        except (OcspMissingError, OcspStaleError) as error:
            if setting.policy.require_ocsp:
                raise
            unknown = error
    if unknown is not None:
        return Weakness(
            code="revocation-unknown",
            detail=f'{unknown}: the policy says ocsp = "optional"',
        )
    return f"{len(pairs)} certificates are good"


def _nonce(devices: Sequence[Device], nonce: bytes) -> str:
    for device in devices:
        if device.report.nonce != nonce:
            raise GpuNonceError(f"{device.name} answers {device.report.nonce.hex()}")
    return "every device answers it"


def _signatures(devices: Sequence[Device]) -> str:
    half = SIGNATURE_BYTES // 2
    for device in devices:
        measurements = device.report.measurements
        signature = measurements.response.signature
        r, s = (int.from_bytes(part, "big") for part in (signature[:half], signature[half:]))
        key = p384_key(device.identity.line[0])
        try:
            key.verify(encode_dss_signature(r, s), measurements.signed, ec.ECDSA(hashes.SHA384()))
        except InvalidSignature as error:
            raise GpuSignatureError(f"{device.name} did not sign its report") from error
    return "signed by the devices' keys"


def _firmware_ids(devices: Sequence[Device]) -> str:
    silent = [device.name for device in devices if device.report.fwid is None]
    for device in devices:
        if device.report.fwid not in (None, device.identity.fwid):
            raise FirmwareIdError(f"{device.name}: not the firmware of its certificate")
    if silent:
        return f"not told by {', '.join(silent)}; there is nothing to compare"
    return "the firmware that the certificates name"


def _duplicates(setting: _Setting) -> str:
    seen: dict[object, str] = {}
    for device, entry in zip(setting.devices, setting.shown, strict=True):
        for mark in (device.identity.serial, device.identity.line[0], entry.report):
            if mark in seen:
                raise DuplicateDeviceError(f"{device.name} is {seen[mark]} again")
        marks = (device.identity.serial, device.identity.line[0], entry.report)
        seen |= dict.fromkeys(marks, device.name)
    return f"{len(setting.devices)} different devices"


def _accepted(setting: _Setting) -> str:
    policy = setting.policy
    for device, entry in zip(setting.devices, setting.shown, strict=True):
        identity = device.identity
        if identity.family is None or identity.family not in policy.families:
            raise DeviceNotAcceptedError(f"{device.name} is a {identity.chip}")
        if identity.kind is not entry.kind:
            raise DeviceKindError(f"{device.name} is a {identity.chip}")
        if policy.devices is not None and identity.serial not in policy.devices:
            raise DeviceNotAcceptedError(f"{device.name} has serial number {identity.serial}")
    return ", ".join(sorted({device.identity.chip for device in setting.devices}))


def _versions(setting: _Setting) -> str:
    firmware = dict(setting.policy.minimum_firmware)
    for device in setting.devices:
        lowest = firmware.get(device.identity.family or "")
        _not_below(device, "firmware", device.report.vbios_version, lowest, _HEXADECIMAL)
        if device.identity.kind is DeviceKind.GPU:
            version, driver = device.report.driver_version, setting.policy.minimum_driver
            _not_below(device, "driver", version, driver, _DECIMAL)
    return "none below the policy's"


def _not_below(
    device: Device, what: str, version: str | None, lowest: str | None, base: int
) -> None:
    if lowest is None:
        return
    numbers, needed = version_numbers(version or "", base), version_numbers(lowest, base)
    if numbers is None or needed is None or numbers < needed:
        raise GpuVersionError(f"{device.name} runs {what} {version} where {lowest} is the lowest")


def _alike(devices: Sequence[Device]) -> str:
    gpus = [device for device in devices if device.identity.kind is DeviceKind.GPU]
    words: tuple[tuple[str, Callable[[Device], object]], ...] = (
        ("chips", lambda device: device.identity.chip),
        ("drivers", lambda device: device.report.driver_version),
        ("modes", lambda device: device.report.mode),
    )
    for what, of in words:
        if len({of(device) for device in gpus}) > 1:
            raise MixedDevicesError(f"GPUs with different {what}")
    return f"{len(gpus)} GPUs, {len(devices) - len(gpus)} switches"


def _rims(setting: _Setting, kinds: Sequence[RimKind]) -> str | Weakness:
    described = set()
    for device in setting.devices:
        for kind in set(kinds) & set(device.rim_kinds):
            try:
                setting.manifests.of(device, kind)
            except MissingError as error:
                if setting.policy.require_rim:
                    raise
                return _without_rim(error)
            described.add(f"{kind.value} {device.version(kind)}")
    return ", ".join(sorted(described)) or "no device needs one"


def _without_rim(error: MissingError) -> Weakness:
    return Weakness(
        code="firmware-unknown", detail=f'{error.code}: {error}: the policy says rim = "optional"'
    )


def _rim_revocation(setting: _Setting) -> str | Weakness:
    lines = []
    for device in setting.devices:
        for kind in device.rim_kinds:
            try:
                lines += [rim.line for rim in setting.manifests.of(device, kind)]
            except (VerificationError, DecodeError):
                continue  # the steps before this one have said so
    return _not_revoked(setting, lines)


def _measurements(setting: _Setting) -> str | Weakness:
    found = []
    for device in setting.devices:
        try:
            found.append(compare(device, setting.manifests))
        except MissingError as error:
            if setting.policy.require_rim:
                raise
            return _without_rim(error)
    return "; ".join(found)
