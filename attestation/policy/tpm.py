"""The `[tpm]` table of a policy: Reference Values for PCRs, and who vouches for a key."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from attrs import frozen
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from attestation import limits
from attestation.encoding.record import Record, array, boolean, item, octets, row, uint, word
from attestation.endorsements import azure, gcp
from attestation.evidence.tpm import PcrBank
from attestation.identifiers import DIGEST_BYTES
from attestation.policy.revocation import Revocation
from attestation.policy.section import Section
from attestation.policy.values import read_certificates, read_digest, read_hex

ANY: Final = "any"

_BANKS: Final = (PcrBank.SHA256, PcrBank.SHA384)
_PCRS: Final = 24
_PCR_NAMES: Final = frozenset(str(index) for index in range(_PCRS))
_BUILTIN: Final[Mapping[str, Callable[[], Sequence[x509.Certificate]]]] = {
    "builtin:azure": azure.roots,
    "builtin:gcp": gcp.roots,
}

_by_pcr: Final = array(
    row(uint(31), array(octets(limit=64), limit=limits.POLICY_ENTRIES)), limit=32
)


@frozen(kw_only=True)
class PcrPolicy(Record):
    """Reference Values for PCRs: what each may be at the end, or what may be measured into it.

    `pcrs` lists for each PCR the values it may have. `events` lists for each PCR the digests that
    may occur in its log, which then has to be there. A PCR in neither may have any value.
    """

    pcr_bank: PcrBank = item(word(PcrBank))
    pcrs: tuple[tuple[int, tuple[bytes, ...]], ...] = item(_by_pcr)
    accept_any_pcrs: bool = item(boolean(), default=False)
    events: tuple[tuple[int, tuple[bytes, ...]], ...] = item(_by_pcr, default=())
    require_event_log: bool = item(boolean(), default=False)


@frozen(kw_only=True)
class TpmPolicy(PcrPolicy):
    """Reference Values for PCRs, and who may vouch for an attestation key.

    `roots` are DER certificates and `attestation_keys` SHA-256 digests of SubjectPublicKeyInfo. One
    of the two is enough. `revocation` is about the certificates.
    """

    roots: tuple[bytes, ...] = item(
        array(octets(limit=limits.CERTIFICATE_BYTES), limit=limits.CERTIFICATES)
    )
    attestation_keys: tuple[bytes, ...] = item(
        array(octets(exactly=DIGEST_BYTES), limit=limits.POLICY_ENTRIES)
    )
    revocation: Revocation = item(word(Revocation), default=Revocation.REQUIRED)


def read_tpm(section: Section) -> TpmPolicy:
    """Read the table, or raise `PolicyError`."""
    roots: list[bytes] = []
    keys: list[bytes] = []
    if "roots" not in section.values and "attestation_keys" not in section.values:
        raise section.error("", "has neither roots nor attestation_keys")
    if "roots" in section.values:
        groups = section.take_list("roots", partial(_root, section.directory))
        roots = [der for group in groups for der in group]
    if "attestation_keys" in section.values:
        keys = section.take_list("attestation_keys", read_digest)
    policy = TpmPolicy(
        roots=tuple(sorted(set(roots))),
        attestation_keys=tuple(sorted(keys)),
        revocation=_revocation(section),
        **read_pcrs(section),
    )
    section.finish()
    return policy


def read_pcrs(section: Section) -> dict[str, Any]:
    """Take what every kind with a TPM has, as the fields of `PcrPolicy`."""
    bank = section.take("pcr_bank")
    if bank not in [known.value for known in _BANKS]:
        raise section.error("pcr_bank", 'is neither "sha256" nor "sha384"')
    accept_any = section.values.get("pcrs") == ANY
    pcrs: tuple[tuple[int, tuple[bytes, ...]], ...] = ()
    events = _by_number(section, "events", PcrBank(bank)) if "events" in section.values else ()
    if accept_any:
        section.take("pcrs")
    elif "pcrs" in section.values or not events:
        pcrs = _by_number(section, "pcrs", PcrBank(bank))
    required = "require_event_log" in section.values and section.take_boolean("require_event_log")
    return {
        "pcr_bank": PcrBank(bank),
        "pcrs": pcrs,
        "accept_any_pcrs": accept_any,
        "events": events,
        "require_event_log": required,
    }


def _by_number(
    parent: Section, table: str, bank: PcrBank
) -> tuple[tuple[int, tuple[bytes, ...]], ...]:
    section = parent.take_section(table)
    if not section.values:
        raise section.error("", "names no PCR, which accepts nothing")
    pcrs = []
    for key in list(section.values):
        if key not in _PCR_NAMES:
            raise section.error(key, f"is not a PCR from 0 to {_PCRS - 1}")
        values = section.take_list(key, lambda value: read_hex(value, bank.digest_bytes))
        pcrs.append((int(key), tuple(sorted(values))))
    return tuple(sorted(pcrs))


def _root(directory: Path, name: str) -> list[bytes]:
    if name in _BUILTIN:
        return [certificate.public_bytes(Encoding.DER) for certificate in _BUILTIN[name]()]
    if name.startswith("builtin:"):
        raise ValueError(f"{name!r} is not one of {', '.join(_BUILTIN)}")
    return read_certificates(directory, name)


def _revocation(section: Section) -> Revocation:
    if "revocation" not in section.values:
        return Revocation.REQUIRED
    word_ = section.take("revocation")
    if word_ not in list(Revocation):
        raise section.error("revocation", 'is neither "required" nor "optional"')
    return Revocation(word_)
