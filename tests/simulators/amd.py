"""AMD, its chips and their reports, byte-exact, under roots of our own: one knob for each attack.

Certificates are real X.509, RSASSA-PSS over SHA-384, with serial number 0 and AMD's extensions (AMD
57230); reports are packed here from AMD 56860 and not with the code under test. `trusting` puts our
roots where the shipped ones are; nothing else makes them count.
"""

import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any
from unittest.mock import patch
from uuid import UUID

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import NameOID

from attestation.endorsements import amd
from attestation.endorsements.amd import Hierarchy
from attestation.endorsements.collateral import Collateral, CollateralKind
from attestation.evidence.sev_snp import SevSnpEvidence, Signer
from attestation.evidence.sev_snp_tcb import Product
from attestation.policy.policy import Policy
from attestation.policy.revocation import Revocation
from attestation.policy.sev_snp import SevSnpPolicy
from tests.simulators.evidence import tpm_policy

BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)
CA_LIFE = timedelta(days=25 * 365)
VCEK_LIFE = timedelta(days=7 * 365)
VLEK_LIFE = timedelta(days=365)
CRL_LIFE = timedelta(days=365)

MEASUREMENT = bytes(range(48))
CSP = "CN=cc-test-1.example.org"

SMT, ONE, MIGRATE_MA, DEBUG, SINGLE_SOCKET, CXL = (1 << bit for bit in range(16, 22))
GUEST_POLICY = SMT | ONE
ALIAS_CHECK = 1 << 5

OLD_TCB = bytes([10, 0, 0, 0, 0, 0, 25, 84])
TURIN_TCB = bytes([1, 1, 1, 4, 0, 0, 0, 81])
CPUIDS = {
    Product.MILAN: (0x19, 0x01, 1),
    Product.GENOA: (0x19, 0x11, 1),
    Product.TURIN: (0x1A, 0x02, 1),
}

ARK_GUID, ASK_GUID = "c0b406a4-a803-4952-9743-3fb6014cd0ae", "4ab7b379-bbac-4fe4-a02f-05aef327c782"
VCEK_GUID, VLEK_GUID = (
    "63da758d-e664-4564-adc5-f4b93be8accd",
    "a8074bc2-a25a-483e-aae6-39c045a0b8a1",
)
CRL_GUID = "92f81bc3-5811-4d3d-97ff-d19f88dc67ea"

_PSS = padding.PSS(mgf=padding.MGF1(hashes.SHA384()), salt_length=48)
_ARC = "1.3.6.1.4.1.3704.1"
_OLD_LEVELS, _NEW_LEVELS = (1, 2, 4, 5, 6, 7, 3, 8), (9, 1, 2, 3, 5, 6, 7, 8)


@cache
def _rsa(name: str) -> rsa.RSAPrivateKey:
    """Return the key of that name: drawn once per process, since RSA keys take their time."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@attrs.frozen(kw_only=True)
class SimulatedAmd:
    """One product's ARK, ASK and ASVK. Another `owner` is a stranger who uses the same names."""

    product: Product = Product.GENOA
    owner: str = "AMD"
    generation: int = 2

    def _key(self, part: str) -> rsa.RSAPrivateKey:
        return _rsa(f"{self.owner} {self.product} {part}")

    @property
    def ark(self) -> x509.Certificate:
        return self._authority("ARK", f"ARK-{self._title}", 0x20000)

    @property
    def ask(self) -> x509.Certificate:
        return self._authority("ASK", f"SEV-{self._title}", 0x20000 + self.generation)

    @property
    def asvk(self) -> x509.Certificate:
        return self._authority("ASVK", f"SEV-VLEK-{self._title}", 0x20100 + self.generation)

    @property
    def hierarchy(self) -> Hierarchy:
        return Hierarchy(product=self.product, root=self.ark, intermediates=(self.ask, self.asvk))

    def crl(
        self,
        *revoked: x509.Certificate,
        begins: datetime = BEGINNING,
        ends: datetime = BEGINNING + CRL_LIFE,
        critical: bool = False,
    ) -> bytes:
        """Return the ARK's revocation list."""
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.ark.subject)
            .last_update(begins)
            .next_update(ends)
        )
        for certificate in revoked:
            entry = x509.RevokedCertificateBuilder(
                serial_number=certificate.serial_number, revocation_date=begins
            )
            builder = builder.add_revoked_certificate(entry.build())
        if critical:
            builder = builder.add_extension(x509.DeltaCRLIndicator(1), critical=True)
        crl = builder.sign(self._key("ARK"), hashes.SHA384(), rsa_padding=_PSS)
        return crl.public_bytes(serialization.Encoding.DER)

    def certify(self, chip: "SimulatedChip") -> bytes:
        """Return the VCEK or VLEK certificate of `chip`, serial number 0 as AMD's have it."""
        part = "ASK" if chip.signer is Signer.VCEK else "ASVK"
        issuer = self.ask if chip.signer is Signer.VCEK else self.asvk
        life = VCEK_LIFE if chip.signer is Signer.VCEK else VLEK_LIFE
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(f"SEV-{chip.signer.value.upper()}"))
            .issuer_name(issuer.subject)
            .public_key(chip.key.public_key())
            .serial_number(1)
            .not_valid_before(chip.certified_from)
            .not_valid_after(chip.certified_from + life)
        )
        for arc, value in chip.extensions():
            extension = x509.UnrecognizedExtension(x509.ObjectIdentifier(f"{_ARC}.{arc}"), value)
            builder = builder.add_extension(extension, critical=False)
        made = builder.sign(self._key(part), hashes.SHA384(), rsa_padding=_PSS)
        return _with_serial_zero(made, self._key(part))

    @property
    def _title(self) -> str:
        return self.product.title()

    def _authority(self, part: str, name: str, serial: int) -> x509.Certificate:
        return _authority(self._key(part), self._key("ARK"), name, f"ARK-{self._title}", serial)


