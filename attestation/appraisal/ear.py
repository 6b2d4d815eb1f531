"""A verdict as an EAT Attestation Result: what other Relying Parties and their policies read.

Claims are those of draft-ietf-rats-ear-04, the trustworthiness vector that of draft-ietf-rats-ar4si
(section 3). Both have an encoding for JSON (JWT) and one for CBOR (CWT); a claim is declared here
once, with both of its names. Signing needs a key and is the caller's (cli/ear_tokens.py).

Each step of the reasoning counts towards one claim of the vector, and a claim is as bad as its
worst step. A step whose name this module does not know counts towards `instance-identity` or
`configuration`, by its question, so that none can get lost. The status never claims more than
our own tier does.
"""

import base64
from collections.abc import Mapping
from enum import Enum, IntEnum
from typing import Any, Final

from attrs import frozen

from attestation.appraisal.result import AttestationResult, Check, Question, Tier

PROFILE: Final = "tag:ietf.org,2026:rats/ear#04"
DEVELOPER: Final = "enclave-worker"

UNSIGNED: Final = "UNSIGNED: nobody vouches for these claims. Do not act on a copy from elsewhere."

Claims = dict[Any, Any]


class Form(Enum):
    """How claims are named and bytes are written."""

    JSON = 0
    CBOR = 1


@frozen
class _Label:
    json: str
    cbor: int

    def of(self, form: Form) -> str | int:
        return self.json if form is Form.JSON else self.cbor


_PROFILE_LABEL: Final = _Label("eat_profile", 265)
_NONCE: Final = _Label("eat_nonce", 10)
_ISSUED_AT: Final = _Label("iat", 6)
_SUBMODS: Final = _Label("submods", 266)
_STATUS: Final = _Label("ear_status", 1000)
_VECTOR: Final = _Label("ear_trustworthiness_vector", 1001)
_POLICIES: Final = _Label("ear_appraisal_policy_ids", 1003)
_VERIFIER: Final = _Label("ear_verifier_id", 1004)
_DEVELOPER: Final = _Label("developer", 0)
_BUILD: Final = _Label("build", 1)
# Private claims: in CBOR below -65536 (RFC 8392 section 3.1.1), in JSON a name of our own.
_REASONING: Final = _Label("tag:enclave-worker,2026:reasoning", -70400)
_SIGNATURE_NOTE: Final = _Label("tag:enclave-worker,2026:signature", -70401)


class Claim(Enum):
    """The claims of a trustworthiness vector that our steps speak about, by both of their names."""

    INSTANCE_IDENTITY = _Label("instance-identity", 0)
    CONFIGURATION = _Label("configuration", 1)
    EXECUTABLES = _Label("executables", 2)
    HARDWARE = _Label("hardware", 4)
    RUNTIME_OPAQUE = _Label("runtime-opaque", 5)


class Value(IntEnum):
    """Values of AR4SI section 3.3 that apply to every claim as we use it."""

    NONE = 0
    AFFIRMING = 2
    WARNING = 32
    CONTRAINDICATED = 96
    NOT_RECOGNIZED = 97
    CRYPTOGRAPHY_FAILED = 99


_STATUSES: Final[Mapping[Tier, tuple[str, int]]] = {
    Tier.AFFIRMING: ("affirming", 2),
    Tier.WARNING: ("warning", 32),
    Tier.UNVERIFIABLE: ("none", 0),
    Tier.CONTRAINDICATED: ("contraindicated", 96),
}

_WORDS: Final[tuple[tuple[str, Claim], ...]] = (
    ("attributes", Claim.CONFIGURATION),
    ("measurement", Claim.EXECUTABLES),
    ("reference value", Claim.EXECUTABLES),
    ("catalogue", Claim.EXECUTABLES),
    ("launch", Claim.EXECUTABLES),
    ("boot", Claim.EXECUTABLES),
    ("event log", Claim.EXECUTABLES),
    ("pcr", Claim.EXECUTABLES),
    ("rim", Claim.EXECUTABLES),
    ("enclave", Claim.EXECUTABLES),
    ("product", Claim.HARDWARE),
    ("platform", Claim.HARDWARE),
    ("hardware", Claim.HARDWARE),
    ("chip", Claim.HARDWARE),
    ("devices", Claim.HARDWARE),
    ("signing key", Claim.HARDWARE),
    ("tcb", Claim.HARDWARE),
    ("firmware", Claim.HARDWARE),
    ("version", Claim.HARDWARE),
)
"""Words in the names of steps, the first that is found decides."""

