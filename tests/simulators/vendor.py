"""A test operator who certifies attestation keys: real X.509 and ECDSA under a root of its own."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AK_PURPOSE = x509.ObjectIdentifier("2.23.133.8.3")
TLS_PURPOSE = ExtendedKeyUsageOID.CLIENT_AUTH
BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)
CA_LIFE = timedelta(days=3650)
AK_LIFE = timedelta(days=365)


class Operator:
    """Issues attestation key certificates under a root, through one intermediate CA."""

    def __init__(self, name: str = "test operator") -> None:
        self._root_key = ec.generate_private_key(ec.SECP256R1())
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.root = _certificate(
            f"{name} root",
            self._root_key.public_key(),
            issuer=None,
            issuer_name=f"{name} root",
            signer=self._root_key,
            purpose=None,
        )
        self.intermediate = _certificate(
            f"{name} CA",
            self._key.public_key(),
            issuer=self.root,
            issuer_name=f"{name} root",
            signer=self._root_key,
            purpose=None,
        )
        self._name = name

    def certify(
        self, key: object, *, purpose: x509.ObjectIdentifier = AK_PURPOSE
    ) -> list[x509.Certificate]:
        """Return the chain for `key`, leaf first, without the root."""
        leaf = _certificate(
            "attestation key",
            key,
            issuer=self.intermediate,
            issuer_name=f"{self._name} CA",
            signer=self._key,
            purpose=purpose,
        )
        return [leaf, self.intermediate]

    def crls(
        self, now: datetime = BEGINNING, *, revoked: Sequence[x509.Certificate] = ()
    ) -> list[bytes]:
        """Return the lists of root and CA, each valid for a day, as of `now`."""
        return [
            _list(self.root, self._root_key, now, revoked),
            _list(self.intermediate, self._key, now, revoked),
        ]

    @property
    def root_der(self) -> bytes:
        return der(self.root)


def _list(
    issuer: x509.Certificate,
    key: ec.EllipticCurvePrivateKey,
    now: datetime,
    revoked: Sequence[x509.Certificate],
) -> bytes:
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.subject)
        .last_update(now)
        .next_update(now + timedelta(days=1))
    )
    for certificate in revoked:
        builder = builder.add_revoked_certificate(
            x509.RevokedCertificateBuilder()
            .serial_number(certificate.serial_number)
            .revocation_date(now)
            .build()
        )
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


def pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(entry.public_bytes(serialization.Encoding.PEM) for entry in certificates)


def _certificate(
    name: str,
    key: object,
    *,
    issuer: x509.Certificate | None,
    issuer_name: str,
    signer: ec.EllipticCurvePrivateKey,
    purpose: x509.ObjectIdentifier | None,
) -> x509.Certificate:
    ca = purpose is None
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer_name)]))
        .public_key(key)  # type: ignore[arg-type]
        .serial_number(x509.random_serial_number())
        .not_valid_before(BEGINNING)
        .not_valid_after(BEGINNING + (CA_LIFE if ca else AK_LIFE))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(_usage(ca=ca), critical=True)
        .add_extension(
            x509.SubjectKeyIdentifier.from_public_key(key),  # type: ignore[arg-type]
            critical=False,
        )
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()),
            critical=False,
        )
    )
    if purpose is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    return builder.sign(signer, hashes.SHA256())


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
