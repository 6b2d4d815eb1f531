"""NVIDIA as a vendor, and devices of its making: real P-384 chains, reports and signed manifests.

Everything is marshalled here from the specifications and not with the code under test; manifests
are written in their canonical form to begin with. `trust` makes the code under test believe this
vendor's roots instead of NVIDIA's.
"""

import base64
import hashlib
import os
import struct
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from attestation.endorsements import nvidia_device, nvidia_rim
from attestation.evidence.nvidia_gpu import ConfidentialState, DeviceKind, GpuDevice, GpuEvidence
from attestation.policy.nvidia import FAMILIES, GpuPolicy

BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)
LIFE = timedelta(days=730)
COMPOSITE_DEVICE_ID = x509.ObjectIdentifier("2.23.133.5.4.1")
DICE_TCB_INFO = x509.ObjectIdentifier("2.23.133.5.4.1.1")
SWID = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd"
SHA384 = "http://www.w3.org/2001/04/xmlenc#sha384"
DS = "http://www.w3.org/2000/09/xmldsig#"
C14N = "http://www.w3.org/2006/12/xml-c14n11"

DRIVER, FIRMWARE = "590.48.01", "96.00.9F.00.01"
BLOCKS = 64
GOOD: Mapping[int, bytes] = {
    index: hashlib.sha384(bytes([index])).digest() for index in range(1, BLOCKS + 1)
}
FIRMWARE_INDEXES, DRIVER_INDEXES = range(12), range(21, 41)

GPU_POLICY = GpuPolicy(
    required=True,
    families=FAMILIES,
    minimum_driver=None,
    minimum_firmware=tuple((family, None) for family in FAMILIES),
    devices=None,
    require_rim=True,
    require_ocsp=False,
)
"""Wants a GPU of any family with its manifests, as the index of vectors does."""


