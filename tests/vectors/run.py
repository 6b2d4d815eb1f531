"""Appraise every check of an index of vectors: `python -m tests.vectors.run INDEX`.

Prints one JSON line per check and then `N passed, N failed`; the exit status is 1 unless all agree.
A kind that no module judges, a module that cannot be loaded and a judge that crashes are failed
checks: a vector that nobody looked at must not look like one that agrees.
"""

import importlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeAlias

from attestation.appraisal.checklist import Checklist, Step
from attestation.errors import DecodeError, VerificationError
from tests.vectors.verdict import UNVERIFIABLE, Got, Judged, agrees, conclude

MODULES: Final = ("sev_snp", "intel", "nvidia", "tpm", "nitro", "azure")
"""Each exports `KINDS` and `judge(entry, check, folder)`."""

Judge: TypeAlias = Callable[[Mapping[str, Any], Mapping[str, Any], Path], Judged]

WORDS: Final = {"role-missing": "endorsement_missing"}
"""Of what a judge refuses outright."""

_REFUSED: Final = Step.authentic("evidence")


@cache
def judges() -> Mapping[str, Judge]:
    """Return who judges each kind; a module that cannot be loaded judges none."""
    found: dict[str, Judge] = {}
    for name in MODULES:
        try:
            module = importlib.import_module(f"tests.vectors.{name}")
        except ImportError as error:
            sys.stderr.write(f"tests.vectors.{name}: {error}\n")
            continue
        found |= dict.fromkeys(module.KINDS, module.judge)
    return found


def results(index: Path) -> Iterator[dict[str, Any]]:
    """Yield the line of every check in `index`, whose file paths are relative to its folder."""
    for entry in _entries(index):
        # An entry that asks nothing would otherwise be passed over without a word.
        for check in _checks(entry):
            yield result(entry, check, index.parent)


def _entries(index: Path) -> list[Any]:
    """Return what `index` lists; an index of another shape lists nothing, which fails the run."""
    try:
        found = json.loads(index.read_text())
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{index}: {error}\n")
        return []
    entries = found.get("entries") if isinstance(found, dict) else found
    return entries if isinstance(entries, list) else []


def _checks(entry: Any) -> list[Any]:
    checks = entry.get("checks") if isinstance(entry, dict) else None
    return checks if isinstance(checks, list) and checks else [{"id": "none"}]


def result(entry: Any, check: Any, folder: Path) -> dict[str, Any]:
    """Return the line of one check, whatever the index and its files hold."""
    entry, check = (one if isinstance(one, dict) else {} for one in (entry, check))
    expected = check.get("expected", {})
    try:
        got = judge_one(entry, check, folder)
        agree = agrees(expected, got)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001 - a crash, a panic of a library's: fails the check
        got, agree = _crashed(error), False
    return {
        "kind": entry.get("kind"),
        "name": entry.get("name"),
        "check": check.get("id"),
        "expected": expected,
        "got": got.to_map(),
        "agree": agree,
    }


def judge_one(entry: Mapping[str, Any], check: Mapping[str, Any], folder: Path) -> Got:
    """Appraise one check. What a judge refuses outright is refused as not authentic."""
    judge = judges()[entry["kind"]]
    try:
        checks, words = judge(entry, check, folder)
    except (DecodeError, VerificationError) as error:
        return conclude(_refused(error), WORDS)
    return conclude(checks, words)


def _refused(error: DecodeError | VerificationError) -> Any:
    def refuse() -> str:
        raise error

    checks = Checklist()
    checks.announce([_REFUSED])
    checks.run(refuse)
    return checks.finish()


def _crashed(error: BaseException) -> Got:
    reason = f"not-judged: {type(error).__name__}: {error}"
    return Got(verdict=UNVERIFIABLE, appraisal=None, reasons=(reason,))


def main(arguments: list[str]) -> int:
    """Run the index named by `arguments`; return the exit status."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m tests.vectors.run INDEX\n")
        return 2
    passed = failed = 0
    for line in results(Path(arguments[0])):
        sys.stdout.write(json.dumps(line) + "\n")
        passed, failed = passed + line["agree"], failed + (not line["agree"])
    sys.stdout.write(f"{passed} passed, {failed} failed\n")
    return 0 if passed and not failed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
