"""`enclave keygen`: the key that signs your jobs, or the one that encrypts your connection."""

from pathlib import Path

import click

from attestation.cli.output import emit_json, json_option, note
from attestation.client.keys import ClientKey


@click.command(
    epilog="""\b
Examples:
  enclave keygen -o ~/.config/enclave
  enclave keygen --curve -o ~/.config/enclave
"""
)
@click.option(
    "-o",
    "--output",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    show_default="the current directory",
    help="Where the key files go. Existing ones are never overwritten.",
)
@click.option(
    "--curve",
    is_flag=True,
    help="Make a CURVE pair for addresses outside loopback (clients and workers).",
)
@json_option
def keygen(*, directory: Path, curve: bool, as_json: bool) -> None:
    """Make a signing key (client.key, client.pub), or with --curve a transport key.

    Whoever holds client.key can fetch and cancel your jobs and be billed as you. Neither key can
    open a tensor: those keys live for one job.
    """
    if curve:
        # ZeroMQ makes these keys; who only signs policies and collateral does not have it.
        from attestation.client.transport_keys import create_curve_keys  # noqa: PLC0415

        private, public, text = create_curve_keys(directory)
        document = {"secret": str(private), "public": str(public), "curve_public_key": text}
    else:
        key = ClientKey.of(None)
        private, public = key.save(directory)
        document = {
            "secret": str(private),
            "public": str(public),
            "client_key_id": key.key_id.hex(),
        }
    if as_json:
        emit_json(document)
        return
    note(f"wrote {private} (keep it secret) and {public}")
    if curve:
        note(f"public key for the coordinator's allow-list: {document['curve_public_key']}")