@attrs.frozen
class Authority:
    """A key with its certificate, and those above it."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate
    above: tuple[x509.Certificate, ...] = ()

    @property
    def line(self) -> list[bytes]:
        """DER, own first, with the root, as devices hand it on."""
        return [der(entry) for entry in (self.certificate, *self.above)]

    def issue(
        self,
        name: str,
        *,
        serial: str | None = None,
        ca: bool = True,
        extension: x509.UnrecognizedExtension | None = None,
        purpose: x509.ObjectIdentifier | None = None,
        life: timedelta = LIFE,
        key: ec.EllipticCurvePrivateKey | None = None,
    ) -> "Authority":
        key = key or new_key()
        certificate = _certificate(
            _name(name, serial),
            key,
            issuer=self.certificate.subject,
            signer=self.key,
            ca=ca,
            extension=extension,
            purpose=purpose,
            life=life,
        )
        return Authority(key, certificate, (self.certificate, *self.above))

    def answer(
        self,
        certificate: x509.Certificate,
        now: datetime,
        *,
        status: ocsp.OCSPCertStatus = ocsp.OCSPCertStatus.GOOD,
        reason: x509.ReasonFlags | None = None,
        responder: "Authority | None" = None,
        algorithm: hashes.HashAlgorithm | None = None,
    ) -> bytes:
        """Return an OCSP response about a certificate that this one issued, good for a day."""
        responder = responder or self.issue("responder", purpose=ExtendedKeyUsageOID.OCSP_SIGNING)
        revoked = status is ocsp.OCSPCertStatus.REVOKED
        return (
            ocsp.OCSPResponseBuilder()
            .add_response(
                cert=certificate,
                issuer=self.certificate,
                algorithm=algorithm or hashes.SHA384(),
                cert_status=status,
                this_update=now,
                next_update=now + timedelta(days=1),
                revocation_time=now if revoked else None,
                revocation_reason=reason,
            )
            .responder_id(ocsp.OCSPResponderEncoding.HASH, responder.certificate)
            .certificates([responder.certificate])
            .sign(responder.key, hashes.SHA384())
            .public_bytes(serialization.Encoding.DER)
        )


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP384R1())


def root(name: str) -> Authority:
    key = new_key()
    certificate = _certificate(_name(name), key, issuer=_name(name), signer=key, ca=True)
    return Authority(key, certificate)


@attrs.frozen
class SimulatedNvidia:
    """The vendor: roots, intermediates, and signers of manifests."""

    device_root: Authority = attrs.field(factory=lambda: root("test Device Identity CA"))
    rim_root: Authority = attrs.field(factory=lambda: root("test CoRIM signing Root CA"))

    def trust(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Put this vendor's roots where NVIDIA's are."""
        monkeypatch.setattr(nvidia_device, "device_root", lambda: self.device_root.certificate)
        monkeypatch.setattr(nvidia_rim, "rim_root", lambda: self.rim_root.certificate)

    def device(self, chip: str = "GH100", **changes: Any) -> "SimulatedDevice":
        """Make a device with a chain of its own."""
        provisioner = self.device_root.issue(f"test {chip} Identity").issue(f"test {chip} ICA")
        serial = os.urandom(9).hex().upper()
        fwid = os.urandom(48)
        boot_rom = provisioner.issue(f"{chip} A01 GSP BROM", serial=serial)
        leaf = boot_rom.issue(
            f"{chip} A01 GSP FMC LF", ca=False, extension=firmware_extension(chip, fwid)
        )
        values = {"authority": leaf, "chip": chip, "serial": serial.lower(), "fwid": fwid}
        if chip.startswith("LS"):
            values |= {"driver": None, "firmware": "96.10.55.00.01", "fwid": None}
        return SimulatedDevice(**(values | changes))

    def signer(self, *, life: timedelta = LIFE) -> Authority:
        """Make a signer of manifests, three certificates below the root."""
        return (
            self.rim_root.issue("test values CA")
            .issue("test values L3")
            .issue("test RIM signer", life=life)
        )

    def driver_rim(self, device: "SimulatedDevice", **changes: Any) -> bytes:
        """Return the manifest of a device's driver."""
        values = {index: [GOOD[index + 1]] for index in DRIVER_INDEXES}
        arguments = {"version": device.driver, "values": values} | changes
        return manifest(self.signer(), product=device.product, **arguments)

    def firmware_rim(self, device: "SimulatedDevice", **changes: Any) -> bytes:
        """Return the manifest of a device's VBIOS or switch BIOS."""
        values = {index: [bytes(48), GOOD[index + 1]] for index in FIRMWARE_INDEXES}
        edition = "SWITCH" if device.kind is DeviceKind.SWITCH else "GPU"
        arguments = {"version": device.firmware, "values": values, "edition": edition} | changes
        return manifest(self.signer(), product=device.product, **arguments)


