"""Arguments that several commands take: times and Challenges, checked before anything is read."""

from datetime import datetime

import click

from attestation import limits


def parse_time(
    _context: click.Context, _parameter: click.Parameter, value: str | None
) -> datetime | None:
    """Return an ISO 8601 time with its time zone; a usage error for anything else."""
    if value is None:
        return None
    try:
        time = datetime.fromisoformat(value)
    except ValueError as error:
        raise click.BadParameter(
            f"{value!r} is not an ISO 8601 time such as 2026-01-31T12:00:00Z"
        ) from error
    if time.tzinfo is None:
        raise click.BadParameter(f"{value!r} has no time zone; add Z for UTC")
    return time


def parse_nonce(
    _context: click.Context, _parameter: click.Parameter, value: str | None
) -> bytes | None:
    """Return a Challenge written in hexadecimal; a usage error for anything else."""
    if value is None:
        return None
    try:
        nonce = bytes.fromhex(value)
    except ValueError:
        nonce = b""
    if len(nonce) != limits.NONCE_BYTES:
        raise click.BadParameter(f"a Challenge is {limits.NONCE_BYTES} bytes in hexadecimal")
    return nonce
