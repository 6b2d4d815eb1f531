"""Intel's certificate hierarchy: one pinned key, and each certificate in its part."""

import hashlib
from contextlib import suppress
from datetime import timedelta
from importlib import resources

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from attestation.endorsements.chains import (
    CertificateExpiredError,
    CertificateNotYetValidError,
    ChainInvalidError,
    ChainNotAnchoredError,
)
from attestation.endorsements.intel_chain import (
    ROOT_SPKI_SHA256,
    PckChain,
    intel_root,
    split_certificates,
    verify_p256,
    verify_pck_chain,
    verify_tcb_signer,
)
from attestation.endorsements.intel_pck import PckCa
from attestation.errors import DecodeError, SignatureInvalidError
from tests.simulators.intel import NOW, Authority, Intel, encoded, intel, p256, pem, raw_signature


def verify(*certificates: x509.Certificate) -> PckChain:
    return verify_pck_chain(encoded(*certificates), root=intel().root.certificate, now=NOW)


def test_the_shipped_root_holds_the_pinned_key() -> None:
    """Published at https://certificates.trustedservices.intel.com/IntelSGXRootCA.der."""
    root = intel_root()
    spki = root.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert hashlib.sha256(spki).hexdigest() == ROOT_SPKI_SHA256
    assert root.subject.rfc4514_string().endswith("CN=Intel SGX Root CA")


def test_the_shipped_root_is_the_one_whose_origin_is_written_down() -> None:
    page = resources.files("attestation.endorsements") / "roots" / "PROVENANCE.md"
    fingerprint = hashlib.sha256(intel_root().public_bytes(Encoding.DER)).hexdigest()
    assert f"| `intel/sgx-root-ca.pem` | Intel SGX Root CA | `{fingerprint}` |" in page.read_text()


def test_a_chain_is_accepted_with_and_without_its_root_and_from_either_end() -> None:
    for chain in (intel().chain, intel().chain[:2], intel().chain[::-1]):
        assert verify(*chain).ca is PckCa.PLATFORM


def test_a_root_that_was_issued_anew_for_the_pinned_key_is_the_same_root() -> None:
    root = intel().root
    again = Authority.root(key=root.key).certificate
    assert again != root.certificate
    assert verify(*intel().chain[:2], again).pck == verify(*intel().chain).pck


def test_a_root_with_only_intels_name_is_refused() -> None:
    with pytest.raises(ChainNotAnchoredError):
        verify(*Intel.make().chain)


def test_a_root_certificate_that_the_pinned_key_did_not_sign_is_refused() -> None:
    """Its subject key is right, the rest of it is anyone's."""
    forged = Authority.root(key=intel().root.key, signer=p256()).certificate
    with pytest.raises(ChainNotAnchoredError):
        verify(*intel().chain[:2], forged)


def test_chains_of_another_length_are_refused() -> None:
    leaf, ca, root = intel().chain
    for chain in ((leaf,), (leaf, root), (leaf, ca, ca, root), (ca, root), (root,)):
        with pytest.raises((ChainInvalidError, ChainNotAnchoredError)):
            verify(*chain)


def test_a_pck_certificate_that_the_tcb_signer_issued_is_refused() -> None:
    """The signing certificate leads to the same root, and may not issue anything."""
    extension = intel().platform.extension()
    leaf = intel().signer.issue("Intel SGX PCK Certificate", extension=extension)
    with pytest.raises(ChainInvalidError):
        verify(leaf.certificate, intel().signer.certificate, intel().root.certificate)


def test_a_ca_of_another_name_issues_no_pck_certificates() -> None:
    ca = intel().root.issue("Intel SGX Something Else CA", is_ca=True)
    leaf = ca.issue("Intel SGX PCK Certificate", extension=intel().platform.extension())
    with pytest.raises(ChainInvalidError):
        verify(leaf.certificate, ca.certificate, intel().root.certificate)


def test_a_platform_is_no_ca() -> None:
    """Else every owner of a machine could certify machines."""
    extension = intel().platform.extension()
    below = intel().pck.issue("Intel SGX PCK Certificate", extension=extension)
    with pytest.raises((ChainInvalidError, ChainNotAnchoredError)):
        verify(below.certificate, intel().pck.certificate, *intel().chain[1:])
    ca = intel().pck_ca.issue("Intel SGX PCK Certificate", is_ca=True, extension=extension)
    with pytest.raises(ChainInvalidError):
        verify(ca.certificate, *intel().chain[1:])


def test_a_leaf_without_the_sgx_extension_is_no_pck_certificate() -> None:
    leaf = intel().pck_ca.issue("Intel SGX PCK Certificate")
    with pytest.raises(DecodeError):
        verify(leaf.certificate, *intel().chain[1:])


