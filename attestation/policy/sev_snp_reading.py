"""Read the `[sev_snp]` table of a policy file (docs/policy.md) strictly."""

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from attestation.evidence.sev_snp import (
    CHIP_ID_BYTES,
    HOST_DATA_BYTES,
    KEY_DIGEST_BYTES,
    MEASUREMENT_BYTES,
    Signer,
)
from attestation.evidence.sev_snp_tcb import LAYOUTS, Product
from attestation.policy.revocation import Revocation
from attestation.policy.section import Section
from attestation.policy.sev_snp import (
    CSP_CHARACTERS,
    EXTRACTABLE,
    TCB_PARTS,
    VMPLS,
    HostFeature,
    SevSnpPolicy,
)
from attestation.policy.values import read_digest, read_hex

T = TypeVar("T")

ANY: Final = "any"

_TURIN_CHIP_ID_BYTES: Final = 8
_TcbRow = tuple[Product, int, int, int, int, int]


def read_sev_snp(section: Section) -> SevSnpPolicy:
    """Read the table, or raise `PolicyError`."""
    products = _words(section, "products", _product)
    extractable = _words(section, "products_with_extractable_keys", _extractable_product)
    if not products and not extractable:
        raise section.error("products", "is missing, and no other product is accepted either")
    signers = section.take_list("signing_keys", _signer)
    accept_any_csp, csps = _any_or(section, "csps", _csp) if Signer.VLEK in signers else (False, ())
    revocation = section.take("revocation")
    if revocation not in list(Revocation):
        raise section.error("revocation", 'is neither "required" nor "optional"')
    accept_any_measurement, measurements = _any_or(
        section, "measurements", lambda value: read_hex(value, MEASUREMENT_BYTES)
    )
    accept_any_chip, chips = _any_or(section, "chips", _chip)
    policy = SevSnpPolicy(
        products=tuple(sorted(products)),
        products_with_extractable_keys=tuple(sorted(extractable)),
        signing_keys=tuple(sorted(signers)),
        accept_any_csp=accept_any_csp,
        csps=tuple(sorted(csps)),
        revocation=Revocation(revocation),
        minimum_tcb=_minimum_tcb(section.take_section("minimum_tcb"), [*products, *extractable]),
        minimum_abi=_abi(section),
        minimum_guest_svn=_minimum_guest_svn(section),
        allow_debug=_flag(section, "allow_debug"),
        allow_migration_agent=_flag(section, "allow_migration_agent"),
        allow_smt=_flag(section, "allow_smt"),
        allow_multiple_sockets=_flag(section, "allow_multiple_sockets"),
        allow_cxl=_flag(section, "allow_cxl"),
        required_features=tuple(sorted(_words(section, "required_features", _feature))),
        vmpls=_vmpls(section),
        accept_any_measurement=accept_any_measurement,
        measurements=tuple(sorted(measurements)),
        host_data=_digests(section, "host_data", HOST_DATA_BYTES),
        id_keys=_digests(section, "id_keys", KEY_DIGEST_BYTES),
        author_keys=_digests(section, "author_keys", KEY_DIGEST_BYTES),
        accept_any_chip=accept_any_chip,
        chips=_with_custody(section, chips),
    )
    section.finish()
    return policy


def _flag(section: Section, key: str) -> bool:
    """Take what may be left out, and then is not allowed."""
    return key in section.values and section.take_boolean(key)


def _words(section: Section, key: str, convert: Callable[[str], T]) -> list[T]:
    """Take a list that may be left out, and then is empty."""
    return section.take_list(key, convert) if key in section.values else []


def _any_or(section: Section, key: str, convert: Callable[[str], T]) -> tuple[bool, Sequence[T]]:
    """Take a list, or the word that says that anything will do."""
    if section.values.get(key) == ANY:
        section.take(key)
        return True, ()
    return False, section.take_list(key, convert)


def _digests(section: Section, key: str, size: int) -> tuple[bytes, ...]:
    return tuple(sorted(_words(section, key, lambda value: read_hex(value, size))))


