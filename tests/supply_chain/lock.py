"""Write the lock files: every distribution that an installation may fetch, with its hashes.

    python -m tests.supply_chain.lock

requirements.lock      what `make install` needs on Python 3.11: run, test, fuzz, audit
requirements-tpm.lock  what the `tpm` extra adds: built from source, so it may fail on its own

They name no index: where a distribution comes from is up to whoever installs, what it contains is
not. CuPy is left out, because which of its builds fits depends on the machine.
"""

import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Final

REPOSITORY: Final = Path(__file__).resolve().parents[2]
MAIN: Final = REPOSITORY / "requirements.lock"
TPM: Final = REPOSITORY / "requirements-tpm.lock"
NOT_LOCKED: Final = frozenset({"cuda12", "cuda13"})
PYTHON: Final = (3, 11)

_HEADER: Final = (
    "# Written by `make lock` for Python 3.11. Install with: pip install --require-hashes\n"
)
_ENTRY: Final = re.compile(r"^[A-Za-z0-9].*?(?=^[A-Za-z0-9]|\Z)", re.MULTILINE | re.DOTALL)
_QUIET: Final = (
    "--quiet",
    "--generate-hashes",
    "--strip-extras",
    "--allow-unsafe",
    "--no-header",
    "--no-annotate",
    "--no-emit-index-url",
    "--no-emit-find-links",
    "--no-emit-trusted-host",
    "--no-emit-options",
)


def extras() -> list[str]:
    """Return the optional dependencies that are locked."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    return [name for name in project["optional-dependencies"] if name not in NOT_LOCKED]


def entries(text: str) -> dict[str, str]:
    """Return the entries of a lock by `name==version`."""
    code = "".join(line for line in text.splitlines(True) if not line.lstrip().startswith("#"))
    found = (match[0].rstrip() for match in _ENTRY.finditer(code))
    return {entry.split()[0].split(";")[0]: entry for entry in found}


def main() -> int:
    """Write both locks; return 0."""
    if sys.version_info[:2] != PYTHON:
        sys.stderr.write("lock: the lock files are made with Python 3.11\n")
        return 2
    names = extras()
    without_tpm = _compile([name for name in names if name != "tpm"], "--all-build-deps")
    with_tpm = entries(_compile(names))
    MAIN.write_text(_file(entries(without_tpm)))
    TPM.write_text(_file({k: v for k, v in with_tpm.items() if k not in entries(without_tpm)}))
    return 0


def _file(locked: dict[str, str]) -> str:
    return _HEADER + "".join(f"{locked[name]}\n" for name in sorted(locked))


def _compile(chosen: list[str], *options: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "lock"
        wanted = [f"--extra={name}" for name in chosen]
        command = [sys.executable, "-m", "piptools", "compile", *_QUIET, *options, *wanted]
        subprocess.run(
            [*command, f"--output-file={output}", "pyproject.toml"],
            check=True,
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        return output.read_text()


if __name__ == "__main__":
    sys.exit(main())