@attrs.frozen(kw_only=True)
class SimulatedDevice:
    """One GPU or switch; each field is a knob."""

    authority: Authority
    chip: str
    serial: str
    fwid: bytes | None
    driver: str | None = DRIVER
    firmware: str = FIRMWARE
    measurements: Mapping[int, bytes] = GOOD
    nvdec0: bytes = b"\x55"
    mode: int | None = 0
    switch_pdis: Sequence[bytes] = ()
    more: Sequence[tuple[int, bytes]] = ((33, b"\x07\x07"), (26, bytes(16)))
    """Opaque entries that nobody knows."""
    versioned: bool = False
    """Opaque data with the header of CUDA 13.5."""

    @property
    def kind(self) -> DeviceKind:
        return DeviceKind.SWITCH if self.chip.startswith("LS") else DeviceKind.GPU

    @property
    def product(self) -> str:
        return self.chip.replace("_", "")

    @property
    def certificates(self) -> tuple[bytes, ...]:
        return tuple(self.authority.line)

    @property
    def pem_chain(self) -> bytes:
        """The chain as NVML gives it."""
        chain = (self.authority.certificate, *self.authority.above)
        return b"".join(entry.public_bytes(serialization.Encoding.PEM) for entry in chain)

    def but(self, **changes: Any) -> "SimulatedDevice":
        return attrs.evolve(self, **changes)

    def report(self, nonce: bytes, *, key: ec.EllipticCurvePrivateKey | None = None) -> bytes:
        """Return request and signed response over `nonce`."""
        record = b"".join(
            struct.pack("<BBHBH", index, 1, len(value) + 3, 1, len(value)) + value
            for index, value in sorted(self.measurements.items())
        )
        opaque = self.opaque()
        signed = b"\x11\xe0\x01\xff" + nonce + b"\0"
        signed += b"\x11\x60\0\0" + bytes([len(self.measurements)])
        signed += len(record).to_bytes(3, "little") + record
        signed += os.urandom(32) + struct.pack("<H", len(opaque)) + opaque
        return signed + raw_signature(key or self.authority.key, signed)

    def opaque(self) -> bytes:
        entries: list[tuple[int, bytes]] = [(6, self._firmware())]
        if self.driver is not None:
            entries += [(3, self.driver.encode() + b"\0"), (11, self.nvdec0)]
        if self.fwid is not None:
            entries.append((20, self.fwid))
        if self.switch_pdis:
            entries.append((22, b"".join(self.switch_pdis)))
        if self.mode is not None:
            entries += [(36, struct.pack("<H", self.mode)), (34, b"\x01\0")]
        entries += self.more
        if self.versioned:
            head = b"NVDAOD\0\0\x02\0\0\0"
            return head + b"".join(
                struct.pack("<HHH", kind, 0, len(value)) + value for kind, value in entries
            )
        return b"".join(struct.pack("<HH", kind, len(value)) + value for kind, value in entries)

    def _firmware(self) -> bytes:
        if self.kind is DeviceKind.SWITCH:
            return self.firmware.encode()
        parts = bytes.fromhex(self.firmware.replace(".", ""))
        return parts[:4][::-1] + parts[4:] + bytes(3)

    def show(self, nonce: bytes, **changes: Any) -> GpuDevice:
        """Return what a worker hands on of this device."""
        values = {
            "kind": self.kind,
            "report": self.report(nonce),
            "certificates": self.certificates,
        }
        return GpuDevice(**(values | changes))


def evidence(
    devices: Sequence[SimulatedDevice],
    nonce: bytes,
    *,
    enabled: bool = True,
    developer_tools: bool = False,
) -> GpuEvidence:
    """Return the evidence of a whole machine."""
    return GpuEvidence(
        state=ConfidentialState(enabled=enabled, developer_tools=developer_tools),
        devices=tuple(device.show(nonce) for device in devices),
    )


# -- manifests --


def manifest(
    signer: Authority,
    *,
    version: str,
    product: str,
    values: Mapping[int, Sequence[bytes]],
    edition: str = "GPU",
    inactive: Mapping[int, Sequence[bytes]] | None = None,
    change: Callable[[str], str] = lambda text: text,
    key: ec.EllipticCurvePrivateKey | None = None,
    unsigned_change: Callable[[str], str] = lambda text: text,
) -> bytes:
    """Return a signed manifest. `change` edits what is signed, `unsigned_change` the result."""
    resources = [_resource(index, hashes, "True") for index, hashes in values.items()]
    resources += [_resource(index, hashes, "False") for index, hashes in (inactive or {}).items()]
    head = f'<SoftwareIdentity xmlns="{SWID}" xmlns:h="{SHA384}" name="{product}">'
    body = (
        f'\n  <Meta colloquialVersion="{version}" edition="{edition}" product="{product}"></Meta>'
        f"\n  <Payload>\n    {''.join(resources)}\n  </Payload>"
    )
    canonical = change(f"{head}{body}</SoftwareIdentity>")
    signature = _signature(canonical, signer, key or signer.key)
    cut = canonical.rindex("</SoftwareIdentity>")
    return unsigned_change(canonical[:cut] + signature + canonical[cut:]).encode()


def _resource(index: int, values: Sequence[bytes], active: str) -> str:
    listed = "".join(f' h:Hash{number}="{value.hex()}"' for number, value in enumerate(values))
    return (
        f'<Resource active="{active}" alternatives="{len(values)}" index="{index}"'
        f' name="Measurement_{index}" size="48" type="Measurement"{listed}></Resource>'
    )


