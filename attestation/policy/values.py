"""Values of a policy file that several kinds of Evidence share: digests, hexadecimal, PEM files."""

from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from attestation import limits

_SHA256: Final = "sha256:"


def read_digest(value: str) -> bytes:
    """Read "sha256:" and 64 hexadecimal digits, or raise `ValueError`."""
    if not value.startswith(_SHA256):
        raise ValueError(f"{value!r} does not start with {_SHA256!r}")
    return read_hex(value.removeprefix(_SHA256), 32)


def read_hex(value: str, size: int) -> bytes:
    """Read `size` bytes, or raise `ValueError`."""
    # bytes.fromhex skips blanks; a value that only looks like the one reviewed must not pass.
    if len(value) != 2 * size or not set(value) <= set("0123456789abcdef"):
        raise ValueError(f"{value!r} is not {size} bytes in lower-case hexadecimal")
    return bytes.fromhex(value)


def read_certificates(directory: Path, name: str) -> list[bytes]:
    """Read the certificates of the PEM file `name` as DER, or raise `ValueError`."""
    path = directory / name
    try:
        with path.open("rb") as file:
            data = file.read(limits.POLICY_BYTES)
        certificates = x509.load_pem_x509_certificates(data)
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror})") from error
    except (ValueError, x509.InvalidVersion) as error:
        raise ValueError(f"{path} holds no PEM certificate") from error
    return [entry.public_bytes(serialization.Encoding.DER) for entry in certificates]
