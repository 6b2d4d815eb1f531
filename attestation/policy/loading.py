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
from attestation.evidence import insecure, tpm
from attestation.identifiers import Digest
from attestation.policy.locations import Locations
from attestation.policy.policy import (
    CataloguePolicy,
    EvidencePolicy,
    KeyPolicy,
    Policy,
)
from attestation.policy.section import Section
from attestation.policy.tpm import read_tpm
from attestation.policy.values import read_digest

VERSION: Final = 1
ANY: Final = "any"
KINDS: Final = (tpm.KIND, insecure.KIND)

_TABLES: Final[Mapping[str, Callable[[Section], Any]]] = {
    "tpm": read_tpm,
}
"""The table of each kind, named like the kind and like the member of `Policy`."""

_AGE_SECONDS: Final = 10 * 365 * 24 * 3600


def load_policy(path: str | Path) -> Policy:
    """Read the policy at `path`; raises `PolicyError` that names file and line."""
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
    return parse_policy(text, directory=path.parent, name=str(path))


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
    section.finish()
    return Policy(evidence=evidence, keys=keys, catalogue=catalogue, **tables)


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
