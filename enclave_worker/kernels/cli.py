"""`enclave kernels`: what this installation can compute, and the digest a policy would name."""

from typing import Final

import click

from attestation.cli.output import emit_json, emit_table, json_option
from enclave_worker.kernels import listing
from enclave_worker.kernels.registry import installed_registry

_EPILOG: Final = """\b
Examples:
  enclave kernels
  enclave kernels linalg.pca
  enclave kernels --json
"""


@click.command(epilog=_EPILOG)
@click.argument("name", required=False)
@json_option
def kernels(name: str | None, as_json: bool) -> None:  # noqa: FBT001
    """List the kernels installed here, or show one with an example.

    A worker on this installation would announce this catalogue digest. Packages add kernels through
    the entry-point group enclave_worker.kernels; docs/kernels.md shows how.
    """
    catalogue = installed_registry().catalogue()
    if name is not None:
        entry = catalogue.entry(name)
        if as_json:
            emit_json(listing.entry_document(entry))
        else:
            click.echo(listing.details(entry))
        return
    if as_json:
        emit_json(listing.document(catalogue))
        return
    rows = [(entry.name, entry.signature.summary) for entry in catalogue.entries]
    emit_table(f"{len(rows)} kernels", ("kernel", "summary"), rows)
    click.echo(f"catalogue digest {catalogue.digest().hex()}")
