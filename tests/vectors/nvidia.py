"""Judge vectors of NVIDIA GPUs, NVSwitches, manifests and NRAS tokens.

What the index calls its default policy asks for manifests and for nothing of OCSP. A check whose
name begins with `ocsp` is about the responses: it requires them of the certificates that it names,
of the devices' (`gpu`), of the manifests' (`rim`), or of both.
"""

import base64
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from attestation.appraisal import nvidia, nvidia_eat, nvidia_rim
from attestation.appraisal.checklist import CannotContinueError, Checklist, Step
from attestation.appraisal.nvidia_measurements import Device
from attestation.appraisal.result import Check
from attestation.endorsements.collateral import Collateral, CollateralKind
from attestation.endorsements.nvidia_nras import parse_key_set, verify_certificates
from attestation.endorsements.ocsp import check_ocsp, check_response
from attestation.evidence.nvidia_gpu import (
    DeviceKind,
    DeviceReport,
    GpuDevice,
    certificates_from_pem,
)
from tests.simulators.nvidia import GPU_POLICY
from tests.vectors.verdict import Judged

KINDS = ("nvidia-gpu", "nvidia-nvswitch", "nvidia-rim", "nvidia-eat")

SPDM_REQUEST = bytes.fromhex("11e0")
PEM_MARK = b"-----BEGIN CERTIFICATE"


def judge(entry: Mapping[str, Any], check: Mapping[str, Any], folder: Path) -> Judged:
    """Appraise one check."""
    now = datetime.fromisoformat(check["verify_at"])
    match entry["kind"]:
        case "nvidia-rim":
            return _judge_rim(_read(entry, folder, "rim"), now), rim_word
        case "nvidia-eat":
            return _judge_token(entry, check, folder, now), EAT_WORDS
    return _judge_devices(entry, check, folder, now), device_word


# -- devices --


def devices_of(entry: Mapping[str, Any], folder: Path) -> list[GpuDevice]:
    """Return the devices of an entry: one report with its chain, or a set in somebody's JSON."""
    kind = DeviceKind.SWITCH if entry["kind"] == "nvidia-nvswitch" else DeviceKind.GPU
    if "report" in entry["files"]:
        found = [(_read(entry, folder, "report"), _read(entry, folder, "cert_chain"))]
    else:
        found = [*_pairs(json.loads(_read(entry, folder, "evidence")))]
    return [
        GpuDevice(kind=kind, report=report, certificates=certificates_from_pem(chain))
        for report, chain in found
    ]


def _pairs(value: Any) -> Iterator[tuple[bytes, bytes]]:
    """Find what has one report and one chain in it, however its collector wrote it down."""
    texts = [*_binaries(value)]
    reports = [text for text in texts if text.startswith(SPDM_REQUEST)]
    chains = [text for text in texts if text.startswith(PEM_MARK)]
    if len(reports) == 1 and chains:
        yield reports[0], b"\n".join(chains)
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _pairs(inner)


def _binaries(value: Any) -> Iterator[bytes]:
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _binaries(inner)
    elif isinstance(value, str):
        if value.startswith(PEM_MARK.decode()):
            yield value.encode()
            return
        for decode in (bytes.fromhex, base64.b64decode):
            try:
                yield decode(value)
            except ValueError:
                continue


def collateral_of(entry: Mapping[str, Any], check: Mapping[str, Any], folder: Path) -> Collateral:
    """Return the manifests, and the OCSP responses that the check uses."""
    use = check.get("inputs", {}).get("use")
    items = [
        (kind, _read(entry, folder, role))
        for role in entry["files"]
        for prefix, kind in (
            ("rim:", CollateralKind.NVIDIA_RIM),
            ("ocsp:", CollateralKind.NVIDIA_OCSP),
        )
        if role.startswith(prefix) and (prefix == "rim:" or use is None or role in use)
    ]
    return Collateral.from_items(items)


def _judge_devices(
    entry: Mapping[str, Any], check: Mapping[str, Any], folder: Path, now: datetime
) -> tuple[Check, ...]:
    shown = devices_of(entry, folder)
    nonce = _nonce(entry, check, shown)
    collateral = collateral_of(entry, check, folder)
    checks = Checklist()
    checks.announce(nvidia.REPORT_STEPS)
    try:
        devices = nvidia.examine(
            shown, nonce=nonce, policy=GPU_POLICY, collateral=collateral, now=now, checks=checks
        )
        if check["id"].startswith("ocsp"):
            checks.announce([Step.authentic("OCSP")])
            checks.run(_ocsp, entry, check, folder, devices, collateral, now)
    except CannotContinueError:
        pass
    return checks.finish()


def _nonce(entry: Mapping[str, Any], check: Mapping[str, Any], shown: Sequence[GpuDevice]) -> bytes:
    """Return the nonce that is wanted; where nobody wants one, that of the first report."""
    wanted = check["expected"].get("nonce") or entry.get("expected_verdict", {}).get("nonce")
    if wanted is not None:
        return bytes.fromhex(wanted)
    return DeviceReport.from_bytes(shown[0].report, shown[0].kind).nonce


