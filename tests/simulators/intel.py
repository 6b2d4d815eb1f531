"""Intel, one platform of theirs and its quoting enclave, with real keys: quotes and collateral.

Everything is byte-exact in Intel's formats and really signed, under a root of our own. What a test
wants to be wrong is an argument; the signatures are then made over the wrong thing, so that exactly
one check can tell. The layouts are written out again here, from the specifications and not from
the parser, so that a wrong offset there cannot agree with itself.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, Final

from attrs import evolve, frozen
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import NameOID

NOW: Final = datetime(2026, 6, 1, 12, tzinfo=UTC)

FMSPC: Final = bytes.fromhex("b0c06f000000")
PPID: Final = bytes(range(16))
QE_SIGNER: Final = hashlib.sha256(b"a signer of quoting enclaves").digest()
QE_ATTRIBUTES: Final = bytes.fromhex("11000000000000000000000000000000")

_VENDOR: Final = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
_SGX_OID: Final = bytes.fromhex("2a864886f84d010d01")
_SHA256: Final = hashes.SHA256()


def p256() -> ec.EllipticCurvePrivateKey:
    """Draw a key."""
    return ec.generate_private_key(ec.SECP256R1())


def raw_signature(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    """Sign as quotes and texts are signed: r ‖ s."""
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(_SHA256)))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def raw_point(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return x ‖ y of the public key."""
    return key.public_key().public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    )[1:]


def pem(certificates: Sequence[x509.Certificate]) -> str:
    """Return a chain as Intel writes it."""
    encoding = serialization.Encoding.PEM
    return "".join(certificate.public_bytes(encoding).decode() for certificate in certificates)


def encoded(*certificates: x509.Certificate) -> tuple[bytes, ...]:
    """Return each certificate in DER."""
    return tuple(entry.public_bytes(serialization.Encoding.DER) for entry in certificates)


def der(tag: int, *contents: bytes) -> bytes:
    """Return one DER element."""
    data = b"".join(contents)
    size = len(data)
    length = bytes([size]) if size < 0x80 else b"\x82" + size.to_bytes(2, "big")
    return bytes([tag]) + length + data


def der_uint(value: int) -> bytes:
    """Return a DER INTEGER."""
    return der(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def member(value: bytes, *path: int) -> bytes:
    """Return SEQUENCE { id, value } of the SGX extension."""
    return der(0x30, der(0x06, _SGX_OID, bytes(path)), value)


@frozen(kw_only=True)
class Platform:
    """One machine, as Intel certifies it."""

    fmspc: bytes = FMSPC
    ppid: bytes = PPID
    pce_id: bytes = b"\0\0"
    components: bytes = bytes([3, 3, 2, 2, 4, 1, 0, 5]) + bytes(8)
    pce_svn: int = 13
    instance: bytes | None = bytes(15) + b"\7"

    def extension(self, *, extra: bytes = b"") -> bytes:
        """Return the SGX extension of its PCK certificate."""
        svns = [member(der_uint(svn), 2, index + 1) for index, svn in enumerate(self.components)]
        tcb = [
            *svns,
            member(der_uint(self.pce_svn), 2, 17),
            member(der(0x04, self.components), 2, 18),
        ]
        fields = [
            member(der(0x04, self.ppid), 1),
            member(der(0x30, *tcb), 2),
            member(der(0x04, self.pce_id), 3),
            member(der(0x04, self.fmspc), 4),
            member(der(0x0A, b"\1"), 5),
        ]
        if self.instance is not None:
            flags = [member(der(0x01, b"\xff"), 7, index) for index in (1, 2, 3)]
            fields += [member(der(0x04, self.instance), 6), member(der(0x30, *flags), 7)]
        return der(0x30, *fields, extra)


def _name(common: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, common),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Intel Corporation"),
            x509.NameAttribute(NameOID.COUNTRY_NAME, "US"),
        ]
    )


