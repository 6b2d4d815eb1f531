"""GPUs and switches: a machine that is accepted, and one test for each attack on its evidence."""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

import attrs
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.x509 import ReasonFlags, ocsp

from attestation.appraisal import nvidia
from attestation.appraisal.checklist import CannotContinueError, Checklist
from attestation.appraisal.result import NOT_REACHED, Check, Tier
from attestation.endorsements.collateral import Collateral, CollateralKind
from attestation.evidence.nvidia_gpu import DeviceKind, GpuDevice
from attestation.policy.nvidia import GpuPolicy
from tests.simulators import nvidia as simulated
from tests.simulators.nvidia import (
    BEGINNING,
    DRIVER_INDEXES,
    GOOD,
    GPU_POLICY,
    LIFE,
    SimulatedDevice,
    SimulatedNvidia,
    new_key,
)

NOW = datetime.fromisoformat("2026-06-01T12:00:00Z")
NONCE = os.urandom(32)
STRIDE = 1 if os.environ.get("EVERY_FLIP") else 7
"""Of the bytes that a test flips one by one."""


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
def rims(vendor: SimulatedNvidia, gpu: SimulatedDevice) -> list[bytes]:
    return [vendor.driver_rim(gpu), vendor.firmware_rim(gpu)]


def appraise(
    shown: Sequence[GpuDevice],
    rims: Sequence[bytes] = (),
    *,
    answers: Sequence[bytes] = (),
    policy: GpuPolicy = GPU_POLICY,
    nonce: bytes = NONCE,
    now: datetime = NOW,
) -> tuple[Check, ...]:
    items = [(CollateralKind.NVIDIA_RIM, rim) for rim in rims]
    items += [(CollateralKind.NVIDIA_OCSP, answer) for answer in answers]
    checks = Checklist()
    checks.announce(nvidia.REPORT_STEPS)
    with suppress(CannotContinueError):
        nvidia.examine(
            shown,
            nonce=nonce,
            policy=policy,
            collateral=Collateral.from_items(items),
            now=now,
            checks=checks,
        )
    return checks.finish()


def codes(checks: Sequence[Check]) -> list[str]:
    return [check.code for check in checks if not check.tier.accepted and check.code != NOT_REACHED]


def warnings(checks: Sequence[Check]) -> list[str]:
    return [check.code for check in checks if check.tier is Tier.WARNING]


def with_policy(**changes: Any) -> GpuPolicy:
    return attrs.evolve(GPU_POLICY, **changes)


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def test_a_genuine_gpu_with_both_manifests_is_accepted(
    gpu: SimulatedDevice, rims: list[bytes]
) -> None:
    checks = appraise([gpu.show(NONCE)], rims)
    assert codes(checks) == []
    assert warnings(checks) == ["revocation-unknown"] * 2


@pytest.mark.parametrize("chip", ["GH100", "GB100", "LS_10"])
@pytest.mark.parametrize("versioned", [False, True])
def test_every_family_and_both_layouts_are_accepted(
    chip: str, versioned: bool, vendor: SimulatedNvidia
) -> None:
    device = vendor.device(chip, versioned=versioned)
    rims = [vendor.firmware_rim(device)]
    if device.driver is not None:
        rims.append(vendor.driver_rim(device))
    assert codes(appraise([device.show(NONCE)], rims)) == []


def test_a_set_of_gpus_and_switches_is_accepted(
    vendor: SimulatedNvidia, gpu: SimulatedDevice, rims: list[bytes]
) -> None:
    switch = vendor.device("LS_10")
    second = vendor.device()
    shown = [device.show(NONCE) for device in (gpu, second, switch)]
    checks = appraise(shown, [*rims, vendor.firmware_rim(switch)])
    assert codes(checks) == []


# -- whose devices --


def test_a_chain_under_a_root_of_the_same_name_is_refused(rims: list[bytes]) -> None:
    """A forger can give every certificate the name that NVIDIA's has."""
    impostor = SimulatedNvidia().device()
    assert codes(appraise([impostor.show(NONCE)], rims)) == ["chain-not-anchored"]


