"""One check of one entry of an index: its files by role, its time and the nonce that it wants.

An index is data from outside like the evidence in it. What it leaves out is told apart here: a role
that the appraisal cannot do without is `MissingError`, a value of another shape `DecodeError`.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from attestation import limits
from attestation.errors import DecodeError, MissingError

ANY_TIME: Final = datetime(2025, 1, 1, tzinfo=UTC)
"""For entries without a time: nothing about them depends on one."""

_PEM_MARK: Final = b"-----BEGIN"
_HEX: Final = re.compile(rb"(?:0x)?((?:[0-9A-Fa-f]{2})+)")
_BASE64: Final = re.compile(rb"[A-Za-z0-9+/_-]{4,}={0,2}")


class RoleMissingError(MissingError):
    """The entry has no file of a role that its kind needs. Add the file to the index."""

    code = "role-missing"


def read_files(
    entry: Mapping[str, Any], check: Mapping[str, Any], folder: Path
) -> dict[str, bytes]:
    """Return what the entry and the check name, by role. An input may name a file or a role."""
    paths = dict(_mapping(entry.get("files")))
    for role, chosen in _mapping(check.get("inputs")).items():
        if isinstance(chosen, str):
            paths[role] = paths.get(chosen, chosen)
    return {
        role: (folder / path).read_bytes() for role, path in paths.items() if isinstance(path, str)
    }


def need(files: Mapping[str, bytes], *roles: str) -> bytes:
    """Return the file of the first role that is there, or raise `RoleMissingError`."""
    for role in roles:
        if role in files:
            return files[role]
    raise RoleMissingError(f"no {' or '.join(roles)}")


def binary(data: bytes) -> bytes:
    """Return evidence as its maker wrote it: some keep it in hexadecimal, some in base64."""
    text = b"".join(data.split())
    if data.startswith(_PEM_MARK) or not text:
        return data
    if found := _HEX.fullmatch(text):
        return bytes.fromhex(found[1].decode())
    if _BASE64.fullmatch(text):
        padded = text.rstrip(b"=") + b"=" * (-len(text.rstrip(b"=")) % 4)
        try:
            return base64.b64decode(padded.translate(bytes.maketrans(b"-_", b"+/")), validate=True)
        except binascii.Error:
            return data
    return data


def event_log(files: Mapping[str, bytes], role: str) -> bytes | None:
    """Return a log without the end of the memory that was reserved for it, which may be 1 MiB."""
    data = files.get(role)
    if data is None:
        return None
    kept, rest = data[: limits.EVENT_LOG_BYTES], data[limits.EVENT_LOG_BYTES :]
    return kept if rest.count(rest[:1]) == len(rest) and rest[:1] in (b"\0", b"\xff") else data


def time_of(entry: Mapping[str, Any], check: Mapping[str, Any]) -> datetime:
    """Return the time to judge at: the check's, else the entry's, else any."""
    text = check.get("verify_at") or entry.get("verify_at")
    if text is None:
        return ANY_TIME
    try:
        at = datetime.fromisoformat(text)
    except (TypeError, ValueError) as error:
        raise DecodeError("verify_at is not a time") from error
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def nonce_of(check: Mapping[str, Any]) -> bytes | None:
    """Return the nonce that the check wants; None when it wants none."""
    wanted = check.get("nonce", _mapping(check.get("expected")).get("nonce"))
    return None if wanted is None else _octets(wanted)


def expected_nonce(entry: Mapping[str, Any], check: Mapping[str, Any]) -> bytes | None:
    """Return the nonce that the check or, where it names none, the entry wants."""
    wanted = nonce_of(check)
    return nonce_of({"expected": entry.get("expected_verdict")}) if wanted is None else wanted


def _octets(value: Any) -> bytes:
    if not isinstance(value, str):
        raise DecodeError("a nonce that is no text")
    try:
        return bytes.fromhex(value)
    except ValueError as error:
        raise DecodeError("a nonce that is not hexadecimal") from error


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
