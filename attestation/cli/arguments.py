"""Arguments that several commands take: times and Challenges, checked before anything is read."""

import functools
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import attrs
import click

from attestation import limits


def gathered(
    name: str, kind: type[attrs.AttrsInstance], options: Sequence[Callable[..., Any]]
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a decorator that adds `options`; what they set arrives as one `kind` named `name`."""
    fields = [field.name for field in attrs.fields(kind)]

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def gather(*args: Any, **given: Any) -> Any:
            value = kind(**{field: given.pop(field) for field in fields})
            return function(*args, **{name: value}, **given)

        decorated: Callable[..., Any] = gather
        for option in reversed(options):
            decorated = option(decorated)
        return decorated

    return decorate


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