def test_a_leaf_that_another_leaf_issued_is_refused(
    gpu: SimulatedDevice, rims: list[bytes]
) -> None:
    """Only the boot ROM issues leaves; a stolen attestation key is no certificate authority."""
    child = gpu.authority.issue("GH100 A01 GSP FMC LF", ca=False)
    shown = gpu.but(authority=child).show(NONCE)
    assert codes(appraise([shown], rims)) == ["chain-invalid"]


def test_a_chain_with_a_certificate_left_out_is_refused(
    gpu: SimulatedDevice, rims: list[bytes]
) -> None:
    line = gpu.certificates
    shown = gpu.show(NONCE, certificates=(line[0], *line[2:]))
    assert codes(appraise([shown], rims)) == ["chain-invalid"]


@pytest.mark.parametrize("certificates", [(), (b"\x30\x03abc",)])
def test_no_certificates_or_garbage_is_refused(
    certificates: tuple[bytes, ...], gpu: SimulatedDevice, rims: list[bytes]
) -> None:
    shown = gpu.show(NONCE, certificates=certificates)
    assert codes(appraise([shown], rims))[0] in ("chain-not-anchored", "malformed")


@pytest.mark.parametrize(
    ("now", "code"),
    [
        (BEGINNING - timedelta(days=1), "certificate-not-yet-valid"),
        (BEGINNING + LIFE + timedelta(days=1), "certificate-expired"),
    ],
)
def test_a_chain_outside_its_life_is_refused_even_where_it_held_before(
    now: datetime, code: str, gpu: SimulatedDevice, rims: list[bytes]
) -> None:
    """Signatures of chains are remembered, their windows are not."""
    assert codes(appraise([gpu.show(NONCE)], rims)) == []
    assert codes(appraise([gpu.show(NONCE)], rims, now=now)) == [code]


def test_a_device_of_another_product_line_is_refused(
    vendor: SimulatedNvidia, rims: list[bytes]
) -> None:
    """Network cards lead to the same root."""
    card = vendor.device("BF3")
    assert "gpu-device-not-accepted" in codes(appraise([card.show(NONCE)], rims))


def test_a_family_that_the_policy_does_not_name_is_refused(
    gpu: SimulatedDevice, rims: list[bytes]
) -> None:
    policy = with_policy(families=("blackwell",))
    assert codes(appraise([gpu.show(NONCE)], rims, policy=policy)) == ["gpu-device-not-accepted"]


def test_a_device_that_the_policy_does_not_list_is_refused(
    gpu: SimulatedDevice, rims: list[bytes]
) -> None:
    shown = [gpu.show(NONCE)]
    assert codes(appraise(shown, rims, policy=with_policy(devices=(gpu.serial,)))) == []
    assert codes(appraise(shown, rims, policy=with_policy(devices=("00",)))) == [
        "gpu-device-not-accepted"
    ]


def test_a_gpu_shown_as_a_switch_is_refused(gpu: SimulatedDevice, rims: list[bytes]) -> None:
    """A switch needs one manifest, a GPU two: the certificate says which it is."""
    shown = attrs.evolve(gpu.but(firmware="96.00").show(NONCE), kind=DeviceKind.SWITCH)
    assert set(codes(appraise([shown], rims))) & {"malformed", "gpu-kind-mismatch"}


# -- what they answer --


def test_a_report_over_another_nonce_is_refused(gpu: SimulatedDevice, rims: list[bytes]) -> None:
    checks = appraise([gpu.show(NONCE)], rims, nonce=bytes(32))
    assert codes(checks) == ["gpu-nonce-mismatch"]


def test_one_replayed_report_in_a_set_is_refused(
    vendor: SimulatedNvidia, gpu: SimulatedDevice, rims: list[bytes]
) -> None:
    shown = [gpu.show(NONCE), vendor.device().show(os.urandom(32))]
    assert codes(appraise(shown, rims)) == ["gpu-nonce-mismatch"]


