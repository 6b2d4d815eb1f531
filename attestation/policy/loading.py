"""Read a policy file (TOML, docs/policy.md) strictly: what is unclear is an error with its line.

An unknown key may be a misspelt restriction, a missing field a forgotten one, and an empty list
somebody's idea of "any": all three are refused here rather than interpreted.
"""

import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from attestation import limits
from attestation.errors import PolicyError
from attestation.evidence import azure_vtpm, insecure, nitro, sev_snp, sgx, tdx, tpm
from attestation.identifiers import Digest
from attestation.policy.azure_vtpm import read_azure_snp_vtpm, read_azure_tdx_vtpm
from attestation.policy.locations import Locations
from attestation.policy.nitro import read_nitro
from attestation.policy.nvidia import read_gpu
from attestation.policy.policy import (
    CataloguePolicy,
    EvidencePolicy,
    KeyPolicy,
    Policy,
)
from attestation.policy.section import Section
from attestation.policy.sev_snp_reading import read_sev_snp
from attestation.policy.sgx import read_sgx
from attestation.policy.signing import require_signature
from attestation.policy.tdx import read_tdx
from attestation.policy.tpm import read_tpm
from attestation.policy.values import read_digest

VERSION: Final = 1
ANY: Final = "any"
KINDS: Final = (
    tpm.KIND,
    sev_snp.KIND,
    tdx.KIND,
    sgx.KIND,
    azure_vtpm.SNP_KIND,
    azure_vtpm.TDX_KIND,
    nitro.KIND,
    insecure.KIND,
)

_TABLES: Final[Mapping[str, Callable[[Section], Any]]] = {
    "tpm": read_tpm,
    "sev_snp": read_sev_snp,
    "tdx": read_tdx,
    "sgx": read_sgx,
    "azure_snp_vtpm": read_azure_snp_vtpm,
    "azure_tdx_vtpm": read_azure_tdx_vtpm,
    "nitro": read_nitro,
}
"""The table of each kind, named like the kind and like the member of `Policy`."""

_AGE_SECONDS: Final = 10 * 365 * 24 * 3600


def load_policy(path: str | Path, *, signer: bytes | None = None) -> Policy:
    """Read the policy at `path`; raises `PolicyError` that names file and line.

    With `signer`, an Ed25519 public key, a policy that its owner did not sign is refused.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            data = file.read(limits.POLICY_BYTES + 1)
    except OSError as error:
        raise PolicyError(f"{path}: cannot be read ({error.strerror})") from error
    if len(data) > limits.POLICY_BYTES:
        raise PolicyError(f"{path}: larger than {limits.POLICY_BYTES} bytes")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise PolicyError(f"{path}: not UTF-8") from error
    policy = parse_policy(text, directory=path.parent, name=str(path))
    if signer is not None:
        require_signature(policy, path, public_key=signer)
    return policy


def parse_policy(text: str, *, directory: Path, name: str = "policy") -> Policy:
    """Read a policy from `text`; certificate paths in it are relative to `directory`."""
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise PolicyError(f"{name}: not TOML: {error}") from error  # its message names the line
    section = Section(
        values=document, path=(), name=name, locations=Locations(text), directory=directory
    )
    return _policy(section)


def _policy(section: Section) -> Policy:
    version = section.take("version")
    if version != VERSION or isinstance(version, bool):
        raise section.error("version", f"is not {VERSION}")
    evidence = _evidence(section.take_section("evidence"))
    keys = _keys(section.take_section("keys"))
    catalogue = _catalogue(section.take_section("catalogue"))
    tables = {
        table: read(section.take_section(table))
        for table, read in _TABLES.items()
        if _wanted(section, table, evidence)
    }
    # A table for every kind: GPU evidence comes beside that of a CPU. Without it, it is refused.
    gpu = read_gpu(section.take_section("gpu")) if "gpu" in section.values else None
    section.finish()
    return Policy(evidence=evidence, keys=keys, catalogue=catalogue, gpu=gpu, **tables)


def _wanted(section: Section, table: str, evidence: EvidencePolicy) -> bool:
    kind = table.replace("_", "-")
    if kind not in evidence.kinds and table in section.values:
        raise section.error(table, f'is there although evidence.kinds does not name "{kind}"')
    return kind in evidence.kinds


def _evidence(section: Section) -> EvidencePolicy:
    kinds = section.take_list("kinds", _kind)
    # The one field that may be left out: its absence closes the door.
    allow = "allow_insecure_evidence" in section.values and section.take_boolean(
        "allow_insecure_evidence"
    )
    if allow and insecure.KIND not in kinds:
        raise section.error("allow_insecure_evidence", 'needs "insecure" among evidence.kinds')
    if insecure.KIND in kinds and not allow:
        raise section.error("kinds", '"insecure" needs allow_insecure_evidence = true beside it')
    max_age = section.take_uint("max_age_seconds", minimum=0, maximum=_AGE_SECONDS)
    section.finish()
    return EvidencePolicy(
        kinds=tuple(sorted(kinds)), allow_insecure_evidence=allow, max_age_seconds=max_age
    )


def _keys(section: Section) -> KeyPolicy:
    lifetime = section.take_uint("max_lifetime_seconds", minimum=1, maximum=limits.KEYSET_SECONDS)
    section.finish()
    return KeyPolicy(max_lifetime_seconds=lifetime)


def _catalogue(section: Section) -> CataloguePolicy:
    accept_any = section.values.get("digests") == ANY
    digests: Sequence[bytes] = ()
    if accept_any:
        section.take("digests")
    else:
        digests = section.take_list("digests", read_digest)
    section.finish()
    return CataloguePolicy(
        accept_any=accept_any, digests=tuple(sorted(Digest(entry) for entry in digests))
    )


def _kind(value: str) -> str:
    if value not in KINDS:
        raise ValueError(f"{value!r} is not a kind of evidence ({', '.join(KINDS)})")
    return value
