"""Evidence of kind `tpm`: a PCR quote of a TPM 2.0, parsed and not yet believed.

Structures are those of the TPM 2.0 Library, Part 2: TPMS_ATTEST (10.12.8), TPMT_SIGNATURE (11.3.4)
and TPMT_PUBLIC (12.2.4), big-endian, each taken whole. Written out rather than taken from a TPM
library because an auditor must not need one, and because those libraries parse the trusted side's
answers while this parses a stranger's.
"""

import hashlib
from collections.abc import Mapping
from enum import IntEnum, IntFlag, StrEnum
from typing import Final, Self, TypeAlias

from attrs import field, frozen
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from attestation import limits
from attestation.encoding.reader import Reader
from attestation.encoding.record import Record, array, item, octets, optional, row, uint, word
from attestation.errors import DecodeError

KIND: Final = "tpm"

GENERATED: Final = 0xFF544347
"""TPM_GENERATED_VALUE: what a restricted key puts first, and signs nothing foreign that has it."""

ST_ATTEST_QUOTE: Final = 0x8018

_NULL: Final = 0x0010
_BLOCK_CIPHERS: Final = frozenset({0x0006, 0x0013, 0x0026})  # AES, SM4, Camellia

_NAME_BYTES: Final = 2 + 64
_DATA_BYTES: Final = 2 + 64  # TPM2B_DATA: at most a TPMT_HA
_BANKS: Final = 16
_SELECT_BYTES: Final = 4  # 32 PCRs; hardware has 24
_RSA_BYTES: Final = 512
_COORDINATE_BYTES: Final = 66

PublicKey: TypeAlias = ec.EllipticCurvePublicKey | rsa.RSAPublicKey


class PcrBank(StrEnum):
    """The hash of a PCR bank, and of a signing scheme."""

    SHA1 = "sha1"
    SHA256 = "sha256"
    SHA384 = "sha384"
    SHA512 = "sha512"

    @property
    def digest_bytes(self) -> int:
        """Length of one value."""
        return hashlib.new(self.value, usedforsecurity=False).digest_size


_HASHES: Final = {
    0x0004: PcrBank.SHA1,
    0x000B: PcrBank.SHA256,
    0x000C: PcrBank.SHA384,
    0x000D: PcrBank.SHA512,
}

_SIGNING_HASHES: Final[Mapping[PcrBank, type[hashes.HashAlgorithm]]] = {
    PcrBank.SHA1: hashes.SHA1,
    PcrBank.SHA256: hashes.SHA256,
    PcrBank.SHA384: hashes.SHA384,
    PcrBank.SHA512: hashes.SHA512,
}
"""SHA-1 is here since real TPMs still sign with it: such quotes are genuine, and not accepted."""

_CURVES: Final = {0x0003: ec.SECP256R1, 0x0004: ec.SECP384R1}


class Scheme(IntEnum):
    """Signature schemes that we verify."""

    RSASSA = 0x0014
    RSAPSS = 0x0016
    ECDSA = 0x0018


class Attributes(IntFlag):
    """TPMA_OBJECT, the bits that appraisal looks at."""

    FIXED_TPM = 1 << 1
    FIXED_PARENT = 1 << 4
    SENSITIVE_DATA_ORIGIN = 1 << 5
    RESTRICTED = 1 << 16
    DECRYPT = 1 << 17
    SIGN = 1 << 18


PcrName: TypeAlias = tuple[PcrBank, int]
PcrRow: TypeAlias = tuple[PcrBank, int, bytes]


@frozen(kw_only=True)
class PcrQuote(Record):
    """What a TPM signed, the values it signed a digest of, and the log that led to them.

    `pcrs` may be empty: then nothing but their digest is known. `signature` is in any form that
    `tpm_forms.read_signature` knows.
    """

    attest: bytes = item(octets(limit=limits.TPM_STRUCTURE_BYTES), secret=True)
    signature: bytes = item(octets(limit=limits.TPM_STRUCTURE_BYTES), secret=True)
    pcrs: tuple[PcrRow, ...] = item(
        array(row(word(PcrBank), uint(31), octets(limit=64)), limit=limits.TPM_PCRS)
    )
    event_log: bytes | None = item(
        optional(octets(limit=limits.EVENT_LOG_BYTES)), default=None, secret=True
    )