@attrs.frozen(kw_only=True)
class SimulatedChip:
    """A machine with one guest: what its firmware writes into a report, and AMD's word for it."""

    vendor: SimulatedAmd = attrs.field(factory=SimulatedAmd)
    key: ec.EllipticCurvePrivateKey = attrs.field(
        factory=lambda: ec.generate_private_key(ec.SECP384R1())
    )
    signer: Signer = Signer.VCEK
    hardware_id: bytes = attrs.field(factory=lambda: os.urandom(64))
    product_name: str = ""
    certified_tcb: bytes = b""
    certified_from: datetime = BEGINNING
    struct_version: int | None = None
    csp: str = CSP

    version: int = 3
    cpuid: tuple[int, int, int] | None = None
    reported_tcb: bytes | None = None
    chip_id: bytes | None = None
    guest_svn: int = 0
    guest_policy: int = GUEST_POLICY
    vmpl: int = 0
    platform_info: int = 0x25
    key_info: int | None = None
    measurement: bytes = MEASUREMENT
    host_data: bytes = bytes(32)
    id_key_digest: bytes = bytes(48)
    author_key_digest: bytes = bytes(48)
    certificates: Sequence[bytes] | None = None
    table: bytes = b""

    @property
    def product(self) -> Product:
        return self.vendor.product

    @property
    def tcb(self) -> bytes:
        return self.certified_tcb or (TURIN_TCB if self.product is Product.TURIN else OLD_TCB)

    @property
    def certified_id(self) -> bytes:
        return self.hardware_id[:8] if self.product is Product.TURIN else self.hardware_id

    def collect(self, report_data: bytes) -> bytes:
        """Return an evidence body over `report_data`."""
        return self.evidence(report_data).to_bytes()

    def evidence(self, report_data: bytes) -> SevSnpEvidence:
        own = (self.vendor.certify(self),) if self.certificates is None else self.certificates
        return SevSnpEvidence(
            report=self.report(report_data),
            certificates=tuple(own),
            certificate_table=self.table,
        )

    def report(self, report_data: bytes) -> bytes:
        body = self.body(report_data)
        r, s = decode_dss_signature(self.key.sign(body, ec.ECDSA(hashes.SHA384())))
        return body + r.to_bytes(72, "little") + s.to_bytes(72, "little") + bytes(368)

    def body(self, report_data: bytes) -> bytes:
        """Return the 0x2a0 bytes that are signed."""
        reported = self.tcb if self.reported_tcb is None else self.reported_tcb
        key_info = int(self.signer is Signer.VLEK) << 2 if self.key_info is None else self.key_info
        cpuid = (CPUIDS[self.product] if self.cpuid is None else self.cpuid) + (0,) * 21
        body = struct.pack("<IIQ", self.version, self.guest_svn, self.guest_policy)
        body += bytes(32) + struct.pack("<II", self.vmpl, 1) + self.tcb
        body += struct.pack("<QII", self.platform_info, key_info, 0)
        body += report_data + self.measurement + self.host_data
        body += self.id_key_digest + self.author_key_digest
        body += bytes(range(32)) + b"\xff" * 32 + reported
        body += bytes(cpuid) if self.version >= 3 else bytes(24)
        body += self._chip_id() + self.tcb
        body += bytes([4, 55, 1, 0, 4, 55, 1, 0]) + self.tcb
        body += struct.pack("<QQ", 3, 3) if self.version >= 5 else bytes(16)
        return body + bytes(0x2A0 - len(body))

    def extensions(self) -> list[tuple[str, bytes]]:
        """Return AMD's extensions of the certificate, by the last arcs of their names."""
        turin = self.product is Product.TURIN
        struct_version = int(turin) if self.struct_version is None else self.struct_version
        levels = _NEW_LEVELS if struct_version == 1 else _OLD_LEVELS
        found = [
            ("1", _integer(struct_version)),
            ("2", _text(self.product_name or self.product.title())),
            *((f"3.{arc}", _integer(level)) for arc, level in zip(levels, self.tcb, strict=True)),
        ]
        if self.signer is Signer.VCEK:
            return [*found, ("4", self.certified_id)]
        return [*found, ("5", _text(self.csp))]

    def but(self, **changes: Any) -> "SimulatedChip":
        """Return the same chip with something changed."""
        return attrs.evolve(self, **changes)

    def _chip_id(self) -> bytes:
        if self.chip_id is not None:
            return self.chip_id
        return bytes(64) if self.signer is Signer.VLEK else self.certified_id.ljust(64, b"\0")


