"""Keys that commands take as PEM files: pinned public ones, and private ones that sign files."""

import stat
from pathlib import Path
from typing import Final, TypeAlias

import click
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from attestation import limits
from attestation.errors import UnavailableError

SigningKey: TypeAlias = Ed25519PrivateKey | EllipticCurvePrivateKey

_KEY_BYTES: Final = 64 * limits.KIB


class SigningKeyError(UnavailableError):
    """A key file is missing, open to others, or of another kind. `enclave keygen` writes both."""

    code = "signing-key"


def load_pinned(path: Path) -> bytes:
    """Read an Ed25519 public key from a PEM file; raises `SigningKeyError`."""
    try:
        key = load_pem_public_key(_read(path))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SigningKeyError(f"{path} is not a PEM public key") from error
    if not isinstance(key, Ed25519PublicKey):
        raise SigningKeyError(f"{path} is not an Ed25519 public key")
    return key.public_bytes_raw()


def load_ed25519(path: Path) -> Ed25519PrivateKey:
    """Read an Ed25519 private key; raises `SigningKeyError`."""
    key = load_private(path)
    if not isinstance(key, Ed25519PrivateKey):
        raise SigningKeyError(f"{path} is not an Ed25519 key")
    return key


def load_private(path: Path) -> SigningKey:
    """Read an unencrypted Ed25519 or P-256 key that others cannot read, or `SigningKeyError`."""
    data = _read(path)
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise SigningKeyError(f"{path} is readable by others; run: chmod 600 {path}")
    try:
        key = load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise SigningKeyError(f"{path} is not an unencrypted PEM key") from error
    if isinstance(key, Ed25519PrivateKey):
        return key
    if isinstance(key, EllipticCurvePrivateKey) and isinstance(key.curve, SECP256R1):
        return key
    raise SigningKeyError(f"{path} is neither an Ed25519 nor a P-256 key")


def pinned_option(
    _context: click.Context, _parameter: click.Parameter, value: Path | None
) -> bytes | None:
    """Turn the path of a pinned public key into the key, for an option that may be left out."""
    return None if value is None else load_pinned(value)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_KEY_BYTES)
    except OSError as error:
        raise SigningKeyError(f"{path} cannot be read ({error.strerror})") from error
