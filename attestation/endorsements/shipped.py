"""Certificates that come with this program, one PEM file each (roots/PROVENANCE.md)."""

from functools import cache
from importlib.resources import files

from cryptography import x509


@cache
def shipped(vendor: str, *names: str) -> tuple[x509.Certificate, ...]:
    """Return the certificates `roots/VENDOR/NAME.pem`, read once."""
    folder = files("attestation.endorsements").joinpath("roots").joinpath(vendor)
    return tuple(
        x509.load_pem_x509_certificate(folder.joinpath(f"{name}.pem").read_bytes())
        for name in names
    )
