"""A software TPM per worker, and its enrolment: what an operator does once per machine.

Enrolment happens before any worker runs: the attestation key and the PCR values are read from the
TPM and written into the policy, so that the evidence is compared with something it did not bring.
"""

import hashlib
import importlib
import importlib.util
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Self

from attrs import frozen

from attestation.cli.demo_processes import DemoProcesses, answers, free_port
from attestation.errors import UnavailableError

PCRS: Final = (0, 1, 2, 3, 4, 5, 6, 7, 11)
"""Firmware, boot loader, secure boot state, boot image. A software TPM that booted nothing has
zeros there."""

_TEMPLATE: Final = "ecc:ecdsa-sha256:null"
_ATTRIBUTES: Final = (
    "RESTRICTED",
    "SIGN_ENCRYPT",
    "FIXEDTPM",
    "FIXEDPARENT",
    "SENSITIVEDATAORIGIN",
    "USERWITHAUTH",
)


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
        """Make the attestation key and read the PCRs: once per machine, before any worker runs."""
        tpm2: Any = importlib.import_module("tpm2_pytss")
        name, _, configuration = self.tcti.partition(":")
        try:
            with tpm2.ESAPI(tpm2.TCTILdr(name, configuration)) as esapi:
                return Enrolment(key_digest=_key_digest(tpm2, esapi), pcrs=_pcrs(esapi, PCRS))
        except tpm2.TSS2_Exception as error:
            raise SoftwareTpmError(f"{self.tcti}: {error}") from error


def _key_digest(tpm2: Any, esapi: Any) -> bytes:
    # A primary key of a fixed template: the worker's Attester asks for the same and gets the same.
    attributes = tpm2.TPMA_OBJECT(0)
    for name in _ATTRIBUTES:
        attributes |= getattr(tpm2.TPMA_OBJECT, name)
    template = tpm2.TPM2B_PUBLIC.parse(_TEMPLATE, objectAttributes=attributes)
    handle, public, *_ = esapi.create_primary(
        tpm2.TPM2B_SENSITIVE_CREATE(), template, tpm2.ESYS_TR.ENDORSEMENT
    )
    esapi.flush_context(handle)
    return hashlib.sha256(public.publicArea.to_der()).digest()


def _pcrs(esapi: Any, indices: Sequence[int]) -> dict[int, bytes]:
    values: dict[int, bytes] = {}
    for start in range(0, len(indices), 8):  # TPM2_PCR_Read answers with at most eight
        part = indices[start : start + 8]
        _, _, digests = esapi.pcr_read(f"sha256:{','.join(map(str, part))}")
        values |= {index: bytes(value) for index, value in zip(part, digests, strict=True)}
    return values
