"""Microsoft's CAs for attestation keys of virtual TPMs in Azure.

They certify keys of every VM with trusted launch, confidential or not. In a confidential VM it is
the processor that vouches for the key; a certificate then only adds that Microsoft saw it too.
"""

from cryptography import x509

from attestation.endorsements.shipped import shipped


def roots() -> tuple[x509.Certificate, ...]:
    """Return the pinned root, "Azure Virtual TPM Root Certificate Authority 2023"."""
    return shipped("azure", "virtual-tpm-root-2023")


def intermediates() -> tuple[x509.Certificate, ...]:
    """Return the issuing CAs that are known; VMs hand out a certificate without them."""
    return shipped("azure", "global-virtual-tpm-ca-01", "global-virtual-tpm-ca-03")
