"""Run ProVerif, where it is installed, and read its verdicts."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

from tests.models.variants import asking, queries

TRUE: Final = "true"
FALSE: Final = "false"
"""An attack was found and its trace replayed. `cannot be proved` is a third verdict."""

_VERDICT: Final = re.compile(r"^RESULT .*? (?:is (true|false)|(cannot be proved))\.$", re.MULTILINE)
_SECONDS: Final = 240


def program() -> str:
    """Return where ProVerif is, or skip the test that asks."""
    found = shutil.which("proverif")
    if found is None:
        pytest.skip("ProVerif is not installed (opam install proverif)")
    return found


def version() -> str:
    """Return the first line of ProVerif's help, up to the authors."""
    shown = subprocess.run([program(), "--help"], capture_output=True, text=True, check=False)
    return shown.stdout.partition(" Cryptographic")[0]


def verdicts(source: str, *names: str, folder: Path) -> dict[str, str]:
    """Ask `source` these queries and return what ProVerif says of each: true, false, or neither."""
    model = folder / "channel.pv"
    model.write_text(asking(source, *names))
    run = subprocess.run(
        [program(), str(model)], capture_output=True, text=True, timeout=_SECONDS, check=False
    )
    said = [match[1] or match[2] for match in _VERDICT.finditer(run.stdout)]
    asked = [name for name in queries(source) if name in names]
    assert len(said) == len(asked), run.stdout[-2000:] + run.stderr
    return dict(zip(asked, said, strict=True))
