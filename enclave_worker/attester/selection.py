"""Choose the Attester. Nothing ever falls back to `insecure`: a person has to write the word."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal, TypeAlias

from attestation.errors import UnavailableError
from attestation.evidence.tpm import PcrBank
from enclave_worker.attester.collect import Attester
from enclave_worker.attester.insecure import InsecureAttester
from enclave_worker.attester.tpm import DEFAULT_PCRS, TpmAttester, TpmUnavailableError

AttesterName: TypeAlias = Literal["auto", "tpm", "insecure"]

NAMES: Final[tuple[AttesterName, ...]] = ("auto", "tpm", "insecure")


class NoAttesterError(UnavailableError):
    """Nothing here can attest this machine. Give it a TPM, or say `--attester insecure`."""

    code = "no-attester"


def select_attester(
    name: AttesterName,
    *,
    tcti: str | None = None,
    pcrs: Sequence[int] = DEFAULT_PCRS,
    bank: PcrBank = PcrBank.SHA256,
    ak_certificates: Path | None = None,
) -> tuple[Attester, str]:
    """Return the Attester that `name` asks for and, in words, why that one.

    Raises `TpmUnavailableError` when `tpm` was asked for and does not answer, `NoAttesterError`
    when `auto` finds nothing.
    """
    match name:
        case "insecure":
            return InsecureAttester(), "asked for: INSECURE, for development only"
        case "tpm":
            return _tpm(tcti, pcrs, bank, ak_certificates), "asked for"
        case "auto":
            try:
                return _tpm(tcti, pcrs, bank, ak_certificates), "a TPM answers"
            except TpmUnavailableError as error:
                raise NoAttesterError(
                    f"no TPM ({error}). Without one, only `--attester insecure` runs, and only "
                    "clients whose policy says allow_insecure_evidence = true will use it"
                ) from error
        case _:
            raise NoAttesterError(f"unknown attester {name!r}; there are {', '.join(NAMES)}")


def _tpm(
    tcti: str | None, pcrs: Sequence[int], bank: PcrBank, ak_certificates: Path | None
) -> TpmAttester:
    attester = TpmAttester(tcti=tcti, pcrs=pcrs, bank=bank, ak_certificates=ak_certificates)
    attester.check()
    return attester
