"""Revocation lists: a list counts when the issuer signed it, it is whole and it is current."""

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import load_der_x509_crl

from attestation.endorsements.revocation import (
    RevocationInvalidError,
    RevocationMissingError,
    RevocationStaleError,
    RevokedError,
    check_not_revoked,
    parse_crl,
)
from attestation.errors import DecodeError, LocalProtocolError
from attestation.evidence.sev_snp_tcb import Product
from tests.simulators.amd import BEGINNING, CRL_LIFE, SimulatedAmd
from tests.simulators.evidence import NOW
from tests.simulators.vendor import Operator

AMD = SimulatedAmd()
LATER = BEGINNING + CRL_LIFE + timedelta(seconds=1)


def check(*crls: bytes, now: object = NOW) -> None:
    check_not_revoked(AMD.ask, issuer=AMD.ark, crls=crls, now=now)  # type: ignore[arg-type]


def test_a_current_list_that_does_not_name_it_is_good_news() -> None:
    check(AMD.crl(AMD.asvk))


def test_a_list_in_pem_is_the_same_list() -> None:
    check(load_der_x509_crl(AMD.crl()).public_bytes(serialization.Encoding.PEM))


def test_a_revoked_certificate_is_refused() -> None:
    with pytest.raises(RevokedError):
        check(AMD.crl(AMD.ask))


def test_a_revocation_outlives_its_list() -> None:
    """Whoever serves an old list beside a newer, empty one must not raise the dead."""
    with pytest.raises(RevokedError):
        check(AMD.crl(AMD.ask, ends=BEGINNING + timedelta(days=1)), AMD.crl())


def test_no_list_is_not_an_empty_list() -> None:
    with pytest.raises(RevocationMissingError):
        check()


@pytest.mark.parametrize("now", [LATER, BEGINNING - timedelta(seconds=1)])
def test_a_list_outside_its_window_is_refused(now: object) -> None:
    with pytest.raises(RevocationStaleError):
        check(AMD.crl(), now=now)


def test_a_list_that_a_stranger_signed_in_the_issuers_name_is_refused() -> None:
    forged = SimulatedAmd(owner="stranger").crl()
    with pytest.raises(RevocationInvalidError):
        check(forged)
    check(forged, AMD.crl())


def test_a_list_of_another_product_is_no_list() -> None:
    with pytest.raises(RevocationMissingError):
        check(SimulatedAmd(product=Product.TURIN).crl())


def test_a_list_of_another_key_of_the_same_name_is_no_list() -> None:
    """A CA that has changed its key signs lists with either; one says nothing about the other."""
    operator, key = Operator("one CA of two keys"), ec.generate_private_key(ec.SECP256R1())
    of_old_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
    builder = x509.CertificateRevocationListBuilder(issuer_name=operator.root.subject)
    builder = builder.last_update(NOW).next_update(NOW + CRL_LIFE)
    crl = builder.add_extension(of_old_key, critical=False).sign(key, hashes.SHA256())
    with pytest.raises(RevocationMissingError):
        check_not_revoked(
            operator.intermediate,
            issuer=operator.root,
            crls=[crl.public_bytes(serialization.Encoding.DER)],
            now=NOW,
        )


def test_a_list_of_changes_is_not_the_whole_list() -> None:
    """RFC 5280 section 5.2.4: what a delta leaves out may have been revoked before."""
    with pytest.raises(RevocationStaleError):
        check(AMD.crl(critical=True))


def test_what_a_list_of_changes_revokes_is_revoked() -> None:
    with pytest.raises(RevokedError):
        check(AMD.crl(AMD.ask, critical=True), AMD.crl())


def test_a_changed_list_is_no_list() -> None:
    good = AMD.crl(AMD.asvk)
    for index in range(len(good) - 1, 0, -13):
        changed = good[:index] + bytes([good[index] ^ 1]) + good[index + 1 :]
        with pytest.raises((DecodeError, RevocationInvalidError, RevocationMissingError)):
            check(changed)


@pytest.mark.parametrize("data", [b"", b"-----BEGIN X509 CRL-----", bytes(5 << 20)])
def test_what_is_no_list_does_not_parse(data: bytes) -> None:
    with pytest.raises(DecodeError):
        parse_crl(data)


def test_a_time_without_its_zone_is_our_own_mistake() -> None:
    with pytest.raises(LocalProtocolError):
        check(AMD.crl(), now=NOW.replace(tzinfo=None))
