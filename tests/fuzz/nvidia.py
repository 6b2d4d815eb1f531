"""Bodies about NVIDIA's devices, manifests and tokens: see bodies.py for what a body promises."""

import base64
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from unittest.mock import patch

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from attestation.appraisal import nvidia
from attestation.appraisal.checklist import CannotContinueError, Checklist
from attestation.appraisal.nvidia_eat import ISSUER
from attestation.encoding.record import Record
from attestation.endorsements import nvidia_device, nvidia_rim
from attestation.endorsements.chains import parse_certificate
from attestation.endorsements.collateral import Collateral, CollateralKind
from attestation.endorsements.nvidia_chains import p384_key
from attestation.endorsements.nvidia_nras import parse_key_set
from attestation.endorsements.nvidia_rim import RimHead
from attestation.endorsements.ocsp import parse_ocsp
from attestation.endorsements.xml_signatures import SignedXml
from attestation.errors import DecodeError, VerificationError
from attestation.evidence.dice import firmware_ids
from attestation.evidence.nvidia_eat import TokenBundle
from attestation.evidence.nvidia_gpu import DeviceKind, DeviceReport, certificates_from_pem
from tests.fuzz.bodies import REACHED
from tests.fuzz.script import Script
from tests.simulators.evidence import NOW
from tests.simulators.nvidia import (
    GPU_POLICY,
    Authority,
    SimulatedDevice,
    SimulatedNvidia,
    evidence,
    firmware_extension,
    raw_signature,
)

NONCE = b"n" * 32


@cache
def vendor() -> SimulatedNvidia:
    return SimulatedNvidia()


@cache
def gpu() -> SimulatedDevice:
    return vendor().device()


@cache
def report() -> bytes:
    return gpu().report(NONCE)


@cache
def rims() -> tuple[bytes, bytes]:
    return vendor().driver_rim(gpu()), vendor().firmware_rim(gpu())


@cache
def signer() -> Authority:
    return vendor().signer()


def records() -> list[Record]:
    whole = evidence([gpu()], NONCE)
    return [whole, whole.devices[0], whole.state]


@contextmanager
def trusted() -> Iterator[None]:
    with (
        patch.object(nvidia_device, "device_root", lambda: vendor().device_root.certificate),
        patch.object(nvidia_rim, "rim_root", lambda: vendor().rim_root.certificate),
    ):
        yield


def body_nvidia_report(data: bytes) -> None:
    """A device's report, and the vendor data in it."""
    script = Script(data)
    kind = script.pick(list(DeviceKind))
    try:
        parsed = DeviceReport.from_bytes(script.rest(), kind)
    except DecodeError:
        return
    REACHED["nvidia_report"] += 1
    assert len(parsed.nonce) == 32
    assert len(parsed.measurements.response.signature) == 96


def body_dice(data: bytes) -> None:
    """Firmware ids in a certificate's extension."""
    try:
        found = firmware_ids(data)
    except DecodeError:
        return
    REACHED["dice"] += 1
    assert sum(map(len, found)) <= len(data)


def body_nvidia_chain(data: bytes) -> None:
    """A PEM chain in NVML's buffer."""
    try:
        certificates_from_pem(data)
    except DecodeError:
        return
    REACHED["nvidia_chain"] += 1


def body_nvidia_manifest(data: bytes) -> None:
    """Signed XML: only the signed content comes out, and what it is about is read from any."""
    script = Script(data)
    true = rims()[0]
    changed = script.damaged(true) if script.number() % 2 == 0 else script.rest()
    try:
        RimHead.peek(changed)
    except DecodeError:
        pass
    else:
        REACHED["nvidia_manifest"] += 1
    honest = SignedXml.from_bytes(true)
    key = _key(true)
    try:
        content = SignedXml.from_bytes(changed).verify(key)
    except (DecodeError, VerificationError):
        assert changed != true
        return
    assert content == honest.verify(key)


def _key(true: bytes) -> ec.EllipticCurvePublicKey:
    return p384_key(parse_certificate(SignedXml.from_bytes(true).certificates[0]))


def body_ocsp(data: bytes) -> None:
    """An OCSP response parses or does not."""
    try:
        parse_ocsp(data)
    except DecodeError:
        return
    REACHED["ocsp"] += 1


def body_token_bundle(data: bytes) -> None:
    """Tokens of NVIDIA's service."""
    try:
        bundle = TokenBundle.from_bytes(data)
        bundle.digests()
    except DecodeError:
        return
    REACHED["token_bundle"] += 1
    assert bundle.overall.signed.count(b".") == 1


def body_key_set(data: bytes) -> None:
    """A JSON Web Key Set: only keys that are on their curve."""
    try:
        keys = parse_key_set(data)
    except DecodeError:
        return
    REACHED["key_set"] += 1
    assert all(len(key.pin()) == 32 for key in keys)


def body_nvidia_appraisal(data: bytes) -> None:
    """A verdict, never an exception; nothing changed that the device signed is accepted."""
    script = Script(data)
    true, documents = report(), rims()
    changed = script.damaged(true)
    certificates = tuple(script.damaged(entry) for entry in gpu().certificates)
    items = [(CollateralKind.NVIDIA_RIM, script.damaged(entry)) for entry in documents]
    shown = gpu().show(NONCE, report=changed, certificates=certificates)
    checks = Checklist()
    checks.announce(nvidia.REPORT_STEPS)
    with trusted():
        try:
            nvidia.examine(
                [shown],
                nonce=NONCE,
                policy=GPU_POLICY,
                collateral=Collateral.from_items(items),
                now=NOW,
                checks=checks,
            )
        except CannotContinueError:
            return
    if all(check.tier.accepted for check in checks.finish()):
        REACHED["nvidia_appraisal"] += 1
        # The signature is where the response says: what follows it is nobody's.
        assert changed[: len(true)] == true


def seeds_of_reports() -> list[bytes]:
    switch = vendor().device("LS_10", switch_pdis=[bytes(8)])
    newer = gpu().but(versioned=True)
    return [
        b"\0" + report(),
        b"\0" + report() + b"\0",
        b"\0" + newer.report(NONCE),
        b"\1" + switch.report(NONCE),
    ]


def seeds_of_extensions() -> list[bytes]:
    return [firmware_extension(chip, os.urandom(48)).value for chip in ("GH100", "GB100")]


def seeds_of_chains() -> list[bytes]:
    return [gpu().pem_chain + bytes(4)]


def seeds_of_manifests() -> list[bytes]:
    return [bytes(24), b"\1" + rims()[1]]


def seeds_of_answers() -> list[bytes]:
    issued = signer().issue("somebody")
    return [signer().answer(issued.certificate, NOW)]


def seeds_of_tokens() -> list[bytes]:
    return [json.dumps([["JWT", _token({"submods": {}, "iss": ISSUER})], {}]).encode()]


def seeds_of_key_sets() -> list[bytes]:
    numbers = signer().key.public_key().public_numbers()
    x, y = (_encoded(value.to_bytes(48, "big")) for value in (numbers.x, numbers.y))
    der = signer().certificate.public_bytes(serialization.Encoding.DER)
    x5c = [base64.b64encode(der).decode()]
    key = {"kty": "EC", "crv": "P-384", "kid": "k", "x": x, "y": y, "x5c": x5c}
    return [json.dumps({"keys": [key]}).encode()]


def _token(claims: dict[str, object]) -> str:
    parts = ({"alg": "ES384", "kid": "k"}, claims)
    text = ".".join(_encoded(json.dumps(part).encode()) for part in parts)
    return f"{text}.{_encoded(raw_signature(signer().key, text.encode()))}"


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
