"""The `--tpm-pcrs` option, which `enclave worker` and `enclave identity` share."""

from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from enclave_worker.attester.tpm import DEFAULT_PCRS

F = TypeVar("F", bound=Callable[..., Any])

_LAST_PCR: Final = 23


def _parse(_context: click.Context, _parameter: click.Parameter, value: str) -> tuple[int, ...]:
    try:
        pcrs = tuple(sorted({int(part) for part in value.split(",")}))
    except ValueError:
        raise click.BadParameter("write numbers with commas between them: 0,2,7,11") from None
    if not all(0 <= pcr <= _LAST_PCR for pcr in pcrs):
        raise click.BadParameter(f"a PCR is a number from 0 to {_LAST_PCR}")
    return pcrs


def pcrs_option(function: F) -> F:
    """Add the option: which PCRs a quote covers."""
    return click.option(
        "--tpm-pcrs",
        metavar="LIST",
        default=",".join(map(str, DEFAULT_PCRS)),
        show_default=True,
        callback=_parse,
        help="The PCRs that a quote covers.",
    )(function)
