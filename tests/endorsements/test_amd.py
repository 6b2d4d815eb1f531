"""AMD's certificates: what is shipped, what is read, and whose certificate is chosen."""

import hashlib
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from attestation.endorsements import amd
from attestation.endorsements.amd import SigningKeyMissingError, find_chain
from attestation.endorsements.amd_signing_key import SigningCertificate
from attestation.endorsements.chains import (
    ChainInvalidError,
    ChainNotAnchoredError,
    check_issued,
    parse_certificate,
)
from attestation.errors import DecodeError
from attestation.evidence.sev_snp import Report, Signer, SigningKey
from attestation.evidence.sev_snp_tcb import Product
from tests.simulators.amd import SimulatedAmd, SimulatedChip, der, trusting
from tests.simulators.evidence import NOW

ARKS = {
    Product.MILAN: "9f056bee44377e29308cb5ffa895bdfb62d18881fa6bed8d6f075b0204089cb9",
    Product.GENOA: "429a69c9422aa258ee4d8db5fcda9c6470ef15f8cd5a9cebd6cbc7d90b863831",
    Product.TURIN: "4f125410563a2ab9a50356f9243f6fe0b6f73de98603f53f90339c70e9d7ad08",
}
"""SHA-256 of the SubjectPublicKeyInfo of each ARK."""

GENOA = SimulatedAmd()


def key_of(chip: SimulatedChip) -> SigningKey:
    return Report.from_bytes(chip.report(bytes(64))).key


# -- what is shipped ------------------------------------------------------------------------------


def test_the_shipped_roots_are_these_and_no_others() -> None:
    found = {
        entry.product: hashlib.sha256(amd.spki(entry.root)).hexdigest() for entry in amd.pinned()
    }
    assert found == ARKS


@pytest.mark.parametrize("hierarchy", amd.pinned(), ids=lambda entry: entry.product.value)
def test_each_shipped_intermediate_is_its_roots(hierarchy: amd.Hierarchy) -> None:
    check_issued(hierarchy.root, hierarchy.root)
    for intermediate in hierarchy.intermediates:
        check_issued(intermediate, hierarchy.root)
    others = [entry.root for entry in amd.pinned() if entry is not hierarchy]
    for other in others:
        with pytest.raises(ChainInvalidError):
            check_issued(hierarchy.intermediates[0], other)


def test_the_revoked_ask_of_genoa_is_not_shipped() -> None:
    serials = {entry.serial_number for found in amd.pinned() for entry in found.intermediates}
    assert 0x20001 not in serials


def test_every_shipped_certificate_is_in_the_list_of_their_origins(repository: Path) -> None:
    roots = repository / "attestation/endorsements/roots"
    page = (roots / "PROVENANCE.md").read_text()
    for path in sorted((roots / "amd").glob("*.pem")):
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        assert f"amd/{path.name}" in page
        assert certificate.fingerprint(hashes.SHA256()).hex() in page, path.name


def test_this_version_of_cryptography_still_reads_serial_number_zero() -> None:
    """AMD gives it to every VCEK, and the library has announced that it will refuse it.

    When this fails, do not raise the version of `cryptography`: every SEV-SNP appraisal would.
    """
    assert parse_certificate(GENOA.certify(SimulatedChip())).serial_number == 0


# -- what is read ---------------------------------------------------------------------------------


@pytest.mark.parametrize("product", list(Product))
def test_a_certificate_says_its_chip_and_its_tcb(product: Product) -> None:
    chip = SimulatedChip(vendor=SimulatedAmd(product=product))
    read = SigningCertificate.of(parse_certificate(chip.vendor.certify(chip)))
    assert (read.signer, read.tcb, read.csp_id) == (Signer.VCEK, chip.tcb, None)
    assert read.hardware_id == chip.certified_id
    assert read.chip_id == chip.certified_id.ljust(64, b"\0")
    assert read.is_for(product)


def test_a_vlek_names_a_provider_and_no_chip() -> None:
    chip = SimulatedChip(signer=Signer.VLEK)
    read = SigningCertificate.of(parse_certificate(GENOA.certify(chip)))
    assert (read.signer, read.hardware_id, read.csp_id) == (Signer.VLEK, None, chip.csp)


def test_a_stepping_behind_the_product_name_is_no_other_product() -> None:
    chip = SimulatedChip(product_name="Genoa-B1")
    assert SigningCertificate.of(parse_certificate(GENOA.certify(chip))).is_for(Product.GENOA)


@pytest.mark.parametrize("wrong", [bytes(63), bytes(65), bytes(8), b"\x04\x3f" + bytes(63)])
def test_a_hardware_id_of_another_length_does_not_parse(wrong: bytes) -> None:
    chip = SimulatedChip(hardware_id=wrong)
    with pytest.raises(DecodeError):
        SigningCertificate.of(parse_certificate(GENOA.certify(chip)))


def test_a_wrapped_hardware_id_is_the_same_chip() -> None:
    """The specification wraps it in an OCTET STRING; what AMD issues has it bare."""
    chip = SimulatedChip()
    wrapped = chip.but(hardware_id=b"\x04\x40" + chip.hardware_id)
    read = SigningCertificate.of(parse_certificate(GENOA.certify(wrapped)))
    assert read.hardware_id == chip.hardware_id


