"""The `[nitro]` table of a policy: which enclave images count, and how old a document may be."""

from typing import Final

from attrs import frozen

from attestation import limits
from attestation.encoding.record import Record, array, boolean, item, octets, row, uint
from attestation.evidence.nitro import PCR_BYTES
from attestation.policy.section import Section
from attestation.policy.values import read_hex

ANY: Final = "any"

_PCRS: Final = 32
_PCR_NAMES: Final = frozenset(str(index) for index in range(_PCRS))
_AGE_SECONDS: Final = 3 * 3600  # the enclave's certificate lives no longer


@frozen(kw_only=True)
class NitroPolicy(Record):
    """Which enclaves count. `pcrs` lists for each PCR the values it may have.

    `max_age_seconds` is how old the document's own timestamp may be.
    """

    pcrs: tuple[tuple[int, tuple[bytes, ...]], ...] = item(
        array(
            row(uint(_PCRS - 1), array(octets(exactly=PCR_BYTES), limit=limits.POLICY_ENTRIES)),
            limit=_PCRS,
        )
    )
    accept_any_pcrs: bool = item(boolean(), default=False)
    allow_debug: bool = item(boolean(), default=False)
    max_age_seconds: int = item(uint(_AGE_SECONDS))


def read_nitro(section: Section) -> NitroPolicy:
    """Read the table, or raise `PolicyError`."""
    accept_any = section.values.get("pcrs") == ANY
    pcrs: tuple[tuple[int, tuple[bytes, ...]], ...] = ()
    if accept_any:
        section.take("pcrs")
    else:
        pcrs = _pcrs(section.take_section("pcrs"))
    policy = NitroPolicy(
        pcrs=pcrs,
        accept_any_pcrs=accept_any,
        allow_debug="allow_debug" in section.values and section.take_boolean("allow_debug"),
        max_age_seconds=section.take_uint("max_age_seconds", minimum=1, maximum=_AGE_SECONDS),
    )
    section.finish()
    return policy


def _pcrs(section: Section) -> tuple[tuple[int, tuple[bytes, ...]], ...]:
    if not section.values:
        raise section.error("", "names no PCR, which accepts nothing")
    pcrs = []
    for key in list(section.values):
        if key not in _PCR_NAMES:
            raise section.error(key, f"is not a PCR from 0 to {_PCRS - 1}")
        values = section.take_list(key, lambda value: read_hex(value, PCR_BYTES))
        if bytes(PCR_BYTES) in values and key in ("0", "1", "2"):
            raise section.error(key, "is zero in a debug enclave only: say allow_debug = true")
        pcrs.append((int(key), tuple(sorted(values))))
    return tuple(sorted(pcrs))