def test_a_certificate_that_does_not_say_what_it_is_for_is_refused() -> None:
    leaf = intel().pck_ca.issue("Intel SGX PCK Certificate", bare=True)
    with pytest.raises(ChainInvalidError):
        verify(leaf.certificate, *intel().chain[1:])


def test_a_critical_extension_that_nobody_looks_at_is_refused() -> None:
    extension = intel().platform.extension()
    leaf = intel().pck_ca.issue("PCK", extension=extension, critical=True)
    with pytest.raises(ChainInvalidError):
        verify(leaf.certificate, *intel().chain[1:])


def test_keys_of_another_curve_are_refused() -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    leaf = intel().pck_ca.issue("PCK", key=key, extension=intel().platform.extension())
    with pytest.raises(ChainInvalidError):
        verify(leaf.certificate, *intel().chain[1:])


def test_each_certificate_has_its_window() -> None:
    extension = intel().platform.extension()
    day = timedelta(days=1)
    old = intel().pck_ca.issue("PCK", extension=extension, ends=NOW - day)
    young = intel().pck_ca.issue("PCK", extension=extension, begins=NOW + day)
    with pytest.raises(CertificateExpiredError):
        verify(old.certificate, *intel().chain[1:])
    with pytest.raises(CertificateNotYetValidError):
        verify(young.certificate, *intel().chain[1:])
    ca = intel().root.issue("Intel SGX PCK Platform CA", is_ca=True, ends=NOW - day)
    leaf = ca.issue("PCK", extension=extension)
    with pytest.raises(CertificateExpiredError):
        verify(leaf.certificate, ca.certificate, intel().root.certificate)


def test_only_the_tcb_signing_certificate_signs_tcb_info() -> None:
    root = intel().root.certificate
    good = encoded(intel().signer.certificate, root)
    assert verify_tcb_signer(good, root=root, now=NOW) == intel().signer.certificate
    other = intel().root.issue("Intel SGX Something Signing").certificate
    for chain in ((intel().pck_ca.certificate, root), (other, root), intel().chain, (root,)):
        with pytest.raises((ChainInvalidError, ChainNotAnchoredError)):
            verify_tcb_signer(encoded(*chain), root=root, now=NOW)


def test_a_signature_is_64_bytes_of_the_right_key_over_the_right_bytes() -> None:
    key = p256()
    signature = raw_signature(key, b"data")
    verify_p256(key.public_key(), signature, b"data")
    wrong = [
        (key, signature, b"date"),
        (p256(), signature, b"data"),
        (key, signature[:-1], b"data"),
        (key, signature + b"\0", b"data"),
        (key, bytes(64), b"data"),
        (key, signature[32:] + signature[:32], b"data"),
        (key, b"\xff" * 64, b"data"),
    ]
    for signer, claimed, data in wrong:
        with pytest.raises(SignatureInvalidError):
            verify_p256(signer.public_key(), claimed, data)


# -- certificates as they come --------------------------------------------------------------------


def test_certificates_are_split_whichever_way_they_are_written() -> None:
    chain = encoded(*intel().chain)
    text = pem(intel().chain).encode()
    for data in (text, text + b"\0", text.replace(b"\n", b"\r\n"), b"".join(chain) + b"\0"):
        assert split_certificates(data) == chain


@pytest.mark.parametrize(
    "change",
    [
        lambda text: b"",
        lambda text: b"\0",
        lambda text: b"a comment\n" + text,
        lambda text: text + b"and more",
        lambda text: text.replace(b"-----END", b"----END", 1),
        lambda text: text[:-40],
        lambda text: text.replace(b"A", b"*", 1),
        lambda text: text * 6,
        lambda text: b"\x30\x82\xff\xff",
        lambda text: b"\x30\x82\0\1\0junk",
    ],
)
def test_what_is_no_list_of_certificates_is_refused(change: object) -> None:
    data = change(pem(intel().chain).encode())  # type: ignore[operator]
    with pytest.raises(DecodeError):
        verify_pck_chain(split_certificates(data), root=intel().root.certificate, now=NOW)


def test_base64_has_one_encoding() -> None:
    """Bits that the decoder drops would be bytes of a quote that nothing covers."""
    head, tail = b"-----BEGIN CERTIFICATE-----\n", b"\n-----END CERTIFICATE-----\n"
    assert split_certificates(head + b"YWI=" + tail) == (b"ab",)
    for other in (b"YWJ=", b"YWI", b"YWI==", b"YWI=YWI="):
        with pytest.raises(DecodeError):
            split_certificates(head + other + tail)


@given(st.binary(max_size=300) | st.binary(max_size=300).map(lambda data: b"\x30\x82" + data))
def test_any_bytes_are_split_or_refused(data: bytes) -> None:
    with suppress(DecodeError):
        split_certificates(data)
