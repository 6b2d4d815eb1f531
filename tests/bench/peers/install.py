"""Make each peer an environment of its own, once; whoever cannot be installed is skipped."""

import shutil
import subprocess
import sys
from typing import Final

from tests.bench.peers.catalogue import Peer

TIMEOUT: Final = 600
_DONE: Final = "requirements"
"""Written last, so that a broken installation is tried again."""


class NotInstalledError(Exception):
    """A peer's environment cannot be made; the message says why."""


def install(peer: Peer) -> None:
    """Make the environment of `peer` unless it is there; raises `NotInstalledError`."""
    wanted = "\n".join(peer.requirements)
    done = peer.folder / _DONE
    if done.is_file() and done.read_text() == wanted:
        return
    shutil.rmtree(peer.folder, ignore_errors=True)
    _run([sys.executable, "-m", "venv", str(peer.folder)])
    _run([peer.python, "-m", "pip", "install", "--quiet", *peer.requirements])
    done.write_text(wanted)


def version(peer: Peer) -> str:
    """Return the installed version of what the peer is about."""
    code = "import importlib.metadata as m, sys; print(m.version(sys.argv[1]))"
    return _run([peer.python, "-c", code, peer.requirements[0]]).strip()


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotInstalledError(str(error)) from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise NotInstalledError(lines[-1][:200] if lines else f"status {done.returncode}")
    return done.stdout
