"""The `[sgx]` table of a policy: which enclaves count, on which platforms."""

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
    optional,
    record,
    uint,
    word,
)
from attestation.evidence.intel_quote_bodies import EnclaveAttributes
from attestation.policy.intel import ANY, IntelPolicy, read_intel, take_any_or
from attestation.policy.section import Section
from attestation.policy.values import read_hex

_IDENTITY_BYTES: Final = 32
_CONFIG_ID_BYTES: Final = 64


class EnclaveWeakness(StrEnum):
    """An attribute of an enclave that is refused unless the policy names it."""

    DEBUG = "debug"
    PROVISION_KEY = "provision-key"
    EINITTOKEN_KEY = "einittoken-key"


WEAK_FLAGS: Final = {
    EnclaveWeakness.DEBUG: EnclaveAttributes.DEBUG,
    EnclaveWeakness.PROVISION_KEY: EnclaveAttributes.PROVISION_KEY,
    EnclaveWeakness.EINITTOKEN_KEY: EnclaveAttributes.EINITTOKEN_KEY,
}


@frozen(kw_only=True)
class SgxPolicy(Record):
    """Which enclaves count: what they are, or who signed them, as which product, from which SVN.

    `isv_prod_id` None stands for any product of the signer.
    """

    platform: IntelPolicy = item(record(IntelPolicy))
    allow: tuple[EnclaveWeakness, ...] = item(array(word(EnclaveWeakness), limit=16), default=())
    accept_any_enclave: bool = item(boolean())
    enclaves: tuple[bytes, ...] = item(
        array(octets(exactly=_IDENTITY_BYTES), limit=limits.POLICY_ENTRIES)
    )
    accept_any_signer: bool = item(boolean())
    signers: tuple[bytes, ...] = item(
        array(octets(exactly=_IDENTITY_BYTES), limit=limits.POLICY_ENTRIES)
    )
    isv_prod_id: int | None = item(optional(uint(0xFFFF)))
    minimum_isv_svn: int = item(uint(0xFFFF))
    accept_any_config_id: bool = item(boolean())
    config_ids: tuple[bytes, ...] = item(
        array(octets(exactly=_CONFIG_ID_BYTES), limit=limits.POLICY_ENTRIES)
    )


def read_sgx(section: Section) -> SgxPolicy:
    """Read the table, or raise `PolicyError`."""
    platform = read_intel(section)
    allow = section.take_list("allow", _weakness) if "allow" in section.values else []
    any_enclave, enclaves = take_any_or(section, "mr_enclave", _identity)
    any_signer, signers = take_any_or(section, "mr_signer", _identity)
    any_config, configs = False, [bytes(_CONFIG_ID_BYTES)]
    if "config_id" in section.values:
        any_config, configs = take_any_or(section, "config_id", _config_id)
    policy = SgxPolicy(
        platform=platform,
        allow=tuple(sorted(allow)),
        accept_any_enclave=any_enclave,
        enclaves=tuple(sorted(enclaves)),
        accept_any_signer=any_signer,
        signers=tuple(sorted(signers)),
        isv_prod_id=_product(section),
        minimum_isv_svn=section.take_uint("minimum_isv_svn", minimum=0, maximum=0xFFFF),
        accept_any_config_id=any_config,
        config_ids=tuple(sorted(configs)),
    )
    section.finish()
    return policy


def _product(section: Section) -> int | None:
    if section.values.get("isv_prod_id") == ANY:
        section.take("isv_prod_id")
        return None
    return section.take_uint("isv_prod_id", minimum=0, maximum=0xFFFF)


def _weakness(value: str) -> EnclaveWeakness:
    if value not in list(EnclaveWeakness):
        raise ValueError(f"{value!r} is not one of {', '.join(EnclaveWeakness)}")
    return EnclaveWeakness(value)


def _identity(value: str) -> bytes:
    return read_hex(value, _IDENTITY_BYTES)


def _config_id(value: str) -> bytes:
    return read_hex(value, _CONFIG_ID_BYTES)