def test_a_nonce_put_in_later_is_refused(gpu: SimulatedDevice, rims: list[bytes]) -> None:
    report = gpu.report(os.urandom(32))
    shown = gpu.show(NONCE, report=report[:4] + NONCE + report[36:])
    assert codes(appraise([shown], rims)) == ["gpu-signature-invalid"]


def test_a_report_signed_by_another_devices_key_is_refused(
    vendor: SimulatedNvidia, gpu: SimulatedDevice, rims: list[bytes]
) -> None:
    other = vendor.device()
    shown = gpu.show(NONCE, certificates=other.certificates)
    assert codes(appraise([shown], rims)) == ["gpu-signature-invalid", "gpu-firmware-id-mismatch"]


def test_a_report_signed_by_a_key_of_ones_own_is_refused(
    gpu: SimulatedDevice, rims: list[bytes]
) -> None:
    shown = gpu.show(NONCE, report=gpu.report(NONCE, key=new_key()))
    assert codes(appraise([shown], rims)) == ["gpu-signature-invalid"]


@pytest.mark.parametrize("excess", [b"\0", b"\0" * 4000, b"x" * 16])
def test_bytes_after_the_signature_change_nothing(
    excess: bytes, gpu: SimulatedDevice, rims: list[bytes]
) -> None:
    """Collectors hand on buffers; the signature is where the response says."""
    shown = gpu.show(NONCE, report=gpu.report(NONCE) + excess)
    assert codes(appraise([shown], rims)) == []


def test_another_firmware_than_the_certificates_is_refused(
    gpu: SimulatedDevice, rims: list[bytes]
) -> None:
    shown = gpu.but(fwid=os.urandom(48)).show(NONCE)
    assert codes(appraise([shown], rims)) == ["gpu-firmware-id-mismatch"]


def test_a_firmware_id_that_no_certificate_confirms_is_refused(
    vendor: SimulatedNvidia, rims: list[bytes]
) -> None:
    device = vendor.device()
    boot_rom = vendor.device_root.issue("identity").issue("boot ROM", serial="00")
    silent = boot_rom.issue("GH100 A01 GSP FMC LF", ca=False)
    shown = device.but(authority=silent).show(NONCE)
    assert codes(appraise([shown], rims)) == ["gpu-firmware-id-mismatch"]


def test_a_driver_that_tells_no_firmware_id_is_said_to(
    gpu: SimulatedDevice, rims: list[bytes]
) -> None:
    checks = appraise([gpu.but(fwid=None).show(NONCE)], rims)
    assert codes(checks) == []
    [finding] = [check for check in checks if check.name == "GPU firmware id"]
    assert "not told by gpu 0" in finding.detail


# -- sets --


def test_one_device_shown_twice_is_refused(gpu: SimulatedDevice, rims: list[bytes]) -> None:
    """Two reports of one GPU are not two GPUs, though their bytes differ."""
    shown = [gpu.show(NONCE), gpu.show(NONCE)]
    assert shown[0].report != shown[1].report
    assert codes(appraise(shown, rims)) == ["gpu-duplicate"]


@pytest.mark.parametrize("change", [{"mode": 1}, {"driver": "590.48.02"}])
def test_gpus_that_are_not_alike_are_refused(
    change: dict[str, Any], vendor: SimulatedNvidia, gpu: SimulatedDevice, rims: list[bytes]
) -> None:
    other = vendor.device(**change)
    shown = [gpu.show(NONCE), other.show(NONCE)]
    assert codes(appraise(shown, [*rims, vendor.driver_rim(other)])) == ["gpu-set-mixed"]


@pytest.mark.parametrize(
    ("change", "accepted"),
    [
        ({"minimum_driver": "590.48.01"}, True),
        ({"minimum_driver": "590.9"}, True),
        ({"minimum_driver": "590.48.2"}, False),
        ({"minimum_driver": "600"}, False),
        ({"minimum_firmware": (("hopper", "96.00.9F.00.01"),)}, True),
        ({"minimum_firmware": (("hopper", "96.00.9F.00.02"),)}, False),
        ({"minimum_firmware": (("hopper", "96.00.A0.00.00"),)}, False),
    ],
)
def test_older_software_than_the_policy_allows_is_refused(
    change: dict[str, Any], accepted: bool, gpu: SimulatedDevice, rims: list[bytes]
) -> None:
    """Versions are numbers between dots: 590.48 is newer than 590.9, and firmware counts to FF."""
    found = codes(appraise([gpu.show(NONCE)], rims, policy=with_policy(**change)))
    assert found == ([] if accepted else ["gpu-version-too-old"])