@frozen(kw_only=True)
class TpmEvidence(PcrQuote):
    """The body of a bundle: a quote, the key that signed it, and the certificates of that key.

    `ak_public` is in any form that `tpm_forms.read_key` knows; certificates are DER, leaf first.
    """

    VERSION = 1
    LIMIT = limits.EVIDENCE_BYTES

    ak_public: bytes = item(octets(limit=limits.CERTIFICATE_BYTES), secret=True)
    ak_certificates: tuple[bytes, ...] = item(
        array(octets(limit=limits.CERTIFICATE_BYTES), limit=limits.CERTIFICATES), secret=True
    )


@frozen(kw_only=True)
class Quote:
    """TPMS_QUOTE_INFO: which PCRs, in the order that was hashed, and the hash of their values."""

    selection: tuple[PcrName, ...]
    pcr_digest: bytes

    def digest_hash(self) -> PcrBank | None:
        """Return the hash of the signing scheme, which made `pcr_digest` (Part 3, TPM2_Quote)."""
        size = len(self.pcr_digest)
        return next((bank for bank in PcrBank if bank.digest_bytes == size), None)


@frozen(kw_only=True)
class Attest:
    """TPMS_ATTEST. `quote` is None when the TPM attests something else than PCRs."""

    magic: int
    kind: int
    qualified_signer: bytes
    extra_data: bytes
    clock: int
    reset_count: int
    restart_count: int
    safe: bool
    firmware_version: int
    quote: Quote | None

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parse, or raise `DecodeError`."""
        reader = Reader(data, limit=limits.TPM_STRUCTURE_BYTES)
        magic, kind = reader.take_uint(4), reader.take_uint(2)
        qualified_signer = reader.take_prefixed(2, limit=_NAME_BYTES)
        extra_data = reader.take_prefixed(2, limit=_DATA_BYTES)
        clock, reset_count, restart_count = (reader.take_uint(size) for size in (8, 4, 4))
        safe = _boolean(reader)
        firmware_version = reader.take_uint(8)
        quote = None
        if kind == ST_ATTEST_QUOTE:
            quote = _take_quote(reader)
        else:
            reader.take_rest()
        reader.finish()
        return cls(
            magic=magic,
            kind=kind,
            qualified_signer=qualified_signer,
            extra_data=extra_data,
            clock=clock,
            reset_count=reset_count,
            restart_count=restart_count,
            safe=safe,
            firmware_version=firmware_version,
            quote=quote,
        )


@frozen(kw_only=True)
class Signature:
    """TPMT_SIGNATURE: `values` is the RSA signature, or ECDSA's r and s."""

    scheme: Scheme
    hash: PcrBank
    values: tuple[bytes, ...] = field(repr=False)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parse, or raise `DecodeError`; a scheme that we do not verify is one."""
        reader = Reader(data, limit=limits.TPM_STRUCTURE_BYTES)
        scheme = _scheme(reader.take_uint(2))
        algorithm = _hash(reader)
        limit, count = (_COORDINATE_BYTES, 2) if scheme is Scheme.ECDSA else (_RSA_BYTES, 1)
        values = tuple(reader.take_prefixed(2, limit=limit) for _ in range(count))
        reader.finish()
        return cls(scheme=scheme, hash=algorithm, values=values)

    def signing_hash(self) -> hashes.HashAlgorithm:
        """Return the hash that was signed. It may be SHA-1, which appraisal refuses by itself."""
        return _SIGNING_HASHES[self.hash]()


@frozen(kw_only=True)
class Public:
    """TPMT_PUBLIC of a signing key, or what is left of one in another form."""

    attributes: Attributes | None
    """None when the key came without its public area: its form has no place for them."""
    scheme: tuple[Scheme, PcrBank] | None
    """What the key always signs with; None when the signer may choose."""
    key: PublicKey = field(repr=False)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parse, or raise `DecodeError`; a key that is not on its curve is one."""
        reader = Reader(data, limit=limits.TPM_STRUCTURE_BYTES)
        kind = reader.take_uint(2)
        _hash(reader)
        attributes = Attributes(reader.take_uint(4))
        reader.take_prefixed(2, limit=64)  # authPolicy
        symmetric = reader.take_uint(2)
        if symmetric in _BLOCK_CIPHERS:
            reader.take(4)  # key bits and mode: a storage key, which step 11 refuses by name
        elif symmetric != _NULL:
            raise DecodeError("an unknown symmetric scheme")
        scheme = _optional_scheme(reader)
        match kind:
            case 0x0001:
                key: PublicKey = _take_rsa(reader)
            case 0x0023:
                key = _take_ecc(reader)
            case _:
                raise DecodeError("neither an RSA nor an ECC key")
        reader.finish()
        return cls(attributes=attributes, scheme=scheme, key=key)

    def spki(self) -> bytes:
        """Return the DER SubjectPublicKeyInfo, which certificates hold and pins are hashes of."""
        return self.key.public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def fingerprint(self) -> bytes:
        """Return the SHA-256 of `spki`, the form in which a policy pins a key."""
        return hashlib.sha256(self.spki()).digest()


