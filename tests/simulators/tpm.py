"""A TPM that also does what a TPM never would, byte-exact: one knob for each attack.

Structures are marshalled here from the TPM 2.0 Library, Part 2, and not with the code under test.
"""

import hashlib
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from attestation.evidence.tpm import PcrBank, TpmEvidence

SIGN, RESTRICTED, DECRYPT = 1 << 18, 1 << 16, 1 << 17
FIXED_TPM, FIXED_PARENT, ORIGIN, USER_WITH_AUTH = 1 << 1, 1 << 4, 1 << 5, 1 << 6
AK_ATTRIBUTES = SIGN | RESTRICTED | FIXED_TPM | FIXED_PARENT | ORIGIN | USER_WITH_AUTH

QUOTE, CERTIFY = 0x8018, 0x8017
MAGIC = 0xFF544347

PCRS: Mapping[int, bytes] = {
    index: hashlib.sha256(bytes([index])).digest() for index in (0, 2, 4, 7, 11)
}

_SHA256 = 0x000B
_HASHES = {"sha1": hashes.SHA1, "sha256": hashes.SHA256, "sha384": hashes.SHA384}
_BANKS = {PcrBank.SHA1: 0x0004, PcrBank.SHA256: _SHA256, PcrBank.SHA384: 0x000C}


@attrs.frozen(kw_only=True)
class SimulatedTpm:
    """One TPM with its attestation key and PCR values."""

    key: ec.EllipticCurvePrivateKey = attrs.field(
        factory=lambda: ec.generate_private_key(ec.SECP256R1())
    )
    attributes: int = AK_ATTRIBUTES
    pcrs: Mapping[int, bytes] = PCRS
    magic: int = MAGIC
    kind: int = QUOTE
    certificates: Sequence[bytes] = ()
    event_log: bytes | None = None
    bank: PcrBank = PcrBank.SHA256

    def collect(self, report_data: bytes) -> bytes:
        """Return an evidence body over `report_data`."""
        return self.evidence(report_data).to_bytes()

    def evidence(self, report_data: bytes) -> TpmEvidence:
        attest = self.attest(hashlib.sha256(report_data).digest())
        return TpmEvidence(
            attest=attest,
            signature=self.sign(attest),
            ak_public=self.public(),
            pcrs=tuple((self.bank, index, self.pcrs[index]) for index in sorted(self.pcrs)),
            ak_certificates=tuple(self.certificates),
            event_log=self.event_log,
        )

    def attest(self, extra_data: bytes) -> bytes:
        head = struct.pack(">IH", self.magic, self.kind)
        head += _sized(b"\x00\x0b" + bytes(32)) + _sized(extra_data)
        head += struct.pack(">QIIBQ", 12345, 3, 1, 1, 0x0102030405060708)
        if self.kind != QUOTE:  # TPMS_CERTIFY_INFO: name and qualified name
            return head + _sized(b"\x00\x0b" + bytes(32)) * 2
        bitmap = sum(1 << index for index in self.pcrs)
        values = b"".join(self.pcrs[index] for index in sorted(self.pcrs))
        selection = struct.pack(">IHB", 1, _BANKS[self.bank], 3) + bitmap.to_bytes(3, "little")
        return head + selection + _sized(self.digest(values))

    def digest(self, values: bytes) -> bytes:
        return hashlib.sha256(values).digest()

    def sign(self, data: bytes) -> bytes:
        r, s = decode_dss_signature(self.key.sign(data, ec.ECDSA(hashes.SHA256())))
        return struct.pack(">HH", 0x0018, _SHA256) + _sized(_octets(r)) + _sized(_octets(s))

    def public(self) -> bytes:
        numbers = self.key.public_key().public_numbers()
        head = struct.pack(">HHI", 0x0023, _SHA256, self.attributes) + _sized(b"")
        parameters = struct.pack(">HHHHH", 0x0010, 0x0018, _SHA256, 0x0003, 0x0010)
        return head + parameters + _sized(_octets(numbers.x)) + _sized(_octets(numbers.y))

    def but(self, **changes: Any) -> "SimulatedTpm":
        """Return the same TPM with something changed."""
        return attrs.evolve(self, **changes)


@attrs.frozen(kw_only=True)
class RsaTpm(SimulatedTpm):
    """A TPM whose attestation key is RSA, as in most clouds, over a hash of one's choice."""

    rsa_key: rsa.RSAPrivateKey = attrs.field(
        factory=lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048)
    )
    hash_name: str = "sha256"

    def digest(self, values: bytes) -> bytes:
        return hashlib.new(self.hash_name, values).digest()

    def bare_signature(self, data: bytes) -> bytes:
        algorithm: hashes.HashAlgorithm = _HASHES[self.hash_name]()
        return self.rsa_key.sign(data, padding.PKCS1v15(), algorithm)

    def sign(self, data: bytes) -> bytes:
        name = _BANKS[PcrBank(self.hash_name)]
        return struct.pack(">HH", 0x0014, name) + _sized(self.bare_signature(data))

    def public(self) -> bytes:
        modulus = self.rsa_key.public_key().public_numbers().n
        head = struct.pack(">HHI", 0x0001, _SHA256, self.attributes) + _sized(b"")
        scheme = _BANKS[PcrBank(self.hash_name)]
        parameters = struct.pack(">HHHHI", 0x0010, 0x0014, scheme, 2048, 0)
        return head + parameters + _sized(modulus.to_bytes(256, "big"))

    def spki(self) -> bytes:
        return self.rsa_key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def fingerprint(self) -> bytes:
        return hashlib.sha256(self.spki()).digest()


@attrs.frozen(kw_only=True)
class PssTpm(RsaTpm):
    """The same with RSAPSS, and a salt as long as the TPM at hand makes it."""

    salt_bytes: int = 32

    def sign(self, data: bytes) -> bytes:
        algorithm: hashes.HashAlgorithm = _HASHES[self.hash_name]()
        scheme = padding.PSS(mgf=padding.MGF1(algorithm), salt_length=self.salt_bytes)
        name = _BANKS[PcrBank(self.hash_name)]
        return struct.pack(">HH", 0x0016, name) + _sized(self.rsa_key.sign(data, scheme, algorithm))

    def public(self) -> bytes:
        rsassa = struct.pack(">HH", 0x0010, 0x0014)
        return RsaTpm.public(self).replace(rsassa, struct.pack(">HH", 0x0010, 0x0016), 1)


def _octets(value: int) -> bytes:
    return value.to_bytes(32, "big")


def _sized(data: bytes) -> bytes:
    return struct.pack(">H", len(data)) + data
