"""Ask whether a locked distribution has a known vulnerability, and say how much was answered.

    python -m tests.supply_chain.audit

pip-audit ends well when its service knows none of the names it was asked about. That is no answer:
here it ends with 3, as does a service that cannot be reached. 0: every distribution was looked up
and none is known to be vulnerable. 1: some are.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, Final

from attrs import frozen

from tests.supply_chain.lock import MAIN, TPM

OK: Final = 0
VULNERABLE: Final = 1
NOT_AUDITED: Final = 3

_SECONDS: Final = 300
_SHOWN: Final = 5


@frozen(kw_only=True)
class Verdict:
    """What is known after an audit."""

    status: int
    lines: Sequence[str]


def judge(returncode: int, output: str, errors: str) -> Verdict:
    """Read what pip-audit said."""
    try:
        dependencies: list[dict[str, Any]] = list(json.loads(output)["dependencies"])
    except (ValueError, KeyError, TypeError):
        last = errors.strip().splitlines()[-1:] or [f"it ended with {returncode}"]
        reason = f"audit: the vulnerability service gave no answer: {last[0][:200]}"
        return Verdict(status=NOT_AUDITED, lines=[reason, "audit: nothing was audited"])
    unknown = [each["name"] for each in dependencies if "skip_reason" in each]
    findings = [
        f"audit: {each['name']} {each['version']}: {finding['id']}"
        f" (fixed in {', '.join(finding['fix_versions']) or 'no version yet'})"
        for each in dependencies
        for finding in each.get("vulns", [])
    ]
    looked_up = len(dependencies) - len(unknown)
    lines = [*findings, f"audit: {looked_up} of {len(dependencies)} distributions were looked up"]
    if unknown:
        shown = ", ".join(unknown[:_SHOWN]) + (", ..." if len(unknown) > _SHOWN else "")
        lines.append(f"audit: the service does not know {shown}")
    if findings:
        return Verdict(status=VULNERABLE, lines=lines)
    if unknown or not dependencies:
        return Verdict(status=NOT_AUDITED, lines=lines)
    return Verdict(status=OK, lines=lines)


def main() -> int:
    """Audit both locks; return the worst status."""
    command = [sys.executable, "-m", "pip_audit", "--progress-spinner=off", "--format=json"]
    locks = [f"--requirement={path}" for path in (MAIN, TPM)]
    try:
        done = subprocess.run(
            [*command, "--require-hashes", "--disable-pip", *locks],
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
        )
        verdict = judge(done.returncode, done.stdout, done.stderr)
    except subprocess.TimeoutExpired:
        verdict = judge(1, "", f"no answer within {_SECONDS} s")
    sys.stdout.write("\n".join([*verdict.lines, ""]))
    return verdict.status


if __name__ == "__main__":
    sys.exit(main())
