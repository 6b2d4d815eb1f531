"""CURVE key files and the allow-list of peers."""

import os
import struct
from pathlib import Path

import structlog
import zmq.auth
from attrs import field, frozen
from zmq.utils import z85

from coordinator.errors import KeyFileError

KEY_BYTES = 32

log = structlog.get_logger("coordinator.keys")


@frozen(kw_only=True)
class CurveKeys:
    """The coordinator's own pair, as 40 z85 characters each."""

    public: bytes
    secret: bytes = field(repr=False)

    @property
    def public_bytes(self) -> bytes:
        """The 32 bytes that clients sign in their proof."""
        return z85.decode(self.public)


def generate(directory: Path) -> tuple[Path, Path]:
    """Write `coordinator.curve` (secret, 0600) and `coordinator.curve.pub`; never overwrite."""
    secret, public = directory / "coordinator.curve", directory / "coordinator.curve.pub"
    if secret.exists() or public.exists():
        raise KeyFileError(f"{directory} already holds a coordinator key; it is not overwritten")
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    before = os.umask(0o077)
    try:
        made_public, made_secret = zmq.auth.create_certificates(directory, "coordinator")
    finally:
        os.umask(before)
    Path(made_public).chmod(0o644)
    Path(made_secret).rename(secret)
    Path(made_public).rename(public)
    return secret, public


def load(path: Path) -> CurveKeys:
    """Read a secret key file, or raise `KeyFileError`."""
    try:
        public, secret = zmq.auth.load_certificate(path)
    except (OSError, ValueError, LookupError) as error:
        raise KeyFileError(f"{path} is not a CURVE key file ({error})") from error
    if secret is None:
        raise KeyFileError(f"{path} holds no secret key; is it the .pub file?")
    for key in (public, secret):
        _decode(key, str(path))
    return CurveKeys(public=public, secret=secret)


def load_allowed(path: Path) -> dict[bytes, str]:
    """Read the allow-list: per line a z85 public key and a name. `#` starts a comment line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise KeyFileError(f"{path}: {error}") from error
    allowed: dict[bytes, str] = {}
    for number, line in enumerate(lines, start=1):
        # z85 uses `#`, so a comment has its line to itself.
        if not line.strip() or line.startswith("# "):
            continue
        text, _, name = line.strip().partition(" ")
        allowed[_key(text, f"{path}:{number}")] = name.strip()
    if not allowed:
        raise KeyFileError(f"{path} allows nobody")
    return allowed


class AllowList:
    """An allow-list file that is read again when it changes.

    While it is unclear, nobody new gets in and those who are in stay: a half-written file must
    neither let a stranger pass nor end every connection.
    """

    def __init__(self, path: Path) -> None:
        """Read it, or raise `KeyFileError`."""
        self._path = path
        self._stamp = _stamp(path)
        self.admitted = frozenset(load_allowed(path))
        """Whose messages are heard."""
        self.welcome = self.admitted
        """Who may finish a handshake."""

    def refresh(self) -> frozenset[bytes]:
        """Read the file again if it changed; return the keys that lost their place."""
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return frozenset()
        self._stamp = stamp
        before = self.admitted
        try:
            self.admitted = self.welcome = frozenset(load_allowed(self._path))
        except KeyFileError as error:
            self.welcome = frozenset()
            log.error("allow_list.unreadable", detail=str(error))  # noqa: TRY400
            return frozenset()
        log.info("allow_list.read", count=len(self.admitted))
        return before - self.admitted


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _key(text: str, where: str) -> bytes:
    try:
        encoded = text.encode("ascii")
    except UnicodeEncodeError as error:
        raise KeyFileError(f"{where}: not a z85 public key") from error
    return _decode(encoded, where)


def _decode(encoded: bytes, where: str) -> bytes:
    try:
        key = z85.decode(encoded)
    except (ValueError, LookupError, struct.error) as error:
        raise KeyFileError(f"{where}: not a z85 key") from error
    if len(key) != KEY_BYTES:
        raise KeyFileError(f"{where}: a CURVE key has 40 characters")
    return key