def _take_quote(reader: Reader) -> Quote:
    banks = reader.take_uint(4)
    if banks > _BANKS:
        raise DecodeError(f"a selection of {banks} banks")
    selection: list[PcrName] = []
    for _ in range(banks):
        bank = _hash(reader)
        size = reader.take_uint(1)
        if size > _SELECT_BYTES:
            raise DecodeError(f"a selection of {size * 8} PCRs")
        bitmap = int.from_bytes(reader.take(size), "little")
        selection += [(bank, index) for index in range(size * 8) if bitmap >> index & 1]
    if len(set(selection)) != len(selection):
        raise DecodeError("a PCR is selected twice")
    return Quote(
        selection=tuple(selection),
        pcr_digest=reader.take_prefixed(2, limit=64),
    )


def _take_rsa(reader: Reader) -> rsa.RSAPublicKey:
    bits = reader.take_uint(2)
    exponent = reader.take_uint(4) or 65537
    modulus = reader.take_prefixed(2, limit=_RSA_BYTES)
    number = int.from_bytes(modulus, "big")
    # The number's own length: leading zeros would pass a weak key for a long one.
    if bits < 2048 or number.bit_length() != bits or len(modulus) * 8 != bits:
        raise DecodeError(f"an RSA key of {number.bit_length()} bits that says {bits}")
    try:
        return rsa.RSAPublicNumbers(e=exponent, n=number).public_key()
    except ValueError as error:
        raise DecodeError("not an RSA public key") from error


def _take_ecc(reader: Reader) -> ec.EllipticCurvePublicKey:
    curve = _CURVES.get(reader.take_uint(2))
    if reader.take_uint(2) != _NULL:
        raise DecodeError("a key derivation scheme on a signing key")
    x, y = (
        int.from_bytes(reader.take_prefixed(2, limit=_COORDINATE_BYTES), "big") for _ in range(2)
    )
    if curve is None:
        raise DecodeError("an unknown curve")
    try:
        return ec.EllipticCurvePublicNumbers(x=x, y=y, curve=curve()).public_key()
    except ValueError as error:
        raise DecodeError("a point that is not on its curve") from error


def _optional_scheme(reader: Reader) -> tuple[Scheme, PcrBank] | None:
    algorithm = reader.take_uint(2)
    return None if algorithm == _NULL else (_scheme(algorithm), _hash(reader))


def _scheme(algorithm: int) -> Scheme:
    try:
        return Scheme(algorithm)
    except ValueError as error:
        raise DecodeError("a signature scheme other than RSASSA, RSAPSS and ECDSA") from error


def _hash(reader: Reader) -> PcrBank:
    algorithm = _HASHES.get(reader.take_uint(2))
    if algorithm is None:
        raise DecodeError("an unknown hash")
    return algorithm


def _boolean(reader: Reader) -> bool:
    value = reader.take_uint(1)
    if value > 1:
        raise DecodeError("a boolean that is neither")
    return bool(value)
