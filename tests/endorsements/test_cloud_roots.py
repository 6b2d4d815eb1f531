"""The clouds' certificates that are shipped: which, and what they may vouch for."""

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from attestation.endorsements import aws, azure, gcp
from attestation.endorsements.chains import ChainNotAnchoredError, verify_chain
from attestation.endorsements.tpm import find_path

NOW = datetime(2025, 6, 1, tzinfo=UTC)
SHIPPED = [aws.root(), *azure.roots(), *azure.intermediates(), *gcp.roots(), *gcp.intermediates()]


def fingerprint(certificate: x509.Certificate) -> str:
    return certificate.fingerprint(hashes.SHA256()).hex()


def test_each_is_in_the_list_of_provenance_with_its_fingerprint(repository: Path) -> None:
    folder = repository / "attestation/endorsements/roots"
    page = (folder / "PROVENANCE.md").read_text()
    listed = dict(re.findall(r"^\| `((?:aws|azure|gcp)/[^`]+)` .*`([0-9a-f]{64})` \|$", page, re.M))
    files = {
        f"{path.parent.name}/{path.name}": fingerprint(
            x509.load_pem_x509_certificate(path.read_bytes())
        )
        for vendor in ("aws", "azure", "gcp")
        for path in (folder / vendor).iterdir()
    }
    assert files == listed
    assert {fingerprint(certificate) for certificate in SHIPPED} == set(files.values())


def test_awss_root_is_the_one_that_awss_documentation_names() -> None:
    assert fingerprint(aws.root()) == aws.ROOT_FINGERPRINT.hex()


@pytest.mark.parametrize("vendor", [azure, gcp])
def test_every_intermediate_leads_to_a_root_of_its_own_vendor(vendor: object) -> None:
    for intermediate in vendor.intermediates():  # type: ignore[attr-defined]
        verify_chain([intermediate], roots=vendor.roots(), now=NOW)  # type: ignore[attr-defined]


@pytest.mark.parametrize(("vendor", "other"), [(azure, gcp), (gcp, azure)])
def test_no_intermediate_leads_to_a_root_of_another_vendor(vendor: object, other: object) -> None:
    for intermediate in vendor.intermediates():  # type: ignore[attr-defined]
        der = intermediate.public_bytes(Encoding.DER)
        with pytest.raises(ChainNotAnchoredError):
            find_path([der], roots=other.roots(), now=NOW)  # type: ignore[attr-defined]