_ENCRYPTED: Final = frozenset({"sev-snp", "tdx", "sgx", "azure-snp-vtpm", "azure-tdx-vtpm"})
"""Kinds whose hardware encrypts the memory of what it attests. A TPM, or a hypervisor's enclave,
leaves memory to the host: no claim."""


def ear(result: AttestationResult, *, issued_at: int, build: str, form: Form) -> Claims:
    """Return the claims-set for `result`, issued at `issued_at` (Unix seconds) by version `build`.

    One submodule, named like the kind of Evidence: GPU Evidence is appraised as a part of it.
    """
    appraisal: Claims = {
        _STATUS.of(form): _status(result, form),
        _VECTOR.of(form): {
            claim.value.of(form): int(value) for claim, value in trust_vector(result).items()
        },
        _POLICIES.of(form): [f"sha256:{result.policy_digest.hex()}"],
        _REASONING.of(form): result.to_map(),
    }
    if result.nonce is not None:
        appraisal[_NONCE.of(form)] = _octets(result.nonce, form)
    return {
        _PROFILE_LABEL.of(form): PROFILE,
        _STATUS.of(form): _status(result, form),
        _ISSUED_AT.of(form): issued_at,
        _VERIFIER.of(form): {_DEVELOPER.of(form): DEVELOPER, _BUILD.of(form): build},
        _SUBMODS.of(form): {result.kind: appraisal},
    }


def unsigned(claims: Claims) -> Claims:
    """Return a claims-set of JSON that says that nobody signed it."""
    return {_SIGNATURE_NOTE.json: UNSIGNED, **claims}


def trust_vector(result: AttestationResult) -> dict[Claim, Value]:
    """Return for every claim that a step speaks about the value of its worst step."""
    found: dict[Claim, Tier] = {}
    order = list(Tier)
    for check in result.checks:
        claim = claim_of(check)
        found[claim] = max(found.get(claim, Tier.AFFIRMING), check.tier, key=order.index)
    vector = {claim: _value(claim, tier) for claim, tier in found.items()}
    if result.tier is Tier.AFFIRMING and result.kind in _ENCRYPTED:
        # Known only from a report that was believed and accepted as a whole.
        vector[Claim.RUNTIME_OPAQUE] = Value.AFFIRMING
    if result.insecure:
        vector[Claim.HARDWARE] = Value.NOT_RECOGNIZED
    return vector


def _status(result: AttestationResult, form: Form) -> str | int:
    # Our own policy may accept insecure Evidence by name. Whoever reads a token has other policies,
    # in which that word stands for nothing: for them there is no hardware.
    tier = Tier.CONTRAINDICATED if result.insecure else result.tier
    return _STATUSES[tier][form.value]


def claim_of(check: Check) -> Claim:
    """Return what a step speaks about."""
    if check.question is Question.AUTHENTIC:
        return Claim.INSTANCE_IDENTITY
    name = check.name.lower()
    return next((claim for word, claim in _WORDS if word in name), Claim.CONFIGURATION)


def _value(claim: Claim, tier: Tier) -> Value:
    match tier:
        case Tier.AFFIRMING:
            return Value.AFFIRMING
        case Tier.WARNING:
            return Value.WARNING
        case Tier.UNVERIFIABLE:
            return Value.NONE
        case Tier.CONTRAINDICATED if claim is Claim.INSTANCE_IDENTITY:
            return Value.CRYPTOGRAPHY_FAILED
    return Value.CONTRAINDICATED


def _octets(data: bytes, form: Form) -> str | bytes:
    if form is Form.CBOR:
        return data
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")
