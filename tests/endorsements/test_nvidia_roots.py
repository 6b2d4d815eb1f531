"""NVIDIA's anchors are those that PROVENANCE.md lists, and what it says of them holds."""

import hashlib
from importlib import resources

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from attestation.endorsements.nvidia_device import device_root
from attestation.endorsements.nvidia_nras import intermediates
from attestation.endorsements.nvidia_rim import rim_root

SERVICE_CA_001 = bytes.fromhex(
    "0490cf59e1e396121e06d242d67df71d18fa2fa5e0790aeec100e3c666696dc1a0"
    "8e329dd4abd81efe3bcd332690ee079ebb4ea6c9658912901a5857486e2babf8"
    "a09dcaf23086fa3ea64c40705bf3715090a8fb7cd04183ef76bf4757d6b4dfd9"
)
"""Public key of NVIDIA Attestation Service CA 001, computed from signatures of 003 and 004."""

OF_CA_001 = [entry for entry in intermediates() if "CA 001" in entry.issuer.rfc4514_string()]


@pytest.mark.parametrize("anchor", [device_root(), rim_root(), *intermediates()], ids=str)
def test_each_anchor_is_the_listed_one(anchor: x509.Certificate) -> None:
    page = (resources.files("attestation.endorsements") / "roots" / "PROVENANCE.md").read_text()
    assert anchor.fingerprint(hashes.SHA256()).hex() in page


def test_the_intermediates_of_one_ca_are_signed_by_one_key_that_they_name() -> None:
    """None of them was slipped in: whoever made one had the key that made the others."""
    key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), SERVICE_CA_001)
    identifier = hashlib.sha1(SERVICE_CA_001, usedforsecurity=False).digest()
    assert len(OF_CA_001) == 3
    for entry in OF_CA_001:
        named = entry.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
        assert named.key_identifier == identifier
        key.verify(entry.signature, entry.tbs_certificate_bytes, ec.ECDSA(hashes.SHA384()))
