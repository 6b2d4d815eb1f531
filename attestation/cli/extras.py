"""Which extra of this distribution each command needs, and what to say to who lacks it.

An auditor installs none of them: verifying takes neither sockets nor arrays. So a command that
cannot be imported for lack of one is no defect, and the answer is a line to type.
"""

from collections.abc import Mapping
from typing import Final

DISTRIBUTION: Final = "enclave-worker"

_BELONGS_TO_AN_EXTRA: Final = frozenset({"cupy", "numpy", "tpm2_pytss", "zmq"})

EXTRAS: Final[Mapping[str, str]] = {
    "bench": "client,coordinator,worker",
    "coordinator": "coordinator",
    "demo": "client,coordinator,worker",
    "identity": "tpm",
    "jobs": "client",
    "kernels": "worker",
    "keygen": "client",
    "submit": "client",
    "worker": "worker",
    "workers": "client",
}
"""Extras by command. Those that are not here need none."""


def missing_extra(command: str | None, error: ImportError) -> str:
    """Return what to install so that `command` gets past `error`; empty for any other defect."""
    missing = (error.name or "").split(".")[0]
    if command is None or command not in EXTRAS or missing not in _BELONGS_TO_AN_EXTRA:
        return ""
    extra = "tpm" if missing == "tpm2_pytss" else EXTRAS[command]
    return f"it needs {missing}: pip install '{DISTRIBUTION}[{extra}]'"
