"""A Nitro Security Module under a root of its own, one knob for each attack.

Documents are encoded here as the NSM writes them (with cbor2, a map of indefinite length inside a
COSE_Sign1), and not with the code under test.
"""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

import attrs
import cbor2
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from attestation.evidence.nitro import NitroEvidence
from tests.simulators.evidence import NOW

IMAGE = bytes(range(48))
PCRS: Mapping[int, bytes] = {index: bytes(48) for index in range(16)} | {
    0: IMAGE,
    1: b"k" * 48,
    2: b"a" * 48,
    4: b"i" * 48,
}
LEAF_LIFE = timedelta(hours=3)

_NAMES = ("aws.nitro-enclaves", "eu.aws.nitro-enclaves", "zone.aws", "i-0.aws", "i-0-enc0.aws")


@attrs.frozen(kw_only=True)
class SimulatedAws:
    """A line of CAs, root first, and the module at its end."""

    keys: tuple[ec.EllipticCurvePrivateKey, ...] = attrs.field(
        factory=lambda: tuple(ec.generate_private_key(ec.SECP384R1()) for _ in _NAMES)
    )
    leaf_from: datetime = NOW
    depths: tuple[int | None, ...] = (None, 2, 1, 0)
    """Path lengths of the CAs."""
    authorities: tuple[bool, ...] = (True, True, True, True)
    """Whether each of the CAs says that it is one."""
    serials: tuple[int, ...] = attrs.field(
        factory=lambda: tuple(x509.random_serial_number() for _ in _NAMES)
    )

    root_certificate: x509.Certificate = attrs.field(
        default=attrs.Factory(lambda self: self._certificate(0), takes_self=True)
    )
    """Kept when something else changes: it is what is pinned, byte for byte."""
    line: tuple[x509.Certificate, ...] = attrs.field(
        init=False, default=attrs.Factory(lambda self: self._line(), takes_self=True)
    )
    """The certificates from the root to the enclave's."""

    def root(self) -> x509.Certificate:
        return self.root_certificate

    def _line(self) -> tuple[x509.Certificate, ...]:
        return (self.root_certificate, *map(self._certificate, range(1, len(_NAMES))))

    def _certificate(self, place: int) -> x509.Certificate:
        last = place == len(_NAMES) - 1
        begins = self.leaf_from if last else NOW - timedelta(days=1)
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(_NAMES[place]))
            .issuer_name(_name(_NAMES[max(place - 1, 0)]))
            .public_key(self.keys[place].public_key())
            .serial_number(self.serials[place])
            .not_valid_before(begins)
            .not_valid_after(begins + (LEAF_LIFE if last else timedelta(days=20)))
            .add_extension(self._constraints(place), critical=True)
            .add_extension(_usage(ca=not last), critical=True)
        )
        return builder.sign(self.keys[max(place - 1, 0)], hashes.SHA384())

    def _constraints(self, place: int) -> x509.BasicConstraints:
        if place == len(_NAMES) - 1 or not self.authorities[place]:
            return x509.BasicConstraints(ca=False, path_length=None)
        return x509.BasicConstraints(ca=True, path_length=self.depths[place])


@attrs.frozen(kw_only=True)
class SimulatedNsm:
    """The module of one enclave."""

    vendor: SimulatedAws = attrs.field(factory=SimulatedAws)
    pcrs: Mapping[int, bytes] = PCRS
    made_at: datetime = NOW
    fields: Mapping[str, Any] = attrs.field(factory=dict)
    """Members of the document that replace or add to the true ones."""
    without: tuple[str, ...] = ()
    bundle: tuple[bytes, ...] | None = None
    header: Mapping[int, Any] = attrs.field(factory=lambda: {1: -35})
    unprotected: Mapping[int, Any] = attrs.field(factory=dict)
    key: ec.EllipticCurvePrivateKey | None = None
    encode: Callable[[Any], bytes] = cbor2.dumps

    def collect(self, report_data: bytes) -> bytes:
        """Return an evidence body over `report_data`."""
        return NitroEvidence(document=self.document(report_data)).to_bytes()

    def document(self, user_data: bytes | None) -> bytes:
        payload = self.encode(self.members(user_data))
        protected = cbor2.dumps(dict(self.header))
        signed = cbor2.dumps(["Signature1", protected, b"", payload])
        r, s = decode_dss_signature(
            (self.key or self.vendor.keys[-1]).sign(signed, ec.ECDSA(hashes.SHA384()))
        )
        signature = r.to_bytes(48, "big") + s.to_bytes(48, "big")
        return cbor2.dumps([protected, dict(self.unprotected), payload, signature])

    def members(self, user_data: bytes | None) -> dict[str, Any]:
        ders = tuple(entry.public_bytes(Encoding.DER) for entry in self.vendor.line)
        members = {
            "module_id": "i-0-enc0",
            "digest": "SHA384",
            "timestamp": int(self.made_at.timestamp() * 1000),
            "pcrs": dict(self.pcrs),
            "certificate": ders[-1],
            "cabundle": list(ders[:-1] if self.bundle is None else self.bundle),
            "public_key": None,
            "user_data": user_data,
            "nonce": None,
        }
        changed = members | dict(self.fields)
        return {name: value for name, value in changed.items() if name not in self.without}

    def but(self, **changes: Any) -> "SimulatedNsm":
        """Return the same module with something changed."""
        return attrs.evolve(self, **changes)


def indefinite(members: Mapping[str, Any]) -> bytes:
    """Encode a map as the NSM does: of indefinite length."""
    pairs = b"".join(cbor2.dumps(name) + cbor2.dumps(value) for name, value in members.items())
    return b"\xbf" + pairs + b"\xff"


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


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
