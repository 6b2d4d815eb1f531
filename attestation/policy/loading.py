"""Read a policy file (TOML, docs/policy.md) strictly: what is unclear is an error with its line.

An unknown key may be a misspelt restriction, a missing field a forgotten one, and an empty list
somebody's idea of "any": all three are refused here rather than interpreted.
"""

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from attestation import limits
from attestation.errors import PolicyError
from attestation.evidence import insecure, tpm
from attestation.evidence.tpm import PcrBank
from attestation.identifiers import Digest
from attestation.policy.locations import Locations
from attestation.policy.policy import (
    CataloguePolicy,
    EvidencePolicy,
    KeyPolicy,
    Policy,
    TpmPolicy,
)
from attestation.policy.section import Section

VERSION: Final = 1
ANY: Final = "any"
KINDS: Final = (tpm.KIND, insecure.KIND)

_BANKS: Final = (PcrBank.SHA256, PcrBank.SHA384)
_PCRS: Final = 24
_AGE_SECONDS: Final = 10 * 365 * 24 * 3600
_SHA256: Final = "sha256:"


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
    tpm_policy = None
    if tpm.KIND in evidence.kinds:
        tpm_policy = _tpm(section.take_section("tpm"))
    elif "tpm" in section.values:
        raise section.error("tpm", 'is there although evidence.kinds does not name "tpm"')
    section.finish()
    return Policy(evidence=evidence, keys=keys, catalogue=catalogue, tpm=tpm_policy)


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
        digests = section.take_list("digests", _digest)
    section.finish()
    return CataloguePolicy(
        accept_any=accept_any, digests=tuple(sorted(Digest(entry) for entry in digests))
    )


def _tpm(section: Section) -> TpmPolicy:
    bank = section.take("pcr_bank")
    if bank not in [known.value for known in _BANKS]:
        raise section.error("pcr_bank", 'is neither "sha256" nor "sha384"')
    roots: list[bytes] = []
    keys: list[bytes] = []
    if "roots" not in section.values and "attestation_keys" not in section.values:
        raise section.error("", "has neither roots nor attestation_keys")
    if "roots" in section.values:
        groups = section.take_list("roots", lambda path: _certificates(section.directory / path))
        roots = [der for group in groups for der in group]
    if "attestation_keys" in section.values:
        keys = section.take_list("attestation_keys", _digest)
    pcrs = _pcrs(section.take_section("pcrs"), PcrBank(bank))
    section.finish()
    return TpmPolicy(
        pcr_bank=PcrBank(bank),
        pcrs=pcrs,
        roots=tuple(sorted(set(roots))),
        attestation_keys=tuple(sorted(keys)),
    )


def _pcrs(section: Section, bank: PcrBank) -> tuple[tuple[int, tuple[bytes, ...]], ...]:
    if not section.values:
        raise section.error("", "names no PCR, which accepts nothing")
    pcrs = []
    for key in list(section.values):
        if key not in _PCR_NAMES:
            raise section.error(key, f"is not a PCR from 0 to {_PCRS - 1}")
        values = section.take_list(key, lambda value: _hex(value, bank.digest_bytes))
        pcrs.append((int(key), tuple(sorted(values))))
    return tuple(sorted(pcrs))


_PCR_NAMES: Final = frozenset(str(index) for index in range(_PCRS))


def _kind(value: str) -> str:
    if value not in KINDS:
        raise ValueError(f"{value!r} is not a kind of evidence ({', '.join(KINDS)})")
    return value


def _digest(value: str) -> bytes:
    if not value.startswith(_SHA256):
        raise ValueError(f"{value!r} does not start with {_SHA256!r}")
    return _hex(value.removeprefix(_SHA256), 32)


def _hex(value: str, size: int) -> bytes:
    # bytes.fromhex skips blanks; a value that only looks like the one reviewed must not pass.
    if len(value) != 2 * size or not set(value) <= set("0123456789abcdef"):
        raise ValueError(f"{value!r} is not {size} bytes in lower-case hexadecimal")
    return bytes.fromhex(value)


def _certificates(path: Path) -> list[bytes]:
    try:
        with path.open("rb") as file:
            data = file.read(limits.POLICY_BYTES)
        certificates = x509.load_pem_x509_certificates(data)
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror})") from error
    except (ValueError, x509.InvalidVersion) as error:
        raise ValueError(f"{path} holds no PEM certificate") from error
    return [entry.public_bytes(serialization.Encoding.DER) for entry in certificates]
