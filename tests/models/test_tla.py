"""The designs of the job machine and of the replay cache, checked exhaustively within their bounds.

TLC looks at every history; each defence is seen to be needed. The code's twins of the invariants
are in tests/properties; docs/properties.md says which belongs to which.
"""

from pathlib import Path

import pytest

from tests.models.tlc import MODELS, tlc

BROKEN_WITHOUT = {
    ("Jobs", "Fencing"): "Invariant OneAcceptedResult is violated",
    ("Jobs", "AckAfterCommit"): "Invariant NothingAcknowledgedIsLost is violated",
    ("Jobs", "OneTransaction"): "Invariant ResultHasItsReceipt is violated",
    ("Jobs", "ClientRemembers"): "Invariant HandedOnce is violated",
    ("Replay", "OneStep"): "Invariant NothingIsUnknown is violated",
    ("Replay", "JobsOnly"): "Invariant OneRun is violated",
    ("Replay", "FullMeansNoMore"): "Invariant NothingIsUnknown is violated",
    ("Replay", "KeysDieToo"): "Invariant OneRun is violated",
    ("Replay", "OneOfTwoWins"): "property TakenBackIsOver is violated",
}


def test_no_history_loses_a_job_or_accepts_two_results(tmp_path: Path) -> None:
    """Crashes, lost and repeated messages, dead and slow workers, in every order."""
    assert "No error has been found" in tlc("Jobs", (MODELS / "Jobs.cfg").read_text(), tmp_path)


def test_no_history_runs_a_job_twice_under_one_key_set(tmp_path: Path) -> None:
    """Repeated jobs, other attempts, threads, revocations, a full memory and new starts."""
    assert "No error has been found" in tlc("Replay", (MODELS / "Replay.cfg").read_text(), tmp_path)


@pytest.mark.parametrize(("module", "defence"), sorted(BROKEN_WITHOUT))
def test_every_defence_of_the_model_is_needed(module: str, defence: str, tmp_path: Path) -> None:
    config = (MODELS / f"{module}.cfg").read_text()
    assert f"{defence} = TRUE" in config
    output = tlc(module, config.replace(f"{defence} = TRUE", f"{defence} = FALSE"), tmp_path)
    assert BROKEN_WITHOUT[module, defence] in output
