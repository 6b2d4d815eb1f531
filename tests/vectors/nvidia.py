"""Judge vectors of NVIDIA GPUs, NVSwitches, manifests and NRAS tokens.

What the index calls its default policy asks for manifests and for nothing of OCSP. A check whose
name begins with `ocsp` is about the responses: it requires them of the certificates that it names,
of the devices' (`gpu`), of the manifests' (`rim`), or of both.
"""

import base64
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
from attestation.endorsements.chains import parse_certificate
from attestation.endorsements.collateral import Collateral, CollateralKind
from attestation.endorsements.nvidia_nras import parse_key_set, verify_certificates
from attestation.endorsements.ocsp import check_ocsp, check_response
from attestation.errors import DecodeError
from attestation.evidence.nvidia_eat import read_json
from attestation.evidence.nvidia_gpu import (
    DeviceKind,
    DeviceReport,
    GpuDevice,
    certificates_from_pem,
)
from tests.simulators.nvidia import GPU_POLICY
from tests.vectors.entry import binary, expected_nonce, need, read_files, time_of
from tests.vectors.verdict import Judged

KINDS = ("nvidia-gpu", "nvidia-nvswitch", "nvidia-rim", "nvidia-eat")

SPDM_REQUEST = bytes.fromhex("11e0")
PEM_MARK = b"-----BEGIN CERTIFICATE"


def judge(entry: Mapping[str, Any], check: Mapping[str, Any], folder: Path) -> Judged:
    """Appraise one check."""
    files = read_files(entry, check, folder)
    now = time_of(entry, check)
    match entry["kind"]:
        case "nvidia-rim":
            return _judge_rim(need(files, "rim"), now), RIM_ALONE_WORDS
        case "nvidia-eat":
            return _judge_token(files, expected_nonce(entry, check), now), EAT_WORDS
    return _judge_devices(entry, check, files, now), device_word


# -- devices --


def devices_of(entry: Mapping[str, Any], files: Mapping[str, bytes]) -> list[GpuDevice]:
    """Return the devices of an entry: one report with its chain, or a set in somebody's JSON."""
    kind = DeviceKind.SWITCH if entry["kind"] == "nvidia-nvswitch" else DeviceKind.GPU
    if "report" in files:
        report, chain = binary(files["report"]), binary(need(files, "cert_chain"))
        return [GpuDevice(kind=kind, report=report, certificates=certificates_from_pem(chain))]
    found = [
        (report, certificates_from_pem(chain))
        for report, chain in _pairs(read_json(need(files, "evidence")))
    ]
    if not found:
        raise DecodeError("no device in the evidence")
    return [
        GpuDevice(kind=_kind(chain) or kind, report=report, certificates=chain)
        for report, chain in found
    ]


def _kind(chain: Sequence[bytes]) -> DeviceKind | None:
    """Return what the leaf says that it is of: a set may hold GPUs and switches."""
    names = [parse_certificate(der).subject.rfc4514_string() for der in chain[:1]]
    if not names:
        return None
    return DeviceKind.SWITCH if "CN=LS" in names[0] else DeviceKind.GPU


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


def collateral_of(files: Mapping[str, bytes], check: Mapping[str, Any]) -> Collateral:
    """Return the manifests, and the OCSP responses that the check uses."""
    use = (check.get("inputs") or {}).get("use")
    items = [
        (kind, files[role])
        for role in files
        for prefix, kind in (
            ("rim:", CollateralKind.NVIDIA_RIM),
            ("ocsp:", CollateralKind.NVIDIA_OCSP),
        )
        if role.startswith(prefix) and (prefix == "rim:" or use is None or role in use)
    ]
    return Collateral.from_items(items)


def _judge_devices(
    entry: Mapping[str, Any],
    check: Mapping[str, Any],
    files: Mapping[str, bytes],
    now: datetime,
) -> tuple[Check, ...]:
    shown = devices_of(entry, files)
    # Where nobody wants a nonce, it is that of the first report.
    nonce = expected_nonce(entry, check) or _first_nonce(shown)
    collateral = collateral_of(files, check)
    checks = Checklist()
    checks.announce(nvidia.REPORT_STEPS)
    try:
        devices = nvidia.examine(
            shown, nonce=nonce, policy=GPU_POLICY, collateral=collateral, now=now, checks=checks
        )
        if str(check.get("id")).startswith("ocsp"):
            checks.announce([Step.authentic("OCSP")])
            checks.run(_ocsp, check, files, devices, collateral, now)
    except CannotContinueError:
        pass
    return checks.finish()


def _first_nonce(shown: Sequence[GpuDevice]) -> bytes:
    return DeviceReport.from_bytes(shown[0].report, shown[0].kind).nonce


def _ocsp(
    check: Mapping[str, Any],
    files: Mapping[str, bytes],
    devices: Sequence[Device],
    collateral: Collateral,
    now: datetime,
) -> str:
    responses = collateral.of(CollateralKind.NVIDIA_OCSP)
    for device in devices:
        line = device.identity.line
        for name, role in (check.get("inputs") or {}).get("ocsp_for", {}).items():
            place = int(re.findall(r"\d+", name)[0])
            check_response(
                need(files, role),
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


RIM_ALONE_WORDS = {
    "xml-digest-mismatch": "xml_digest_mismatch",
    "xml-signature-invalid": "xml_signature_invalid",
    "certificate-expired": "rim_certificate_expired",
    "certificate-not-yet-valid": "rim_certificate_not_yet_valid",
    "chain-not-anchored": "untrusted_root",
    "chain-invalid": "chain_invalid",
}


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
    files: Mapping[str, bytes], nonce: bytes | None, now: datetime
) -> tuple[Check, ...]:
    jwks = [files["jwks"]] if "jwks" in files else []
    checks = Checklist()
    try:
        if "eat" not in files and "jwt" not in files:
            checks.announce([Step.authentic("certificates")])
            checks.run(_x5c, need(files, "x5c"), now)
            return checks.finish()
        checks.announce(nvidia_eat.STEPS)
        nvidia_eat.examine(
            need(files, "eat", "jwt"),
            nonce=nonce,
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
    match read_json(data):
        case {"x5c": [*texts]} if all(isinstance(text, str) for text in texts):
            verify_certificates([binary(text.encode()) for text in texts], now=now)
            return "to a pinned intermediate"
    raise DecodeError("no chain of certificates")
