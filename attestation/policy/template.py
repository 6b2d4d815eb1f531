"""The commented policy that `enclave policy init` writes."""

from typing import Final

_HEAD: Final = """\
# Appraisal Policy for Evidence (docs/policy.md). What is not written here is refused:
# an unknown key, a missing field or an empty list is an error with its line number.
version = 1

[evidence]
"""

_KINDS_TPM: Final = """\
# Kinds of Evidence that count. "tpm": a TPM 2.0 says which software was booted.
kinds = ["tpm"]
"""

_KINDS_INSECURE: Final = """\
# INSECURE: workers without any hardware behind them are accepted. They can read everything you
# send. For development only. Replace by kinds = ["tpm"] and delete the line below it.
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

[tpm.pcrs]
# Reference Values: for each PCR the values it may have. PCR 11 measures the worker's boot image.
11 = []
"""


def policy_template(*, allow_insecure_evidence: bool) -> str:
    """Return a policy to start from.

    The one for TPMs does not load before its empty lists are filled in: nobody can know a user's
    roots and Reference Values for him, and a guess would be an acceptance.
    """
    if allow_insecure_evidence:
        return _HEAD + _KINDS_INSECURE + _MIDDLE
    return _HEAD + _KINDS_TPM + _MIDDLE + _TPM
