"""A short guided search over all bodies, as the long one is done; and that a search can find."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.run import _checked, main

SECONDS = 20


@pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="atheris is not installed here"
)
def test_a_short_search_over_every_body_finds_nothing(tmp_path: Path) -> None:
    """What it learns is not kept: it starts from the seeds in every run."""
    command = [sys.executable, "-m", "tests.fuzz.run", f"--minutes={SECONDS / 60}"]
    done = subprocess.run(
        [*command, f"--output={tmp_path}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "fuzz: every: Done" in done.stdout


def broken(data: bytes) -> None:
    if b"!" in data:
        raise RuntimeError(f"{len(data)} bytes")


def test_a_search_keeps_the_shortest_input_for_each_place_that_broke(tmp_path: Path) -> None:
    for data in (b"fine", b"long!!!", b"short!", b"much longer!"):
        _checked(broken, "name", data, tmp_path)
    (crash,) = [path for path in (tmp_path / "crashes" / "name").iterdir() if not path.suffix]
    assert crash.read_bytes() == b"short!"
    assert "RuntimeError" in crash.with_suffix(".txt").read_text()


def test_a_body_that_does_not_exist_is_not_searched(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--body", "nobody"])
    assert "no such body" in capsys.readouterr().err