def _ocsp(
    entry: Mapping[str, Any],
    check: Mapping[str, Any],
    folder: Path,
    devices: Sequence[Device],
    collateral: Collateral,
    now: datetime,
) -> str:
    responses = collateral.of(CollateralKind.NVIDIA_OCSP)
    for device in devices:
        line = device.identity.line
        for name, role in check.get("inputs", {}).get("ocsp_for", {}).items():
            place = int(re.findall(r"\d+", name)[0])
            check_response(
                _read(entry, folder, role),
                certificate=line[place],
                issuer=line[place + 1],
                now=now,
            )
        lines = [] if "rim" in check["id"] else [line[1:]]
        if "gpu" not in check["id"]:
            lines += rim_lines(device, collateral, now)
        for certificates in lines:
            for certificate, issuer in pairwise(certificates):
                check_ocsp(certificate, issuer=issuer, responses=responses, now=now)
    return "all good"


def rim_lines(device: Device, collateral: Collateral, now: datetime) -> list[Any]:
    manifests = nvidia.Manifests(documents=collateral.of(CollateralKind.NVIDIA_RIM), now=now)
    return [rim.line for kind in device.rim_kinds for rim in manifests.of(device, kind)]


DEVICE_WORDS = {
    "malformed": "malformed",
    "chain-not-anchored": "untrusted_root",
    "chain-invalid": "chain_invalid",
    "certificate-expired": "certificate_expired",
    "gpu-nonce-mismatch": "nonce_mismatch",
    "gpu-signature-invalid": "report_signature_invalid",
    "gpu-firmware-id-mismatch": "fwid_mismatch",
    "gpu-duplicate": "duplicate_device",
    "gpu-measurement-mismatch": "measurement_mismatch",
    "rim-overlap": "rim_index_conflict",
    "ocsp-missing": "ocsp_missing",
    "ocsp-stale": "ocsp_stale",
    "ocsp-certificate-mismatch": "ocsp_certid_mismatch",
    "ocsp-invalid": "ocsp_signature_invalid",
    "certificate-revoked": "certificate_revoked",
    "certificate-on-hold": "certificate_hold",
}
RIM_STEPS = {"driver RIM": "driver_rim", "firmware RIM": "vbios_rim"}
RIM_WORDS = {
    "rim-missing": "missing",
    "rim-version-mismatch": "version_mismatch",
    "xml-digest-mismatch": "signature_invalid",
    "xml-signature-invalid": "signature_invalid",
    "chain-not-anchored": "signature_invalid",
    "chain-invalid": "signature_invalid",
    "malformed": "signature_invalid",
}


def device_word(check: Check) -> str:
    """Return the index's word; for a manifest it says which one."""
    step = RIM_STEPS.get(check.name)
    if step is None:
        return DEVICE_WORDS.get(check.code, check.code)
    if check.code == "certificate-expired":
        return "rim_certificate_expired"
    if "switch BIOS" in check.detail:
        step = "switch_bios_rim"
    return f"{step}_{RIM_WORDS.get(check.code, check.code)}"


# -- manifests --


def _judge_rim(data: bytes, now: datetime) -> tuple[Check, ...]:
    checks = Checklist()
    checks.announce(nvidia_rim.STEPS)
    with suppress(CannotContinueError):
        nvidia_rim.examine(data, now=now, checks=checks)
    return checks.finish()


def rim_word(check: Check) -> str:
    words = {
        "xml-digest-mismatch": "xml_digest_mismatch",
        "xml-signature-invalid": "xml_signature_invalid",
        "certificate-expired": "rim_certificate_expired",
        "certificate-not-yet-valid": "rim_certificate_not_yet_valid",
        "chain-not-anchored": "untrusted_root",
    }
    return words.get(check.code, check.code)


# -- tokens --


EAT_WORDS = {
    "token-key-unknown": "kid_unknown",
    "token-expired": "token_expired",
    "token-not-yet-valid": "token_not_yet_valid",
    "token-signature-invalid": "token_signature_invalid",
    "token-algorithm": "algorithm_not_allowed",
    "token-nonce-mismatch": "nonce_mismatch",
    "token-set-incomplete": "submods_incomplete",
    "token-digest-mismatch": "submods_digest_mismatch",
    "token-issuer": "issuer_not_production",
    "token-result": "overall_result_false",
    "certificate-expired": "leaf_certificate_expired",
    "certificate-not-yet-valid": "leaf_certificate_not_yet_valid",
    "chain-not-anchored": "untrusted_root",
}


def _judge_token(
    entry: Mapping[str, Any], check: Mapping[str, Any], folder: Path, now: datetime
) -> tuple[Check, ...]:
    files = entry["files"]
    jwks = [_read(entry, folder, "jwks")] if "jwks" in files else []
    checks = Checklist()
    try:
        if "eat" not in files and "jwt" not in files:
            checks.announce([Step.authentic("certificates")])
            checks.run(_x5c, _read(entry, folder, "x5c"), now)
            return checks.finish()
        nonce = check["expected"].get("nonce") or entry["expected_verdict"].get("nonce")
        checks.announce(nvidia_eat.STEPS)
        nvidia_eat.examine(
            _read(entry, folder, "eat" if "eat" in files else "jwt"),
            nonce=None if nonce is None else bytes.fromhex(nonce),
            jwks=jwks,
            # The index says that this file is what verifies the token: a pin is what that means.
            pinned={key.pin() for data in jwks for key in parse_key_set(data)},
            now=now,
            checks=checks,
        )
    except CannotContinueError:
        pass
    return checks.finish()


def _x5c(data: bytes, now: datetime) -> str:
    verify_certificates([base64.b64decode(text) for text in json.loads(data)["x5c"]], now=now)
    return "to a pinned intermediate"


def _read(entry: Mapping[str, Any], folder: Path, role: str) -> bytes:
    return (folder / entry["files"][role]).read_bytes()
