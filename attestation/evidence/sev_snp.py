"""Evidence of kind `sev-snp`: AMD's ATTESTATION_REPORT, parsed and not yet believed.

Offsets and bits are those of the SEV Secure Nested Paging Firmware ABI Specification (AMD 56860),
table ATTESTATION_REPORT, versions 2 to 5, little-endian. Versions only add fields: 3 the CPUID
bytes, 5 the mitigation vectors. A version that we have not read is refused, since it may put
another meaning where we look.
"""

from enum import IntFlag, StrEnum
from typing import Final, Self

from attrs import field, frozen

from attestation import limits
from attestation.encoding.reader import Reader
from attestation.encoding.record import Record, array, item, octets
from attestation.errors import DecodeError
from attestation.evidence.sev_snp_tcb import TCB_BYTES, Product, product_of_cpuid

KIND: Final = "sev-snp"

REPORT_BYTES: Final = 1184
SIGNED_BYTES: Final = 0x2A0
"""What the signature covers; the rest of the report is the signature."""
REPORT_DATA_BYTES: Final = 64
MEASUREMENT_BYTES: Final = 48
KEY_DIGEST_BYTES: Final = 48
HOST_DATA_BYTES: Final = 32
CHIP_ID_BYTES: Final = 64

VERSIONS: Final = range(2, 6)
_WITH_CPUID: Final = 3
_WITH_MITIGATIONS: Final = 5

_ECDSA_P384_SHA384: Final = 1
_COORDINATE_BYTES: Final = 72  # little-endian, of which P-384 uses 48
_USED_BYTES: Final = 48

_AUTHOR_KEY_EN: Final = 1 << 0
_MASK_CHIP_KEY: Final = 1 << 1
_SIGNING_KEY_SHIFT: Final = 2
_SIGNING_KEY_BITS: Final = 0b111


class Signer(StrEnum):
    """SIGNING_KEY: which key the report says it is signed with."""

    VCEK = "vcek"
    """Versioned chip endorsement key: of one chip."""
    VLEK = "vlek"
    """Versioned loaded endorsement key: of one cloud provider, on any of its chips."""


_SIGNERS: Final = {0: Signer.VCEK, 1: Signer.VLEK}


@frozen(kw_only=True)
class SigningKey:
    """Which key a report says that it is signed with: by these AMD's key server finds it."""

    signer: Signer | None
    tcb: bytes
    chip_id: bytes


class GuestPolicy(IntFlag):
    """POLICY: what the owner of the guest allows the host (ABI section "Guest Policy")."""

    SMT = 1 << 16
    MUST_BE_ONE = 1 << 17
    MIGRATE_MA = 1 << 18
    DEBUG = 1 << 19
    SINGLE_SOCKET = 1 << 20
    CXL_ALLOW = 1 << 21
    MEM_AES_256_XTS = 1 << 22
    RAPL_DIS = 1 << 23
    CIPHERTEXT_HIDING_DRAM = 1 << 24
    PAGE_SWAP_DISABLE = 1 << 25


_KNOWN_POLICY: Final = 0xFFFF | sum(GuestPolicy)


class PlatformInfo(IntFlag):
    """PLATFORM_INFO: what the host's firmware says about the host."""

    SMT_EN = 1 << 0
    TSME_EN = 1 << 1
    ECC_EN = 1 << 2
    RAPL_DIS = 1 << 3
    CIPHERTEXT_HIDING_DRAM_EN = 1 << 4
    ALIAS_CHECK_COMPLETE = 1 << 5
    TIO_EN = 1 << 7


@frozen(kw_only=True)
class SevSnpEvidence(Record):
    """The body of a bundle: the report, and certificates that anyone may have put beside it.

    `certificates` are DER or PEM, in any order; `certificate_table` is what the hypervisor handed
    out with an extended report (`auxblob` of configfs-tsm), byte for byte, or empty.
    """

    VERSION = 1
    LIMIT = limits.EVIDENCE_BYTES

    report: bytes = item(octets(exactly=REPORT_BYTES), secret=True)
    certificates: tuple[bytes, ...] = item(
        array(octets(limit=limits.CERTIFICATE_BYTES), limit=limits.CERTIFICATES), secret=True
    )
    certificate_table: bytes = item(octets(limit=limits.SNP_CERTIFICATE_TABLE_BYTES), secret=True)