@frozen(kw_only=True)
class Authority:
    """A key, its certificate, and what it issues."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def root(
        cls,
        *,
        key: ec.EllipticCurvePrivateKey | None = None,
        signer: ec.EllipticCurvePrivateKey | None = None,
    ) -> "Authority":
        """Make a root, for a new key or for a given one; `signer` signs it instead."""
        key = key or p256()
        common = "Intel SGX Root CA"
        certificate = _certificate(common, key, None, is_ca=True, signer=signer or key)
        return cls(key=key, certificate=certificate)

    def issue(self, common: str, *, is_ca: bool = False, **details: Any) -> "Authority":
        """Make an authority, or a leaf, below this one."""
        key = details.pop("key", None) or p256()
        return Authority(
            key=key, certificate=_certificate(common, key, self, is_ca=is_ca, **details)
        )

    def crl(self, *revoked: x509.Certificate, now: datetime = NOW, days: int = 30) -> bytes:
        """Return a revocation list in DER."""
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(now - timedelta(days=1))
            .next_update(now + timedelta(days=days))
            .add_extension(x509.CRLNumber(1), critical=False)
        )
        for certificate in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(certificate.serial_number)
            builder = builder.add_revoked_certificate(entry.revocation_date(now).build())
        return builder.sign(self.key, _SHA256).public_bytes(serialization.Encoding.DER)


def _certificate(
    common: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: Authority | None,
    *,
    is_ca: bool,
    extension: bytes | None = None,
    critical: bool = False,
    bare: bool = False,
    signer: ec.EllipticCurvePrivateKey | None = None,
    begins: datetime = NOW - timedelta(days=300),
    ends: datetime = NOW + timedelta(days=3000),
) -> x509.Certificate:
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(common))
        .issuer_name(issuer.certificate.subject if issuer else _name(common))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
    )
    if not bare:
        builder = builder.add_extension(
            x509.BasicConstraints(ca=is_ca, path_length=None), critical=True
        ).add_extension(
            x509.KeyUsage(
                digital_signature=not is_ca,
                key_cert_sign=is_ca,
                crl_sign=is_ca,
                encipher_only=False,
                decipher_only=False,
                **usage,
            ),
            critical=True,
        )
    if extension is not None:
        oid = x509.ObjectIdentifier("1.2.840.113741.1.13.1")
        value = x509.UnrecognizedExtension(oid, extension)
        builder = builder.add_extension(value, critical=critical)
    return builder.sign(signer or (issuer.key if issuer else key), _SHA256)


def enclave_report(
    *,
    report_data: bytes = bytes(64),
    attributes: bytes = bytes.fromhex("0500000000000000e700000000000000"),
    mr_enclave: bytes = b"\xe1" * 32,
    mr_signer: bytes = b"\xe2" * 32,
    misc_select: int = 0,
    isv_prod_id: int = 1,
    isv_svn: int = 3,
    config_id: bytes = bytes(64),
) -> bytes:
    """Return REPORTBODY of an enclave."""
    return b"".join(
        [
            b"\x0b" * 16,
            misc_select.to_bytes(4, "little"),
            bytes(12 + 16),
            attributes,
            mr_enclave,
            bytes(32),
            mr_signer,
            bytes(32),
            config_id,
            isv_prod_id.to_bytes(2, "little"),
            isv_svn.to_bytes(2, "little"),
            bytes(2 + 42 + 16),
            report_data,
        ]
    )


@frozen(kw_only=True)
class Domain:
    """A trust domain, as its report describes it.

    `tee_tcb_svn2` makes the report one of TDX 1.5, `extension` an extended one.
    """

    report_data: bytes = bytes(64)
    tee_tcb_svn: bytes = bytes([6, 1, 3]) + bytes(13)
    mr_seam: bytes = b"\x5e" * 48
    mr_signer_seam: bytes = bytes(48)
    seam_attributes: int = 0
    td_attributes: int = 1 << 28
    xfam: int = 0x602E7
    mr_td: bytes = b"\xa0" * 48
    mr_config_id: bytes = bytes(48)
    rtmrs: tuple[bytes, ...] = tuple(bytes([0xB0 + index]) * 48 for index in range(4))
    tee_tcb_svn2: bytes | None = None
    mr_service_td: bytes = bytes(48)
    extension: bytes = b""

    def to_bytes(self) -> bytes:
        """Return the TD report body."""
        body = b"".join(
            [
                self.tee_tcb_svn,
                self.mr_seam,
                self.mr_signer_seam,
                self.seam_attributes.to_bytes(8, "little"),
                self.td_attributes.to_bytes(8, "little"),
                self.xfam.to_bytes(8, "little"),
                self.mr_td,
                self.mr_config_id,
                bytes(48),
                bytes(48),
                *self.rtmrs,
                self.report_data,
            ]
        )
        if self.tee_tcb_svn2 is None:
            return body
        return body + self.tee_tcb_svn2 + self.mr_service_td + self.extension


TCB_LEVEL: Final = {
    "sgx": [2, 2, 2, 2, 3, 1, 0, 5] + [0] * 8,
    "tdx": [5, 0, 2] + [0] * 13,
    "pcesvn": 11,
    "status": "UpToDate",
}


def tcb_level(tee: str = "TDX", **changes: Any) -> dict[str, Any]:
    """Return one level of TCB info, version 3."""
    level = {**TCB_LEVEL, **changes}
    tcb = {"sgxtcbcomponents": [{"svn": svn} for svn in level["sgx"]], "pcesvn": level["pcesvn"]}
    if tee == "TDX":
        tcb["tdxtcbcomponents"] = [{"svn": svn} for svn in level["tdx"]]
    made = {"tcb": tcb, "tcbDate": "2026-02-11T00:00:00Z", "tcbStatus": level["status"]}
    if "advisories" in level:
        made["advisoryIDs"] = level["advisories"]
    return made


def svn_level(svn: int, status: str = "UpToDate", *advisories: str) -> dict[str, Any]:
    """Return one level of a QE identity or of a TDX module."""
    level = {"tcb": {"isvsvn": svn}, "tcbDate": "2026-02-11T00:00:00Z", "tcbStatus": status}
    return {**level, "advisoryIDs": list(advisories)} if advisories else level


def module(name: str, *levels: Mapping[str, Any], signer: bytes = bytes(48)) -> dict[str, Any]:
    """Return one entry of tdxModuleIdentities."""
    return {
        "id": name,
        "mrsigner": signer.hex().upper(),
        "attributes": "0" * 16,
        "attributesMask": "F" * 16,
        "tcbLevels": list(levels),
    }


@frozen(kw_only=True)
class Intel:
    """The vendor, one platform and its quoting enclave."""

    root: Authority
    pck_ca: Authority
    signer: Authority
    platform: Platform
    pck: Authority
    attestation_key: ec.EllipticCurvePrivateKey

    @classmethod
    def make(cls, platform: Platform | None = None, *, ca: str = "Platform") -> "Intel":
        """Make all of it."""
        platform = platform or Platform()
        root = Authority.root()
        pck_ca = root.issue(f"Intel SGX PCK {ca} CA", is_ca=True)
        return cls(
            root=root,
            pck_ca=pck_ca,
            signer=root.issue("Intel SGX TCB Signing"),
            platform=platform,
            pck=pck_ca.issue("Intel SGX PCK Certificate", extension=platform.extension()),
            attestation_key=p256(),
        )

    def on(self, platform: Platform, **details: Any) -> "Intel":
        """Return the same Intel with another platform, certified anew."""
        pck = self.pck_ca.issue(
            "Intel SGX PCK Certificate", extension=platform.extension(), **details
        )
        return evolve(self, platform=platform, pck=pck)

    @property
    def chain(self) -> list[x509.Certificate]:
        """Return the PCK chain, leaf first."""
        return [self.pck.certificate, self.pck_ca.certificate, self.root.certificate]

    # -- quotes -----------------------------------------------------------------------------------

    def td_quote(self, domain: Domain | None = None, *, version: int = 4, **details: Any) -> bytes:
        """Return a quote of a TD."""
        body = (domain or Domain()).to_bytes()
        kind = {584: 2, 648: 3, 885: 4}[len(body)]
        descriptor = kind.to_bytes(2, "little") + len(body).to_bytes(4, "little")
        head = self._header(version, 0x81) + (descriptor if version == 5 else b"")
        return self._sign(head + body, version=version, product=2, **details)

    def sgx_quote(
        self, *, version: int = 3, signing: Mapping[str, Any] = {}, **report: Any
    ) -> bytes:
        """Return a quote of an enclave; `signing` is as for `td_quote`."""
        body = enclave_report(**report)
        descriptor = (1).to_bytes(2, "little") + len(body).to_bytes(4, "little")
        head = self._header(version, 0) + (descriptor if version == 5 else b"")
        return self._sign(head + body, version=version, product=1, **signing)

    def _header(self, version: int, tee: int) -> bytes:
        fields = version.to_bytes(2, "little") + b"\2\0" + tee.to_bytes(4, "little") + bytes(4)
        return fields + _VENDOR + bytes(20)

    def _sign(
        self,
        signed: bytes,
        *,
        version: int,
        product: int,
        authentication: bytes = bytes(range(32)),
        certification: tuple[int, bytes] | None = None,
        qe: Mapping[str, Any] = {},
        vouched: bytes | None = None,
        qe_signer: ec.EllipticCurvePrivateKey | None = None,
        quote_signer: ec.EllipticCurvePrivateKey | None = None,
        padding: bytes = b"",
    ) -> bytes:
        """Sign `signed`; `vouched` replaces the digest that the QE report holds."""
        key = raw_point(self.attestation_key)
        digest = hashlib.sha256(key + authentication).digest() if vouched is None else vouched
        enclave: dict[str, Any] = {
            "attributes": QE_ATTRIBUTES,
            "mr_signer": QE_SIGNER,
            "isv_prod_id": product,
            "isv_svn": 8,
            "report_data": digest.ljust(64, b"\0"),
        }
        report = enclave_report(**{**enclave, **qe})
        kind, data = certification or (5, pem(self.chain).encode() + b"\0")
        rest = b"".join(
            [
                report,
                raw_signature(qe_signer or self.pck.key, report),
                len(authentication).to_bytes(2, "little"),
                authentication,
                kind.to_bytes(2, "little"),
                len(data).to_bytes(4, "little"),
                data,
            ]
        )
        if version > 3:
            rest = (6).to_bytes(2, "little") + len(rest).to_bytes(4, "little") + rest
        signature = raw_signature(quote_signer or self.attestation_key, signed) + key + rest
        return signed + len(signature).to_bytes(4, "little") + signature + padding

    # -- collateral -------------------------------------------------------------------------------

    def tcb_info(self, tee: str = "TDX", **changes: Any) -> dict[str, Any]:
        """Return TCB info, version 3, under which the platform is up to date."""
        info: dict[str, Any] = {
            "id": tee,
            "version": 3,
            "issueDate": _text(NOW - timedelta(days=1)),
            "nextUpdate": _text(NOW + timedelta(days=29)),
            "fmspc": self.platform.fmspc.hex().upper(),
            "pceId": self.platform.pce_id.hex(),
            "tcbType": 0,
            "tcbEvaluationDataNumber": 20,
            "tcbLevels": [tcb_level(tee)],
        }
        if tee == "TDX":
            first = module("TDX_00")
            info["tdxModule"] = {name: first[name] for name in first if name[:2] in ("mr", "at")}
            info["tdxModuleIdentities"] = [
                module("TDX_01", svn_level(4), svn_level(2, "OutOfDate"))
            ]
        return {**info, **changes}

    def qe_identity(self, tee: str = "TDX", **changes: Any) -> dict[str, Any]:
        """Return the identity of the quoting enclave that signs here."""
        identity = {
            "id": {"TDX": "TD_QE", "SGX": "QE"}[tee],
            "version": 2,
            "issueDate": _text(NOW - timedelta(days=1)),
            "nextUpdate": _text(NOW + timedelta(days=29)),
            "tcbEvaluationDataNumber": 20,
            "miscselect": "00000000",
            "miscselectMask": "FFFFFFFF",
            "attributes": QE_ATTRIBUTES.hex(),
            "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
            "mrsigner": QE_SIGNER.hex().upper(),
            "isvprodid": {"TDX": 2, "SGX": 1}[tee],
            "tcbLevels": [svn_level(8), svn_level(6, "OutOfDate", "INTEL-SA-00477")],
        }
        return {**identity, **changes}

    def collateral(
        self,
        tee: str = "TDX",
        *,
        tcb_info: Mapping[str, Any] = {},
        qe_identity: Mapping[str, Any] = {},
        **members: Any,
    ) -> bytes:
        """Return one item of collateral; the mappings change what Intel says, then it is signed."""
        texts = {
            "tcb_info": _compact(self.tcb_info(tee, **tcb_info)),
            "qe_identity": _compact(self.qe_identity(tee, **qe_identity)),
        }
        chain = pem([self.signer.certificate, self.root.certificate])
        item: dict[str, Any] = {
            "pck_crl_issuer_chain": pem([self.pck_ca.certificate, self.root.certificate]),
            "root_ca_crl": self.root.crl().hex(),
            "pck_crl": self.pck_ca.crl().hex(),
        }
        for name, text in texts.items():
            item[name] = text
            item[f"{name}_signature"] = raw_signature(self.signer.key, text.encode()).hex()
            item[f"{name}_issuer_chain"] = chain
        return json.dumps({**item, **members}).encode()


def _text(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _compact(value: Mapping[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"))


@cache
def intel() -> Intel:
    """Return one Intel for all tests that change nothing about it."""
    return Intel.make()
