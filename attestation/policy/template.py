"""The commented policies that `enclave policy init` writes, one per kind of Evidence."""

from collections.abc import Mapping
from typing import Final

_HEAD: Final = """\
# Appraisal Policy for Evidence (docs/policy.md). What is not written here is refused:
# an unknown key, a missing field or an empty list is an error with its line number.
version = 1

[evidence]
"""

_KINDS: Final = """\
# Kinds of Evidence that count; each further one needs its own table (docs/policy.md).
kinds = ["{kind}"]
"""

_KINDS_INSECURE: Final = """\
# INSECURE: workers without any hardware behind them are accepted. They can read everything you
# send. For development only. Replace by a real kind and delete the line below it.
kinds = ["insecure"]
allow_insecure_evidence = true
"""

_MIDDLE: Final = """\
# Evidence that answers no Challenge of your own (an auditor's case) may be this old.
# 0: only Evidence that answers your own Challenge.
max_age_seconds = 3600

[keys]
# A worker's key set may live this long: a stolen key is worth that much time. At most 3600.
max_lifetime_seconds = 3600

[catalogue]
# Kernel catalogues that a worker may run, as `enclave kernels` prints them:
#   digests = ["sha256:<64 hexadecimal digits>"]
# "any" accepts kernels that nobody has reviewed.
digests = "any"
"""

_TPM: Final = """\

[tpm]
# Bank of the PCR values below: "sha256" or "sha384".
pcr_bank = "sha256"
# Who may vouch for an attestation key. At least one of the two:
#   roots             PEM files with CA certificates, relative to this file
#   attestation_keys  "sha256:" and the SHA-256 of a key's SubjectPublicKeyInfo
# A CA that vouches for software TPMs makes this policy accept software TPMs.
roots = []
# attestation_keys = ["sha256:<64 hexadecimal digits>"]
# Certificates need a current revocation list of each issuer, unless the line below says otherwise:
# revocation = "optional"

[tpm.pcrs]
# Reference Values: for each PCR the values it may have. PCR 11 measures the worker's boot image.
11 = []
"""

_SEV_SNP: Final = """\

[sev_snp]
# Milan is left out: software can extract its signing keys (arXiv 2605.12990).
products = ["genoa", "turin"]
# "vcek": keys of chips. "vlek": keys of cloud providers, which then have to be named in csps.
signing_keys = ["vcek"]
# AMD's revocation list has to be there: `enclave collateral fetch --amd Genoa --amd Turin`.
revocation = "required"
minimum_abi = "0.0"
# The workload itself. Under a paravisor the report of VMPL 0 is the paravisor's.
vmpls = [0]
# Reference Values: launch measurements of the images that you accept, 96 hexadecimal digits each.
measurements = []
# Chips that you know, or "any": then any chip of AMD's, wherever it stands.
chips = "any"

[sev_snp.minimum_tcb]
# Firmware below this is refused; AMD's security bulletins say which is patched.
genoa = { bootloader = 10, tee = 0, snp = 25, microcode = 84 }
turin = { fmc = 1, bootloader = 1, tee = 1, snp = 4, microcode = 81 }
"""

_TDX: Final = """\

[tdx]
# TCB statuses of Intel's that count. With any but "UpToDate", name the accepted advisories too.
tcb_statuses = ["UpToDate"]
# Collateral of before a TCB recovery is refused: TCB info counts these recoveries.
minimum_tcb_evaluation_data_number = 0
# Both of Intel's lists have to be there: `enclave collateral fetch --intel tdx:FMSPC`.
revocation = "required"
# Platforms that you know by their PPID, or "any": then any platform of Intel's.
platforms = "any"
# Reference Values, 96 hexadecimal digits each: firmware, its configuration, kernel, command line.
mr_td = []
rtmr0 = []
rtmr1 = []
rtmr2 = []
# What the workload extends itself.
rtmr3 = "any"
"""

_NITRO: Final = """\

[nitro]
# Documents carry their own time; leaf certificates live three hours.
max_age_seconds = 3600

[nitro.pcrs]
# Reference Values. PCR 0 measures the image: `nitro-cli build-enclave` prints it.
0 = []
"""

TABLES: Final[Mapping[str, str]] = {
    "tpm": _TPM,
    "sev-snp": _SEV_SNP,
    "tdx": _TDX,
    "nitro": _NITRO,
}
"""Kinds that a policy can be started for."""


def policy_template(*, allow_insecure_evidence: bool, kind: str = "tpm") -> str:
    """Return a policy to start from.

    One for real hardware does not load before its empty lists are filled in: nobody can know a
    user's roots and Reference Values for him, and a guess would be an acceptance.
    """
    if allow_insecure_evidence:
        return _HEAD + _KINDS_INSECURE + _MIDDLE
    return _HEAD + _KINDS.format(kind=kind) + _MIDDLE + TABLES[kind]