@frozen(kw_only=True)
class Report:
    """ATTESTATION_REPORT. TCB versions stay bytes: how they are read depends on the product."""

    version: int
    guest_svn: int
    policy: int
    family_id: bytes
    image_id: bytes
    vmpl: int
    platform_info: int
    author_key_en: bool
    mask_chip_key: bool
    signing_key: int
    report_data: bytes = field(repr=False)
    measurement: bytes
    host_data: bytes
    id_key_digest: bytes
    author_key_digest: bytes
    report_id: bytes
    report_id_ma: bytes
    chip_id: bytes
    cpuid: tuple[int, int, int] | None
    """Family, model and stepping; None in version 2, which has none."""
    current_tcb: bytes
    reported_tcb: bytes
    committed_tcb: bytes
    launch_tcb: bytes
    current_version: tuple[int, int, int]
    """Major, minor and build of the firmware that runs."""
    committed_version: tuple[int, int, int]
    launch_mitigations: int | None
    current_mitigations: int | None
    signed: bytes = field(repr=False)
    signature: tuple[int, int] = field(repr=False)
    """r and s."""

    @property
    def signer(self) -> Signer | None:
        """The key that it says it is signed with; None when with none, or with one unknown here."""
        return None if self.mask_chip_key else _SIGNERS.get(self.signing_key)

    @property
    def key(self) -> SigningKey:
        """Which key it says that it is signed with."""
        return SigningKey(signer=self.signer, tcb=self.reported_tcb, chip_id=self.chip_id)

    @property
    def product(self) -> Product | None:
        """The product that the CPUID bytes name; None in version 2, and for one unknown here."""
        return None if self.cpuid is None else product_of_cpuid(*self.cpuid[:2])

    @property
    def minimum_abi(self) -> tuple[int, int]:
        """ABI_MAJOR and ABI_MINOR of the guest policy: older firmware may not run this guest."""
        return (self.policy >> 8) & 0xFF, self.policy & 0xFF

    @property
    def unknown_policy(self) -> int:
        """Guest policy bits that this version does not know."""
        return self.policy & ~_KNOWN_POLICY

    def allows(self, bit: GuestPolicy) -> bool:
        """Whether a bit of the guest policy is set."""
        return bool(self.policy & bit)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parse exactly one report, or raise `DecodeError`.

        Fields that no signature covers have to be zero, so that a report has one encoding.
        """
        if len(data) != REPORT_BYTES:
            raise DecodeError(f"a report of {len(data)} bytes where {REPORT_BYTES} are needed")
        version = _uint(data, 0x000, 4)
        if version not in VERSIONS:
            raise DecodeError(f"a report of version {version}")
        if _uint(data, 0x034, 4) != _ECDSA_P384_SHA384:
            raise DecodeError("a report that is not signed with ECDSA P-384 and SHA-384")
        key_info = _uint(data, 0x048, 4)
        with_mitigations = version >= _WITH_MITIGATIONS
        return cls(
            version=version,
            guest_svn=_uint(data, 0x004, 4),
            policy=_uint(data, 0x008, 8),
            family_id=data[0x010:0x020],
            image_id=data[0x020:0x030],
            vmpl=_uint(data, 0x030, 4),
            current_tcb=data[0x038 : 0x038 + TCB_BYTES],
            platform_info=_uint(data, 0x040, 8),
            author_key_en=bool(key_info & _AUTHOR_KEY_EN),
            mask_chip_key=bool(key_info & _MASK_CHIP_KEY),
            signing_key=key_info >> _SIGNING_KEY_SHIFT & _SIGNING_KEY_BITS,
            report_data=data[0x050:0x090],
            measurement=data[0x090:0x0C0],
            host_data=data[0x0C0:0x0E0],
            id_key_digest=data[0x0E0:0x110],
            author_key_digest=data[0x110:0x140],
            report_id=data[0x140:0x160],
            report_id_ma=data[0x160:0x180],
            reported_tcb=data[0x180 : 0x180 + TCB_BYTES],
            cpuid=(data[0x188], data[0x189], data[0x18A]) if version >= _WITH_CPUID else None,
            chip_id=data[0x1A0:0x1E0],
            committed_tcb=data[0x1E0 : 0x1E0 + TCB_BYTES],
            current_version=(data[0x1EA], data[0x1E9], data[0x1E8]),
            committed_version=(data[0x1EE], data[0x1ED], data[0x1EC]),
            launch_tcb=data[0x1F0 : 0x1F0 + TCB_BYTES],
            launch_mitigations=_uint(data, 0x1F8, 8) if with_mitigations else None,
            current_mitigations=_uint(data, 0x200, 8) if with_mitigations else None,
            signed=data[:SIGNED_BYTES],
            signature=_signature(data[SIGNED_BYTES:]),
        )


def _uint(data: bytes, offset: int, size: int) -> int:
    return int.from_bytes(data[offset : offset + size], "little")


def _signature(data: bytes) -> tuple[int, int]:
    reader = Reader(data, limit=REPORT_BYTES - SIGNED_BYTES)
    r, s = (_coordinate(reader.take(_COORDINATE_BYTES)) for _ in range(2))
    if any(reader.take_rest()):
        raise DecodeError("bytes after the signature")
    return r, s


def _coordinate(data: bytes) -> int:
    if any(data[_USED_BYTES:]):
        raise DecodeError("a signature that is longer than P-384 makes them")
    return int.from_bytes(data, "little")
