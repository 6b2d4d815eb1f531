"""A VCEK or VLEK certificate: the extensions in which AMD says what it certifies.

AMD 57230, "VCEK Certificate Fields" and "VLEK Certificate Fields": object identifiers below
1.3.6.1.4.1.3704.1, each an ASN.1 value of a few bytes, except the hardware id, which stands bare.
"""

from functools import lru_cache
from typing import Final

from attrs import field, frozen
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from attestation.errors import DecodeError
from attestation.evidence.sev_snp import CHIP_ID_BYTES, Signer, SigningKey
from attestation.evidence.sev_snp_tcb import Product

_ARC: Final = "1.3.6.1.4.1.3704.1"
_STRUCT_VERSION: Final = f"{_ARC}.1"
_PRODUCT_NAME: Final = f"{_ARC}.2"
_LEVELS: Final = f"{_ARC}.3"
_HARDWARE_ID: Final = f"{_ARC}.4"
_CSP_ID: Final = f"{_ARC}.5"

# The bytes of TCB_VERSION in order, as the last arcs of the extensions that certify each.
_OLD_LEVELS: Final = (1, 2, 4, 5, 6, 7, 3, 8)
_NEW_LEVELS: Final = (9, 1, 2, 3, 5, 6, 7, 8)

_HARDWARE_ID_BYTES: Final = {0: CHIP_ID_BYTES, 1: 8}
"""By structVersion: Turin's identifiers are shorter than the field of the report."""

_INTEGER: Final = 0x02
_OCTET_STRING: Final = 0x04
_IA5_STRING: Final = 0x16


@frozen(kw_only=True)
class SigningCertificate:
    """A key that signs reports, and what its certificate says that it stands for."""

    certificate: x509.Certificate = field(repr=False)
    key: ec.EllipticCurvePublicKey = field(repr=False)
    signer: Signer
    struct_version: int
    product_name: str
    tcb: bytes
    """TCB_VERSION, packed as reports pack it."""
    hardware_id: bytes | None
    """Of a VCEK: the chip."""
    csp_id: str | None
    """Of a VLEK: the cloud provider."""

    @classmethod
    def of(cls, certificate: x509.Certificate) -> "SigningCertificate":
        """Read the extensions of `certificate`, or raise `DecodeError`."""
        return _read(certificate)

    def is_of(self, key: SigningKey) -> bool:
        """Whether it claims to be for `key`."""
        return (
            self.signer is key.signer
            and self.tcb == key.tcb
            and self.chip_id in (None, key.chip_id)
        )

    @property
    def chip_id(self) -> bytes | None:
        """The hardware id as a report of this chip has it: filled up with zeros."""
        return None if self.hardware_id is None else self.hardware_id.ljust(CHIP_ID_BYTES, b"\0")

    def is_for(self, product: Product) -> bool:
        """Whether it names `product`, whatever the stepping behind it ("Milan-B0")."""
        new = self.struct_version == 1
        return self.product_name.split("-")[0].lower() == product and new is (
            product is Product.TURIN
        )


@lru_cache(maxsize=1024)
def _read(certificate: x509.Certificate) -> SigningCertificate:
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != ec.SECP384R1.name:
        raise DecodeError("the key that signs reports is not one of P-384")
    found = {
        entry.oid.dotted_string: entry.value.value
        for entry in certificate.extensions
        if isinstance(entry.value, x509.UnrecognizedExtension)
    }
    version = _integer(found, _STRUCT_VERSION)
    if version not in _HARDWARE_ID_BYTES:
        raise DecodeError(f"a certificate of structVersion {version}")
    levels = _NEW_LEVELS if version == 1 else _OLD_LEVELS
    hardware_id, csp_id = found.get(_HARDWARE_ID), found.get(_CSP_ID)
    if (hardware_id is None) is (csp_id is None):
        raise DecodeError("a certificate that is neither of a chip nor of a provider")
    return SigningCertificate(
        certificate=certificate,
        key=key,
        signer=Signer.VCEK if csp_id is None else Signer.VLEK,
        struct_version=version,
        product_name=_text(found, _PRODUCT_NAME),
        tcb=bytes(_integer(found, f"{_LEVELS}.{arc}") for arc in levels),
        hardware_id=None if hardware_id is None else _hardware_id(hardware_id, version),
        csp_id=None if csp_id is None else _text(found, _CSP_ID),
    )


def _integer(found: dict[str, bytes], oid: str) -> int:
    data = _value(found, oid, _INTEGER)
    if not 1 <= len(data) <= 2 or int.from_bytes(data, "big", signed=True) not in range(256):
        raise DecodeError(f"extension {oid} is not an integer from 0 to 255")
    return int.from_bytes(data, "big")


def _text(found: dict[str, bytes], oid: str) -> str:
    data = _value(found, oid, _IA5_STRING)
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError as error:
        raise DecodeError(f"extension {oid} is not text") from error
    if not text.isprintable():
        raise DecodeError(f"extension {oid} is not printable")
    return text


def _hardware_id(data: bytes, version: int) -> bytes:
    size = _HARDWARE_ID_BYTES[version]
    # Bare in all that AMD has issued, wrapped in the words of the specification. A bare one that
    # happens to begin like a wrapper has not its length.
    if len(data) == size + 2 and data[:2] == bytes([_OCTET_STRING, size]):
        data = data[2:]
    if len(data) != size:
        raise DecodeError(f"a hardware id of {len(data)} bytes where {size} are needed")
    return data


def _value(found: dict[str, bytes], oid: str, tag: int) -> bytes:
    data = found.get(oid)
    if data is None:
        raise DecodeError(f"extension {oid} is missing")
    # All of them are short: one byte of tag, one of length.
    if len(data) < 2 or data[0] != tag or data[1] != len(data) - 2 or data[1] > 127:
        raise DecodeError(f"extension {oid} has another form")
    return data[2:]