def _product(value: str) -> Product:
    product = _one_of(Product, value)
    if product in EXTRACTABLE:
        raise ValueError(
            f"{value!r}: software can extract this product's signing keys (arXiv 2605.12990); "
            "name it under products_with_extractable_keys if you accept that"
        )
    return product


def _extractable_product(value: str) -> Product:
    product = _one_of(Product, value)
    if product not in EXTRACTABLE:
        raise ValueError(f"{value!r} belongs under products")
    return product


def _signer(value: str) -> Signer:
    return _one_of(Signer, value)


def _feature(value: str) -> HostFeature:
    return _one_of(HostFeature, value)


W = TypeVar("W", Product, Signer, HostFeature)


def _one_of(kind: type[W], value: str) -> W:
    if value not in list(kind):
        raise ValueError(f"{value!r} is not one of {', '.join(kind)}")
    return kind(value)


def _csp(value: str) -> str:
    if not 0 < len(value) <= CSP_CHARACTERS:
        raise ValueError(f"not a name of 1 to {CSP_CHARACTERS} characters")
    return value


def _chip(value: str) -> bytes:
    """Read a chip id, as reports have it or, for Turin, without the zeros behind it."""
    short = len(value) == 2 * _TURIN_CHIP_ID_BYTES
    chip = read_hex(value, _TURIN_CHIP_ID_BYTES if short else CHIP_ID_BYTES)
    if not any(chip):
        raise ValueError("a chip id of zeros is that of any report that hides its chip")
    return chip.ljust(CHIP_ID_BYTES, b"\0")


def _with_custody(section: Section, chips: Sequence[bytes]) -> tuple[tuple[bytes, bytes], ...]:
    """Put beside each chip the digest of the proof of who holds it, where one is named."""
    proofs: dict[bytes, bytes] = {}
    if "custody" in section.values:
        custody = section.take_section("custody")
        for key in list(custody.values):
            try:
                chip, proof = _chip(key), read_digest(str(custody.take(key)))
            except ValueError as error:
                raise custody.error(key, str(error)) from error
            if chip not in chips:
                raise custody.error(key, "is not one of the chips")
            proofs[chip] = proof
    rows = [(chip, proofs.get(chip, b"")) for chip in sorted(set(chips))]
    if len(rows) != len(chips):
        raise section.error("chips", "lists something twice")
    return tuple(rows)


def _minimum_tcb(section: Section, products: Sequence[Product]) -> tuple[_TcbRow, ...]:
    rows = tuple(_tcb_row(section, product) for product in sorted(products))
    section.finish()
    return rows


def _tcb_row(section: Section, product: Product) -> _TcbRow:
    parts = dict.fromkeys(TCB_PARTS, 0)
    if section.values.get(product.value) == ANY:
        section.take(product.value)
    else:
        levels = section.take_section(product.value)
        for part in LAYOUTS[product]:
            parts[part] = levels.take_uint(part, minimum=0, maximum=255)
        levels.finish()
    fmc, bootloader, tee, snp, microcode = parts.values()
    return product, fmc, bootloader, tee, snp, microcode


def _abi(section: Section) -> tuple[int, int]:
    value = section.take("minimum_abi")
    major, point, minor = str(value).partition(".") if isinstance(value, str) else ("", "", "")
    if not (point and _is_byte(major) and _is_byte(minor)):
        raise section.error("minimum_abi", 'is not a version such as "1.55"')
    return int(major), int(minor)


def _is_byte(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 3 and int(text) <= 255


def _minimum_guest_svn(section: Section) -> int:
    if "minimum_guest_svn" not in section.values:
        return 0
    return section.take_uint("minimum_guest_svn", minimum=0, maximum=0xFFFFFFFF)


def _vmpls(section: Section) -> tuple[int, ...]:
    values = section.take("vmpls")
    known = isinstance(values, list) and all(
        isinstance(value, int) and not isinstance(value, bool) and 0 <= value < VMPLS
        for value in values
    )
    if not known or not values or len(set(values)) != len(values):
        raise section.error("vmpls", f"is not a list of different numbers from 0 to {VMPLS - 1}")
    return tuple(sorted(values))
