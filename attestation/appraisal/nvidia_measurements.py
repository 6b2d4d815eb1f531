"""Compare what devices measured with NVIDIA's manifests.

Measurement block n + 1 of a report is index n of a manifest. Which manifest of a bundle is about a
device is found by what it says before it is verified; nothing else is believed of it until then.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Final, TypeAlias

from attrs import field, frozen

from attestation.appraisal.nvidia_refusals import (
    GpuMeasurementError,
    GpuMeasurementsUnknownError,
    RimMissingError,
    RimOverlapError,
    RimVersionError,
)
from attestation.endorsements.nvidia_device import DeviceIdentity
from attestation.endorsements.nvidia_rim import Rim, RimHead, RimKind
from attestation.errors import DecodeError, VerificationError
from attestation.evidence.nvidia_gpu import DeviceKind, DeviceReport

NVDEC0_INDEX: Final = 35
"""Not measured while the decoder is switched off (NVDEC0_STATUS)."""

_KINDS: Final[Mapping[DeviceKind, tuple[RimKind, ...]]] = {
    DeviceKind.GPU: (RimKind.DRIVER, RimKind.VBIOS),
    DeviceKind.SWITCH: (RimKind.SWITCH_BIOS,),
}


_Wanted: TypeAlias = tuple[RimKind, str, str | None]
_Found: TypeAlias = tuple[tuple[Rim, ...], VerificationError | DecodeError]


@frozen(kw_only=True)
class Device:
    """One device of a set: what it says, and what NVIDIA says it is."""

    name: str
    identity: DeviceIdentity
    report: DeviceReport = field(repr=False)

    def version(self, kind: RimKind) -> str | None:
        """Return the version that the manifest of `kind` must be of."""
        report = self.report
        return report.driver_version if kind is RimKind.DRIVER else report.vbios_version

    @property
    def rim_kinds(self) -> tuple[RimKind, ...]:
        """Which manifests describe it."""
        return _KINDS[self.identity.kind]


@frozen(kw_only=True)
class Manifests:
    """The manifests at hand, each verified when a device first needs it."""

    documents: Sequence[bytes] = field(repr=False)
    now: datetime
    _found: dict[_Wanted, _Found] = field(factory=dict, init=False, repr=False)

    def of(self, device: Device, kind: RimKind) -> tuple[Rim, ...]:
        """Return the valid manifests of one kind for a device, or raise why there is none."""
        wanted = (kind, device.identity.chip, device.version(kind))
        if wanted not in self._found:
            self._found[wanted] = self._look_up(*wanted)
        valid, refusal = self._found[wanted]
        if not valid:
            raise refusal
        return valid

    def _look_up(self, kind: RimKind, chip: str, version: str | None) -> _Found:
        about = [entry for entry in self._heads() if entry[1].is_for(kind, chip)]
        what = f"{kind.value} {version} of a {chip}"
        refusal: VerificationError | DecodeError
        refusal = RimVersionError(what) if about else RimMissingError(what)
        valid: list[Rim] = []
        for data, head in about:
            if version is None or not head.is_of(version):
                continue
            try:
                rim = Rim.verify(data, now=self.now)
            except (VerificationError, DecodeError) as error:
                refusal = error
                continue
            # Once more, of what was signed: the head was a stranger's word until now.
            if rim.head.is_for(kind, chip) and rim.head.is_of(version):
                valid.append(rim)
        return tuple(valid), refusal

    def _heads(self) -> Iterator[tuple[bytes, RimHead]]:
        for data in self.documents:
            try:
                yield data, RimHead.peek(data)
            except DecodeError:
                continue  # about nothing: whoever needs it will find that it is missing


def compare(device: Device, manifests: Manifests) -> str:
    """Check every measurement that a valid manifest sets for `device`.

    Raises `GpuMeasurementError` or `RimOverlapError`; `GpuMeasurementsUnknownError` when what could
    be compared holds, and a manifest is missing or not valid.
    """
    compared: set[int] = set()
    unknown: list[str] = []
    for kind in device.rim_kinds:
        try:
            rims = manifests.of(device, kind)
        except (VerificationError, DecodeError):
            unknown.append(kind.value)
            continue
        rim = _matching(device, kind, rims)
        if overlap := compared & set(rim.active):
            raise RimOverlapError(f"{device.name}: measurement {min(overlap)}")
        compared |= set(rim.active)
    if unknown:
        raise GpuMeasurementsUnknownError(f"{device.name}: no valid {' and '.join(unknown)} RIM")
    return f"{len(compared)} measurements of {device.name}"


def _matching(device: Device, kind: RimKind, rims: Sequence[Rim]) -> Rim:
    """Return the first manifest that fits: NVIDIA publishes revisions for one version."""
    for rim in rims:
        wrong = _mismatches(device.report, rim)
        if not wrong:
            return rim
    listed = ", ".join(map(str, wrong))
    raise GpuMeasurementError(f"{device.name}: measurements {listed} of the {kind.value}")


def _mismatches(report: DeviceReport, rim: Rim) -> list[int]:
    measured = report.measurements.response.measurements
    wrong = []
    for index, accepted in sorted(rim.active.items()):
        if index == NVDEC0_INDEX and report.nvdec0_enabled is False:
            continue
        block = measured.get(index + 1)
        if block is None or block.value not in accepted:
            wrong.append(index)
    return wrong
