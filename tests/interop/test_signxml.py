"""signxml, which handles all of XML Signature, agrees with our one shape of it.

Where ours accepts, so does signxml, and gives out the same content. The other way round it need not
be: what signxml accepts and ours refuses are the shapes that no manifest of NVIDIA's has.
"""

import random
from pathlib import Path

import pytest
from cryptography import x509

from attestation.endorsements.chains import parse_certificate
from attestation.endorsements.nvidia_chains import p384_key
from attestation.endorsements.xml_signatures import SignedXml
from attestation.errors import DecodeError, VerificationError
from tests.simulators.nvidia import SimulatedNvidia

signxml = pytest.importorskip("signxml", reason="signxml is not installed")
etree = pytest.importorskip("lxml.etree")

VECTORS = Path(__file__).resolve().parents[2] / ".." / "shared" / "vectors"
REAL = sorted((VECTORS / "_collateral" / "nvidia" / "rim").glob("*"))
CHANGES = 150


def ours(data: bytes) -> bytes | None:
    """Return the content that its first certificate signed, None where it is refused."""
    try:
        document = SignedXml.from_bytes(data)
        return document.verify(p384_key(parse_certificate(document.certificates[0])))
    except (DecodeError, VerificationError):
        return None


def theirs(data: bytes) -> bytes | None:
    """Return the same as signxml sees it, at a time when the certificate lived."""
    certificate = _signer(data)
    if certificate is None:
        return None
    config = signxml.SignatureConfiguration(
        expect_references=1,
        signature_methods=frozenset({signxml.SignatureMethod.ECDSA_SHA384}),
        digest_algorithms=frozenset({signxml.DigestAlgorithm.SHA384}),
        verification_time=certificate.not_valid_before_utc,
    )
    try:
        result = signxml.XMLVerifier().verify(
            data, x509_cert=certificate, expect_config=config, validate_schema=False
        )
    except Exception:  # noqa: BLE001 - it raises many things, and each is a refusal
        return None
    return bytes(etree.tostring(result.signed_xml, method="c14n"))


def _signer(data: bytes) -> x509.Certificate | None:
    try:
        return parse_certificate(SignedXml.from_bytes(data).certificates[0])
    except DecodeError:
        return None


def simulated() -> bytes:
    vendor = SimulatedNvidia()
    return vendor.driver_rim(vendor.device())


def test_both_accept_a_simulated_manifest() -> None:
    data = simulated()
    assert ours(data) == theirs(data) is not None


@pytest.mark.skipif(not REAL, reason="the vectors are not on this machine")
@pytest.mark.parametrize("path", REAL, ids=[path.name for path in REAL])
def test_both_say_the_same_of_a_real_manifest(path: Path) -> None:
    data = path.read_bytes()
    assert ours(data) == theirs(data)


def test_what_ours_accepts_signxml_accepts_with_the_same_content() -> None:
    data, choices = simulated(), random.Random(1)  # noqa: S311 - the same changes every time
    accepted = 0
    for _ in range(CHANGES):
        place = choices.randrange(len(data))
        piece = choices.choice([b"", b" ", b"\n", b"x", b"<", data[place - 40 : place]])
        changed = data[:place] + piece + data[place + choices.randrange(2) :]
        content = ours(changed)
        if content is not None:
            accepted += 1
            assert content == theirs(changed)
    assert accepted < CHANGES / 2