def _signature(canonical: str, signer: Authority, key: ec.EllipticCurvePrivateKey) -> str:
    digest = base64.b64encode(hashlib.sha384(canonical.encode()).digest()).decode()
    inner = (
        f'<ds:CanonicalizationMethod Algorithm="{C14N}"></ds:CanonicalizationMethod>'
        '<ds:SignatureMethod Algorithm="http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384">'
        '</ds:SignatureMethod><ds:Reference URI=""><ds:Transforms>'
        f'<ds:Transform Algorithm="{DS}enveloped-signature"></ds:Transform>'
        f'<ds:Transform Algorithm="{C14N}"></ds:Transform></ds:Transforms>'
        '<ds:DigestMethod Algorithm="http://www.w3.org/2001/04/xmldsig-more#sha384">'
        f"</ds:DigestMethod><ds:DigestValue>{digest}</ds:DigestValue></ds:Reference>"
    )
    signed = f'<ds:SignedInfo xmlns="{SWID}" xmlns:ds="{DS}" xmlns:h="{SHA384}">{inner}'
    value = raw_signature(key, f"{signed}</ds:SignedInfo>".encode())
    certificates = "".join(
        f"<ds:X509Certificate>{base64.b64encode(entry).decode()}</ds:X509Certificate>"
        for entry in signer.line
    )
    return (
        f'<ds:Signature xmlns:ds="{DS}"><ds:SignedInfo>{inner}</ds:SignedInfo>'
        f"<ds:SignatureValue>{base64.b64encode(value).decode()}</ds:SignatureValue>"
        f"<ds:KeyInfo><ds:X509Data>{certificates}</ds:X509Data></ds:KeyInfo></ds:Signature>"
    )


# -- bytes --


def raw_signature(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    """Return r and s, 48 bytes each, big-endian."""
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(hashes.SHA384())))
    return r.to_bytes(48, "big") + s.to_bytes(48, "big")


def firmware_extension(chip: str, fwid: bytes) -> x509.UnrecognizedExtension:
    """Return the DICE extension as this chip writes it."""
    sha384 = bytes.fromhex("0609608648016503040202")
    listed = tlv(0x30, sha384 + tlv(0x04, fwid))
    if chip.startswith("GB"):
        zeros = tlv(0x30, sha384 + tlv(0x04, bytes(48)))
        inner = tlv(0x80, b"NVIDIA") + tlv(0x83, b"\1") + tlv(0xA6, listed + zeros)
        return x509.UnrecognizedExtension(DICE_TCB_INFO, tlv(0x30, inner + tlv(0x88, b"rest")))
    spki = tlv(0x30, tlv(0x03, bytes(97)))
    return x509.UnrecognizedExtension(
        COMPOSITE_DEVICE_ID, tlv(0x30, b"\x02\x01\x01" + spki + listed)
    )


def tlv(tag: int, value: bytes) -> bytes:
    length = len(value)
    head = bytes([length]) if length < 128 else b"\x82" + length.to_bytes(2, "big")
    return bytes([tag]) + head + value


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


def _name(name: str, serial: str | None = None) -> x509.Name:
    parts = [x509.NameAttribute(NameOID.COMMON_NAME, name)]
    if serial is not None:
        parts.append(x509.NameAttribute(NameOID.SERIAL_NUMBER, serial))
    return x509.Name(parts)


def _certificate(
    subject: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    *,
    issuer: x509.Name,
    signer: ec.EllipticCurvePrivateKey,
    ca: bool,
    extension: x509.UnrecognizedExtension | None = None,
    purpose: x509.ObjectIdentifier | None = None,
    life: timedelta = LIFE,
) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(BEGINNING)
        .not_valid_after(BEGINNING + life)
        .add_extension(_usage(ca=ca), critical=True)
    )
    if ca:
        constraints = x509.BasicConstraints(ca=True, path_length=None)
        builder = builder.add_extension(constraints, critical=True)
    if extension is not None:
        builder = builder.add_extension(extension, critical=False)
    if purpose is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    return builder.sign(signer, hashes.SHA384())


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
