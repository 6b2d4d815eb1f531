"""`enclave receipt`: check offline what a worker signed, or just look at it."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import click

from attestation.appraisal.result import AttestationResult
from attestation.appraisal.verifier import appraise_record
from attestation.cli.arguments import parse_nonce, parse_time
from attestation.cli.audit_files import Judging, judging_options, read_record
from attestation.cli.output import emit_json, emit_table, json_option, note, warn_insecure
from attestation.errors import DecodeError
from attestation.evidence.bundle import EvidenceRecord
from attestation.receipts.receipt import Receipt, ReceiptClaims
from attestation.receipts.verification import verify_receipt

_FILE: Final = click.Path(path_type=Path)

_VERIFY_EPILOG: Final = """\b
Examples:
  enclave receipt verify out/job.receipt --evidence out/job.evidence --policy policy.toml
  enclave receipt verify job.receipt --evidence job.evidence --policy p.toml \\
      --at 2026-01-31T12:00:00Z --json

Exit status: 0 verified, 1 refused, 2 unusable policy or command line, 3 a file is missing.
"""


@click.group()
def receipt() -> None:
    """Verify a receipt against evidence and a policy, or show what one says."""


@receipt.command(epilog=_VERIFY_EPILOG)
@click.argument("receipt_file", metavar="RECEIPT", type=_FILE)
@click.option("--evidence", "evidence_file", required=True, type=_FILE, help="The evidence file.")
@judging_options
@click.option(
    "--at",
    metavar="TIME",
    callback=parse_time,
    help="Judge as of this time (ISO 8601 with time zone). Default: the job's end, as claimed.",
)
@click.option(
    "--nonce",
    metavar="HEX",
    callback=parse_nonce,
    help="Your own Challenge. Without it, freshness is judged by age (max_age_seconds).",
)
@json_option
def verify(
    *,
    receipt_file: Path,
    evidence_file: Path,
    judging: Judging,
    at: datetime | None,
    nonce: bytes | None,
    as_json: bool,
) -> None:
    """Prove that accepted hardware signed RECEIPT, without asking anybody."""
    policy = judging.policy()
    given = judging.collateral()
    signed = read_record(receipt_file, Receipt)
    record = read_record(evidence_file, EvidenceRecord)
    if at is None:
        at = _milliseconds(ReceiptClaims.from_bytes(signed.claims).ended_ms)
        note(f"judging the evidence as of {at.isoformat()}, when the receipt says the job ended")
    for line in given.notes:
        note(line)
    result = appraise_record(
        record, policy=policy, nonce=nonce, now=at, collateral=given.collateral
    )
    if result.insecure:
        warn_insecure()
    claims = verify_receipt(
        signed,
        keyset=result.require_accepted(),
        evidence_digest=result.evidence_digest,
        evidence_kind=result.kind,
        expected=None,
    )
    if as_json:
        emit_json(
            {"verified": True, "insecure": result.insecure, "attestation": result.to_map()}
            | {"receipt_digest": signed.digest(), "claims": claims.to_map()}
        )
        return
    emit_table(
        "Receipt, INSECURE" if result.insecure else "Receipt", ("claim", "value"), _rows(claims)
    )
    for line in _proven(result, claims):
        click.echo(line)


@receipt.command()
@click.argument("receipt_file", metavar="RECEIPT", type=_FILE)
@json_option
def show(receipt_file: Path, *, as_json: bool) -> None:
    """Show what RECEIPT says. Nothing is verified.

    Example: enclave receipt show out/job.receipt
    """
    signed = read_record(receipt_file, Receipt)
    claims = ReceiptClaims.from_bytes(signed.claims)
    if as_json:
        emit_json({"verified": False, "receipt_digest": signed.digest(), "claims": claims.to_map()})
        return
    emit_table("Receipt, NOT VERIFIED", ("claim", "value"), _rows(claims))


def _proven(result: AttestationResult, claims: ReceiptClaims) -> Iterator[str]:
    if result.insecure:
        yield "INSECURE: anybody can make such evidence, so this proves nothing about the machine."
    yield f"VERIFIED: signed by a key inside {result.kind} evidence ({result.tier.value})."
    if claims.code:
        yield f"The job FAILED with code {claims.code!r}; there is no result."
    else:
        yield "The job ran to its end: the digests above are of its program, inputs and outputs."
    if not claims.confidential:
        yield "NOT CONFIDENTIAL: whoever operates this machine could read the job."


def _rows(claims: ReceiptClaims) -> list[tuple[str, object]]:
    rows: list[tuple[str, object]] = []
    for name, value in claims.to_map().items():
        rows.extend(_flat(name, value))
    return rows


def _flat(name: str, value: Any) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        for inner, entry in value.items():
            yield from _flat(f"{name}.{inner}", entry)
    elif isinstance(value, bytes):
        yield name, value.hex()
    elif isinstance(value, list):
        yield name, ", ".join(entry.hex() for entry in value)
    elif name.endswith("_ms"):
        yield name.removesuffix("_ms"), _milliseconds(value).isoformat()
    else:
        yield name, value


def _milliseconds(value: int) -> datetime:
    try:
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=value)
    except OverflowError as error:
        raise DecodeError("a time in the receipt is out of range") from error
