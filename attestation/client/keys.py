"""The client's signing key: who asked for a job. Drawn for the session, or kept in a PEM file."""

import os
import stat
from functools import cached_property
from pathlib import Path
from typing import Self

from attrs import field, frozen
from cryptography.exceptions import InternalError, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from attestation import limits
from attestation.client.errors import KeyFileError
from attestation.encoding.digests import Label, digest
from attestation.identifiers import ClientKeyId


@frozen(kw_only=True)
class ClientKey:
    """An Ed25519 key that signs job headers. Results belong to whoever holds it."""

    private: Ed25519PrivateKey = field(repr=False)
    public_bytes: bytes

    @classmethod
    def of(cls, key: "Ed25519PrivateKey | ClientKey | Path | str | None") -> Self:
        """Take a key, the path of its PEM file, or None for one that lives with the process."""
        match key:
            case None:
                return cls._from_private(Ed25519PrivateKey.generate())
            case Ed25519PrivateKey():
                return cls._from_private(key)
            case ClientKey():
                return cls._from_private(key.private)
            case _:
                return cls.load(Path(key))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read an unencrypted PKCS #8 PEM file; raises `KeyFileError`.

        A file that others may read is refused: whoever reads it can take the owner's results.
        """
        try:
            if stat.S_IMODE(path.stat().st_mode) & 0o077:
                raise KeyFileError(f"{path} is readable by others; run: chmod 600 {path}")
            with path.open("rb") as file:
                data = file.read(64 * limits.KIB)
            key = load_pem_private_key(data, password=None)
        except OSError as error:
            raise KeyFileError(f"{path}: {error.strerror}") from error
        except (ValueError, TypeError, InternalError, UnsupportedAlgorithm) as error:
            raise KeyFileError(f"{path} is not an unencrypted PEM key") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise KeyFileError(f"{path} is not an Ed25519 key")
        return cls._from_private(key)

    @classmethod
    def _from_private(cls, key: Ed25519PrivateKey) -> Self:
        public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        return cls(private=key, public_bytes=public)

    @cached_property
    def key_id(self) -> ClientKeyId:
        """The id that receipts carry."""
        return ClientKeyId(digest(Label.CLIENT_KEY, self.public_bytes))

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte Ed25519 signature of `message`."""
        return self.private.sign(message)

    def save(self, directory: Path) -> tuple[Path, Path]:
        """Write `client.key` (mode 0600) and `client.pub`; raises `KeyFileError` if one exists."""
        pem = self.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        public = self.private.public_key().public_bytes(
            Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
        )
        directory.mkdir(parents=True, exist_ok=True)
        paths = directory / "client.key", directory / "client.pub"
        for path, data, mode in zip(paths, (pem, public), (0o600, 0o644), strict=True):
            write_new(path, data, mode=mode)
        return paths


def write_new(path: Path, data: bytes, *, mode: int) -> None:
    """Create `path` with `mode` from its first moment; raises `KeyFileError` if it exists."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError as error:
        raise KeyFileError(f"{path} exists already; keys are never overwritten") from error
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
