"""`enclave policy`: start an Appraisal Policy, and check one before relying on it."""

from pathlib import Path

import click

from attestation.cli.output import emit_json, json_option, note, warn_insecure
from attestation.errors import PolicyError
from attestation.policy.loading import load_policy
from attestation.policy.policy import Policy
from attestation.policy.template import policy_template


@click.group(epilog="See docs/policy.md for every field.")
def policy() -> None:
    """Say which hardware, images and programs you trust."""


@policy.command(
    epilog="""\b
Examples:
  enclave policy init -o policy.toml
  enclave policy init --allow-insecure-evidence -o laptop.toml
"""
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="File to write."
)
@click.option(
    "--allow-insecure-evidence",
    is_flag=True,
    help="Accept workers without any hardware behind them. For development only.",
)
def init(output: Path, allow_insecure_evidence: bool) -> None:  # noqa: FBT001 - a click flag
    """Write a commented policy. An existing file is not replaced."""
    try:
        with output.open("x", encoding="utf-8") as file:
            file.write(policy_template(allow_insecure_evidence=allow_insecure_evidence))
    except FileExistsError as error:
        raise PolicyError(f"{output} exists; choose another name, or move it away") from error
    if allow_insecure_evidence:
        warn_insecure()
    else:
        note(f"{output}: fill in tpm.roots and tpm.pcrs, then run: enclave policy lint {output}")


@policy.command(
    epilog="""\b
Example:
  enclave policy lint policy.toml

\b
Exit status: 0 usable, 2 not usable (the message names the line).
"""
)
@click.argument("file", type=click.Path(path_type=Path))
@json_option
def lint(file: Path, as_json: bool) -> None:  # noqa: FBT001 - a click flag
    """Check that FILE is a usable policy, and say what it opens up."""
    loaded = load_policy(file)
    warnings = list(_openings(loaded))
    if loaded.evidence.allow_insecure_evidence:
        warn_insecure()
    if as_json:
        emit_json({"digest": loaded.digest(), "warnings": warnings})
        return
    click.echo(f"{file}: usable, digest sha256:{loaded.digest().hex()}")
    for warning in warnings:
        click.echo(f"warning: {warning}")


def _openings(loaded: Policy) -> list[str]:
    openings = []
    if loaded.evidence.allow_insecure_evidence:
        openings.append("evidence.allow_insecure_evidence: workers without hardware are accepted")
    if loaded.catalogue.accept_any:
        openings.append("catalogue.digests: kernels that nobody has reviewed are accepted")
    return openings
