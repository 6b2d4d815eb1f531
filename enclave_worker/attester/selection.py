"""Choose the Attester. Nothing ever falls back to `insecure`: a person has to write the word.

`auto` goes from the strongest to the weakest: a TEE keeps the operator out of memory, a TPM only
says what booted. It passes over what this machine does not have, never over what is there and does
not answer: a worker whose TEE is locked must not quietly become a worker with a TPM.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Literal, TypeAlias

from attrs import frozen

from attestation.errors import UnavailableError
from attestation.evidence.tpm import PcrBank
from enclave_worker.attester.collect import Attester, GpuAttester
from enclave_worker.attester.configfs_tsm import DEFAULT_ROOT, ConfigfsTsm
from enclave_worker.attester.insecure import InsecureAttester
from enclave_worker.attester.nitro import DEFAULT_DEVICE as NITRO_DEVICE
from enclave_worker.attester.nitro import NitroAttester
from enclave_worker.attester.nvidia_gpu import NvidiaGpuAttester
from enclave_worker.attester.patience import AttesterMissingError
from enclave_worker.attester.sev_guest import DEFAULT_DEVICE as SEV_GUEST_DEVICE
from enclave_worker.attester.sev_guest import SevGuest, SevGuestAttester
from enclave_worker.attester.tpm import DEFAULT_PCRS, TpmAttester, TpmUnavailableError
from enclave_worker.attester.tsm import TsmAttester

AttesterName: TypeAlias = Literal["auto", "configfs-tsm", "sev-guest", "nitro", "tpm", "insecure"]
GpuAttesterName: TypeAlias = Literal["auto", "nvidia", "none"]

NAMES: Final[tuple[AttesterName, ...]] = (
    "auto",
    "configfs-tsm",
    "sev-guest",
    "nitro",
    "tpm",
    "insecure",
)
GPU_NAMES: Final[tuple[GpuAttesterName, ...]] = ("auto", "nvidia", "none")

Selected: TypeAlias = tuple[Attester, str]

_HOW_TO_GO_ON: Final = (
    "To go on, run the worker in a confidential virtual machine (SEV-SNP, TDX or Nitro) or on a "
    "machine with a TPM. To try things out without either, say `--attester insecure`: only clients "
    "whose policy says allow_insecure_evidence = true will use it."
)


class NoAttesterError(UnavailableError):
    """Nothing here can attest this machine. Use one with a TEE or a TPM; the message says more."""

    code = "no-attester"


@frozen(kw_only=True)
class Places:
    """Where the kernel shows its devices."""

    configfs_tsm: Path = DEFAULT_ROOT
    sev_guest: Path = SEV_GUEST_DEVICE
    nitro: Path = NITRO_DEVICE


_LINUX: Final = Places()


def select_attester(
    name: AttesterName,
    *,
    tcti: str | None = None,
    pcrs: Sequence[int] = DEFAULT_PCRS,
    bank: PcrBank = PcrBank.SHA256,
    ak_certificates: Path | None = None,
    places: Places = _LINUX,
) -> Selected:
    """Return the Attester that `name` asks for and, in words, why that one.

    Raises `AttesterMissingError`, `AttesterFailedError` or `TpmUnavailableError` when what was
    asked for does not answer, `NoAttesterError` when `auto` finds nothing.
    """

    def tpm() -> Selected:
        attester = TpmAttester(tcti=tcti, pcrs=pcrs, bank=bank, ak_certificates=ak_certificates)
        attester.check()
        return attester, "a TPM answers"

    found: dict[str, Callable[[], Selected]] = {
        "configfs-tsm": lambda: _configfs_tsm(places),
        "sev-guest": lambda: _sev_guest(places),
        "nitro": lambda: _nitro(places),
        "tpm": tpm,
    }
    if name == "insecure":
        return InsecureAttester(), "asked for: INSECURE, for development only"
    if name == "auto":
        return _first(found)
    if name not in found:
        raise NoAttesterError(f"unknown attester {name!r}; there are {', '.join(NAMES)}")
    attester, _ = found[name]()
    return attester, "asked for"


def select_gpu_attester(name: GpuAttesterName) -> tuple[GpuAttester | None, str]:
    """Return what speaks for the GPUs, or None, and in words why.

    Under `auto` GPUs outside confidential mode go without: clients see that nothing vouches for
    them. Raises `AttesterMissingError` when `nvidia` was asked for and there is none, and
    `AttesterFailedError`. On return, programs may use the GPUs.
    """
    if name == "none":
        return None, "asked for"
    try:
        gpus = NvidiaGpuAttester()
    except AttesterMissingError as error:
        if name == "nvidia":
            raise
        return None, f"no GPU in confidential mode ({error})"
    changed = gpus.make_ready()
    return gpus, f"{gpus.count} in confidential mode{', now made ready' if changed else ''}"


def _first(found: dict[str, Callable[[], Selected]]) -> Selected:
    missing = []
    for name, make in found.items():
        try:
            attester, reason = make()
        except (AttesterMissingError, TpmUnavailableError) as error:
            missing.append(f"no {name} ({error})")
        else:
            return attester, "; ".join((reason, *missing))
    raise NoAttesterError("\n  ".join(("this machine has", *missing)) + "\n" + _HOW_TO_GO_ON)


def _configfs_tsm(places: Places) -> Selected:
    attester = TsmAttester(ConfigfsTsm(places.configfs_tsm))
    return attester, f"the kernel offers configfs-tsm of {attester.provider}"


def _sev_guest(places: Places) -> Selected:
    attester = SevGuestAttester(SevGuest(places.sev_guest))
    return attester, f"the kernel offers {places.sev_guest}, and no configfs-tsm"


def _nitro(places: Places) -> Selected:
    return NitroAttester(places.nitro), f"the kernel offers {places.nitro}"