# -- manifests --


def test_without_manifests_nobody_knows_what_runs(gpu: SimulatedDevice) -> None:
    checks = appraise([gpu.show(NONCE)])
    assert codes(checks) == ["rim-missing", "rim-missing", "gpu-measurements-unknown"]
    assert max(check.tier for check in checks) is Tier.WARNING or all(
        check.tier is not Tier.CONTRAINDICATED for check in checks
    )


def test_a_policy_may_do_without_manifests_and_the_result_says_so(gpu: SimulatedDevice) -> None:
    checks = appraise([gpu.show(NONCE)], policy=with_policy(require_rim=False))
    assert codes(checks) == []
    assert warnings(checks).count("firmware-unknown") == 3


def test_a_manifest_that_is_there_and_wrong_is_refused_even_where_none_is_needed(
    vendor: SimulatedNvidia, gpu: SimulatedDevice, rims: list[bytes]
) -> None:
    wrong = vendor.driver_rim(gpu, values={21: [os.urandom(48)]})
    policy = with_policy(require_rim=False)
    found = codes(appraise([gpu.show(NONCE)], [wrong, rims[1]], policy=policy))
    assert found == ["gpu-measurement-mismatch"]


def test_manifests_of_another_version_do_not_stand_in(
    vendor: SimulatedNvidia, gpu: SimulatedDevice, rims: list[bytes]
) -> None:
    other = vendor.driver_rim(gpu, version="590.48.02")
    assert codes(appraise([gpu.show(NONCE)], [other, rims[1]])) == [
        "rim-version-mismatch",
        "gpu-measurements-unknown",
    ]


def test_versions_are_compared_in_either_case(
    vendor: SimulatedNvidia, gpu: SimulatedDevice, rims: list[bytes]
) -> None:
    lower = vendor.firmware_rim(gpu, version=gpu.firmware.lower())
    assert codes(appraise([gpu.show(NONCE)], [rims[0], lower])) == []


def test_a_manifest_of_another_vendor_is_refused(gpu: SimulatedDevice, rims: list[bytes]) -> None:
    impostor = SimulatedNvidia().driver_rim(gpu)
    assert codes(appraise([gpu.show(NONCE)], [impostor, rims[1]])) == [
        "chain-not-anchored",
        "gpu-measurements-unknown",
    ]


def test_a_manifest_signed_by_a_device_is_refused(gpu: SimulatedDevice, rims: list[bytes]) -> None:
    """Devices and manifests have roots of their own: neither vouches for the other."""
    forged = simulated.manifest(
        gpu.authority, version=simulated.DRIVER, product="GH100", values={21: [GOOD[22]]}
    )
    assert "chain-not-anchored" in codes(appraise([gpu.show(NONCE)], [forged, rims[1]]))


def test_a_manifest_whose_signer_has_expired_is_refused(
    vendor: SimulatedNvidia, gpu: SimulatedDevice, rims: list[bytes]
) -> None:
    signer = vendor.signer(life=timedelta(days=1))
    values = {index: [GOOD[index + 1]] for index in DRIVER_INDEXES}
    old = simulated.manifest(signer, version=simulated.DRIVER, product="GH100", values=values)
    shown = [gpu.show(NONCE)]
    assert codes(appraise(shown, [old, rims[1]], now=BEGINNING)) == []
    assert codes(appraise(shown, [old, rims[1]])) == [
        "certificate-expired",
        "gpu-measurements-unknown",
    ]


def test_a_broken_manifest_beside_a_good_one_changes_nothing(
    gpu: SimulatedDevice, rims: list[bytes]
) -> None:
    """A bundle of collateral serves many machines; one bad item must not stop the rest."""
    broken = rims[0].replace(b'active="True"', b'active="False"', 1)
    assert codes(appraise([gpu.show(NONCE)], [broken, b"<not xml", *rims])) == []


