"""`enclave verify`: repeat the appraisal of an evidence file, at any time, offline."""

from datetime import datetime
from pathlib import Path

import click

from attestation.appraisal.explanation import explain
from attestation.appraisal.result import AttestationResult
from attestation.appraisal.verifier import appraise_record
from attestation.cli.arguments import parse_nonce, parse_time
from attestation.cli.output import ExitCode, emit_json, json_option, printable, warn_insecure
from attestation.errors import UnavailableError
from attestation.evidence.bundle import EvidenceRecord
from attestation.policy.loading import load_policy


@click.command(
    epilog="""\b
Examples:
  enclave verify out/job.evidence --policy policy.toml --at 2026-01-31T12:00:00Z --explain
  enclave verify out/job.evidence --policy policy.toml --at 2026-01-31T12:00:00Z --json

\b
Exit status: 0 accepted, 1 refused, 2 wrong usage or policy, 3 a file cannot be read.
"""
)
@click.argument("evidence", type=click.Path(path_type=Path))
@click.option(
    "--policy", "policy_path", type=click.Path(path_type=Path), required=True, help="Policy file."
)
@click.option(
    "--at",
    "at",
    metavar="TIME",
    callback=parse_time,
    required=True,
    help="Judge as of this time (ISO 8601 with time zone), such as when the job ran.",
)
@click.option(
    "--nonce",
    metavar="HEX",
    callback=parse_nonce,
    help="Your own Challenge. Without it, freshness is judged by age.",
)
@click.option("--explain", "explained", is_flag=True, help="Print every check, and what to do.")
@json_option
@click.pass_context
def verify(
    context: click.Context,
    evidence: Path,
    policy_path: Path,
    at: datetime,
    nonce: bytes | None,
    explained: bool,  # noqa: FBT001 - a click flag
    as_json: bool,  # noqa: FBT001 - a click flag
) -> None:
    """Appraise EVIDENCE under a policy: needs nothing but the two files."""
    policy = load_policy(policy_path)
    record = EvidenceRecord.from_bytes(_read(evidence))
    result = appraise_record(record, policy=policy, nonce=nonce, now=at)
    if result.insecure:
        warn_insecure()
    if as_json:
        emit_json(result.to_map())
    else:
        _print(result, explained=explained)
    if not result.accepted:
        context.exit(ExitCode.REFUSED)


def _print(result: AttestationResult, *, explained: bool) -> None:
    if explained:
        for line in explain(result):
            click.echo(printable(line))
        return
    label = "INSECURE " if result.insecure else ""
    verdict = "accepted" if result.accepted else "REFUSED"
    click.echo(f"{verdict}: {label}{result.tier.value}, evidence {result.evidence_digest.hex()}")
    for check in result.refusals:
        click.echo(printable(f"({check.number}) {check.name} [{check.code}] {check.detail}"))


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            # One byte more than the format allows, so that a longer file is refused by its parser.
            return file.read(EvidenceRecord.LIMIT + 1)
    except OSError as error:
        raise UnavailableError(f"{path} cannot be read ({error.strerror})") from error
