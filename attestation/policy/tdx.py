"""The `[tdx]` table of a policy: which trust domains count, on which platforms."""

from collections.abc import Collection
from enum import StrEnum
from typing import Final

from attrs import frozen

from attestation import limits
from attestation.encoding.record import (
    Record,
    array,
    boolean,
    item,
    octets,
    record,
    row,
    uint,
    word,
)
from attestation.evidence.intel_quote_bodies import TD_MEASUREMENT_BYTES, TdAttributes
from attestation.policy.intel import IntelPolicy, read_intel, take_any_or
from attestation.policy.section import Section
from attestation.policy.values import read_hex


class Register(StrEnum):
    """What was measured or configured, and a policy names the values of."""

    MR_TD = "mr_td"
    RTMR0 = "rtmr0"
    RTMR1 = "rtmr1"
    RTMR2 = "rtmr2"
    RTMR3 = "rtmr3"
    MR_CONFIG_ID = "mr_config_id"
    MR_OWNER = "mr_owner"
    MR_OWNER_CONFIG = "mr_owner_config"
    MR_SERVICE_TD = "mr_service_td"
    MR_SEAM = "mr_seam"


_ZERO_WHEN_LEFT_OUT: Final = frozenset(
    {Register.MR_CONFIG_ID, Register.MR_OWNER, Register.MR_OWNER_CONFIG, Register.MR_SERVICE_TD}
)
_ANY_WHEN_LEFT_OUT: Final = frozenset({Register.MR_SEAM})  # TCB info says which modules are Intel's
_ZEROS: Final = bytes(TD_MEASUREMENT_BYTES)


class TdWeakness(StrEnum):
    """An attribute of a TD that is refused unless the policy names it."""

    DEBUG = "debug"
    SEPT_VE = "sept-ve"
    """SEPT_VE_DISABLE is not set: the host chooses when the guest's exception handler runs."""
    MIGRATABLE = "migratable"
    PKS = "pks"
    KEY_LOCKER = "key-locker"
    PERFMON = "perfmon"


WEAK_BITS: Final = {
    TdWeakness.DEBUG: TdAttributes.DEBUG,
    TdWeakness.MIGRATABLE: TdAttributes.MIGRATABLE,
    TdWeakness.PKS: TdAttributes.PKS,
    TdWeakness.KEY_LOCKER: TdAttributes.KL,
    TdWeakness.PERFMON: TdAttributes.PERFMON,
}


@frozen(kw_only=True)
class TdxPolicy(Record):
    """Which TDs count. A register without a row, and one with no values, accepts nothing.

    `xfam` lists the feature masks that a TD may have; empty stands for any that the TDX module
    defines.
    """

    platform: IntelPolicy = item(record(IntelPolicy))
    allow: tuple[TdWeakness, ...] = item(array(word(TdWeakness), limit=16), default=())
    xfam: tuple[int, ...] = item(array(uint(), limit=limits.POLICY_ENTRIES), default=())
    registers: tuple[tuple[Register, bool, tuple[bytes, ...]], ...] = item(
        array(
            row(
                word(Register),
                boolean(),
                array(octets(exactly=TD_MEASUREMENT_BYTES), limit=limits.POLICY_ENTRIES),
            ),
            limit=len(Register),
        )
    )
    """Register, whether it may have any value, and the values that it may have otherwise."""

    def accepted(self, register: Register) -> Collection[bytes] | None:
        """Return the values that `register` may have, None where it may have any."""
        for name, accept_any, values in self.registers:
            if name is register:
                return None if accept_any else values
        return ()


def read_tdx(section: Section) -> TdxPolicy:
    """Read the table, or raise `PolicyError`."""
    policy = TdxPolicy(
        platform=read_intel(section),
        allow=tuple(sorted(section.take_list("allow", _weakness)))
        if "allow" in section.values
        else (),
        xfam=tuple(sorted(section.take_list("xfam", _xfam))) if "xfam" in section.values else (),
        registers=tuple(_row(section, register) for register in sorted(Register)),
    )
    section.finish()
    return policy


def _row(section: Section, register: Register) -> tuple[Register, bool, tuple[bytes, ...]]:
    if register.value not in section.values:
        if register in _ZERO_WHEN_LEFT_OUT:
            return register, False, (_ZEROS,)
        if register in _ANY_WHEN_LEFT_OUT:
            return register, True, ()
    accept_any, values = take_any_or(section, register.value, _measurement)
    return register, accept_any, tuple(sorted(values))


def _measurement(value: str) -> bytes:
    return read_hex(value, TD_MEASUREMENT_BYTES)


def _weakness(value: str) -> TdWeakness:
    if value not in list(TdWeakness):
        raise ValueError(f"{value!r} is not one of {', '.join(TdWeakness)}")
    return TdWeakness(value)


def _xfam(value: str) -> int:
    return int.from_bytes(read_hex(value, 8), "little")