@pytest.mark.parametrize("index", [0, 11, 21, 40])
def test_one_measurement_that_differs_is_refused(
    index: int, gpu: SimulatedDevice, rims: list[bytes]
) -> None:
    """Developer mode, too, shows as a measurement that is not NVIDIA's."""
    changed = dict(GOOD) | {index + 1: os.urandom(48)}
    shown = gpu.but(measurements=changed).show(NONCE)
    checks = appraise([shown], rims)
    assert codes(checks) == ["gpu-measurement-mismatch"]
    assert str(index) in checks[-1].detail


def test_a_measurement_that_is_left_out_is_refused(gpu: SimulatedDevice, rims: list[bytes]) -> None:
    fewer = {index: value for index, value in GOOD.items() if index != 22}
    shown = gpu.but(measurements=fewer).show(NONCE)
    assert codes(appraise([shown], rims)) == ["gpu-measurement-mismatch"]


def test_measurement_blocks_are_one_ahead_of_manifest_indexes(
    vendor: SimulatedNvidia, gpu: SimulatedDevice, rims: list[bytes]
) -> None:
    """Comparing equal numbers would accept a manifest of shifted values."""
    shifted = vendor.driver_rim(gpu, values={21: [GOOD[21]]})
    assert codes(appraise([gpu.show(NONCE)], [shifted, rims[1]])) == ["gpu-measurement-mismatch"]


@pytest.mark.parametrize(("nvdec0", "accepted"), [(b"\x55", True), (b"\xaa", False)])
def test_the_decoder_is_compared_unless_it_is_off(
    nvdec0: bytes, accepted: bool, gpu: SimulatedDevice, rims: list[bytes]
) -> None:
    changed = dict(GOOD) | {36: os.urandom(48)}
    shown = gpu.but(measurements=changed, nvdec0=nvdec0).show(NONCE)
    assert codes(appraise([shown], rims)) == ([] if accepted else ["gpu-measurement-mismatch"])


def test_a_third_state_of_the_decoder_is_malformed(gpu: SimulatedDevice, rims: list[bytes]) -> None:
    """Whoever may choose it may leave one measurement out."""
    assert codes(appraise([gpu.but(nvdec0=b"\0").show(NONCE)], rims)) == ["malformed"]


def test_inactive_measurements_are_not_compared(
    vendor: SimulatedNvidia, gpu: SimulatedDevice, rims: list[bytes]
) -> None:
    driver = vendor.driver_rim(gpu, inactive={50: [os.urandom(48)]})
    assert codes(appraise([gpu.show(NONCE)], [driver, rims[1]])) == []


def test_driver_and_firmware_manifest_may_not_set_one_measurement(
    vendor: SimulatedNvidia, gpu: SimulatedDevice, rims: list[bytes]
) -> None:
    both = vendor.driver_rim(gpu, values={5: [GOOD[6]]})
    assert codes(appraise([gpu.show(NONCE)], [both, rims[1]])) == ["rim-overlap"]


def test_a_newer_revision_of_a_manifest_is_enough(
    vendor: SimulatedNvidia, gpu: SimulatedDevice, rims: list[bytes]
) -> None:
    """An older revision of a firmware manifest can mismatch on a good GPU."""
    older = vendor.firmware_rim(gpu, values={9: [os.urandom(48)]})
    assert codes(appraise([gpu.show(NONCE)], [older, rims[0]])) == ["gpu-measurement-mismatch"]
    assert codes(appraise([gpu.show(NONCE)], [older, *rims])) == []


# -- revocation --


Answer = Callable[..., bytes]


def answers(device: SimulatedDevice, vendor: SimulatedNvidia) -> list[bytes]:
    """Good answers about every certificate above the leaf, made by their issuers' keys."""
    return [answer_about(device, vendor, place) for place in (1, 2, 3)]


