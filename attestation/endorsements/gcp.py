"""Google's CAs for keys of virtual TPMs in Compute Engine: two hierarchies, of 2018 and of 2022.

They certify keys of every shielded VM, confidential or not.
"""

import warnings

from cryptography import x509

from attestation.endorsements.shipped import shipped

# Google names its CAs of 2018 at greater length than X.520 allows, and `cryptography` warns of it.
warnings.filterwarnings("ignore", message="Attribute's length must be", category=UserWarning)


def roots() -> tuple[x509.Certificate, ...]:
    """Return the pinned roots, "tpm_ek_v1_cloud_host_root" and "EK/AK CA Root"."""
    return shipped("gcp", "tpm-ek-root-1", "ek-ak-ca-root")


def intermediates() -> tuple[x509.Certificate, ...]:
    """Return the issuing CAs that are known; VMs hand out a certificate without them."""
    return shipped("gcp", "tpm-ek-intermediate-2", "ek-ak-ca-intermediate-v3")
