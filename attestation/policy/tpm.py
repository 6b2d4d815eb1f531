"""The `[tpm]` table of a policy: Reference Values for PCRs, and who vouches for a key."""

from functools import partial
from typing import Final

from attrs import frozen

from attestation import limits
from attestation.encoding.record import Record, array, item, octets, row, uint, word
from attestation.evidence.tpm import PcrBank
from attestation.identifiers import DIGEST_BYTES
from attestation.policy.section import Section
from attestation.policy.values import read_certificates, read_digest, read_hex

_BANKS: Final = (PcrBank.SHA256, PcrBank.SHA384)
_PCRS: Final = 24
_PCR_NAMES: Final = frozenset(str(index) for index in range(_PCRS))


@frozen(kw_only=True)
class TpmPolicy(Record):
    """Reference Values for PCRs, and who may vouch for an attestation key.

    `pcrs` lists for each PCR the values it may have; `roots` are DER certificates and
    `attestation_keys` SHA-256 digests of SubjectPublicKeyInfo. One of the two is enough.
    """

    pcr_bank: PcrBank = item(word(PcrBank))
    pcrs: tuple[tuple[int, tuple[bytes, ...]], ...] = item(
        array(row(uint(31), array(octets(limit=64), limit=limits.POLICY_ENTRIES)), limit=32)
    )
    roots: tuple[bytes, ...] = item(
        array(octets(limit=limits.CERTIFICATE_BYTES), limit=limits.CERTIFICATES)
    )
    attestation_keys: tuple[bytes, ...] = item(
        array(octets(exactly=DIGEST_BYTES), limit=limits.POLICY_ENTRIES)
    )


def read_tpm(section: Section) -> TpmPolicy:
    """Read the table, or raise `PolicyError`."""
    bank = section.take("pcr_bank")
    if bank not in [known.value for known in _BANKS]:
        raise section.error("pcr_bank", 'is neither "sha256" nor "sha384"')
    roots: list[bytes] = []
    keys: list[bytes] = []
    if "roots" not in section.values and "attestation_keys" not in section.values:
        raise section.error("", "has neither roots nor attestation_keys")
    if "roots" in section.values:
        groups = section.take_list("roots", partial(read_certificates, section.directory))
        roots = [der for group in groups for der in group]
    if "attestation_keys" in section.values:
        keys = section.take_list("attestation_keys", read_digest)
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
        values = section.take_list(key, lambda value: read_hex(value, bank.digest_bytes))
        pcrs.append((int(key), tuple(sorted(values))))
    return tuple(sorted(pcrs))