def answer_about(
    device: SimulatedDevice, vendor: SimulatedNvidia, place: int, **changes: Any
) -> bytes:
    line = (device.authority.certificate, *device.authority.above)
    issuer = simulated.Authority(KEYS[line[place + 1].serial_number], line[place + 1])
    return issuer.answer(line[place], changes.pop("at", NOW), **changes)


KEYS: dict[int, Any] = {}


@pytest.fixture
def known(vendor: SimulatedNvidia) -> SimulatedDevice:
    """A device whose issuers' keys are kept, to answer for it."""
    root = vendor.device_root
    identity = root.issue("identity")
    provisioner = identity.issue("provisioner")
    boot_rom = provisioner.issue("GH100 A01 GSP BROM", serial="41AB")
    fwid = os.urandom(48)
    extension = simulated.firmware_extension("GH100", fwid)
    leaf = boot_rom.issue("GH100 A01 GSP FMC LF", ca=False, extension=extension)
    for authority in (root, identity, provisioner, boot_rom):
        KEYS[authority.certificate.serial_number] = authority.key
    return SimulatedDevice(authority=leaf, chip="GH100", serial="41ab", fwid=fwid)


STRICT = attrs.evolve(GPU_POLICY, require_ocsp=True)
LAX = attrs.evolve(GPU_POLICY, require_rim=False)


def revocation(checks: Sequence[Check]) -> Check:
    return checks[2]


def test_good_answers_about_every_issuer_are_accepted(
    known: SimulatedDevice, vendor: SimulatedNvidia
) -> None:
    found = revocation(appraise([known.show(NONCE)], answers=answers(known, vendor), policy=STRICT))
    assert (found.code, found.tier) == ("ok", Tier.AFFIRMING)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_an_answer_that_is_left_out_is_unverifiable(
    place: int, known: SimulatedDevice, vendor: SimulatedNvidia
) -> None:
    some = [answer for index, answer in enumerate(answers(known, vendor)) if index != place]
    found = revocation(appraise([known.show(NONCE)], answers=some, policy=STRICT))
    assert (found.code, found.tier) == ("ocsp-missing", Tier.UNVERIFIABLE)


@pytest.mark.parametrize("shift", [timedelta(days=2), -timedelta(days=2)])
def test_an_answer_outside_its_day_is_refused(
    shift: timedelta, known: SimulatedDevice, vendor: SimulatedNvidia
) -> None:
    stale = [answer_about(known, vendor, place, at=NOW + shift) for place in (1, 2, 3)]
    assert revocation(appraise([known.show(NONCE)], answers=stale, policy=STRICT)).code == (
        "ocsp-stale"
    )
    assert revocation(appraise([known.show(NONCE)], answers=stale)).code == "revocation-unknown"


@pytest.mark.parametrize("policy", [STRICT, LAX], ids=["strict", "lax"])
@pytest.mark.parametrize(
    ("reason", "code"),
    [
        (ReasonFlags.key_compromise, "certificate-revoked"),
        (None, "certificate-revoked"),
        (ReasonFlags.certificate_hold, "certificate-on-hold"),
    ],
)
def test_a_revoked_certificate_is_refused_whatever_the_policy_requires(
    policy: GpuPolicy,
    reason: ReasonFlags | None,
    code: str,
    known: SimulatedDevice,
    vendor: SimulatedNvidia,
) -> None:
    revoked = answer_about(known, vendor, 1, status=ocsp.OCSPCertStatus.REVOKED, reason=reason)
    found = revocation(
        appraise([known.show(NONCE)], answers=[*answers(known, vendor), revoked], policy=policy)
    )
    assert (found.code, found.tier) == (code, Tier.CONTRAINDICATED)


def test_a_certificate_that_the_responder_does_not_know_is_refused(
    known: SimulatedDevice, vendor: SimulatedNvidia
) -> None:
    unknown = answer_about(known, vendor, 1, status=ocsp.OCSPCertStatus.UNKNOWN)
    some = [unknown, *answers(known, vendor)[1:]]
    assert revocation(appraise([known.show(NONCE)], answers=some)).code == "ocsp-unknown"


