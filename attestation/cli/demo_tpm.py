"""A software TPM per worker, and its enrolment: what an operator does once per machine.

Enrolment happens before any worker runs: the attestation key and the PCR values are read from the
TPM and written into the policy, so that the evidence is compared with something it did not bring.
"""

import importlib.util
import json
import shutil
import subprocess
from pathlib import Path
from typing import Final, Self

from attrs import frozen

from attestation.cli.demo_processes import DemoProcesses, answers, enclave_command, free_port
from attestation.errors import UnavailableError

PCRS: Final = (0, 1, 2, 3, 4, 5, 6, 7, 11)
"""Firmware, boot loader, secure boot state, boot image. A software TPM that booted nothing has
zeros there."""


class SoftwareTpmError(UnavailableError):
    """The software TPM is missing or did not answer. Install it, or use `--attester insecure`."""

    code = "software-tpm"


def missing() -> str:
    """Return what a software TPM would need and is not here; empty if nothing is missing."""
    if shutil.which("swtpm") is None:
        return "swtpm"
    if importlib.util.find_spec("tpm2_pytss") is None:
        return "tpm2-pytss"
    return ""


@frozen(kw_only=True)
class Enrolment:
    """What a policy says about one TPM: its attestation key, and the values its PCRs must have."""

    key_digest: bytes
    pcrs: dict[int, bytes]


@frozen(kw_only=True)
class SoftwareTpm:
    """One running swtpm."""

    tcti: str

    @classmethod
    def start(cls, processes: DemoProcesses, name: str, state: Path) -> Self:
        """Start swtpm with its state in the directory `state`, and wait until it answers."""
        state.mkdir(parents=True)
        port = free_port(neighbours=1)
        processes.start(
            name,
            [
                "swtpm",
                "socket",
                "--tpm2",
                "--tpmstate",
                f"dir={state.resolve()}",  # a relative directory breaks it later on
                "--server",
                f"type=tcp,port={port},bindaddr=127.0.0.1",
                "--ctrl",
                f"type=tcp,port={port + 1},bindaddr=127.0.0.1",
                "--flags",
                "not-need-init,startup-clear",
            ],
        )
        # The control port: a connection to the other one would be taken for a TPM's user.
        processes.wait_until(lambda: answers(port + 1), what=f"{name} does not listen")
        return cls(tcti=f"swtpm:host=127.0.0.1,port={port}")

    def enrol(self) -> Enrolment:
        """Ask the TPM for its key and PCRs as an operator would, before any worker runs."""
        pcrs = ",".join(map(str, PCRS))
        command = ["identity", "--tpm-tcti", self.tcti, "--tpm-pcrs", pcrs, "--json"]
        run = subprocess.run(  # noqa: S603 - our own command, without a shell
            [*enclave_command(), *command], capture_output=True, text=True, check=False, timeout=60
        )
        if run.returncode != 0:
            raise SoftwareTpmError(f"{self.tcti}: {run.stderr.strip()}")
        found = json.loads(run.stdout)
        return Enrolment(
            key_digest=bytes.fromhex(found["attestation_key"].removeprefix("sha256:")),
            pcrs={int(index): bytes.fromhex(value) for index, value in found["pcrs"].items()},
        )