def test_a_short_hardware_id_is_not_one_of_a_turin_cut_short() -> None:
    """Comparing 8 bytes with 64 by their common part would make every Turin a prefix."""
    turin = SimulatedChip(vendor=SimulatedAmd(product=Product.TURIN))
    read = SigningCertificate.of(parse_certificate(turin.vendor.certify(turin)))
    key = key_of(turin)
    assert read.is_of(key)
    longer = key.chip_id[:8] + b"\1" + key.chip_id[9:]
    assert not read.is_of(SigningKey(signer=key.signer, tcb=key.tcb, chip_id=longer))


def test_a_certificate_without_amds_extensions_signs_no_reports() -> None:
    with pytest.raises(DecodeError):
        SigningCertificate.of(GENOA.ask)


def test_a_structure_version_that_is_unknown_does_not_parse() -> None:
    chip = SimulatedChip(struct_version=2)
    with pytest.raises(DecodeError):
        SigningCertificate.of(parse_certificate(GENOA.certify(chip)))


def test_the_layout_of_another_product_is_seen() -> None:
    chip = SimulatedChip(struct_version=1, hardware_id=bytes(8))
    read = SigningCertificate.of(parse_certificate(GENOA.certify(chip)))
    assert not read.is_for(Product.GENOA)


# -- what is chosen -------------------------------------------------------------------------------


def test_without_any_certificate_there_is_nothing_to_verify_with() -> None:
    with trusting(GENOA), pytest.raises(SigningKeyMissingError):
        find_chain(key_of(SimulatedChip()), presented=(), collateral=())


def test_collateral_of_other_machines_is_passed_over() -> None:
    chip, others = SimulatedChip(), tuple(GENOA.certify(SimulatedChip()) for _ in range(2))
    with trusting(GENOA):
        with pytest.raises(SigningKeyMissingError):
            find_chain(key_of(chip), presented=(), collateral=others)
        chain = find_chain(key_of(chip), presented=(), collateral=(*others, GENOA.certify(chip)))
        assert chain.signing.hardware_id == chip.hardware_id


def test_the_fitting_certificate_is_used_when_a_wrong_one_came_along() -> None:
    chip, other = SimulatedChip(), SimulatedChip()
    with trusting(GENOA):
        chain = find_chain(
            key_of(chip), presented=(GENOA.certify(other), GENOA.certify(chip)), collateral=()
        )
        chain.verify(now=NOW)
        assert chain.signing.hardware_id == chip.hardware_id


def test_an_intermediate_that_amd_replaced_under_the_same_name_is_told_apart() -> None:
    """Genoa, 2022: two ASKs of one name. The one whose key signed is the one that counts."""
    old = SimulatedAmd(owner="AMD before")
    chip = SimulatedChip()
    with trusting(GENOA):
        chain = find_chain(
            key_of(chip),
            presented=(GENOA.certify(chip), der(old.ask), der(GENOA.ask)),
            collateral=(),
        )
        chain.verify(now=NOW)


def test_certificates_may_be_in_pem() -> None:
    chip = SimulatedChip()
    leaf = parse_certificate(GENOA.certify(chip))
    bundle = (leaf.public_bytes(serialization.Encoding.PEM),)
    line = b"".join(
        entry.public_bytes(serialization.Encoding.PEM) for entry in (GENOA.ask, GENOA.ark)
    )
    with trusting(GENOA):
        find_chain(key_of(chip), presented=(*bundle, line), collateral=()).verify(now=NOW)


def test_a_self_made_line_of_the_same_names_is_refused() -> None:
    """Only the pinned key gives it away: names, extensions and signatures are all in order."""
    forger = SimulatedAmd(owner="forger")
    chip = SimulatedChip(vendor=forger)
    line = (forger.certify(chip), der(forger.ask), der(forger.ark))
    with trusting(GENOA):
        chain = find_chain(key_of(chip), presented=line, collateral=())
        with pytest.raises(ChainNotAnchoredError):
            chain.verify(now=NOW)
        without_root = find_chain(key_of(chip), presented=line[:2], collateral=())
        with pytest.raises(ChainNotAnchoredError):
            without_root.verify(now=NOW)
        leaf_alone = find_chain(key_of(chip), presented=line[:1], collateral=())
        with pytest.raises(ChainInvalidError):
            leaf_alone.verify(now=NOW)


def test_a_genuine_key_beside_a_self_made_root_is_refused() -> None:
    """Overlapping chains: what was handed in has to hold, even where the shipped one would do."""
    chip = SimulatedChip()
    with trusting(GENOA):
        chain = find_chain(
            key_of(chip),
            presented=(GENOA.certify(chip), der(SimulatedAmd(owner="forger").ark)),
            collateral=(),
        )
        with pytest.raises(ChainNotAnchoredError):
            chain.verify(now=NOW)


def test_an_issuer_of_another_name_leads_nowhere() -> None:
    turin = SimulatedAmd(product=Product.TURIN)
    chip = SimulatedChip(vendor=turin)
    with trusting(GENOA), pytest.raises(ChainNotAnchoredError):
        find_chain(key_of(chip), presented=(turin.certify(chip),), collateral=())
