"""The auditor's part of the demo: only files, only the commands that an auditor would type.

Nothing here shares memory with the client that ran the jobs: each check is a process of its own,
which sees a policy, evidence files and receipt files.
"""

import json
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from attrs import frozen

from attestation.cli.demo_processes import enclave_command
from attestation.errors import VerificationError

PARALLEL: Final = 2
_TIMEOUT_SECONDS: Final = 60


class AuditFailedError(VerificationError):
    """A file of the demo did not verify, or a forged one did. The message shows the command."""

    code = "audit-failed"


@frozen(kw_only=True)
class Audit:
    """What the auditor found."""

    evidence_files: int
    receipts: int
    forgeries_refused: int
    example: str
    """One of the commands, to be repeated by hand."""


def audit(proofs: Sequence[tuple[Path, Path]], policy: Path) -> Audit:
    """Verify every (receipt, evidence) pair; raises `AuditFailedError`."""
    by_content = {evidence.read_bytes(): evidence for _, evidence in proofs}
    at = datetime.now(UTC).isoformat(timespec="seconds")
    appraise = [
        ["verify", str(evidence), "--policy", str(policy), "--at", at, "--json"]
        for evidence in by_content.values()
    ]
    verify = [_receipt_command(receipt, evidence, policy) for receipt, evidence in proofs]
    forged = [_forge(receipt) for receipt, _ in proofs[:1]]
    refuse = [
        _receipt_command(forgery, evidence, policy)
        for forgery, (_, evidence) in zip(forged, proofs, strict=False)
    ]
    with ThreadPoolExecutor(PARALLEL) as pool:
        accepted = list(pool.map(lambda command: _run(command, expected=0), [*appraise, *verify]))
        list(pool.map(lambda command: _run(command, expected=1), refuse))
    for document in accepted:
        if document.get("accepted", document.get("verified")) is not True:
            raise AuditFailedError("a command ended well without saying that it verified anything")
    return Audit(
        evidence_files=len(appraise),
        receipts=len(verify),
        forgeries_refused=len(refuse),
        example=" ".join(["enclave", *verify[0][:-1]]),
    )


def _receipt_command(receipt: Path, evidence: Path, policy: Path) -> list[str]:
    return [
        *("receipt", "verify", str(receipt)),
        *("--evidence", str(evidence)),
        *("--policy", str(policy), "--json"),
    ]


def _forge(receipt: Path) -> Path:
    """Copy a receipt with one bit of its claims changed, which only the signature can tell."""
    data = bytearray(receipt.read_bytes())
    data[len(data) // 3] ^= 1
    forgery = receipt.with_name(f"{receipt.stem}.forged")
    forgery.write_bytes(data)
    return forgery


def _run(arguments: list[str], *, expected: int) -> dict[str, object]:
    result = subprocess.run(  # noqa: S603 - our own command line, no shell
        [*enclave_command(), *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=_TIMEOUT_SECONDS,
    )
    if result.returncode != expected:
        raise AuditFailedError(
            f"enclave {' '.join(arguments)}\n"
            f"ended with {result.returncode}, not {expected}:\n{result.stderr or result.stdout}"
        )
    if expected:
        return {}
    document: dict[str, object] = json.loads(result.stdout)
    return document
