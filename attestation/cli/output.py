"""What every command prints, and how: tables for people, one JSON document for programs.

Results go to standard output, everything else to standard error, so that a pipe gets clean data.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from enum import IntEnum
from typing import Any, Final, TypeVar

import click

from attestation.errors import (
    EnclaveError,
    LimitError,
    PolicyError,
    ProgramError,
    TensorError,
    UnavailableError,
)

F = TypeVar("F", bound=Callable[..., Any])

INSECURE: Final = "INSECURE: this evidence proves nothing about the machine. For development only."

_JSON_META: Final = "attestation.cli.output.json"


class ExitCode(IntEnum):
    """What the exit status of `enclave` means (docs/cli.md)."""

    OK = 0
    REFUSED = 1
    """Verification refused something, or the job failed."""
    USAGE = 2
    """The command line, a policy, a program or an input file is not usable."""
    ENVIRONMENT = 3
    """Something the command needs is missing: a coordinator, a device, a file."""
    INTERRUPTED = 130


def exit_code(error: BaseException) -> ExitCode:
    """Return the exit status for `error`."""
    match error:
        case KeyboardInterrupt():
            return ExitCode.INTERRUPTED
        case UnavailableError() | OSError():
            return ExitCode.ENVIRONMENT
        case PolicyError() | ProgramError() | TensorError() | LimitError():
            return ExitCode.USAGE
        case _:
            return ExitCode.REFUSED


def json_option(function: F) -> F:
    """Add `--json` as the argument `as_json`; errors then also print as JSON."""

    def remember(context: click.Context, _parameter: click.Parameter, value: bool) -> bool:  # noqa: FBT001
        context.meta[_JSON_META] = value
        return value

    option: Callable[[F], F] = click.option(
        "--json",
        "as_json",
        is_flag=True,
        callback=remember,
        help="Print one JSON document on standard output.",
    )
    return option(function)


def emit_json(document: Any) -> None:
    """Print `document` on standard output; byte strings become hexadecimal."""
    click.echo(json_text(document))


def json_text(document: Any) -> str:
    """Return `document` as JSON with sorted keys; byte strings become hexadecimal."""
    return json.dumps(document, indent=2, sort_keys=True, default=_plain)


def emit_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table on standard output, plain when that is not a terminal."""
    # Loaded here: rich costs 60 ms, and most commands of a script ask for JSON.
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(title=title, title_justify="left", header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        # Text, not str: a worker's self-chosen name must not be read as markup.
        cells = [Text(show(cell)) for cell in row]
        table.add_row(*cells)
    Console().print(table)


def note(text: str) -> None:
    """Say something to the person at the terminal, on standard error."""
    click.echo(printable(text), err=True)


def warn_insecure() -> None:
    """Say on standard error, in a way nobody overlooks, that nothing was proven."""
    click.secho(f"!! {INSECURE}", err=True, fg="red", bold=True)


def report_error(context: click.Context, error: BaseException) -> ExitCode:
    """Print `error` as one line with its code (and as JSON where asked); return the exit status."""
    code = error.code if isinstance(error, EnclaveError) else "environment"
    message = printable(str(error) or type(error).__name__)
    if context.meta.get(_JSON_META):
        emit_json({"error": {"code": code, "message": message}})
    click.echo(f"error[{code}]: {message}", err=True)
    return exit_code(error)


def short(identifier: bytes) -> str:
    """Return the first 16 hexadecimal characters, which is how ids are shown to people."""
    return identifier.hex()[:16]


def show(cell: object) -> str:
    """Return a table cell: ids shortened, control characters removed."""
    return short(cell) if isinstance(cell, bytes) else printable(str(cell))


def printable(text: str) -> str:
    """Return `text` without control characters: names from strangers reach terminals through us."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    if isinstance(value, frozenset | set | tuple):
        return list(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")
