"""`enclave verify`: repeat the appraisal of an evidence file, at any time, offline."""

from datetime import datetime
from pathlib import Path

import click

from attestation.appraisal.explanation import explain
from attestation.appraisal.result import AttestationResult
from attestation.appraisal.verifier import appraise_record
from attestation.cli.arguments import parse_nonce, parse_time
from attestation.cli.audit_files import Judging, judging_options, read_record
from attestation.cli.output import (
    ExitCode,
    emit_json,
    json_option,
    note,
    printable,
    warn_insecure,
)
from attestation.cli.reports import Report, report_options
from attestation.evidence.bundle import EvidenceRecord


@click.command(
    epilog="""\b
Examples:
  enclave verify out/job.evidence --policy policy.toml --at 2026-01-31T12:00:00Z --explain
  enclave verify out/job.evidence --policy policy.toml --at 2026-01-31T12:00:00Z \\
      --collateral january.collateral --html verdict.html --json
  enclave verify out/job.evidence --policy policy.toml --at 2026-01-31T12:00:00Z \\
      --ear verdict.jwt --ear-key verifier.key

\b
Exit status: 0 accepted, 1 refused, 2 wrong usage or policy, 3 a file cannot be read. What --html
and --ear write says the same, accepted or refused.
"""
)
@click.argument("evidence", type=click.Path(path_type=Path))
@judging_options
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
@report_options
@json_option
@click.pass_context
def verify(
    context: click.Context,
    *,
    evidence: Path,
    judging: Judging,
    at: datetime,
    nonce: bytes | None,
    explained: bool,
    report: Report,
    as_json: bool,
) -> None:
    """Appraise EVIDENCE under a policy: needs nothing but files.

    Collateral that you give takes the place of what is kept in the evidence file, kind by kind.
    """
    report.check()
    policy = judging.policy()
    given = judging.collateral()
    record = read_record(evidence, EvidenceRecord)
    result = appraise_record(
        record, policy=policy, nonce=nonce, now=at, collateral=given.collateral
    )
    report.write(result, given.notes)
    if result.insecure:
        warn_insecure()
    for line in given.notes:
        note(line)
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