def test_an_answer_about_another_certificate_is_no_answer(
    known: SimulatedDevice, vendor: SimulatedNvidia
) -> None:
    """The same good answer three times: serial number and issuer are compared."""
    same = [answer_about(known, vendor, 2)] * 3
    assert revocation(appraise([known.show(NONCE)], answers=same, policy=STRICT)).code == (
        "ocsp-missing"
    )


def test_an_answer_by_someone_whom_the_issuer_did_not_certify_is_refused(
    known: SimulatedDevice, vendor: SimulatedNvidia
) -> None:
    stranger = simulated.root("stranger").issue(
        "responder", purpose=simulated.ExtendedKeyUsageOID.OCSP_SIGNING
    )
    forged = answer_about(known, vendor, 1, responder=stranger)
    some = [forged, *answers(known, vendor)[1:]]
    assert revocation(appraise([known.show(NONCE)], answers=some)).code == "ocsp-invalid"


def test_an_answer_by_a_certificate_that_is_not_for_answering_is_refused(
    known: SimulatedDevice, vendor: SimulatedNvidia
) -> None:
    """Else every certificate below an issuer could answer for its siblings, and for itself."""
    issuer = known.authority.above[1]
    sibling = simulated.Authority(KEYS[issuer.serial_number], issuer).issue("sibling", ca=False)
    forged = answer_about(known, vendor, 1, responder=sibling)
    some = [forged, *answers(known, vendor)[1:]]
    assert revocation(appraise([known.show(NONCE)], answers=some)).code == "ocsp-invalid"


def test_an_answer_that_names_its_certificate_by_sha1_is_no_answer(
    known: SimulatedDevice, vendor: SimulatedNvidia
) -> None:
    weak = answer_about(known, vendor, 1, algorithm=hashes.SHA1())  # noqa: S303
    some = [weak, *answers(known, vendor)[1:]]
    assert revocation(appraise([known.show(NONCE)], answers=some, policy=STRICT)).code == (
        "ocsp-missing"
    )


def test_every_flipped_bit_of_an_answer_is_refused_or_no_answer(
    known: SimulatedDevice, vendor: SimulatedNvidia
) -> None:
    """But for the octet of a signature's BIT STRING that counts unused bits: it changes no byte."""
    first, *rest = answers(known, vendor)
    shown = [known.show(NONCE)]
    for place in range(0, len(first), STRIDE):
        found = revocation(appraise(shown, answers=[flipped(first, place), *rest], policy=STRICT))
        counts_unused = first[place - 2] == 0x03 and first[place : place + 2] == b"\0\x30"
        assert found.code != "ok" or counts_unused, f"byte {place}"


# -- bytes --


def test_every_flipped_bit_of_a_report_is_refused(gpu: SimulatedDevice, rims: list[bytes]) -> None:
    report = gpu.report(NONCE)
    assert codes(appraise([gpu.show(NONCE, report=report)], rims)) == []
    size = len(report)
    for place in [*range(80), *range(80, size - 200, 9 * STRIDE), *range(size - 200, size)]:
        shown = gpu.show(NONCE, report=flipped(report, place))
        assert codes(appraise([shown], rims)) != [], f"byte {place}"


def test_every_truncation_of_a_report_is_malformed(gpu: SimulatedDevice, rims: list[bytes]) -> None:
    report = gpu.report(NONCE)
    for length in [*range(60), *range(60, len(report), 97), len(report) - 1]:
        shown = gpu.show(NONCE, report=report[:length])
        assert codes(appraise([shown], rims)) == ["malformed"], f"{length} bytes"


def test_every_flipped_bit_of_a_manifest_is_refused(
    gpu: SimulatedDevice, rims: list[bytes]
) -> None:
    """The embedded root is left out: the pinned one takes its place, and nothing reads it."""
    driver = rims[0]
    root_begins = driver.rindex(b"<ds:X509Certificate>")
    shown = [gpu.show(NONCE)]
    for place in range(0, root_begins, 6 * STRIDE):
        changed = flipped(driver, place)
        assert codes(appraise(shown, [changed, rims[1]])) != [], f"byte {place}"