@contextmanager
def trusting(*vendors: SimulatedAmd) -> Iterator[None]:
    """Let the roots of `vendors` count instead of the shipped ones."""
    hierarchies = tuple(vendor.hierarchy for vendor in vendors)
    amd.find_chain.cache_clear()  # it remembers what it chose among the shipped ones
    with patch.object(amd, "pinned", lambda: hierarchies):
        yield
    amd.find_chain.cache_clear()


def table(*rows: tuple[str, bytes]) -> bytes:
    """Return a certificate table with these GUIDs and contents."""
    offset = 24 * (len(rows) + 1)
    head, contents = b"", b""
    for guid, content in rows:
        head += UUID(guid).bytes + struct.pack("<II", offset + len(contents), len(content))
        contents += content
    return head + bytes(24) + contents


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


def snp_policy(**changes: Any) -> SevSnpPolicy:
    """Return a policy that accepts the simulated guest on any Genoa or Turin, and little else."""
    values: dict[str, Any] = {
        "products": (Product.GENOA, Product.TURIN),
        "products_with_extractable_keys": (),
        "signing_keys": (Signer.VCEK,),
        "accept_any_csp": False,
        "csps": (),
        "revocation": Revocation.REQUIRED,
        "minimum_tcb": ((Product.GENOA, 0, 10, 0, 25, 84), (Product.TURIN, 1, 1, 1, 4, 81)),
        "minimum_abi": (0, 0),
        "allow_smt": True,
        "allow_multiple_sockets": True,
        "vmpls": (0,),
        "accept_any_measurement": False,
        "measurements": (MEASUREMENT,),
        "accept_any_chip": True,
        "chips": (),
    }
    return SevSnpPolicy(**(values | changes))


def whole_policy(policy: SevSnpPolicy) -> Policy:
    """Return a policy of which `policy` is the table `sev_snp`."""
    base = tpm_policy({})
    return attrs.evolve(
        base, tpm=None, sev_snp=policy, evidence=attrs.evolve(base.evidence, kinds=("sev-snp",))
    )


def collateral(*crls: bytes, certificates: Sequence[bytes] = ()) -> Collateral:
    return Collateral.from_items(
        [
            *((CollateralKind.AMD_CRL, crl) for crl in crls),
            *((CollateralKind.AMD_CERTIFICATE, entry) for entry in certificates),
        ]
    )


@cache
def _authority(
    key: rsa.RSAPrivateKey, signer: rsa.RSAPrivateKey, name: str, issuer: str, serial: int
) -> x509.Certificate:
    return (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(_name(issuer))
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(BEGINNING)
        .not_valid_after(BEGINNING + CA_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(signer, hashes.SHA384(), rsa_padding=_PSS)
    )


def _name(common: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "Engineering"),
            x509.NameAttribute(NameOID.COUNTRY_NAME, "US"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Advanced Micro Devices"),
            x509.NameAttribute(NameOID.COMMON_NAME, common),
        ]
    )


def _with_serial_zero(certificate: x509.Certificate, key: rsa.RSAPrivateKey) -> bytes:
    """Sign again with the serial number that the library refuses to write."""
    marked, zero = b"\xa0\x03\x02\x01\x02\x02\x01\x01", b"\xa0\x03\x02\x01\x02\x02\x01\x00"
    old = certificate.tbs_certificate_bytes
    tbs = old.replace(marked, zero, 1)
    whole = der(certificate)
    algorithm = whole[whole.index(old) + len(old) : -(len(certificate.signature) + 5)]
    signature = key.sign(tbs, _PSS, hashes.SHA384())
    return _tagged(0x30, tbs + algorithm + _tagged(0x03, b"\0" + signature))


def _tagged(tag: int, content: bytes) -> bytes:
    if len(content) < 128:
        return bytes([tag, len(content)]) + content
    size = len(content).to_bytes((len(content).bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(size)]) + size + content


def _integer(value: int) -> bytes:
    return _tagged(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def _text(value: str) -> bytes:
    return _tagged(0x16, value.encode())
