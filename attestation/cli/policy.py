"""`enclave policy`: start an Appraisal Policy, and check one before relying on it."""

from pathlib import Path
from typing import Final

import click

from attestation.cli.output import emit_json, json_option, note, warn_insecure
from attestation.cli.policy_measure import measure
from attestation.cli.signing_keys import load_ed25519, pinned_option
from attestation.errors import PolicyError
from attestation.policy.loading import load_policy
from attestation.policy.policy import Policy
from attestation.policy.signing import sign_policy, signature_path
from attestation.policy.template import TABLES, policy_template

_FILE: Final = click.Path(path_type=Path, dir_okay=False)


@click.group(epilog="See docs/policy.md for every field.")
def policy() -> None:
    """Say which hardware, images and programs you trust."""


@policy.command(
    epilog="""\b
Examples:
  enclave policy init -o policy.toml
  enclave policy init --kind sev-snp -o policy.toml
  enclave policy init --allow-insecure-evidence -o laptop.toml
"""
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="File to write."
)
@click.option(
    "--kind",
    type=click.Choice(list(TABLES)),
    default="tpm",
    show_default=True,
    help="The kind of evidence that it is for; docs/policy.md has the others.",
)
@click.option(
    "--allow-insecure-evidence",
    is_flag=True,
    help="Accept workers without any hardware behind them. For development only.",
)
def init(*, output: Path, kind: str, allow_insecure_evidence: bool) -> None:
    """Write a commented policy. An existing file is not replaced."""
    try:
        with output.open("x", encoding="utf-8") as file:
            text = policy_template(allow_insecure_evidence=allow_insecure_evidence, kind=kind)
            file.write(text)
    except FileExistsError as error:
        raise PolicyError(f"{output} exists; choose another name, or move it away") from error
    if allow_insecure_evidence:
        warn_insecure()
    else:
        note(f"{output}: fill in the empty lists, then run: enclave policy lint {output}")


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


@policy.command(
    epilog="""\b
Example:
  enclave keygen -o owner
  enclave policy sign policy.toml --key owner/client.key

Writes policy.toml.sig. Whoever pins the key with --policy-key owner/client.pub then refuses every
other policy. Signed are the values, with the certificates that the policy names: sign again after
each change of one.
"""
)
@click.argument("file", type=_FILE)
@click.option("--key", "key_file", type=_FILE, required=True, help="Your Ed25519 key (PEM).")
def sign(file: Path, key_file: Path) -> None:
    """Sign FILE, so that others can tell your policy from somebody else's."""
    loaded = load_policy(file)
    key = load_ed25519(key_file)
    signature = sign_policy(loaded, public_key=key.public_key().public_bytes_raw(), sign=key.sign)
    signature_path(file).write_bytes(signature)
    note(f"{signature_path(file)}: signed sha256:{loaded.digest().hex()}")


@policy.command(
    epilog="""\b
Example:
  enclave policy verify policy.toml --policy-key owner/client.pub

\b
Exit status: 0 signed by that key, 2 not usable, not signed, or signed by another one.
"""
)
@click.argument("file", type=_FILE)
@click.option(
    "--policy-key",
    type=_FILE,
    required=True,
    callback=pinned_option,
    help="The owner's Ed25519 public key (PEM).",
)
def verify(file: Path, policy_key: bytes) -> None:
    """Check that the owner of a key signed the values of FILE."""
    loaded = load_policy(file, signer=policy_key)
    click.echo(f"{file}: signed, digest sha256:{loaded.digest().hex()}")


policy.add_command(measure)


def _openings(loaded: Policy) -> list[str]:
    openings = []
    if loaded.evidence.allow_insecure_evidence:
        openings.append("evidence.allow_insecure_evidence: workers without hardware are accepted")
    if loaded.catalogue.accept_any:
        openings.append("catalogue.digests: kernels that nobody has reviewed are accepted")
    return openings
