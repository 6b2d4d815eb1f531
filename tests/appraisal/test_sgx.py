"""Kind `sgx`: what is its own beside the steps that it shares with `tdx`."""

from typing import Any

import pytest

from attestation.appraisal import sgx, verifier
from attestation.appraisal.result import Tier
from attestation.endorsements.collateral import NO_COLLATERAL
from attestation.policy.sgx import EnclaveWeakness
from tests.simulators.intel import Intel, Platform, intel, p256, tcb_level
from tests.simulators.intel_case import (
    examine_enclave,
    gather,
    refused,
    sgx_policy,
    tier_of,
    warned,
)

XFRM = bytes.fromhex("e700000000000000")


def flags(value: int) -> bytes:
    return value.to_bytes(8, "little") + XFRM


@pytest.mark.parametrize("version", [3, 4, 5])
def test_a_genuine_quote_is_accepted(version: int) -> None:
    checks, claims = examine_enclave(intel().sgx_quote(version=version))
    assert refused(checks) == {}
    assert {check.tier for check in checks} == {Tier.AFFIRMING}
    assert (claims["TCB status"], claims["ISVSVN"]) == ("UpToDate", "3")


def test_a_platform_of_the_processor_ca_is_accepted_too() -> None:
    vendor = Intel.make(Platform(instance=None), ca="Processor")
    checks, claims = examine_enclave(vendor.sgx_quote(), vendor=vendor)
    assert (refused(checks), claims["PCK CA"]) == ({}, "processor")
    assert "platform instance" not in claims


def test_tcb_info_of_version_2_is_read() -> None:
    level = {f"sgxtcbcomp{index + 1:02d}svn": 1 for index in range(16)} | {"pcesvn": 11}
    standing = {"tcbDate": "2026-02-11T00:00:00Z", "tcbStatus": "UpToDate"}
    zero = dict.fromkeys(level, 0)
    levels = [{"tcb": level, **standing}, {"tcb": zero, **standing, "tcbStatus": "OutOfDate"}]
    info = {"version": 2, "id": None, "tcbLevels": levels}
    checks, claims = examine_enclave(
        intel().sgx_quote(), gather(intel().collateral("SGX", tcb_info=info))
    )
    assert refused(checks) == {"TCB status": "tcb-out-of-date"}
    assert claims["TCB status"] == "OutOfDate"


def test_a_debug_enclave_is_refused_and_its_tcb_still_shown() -> None:
    """Its host reads its memory with EDBGRD."""
    checks, claims = examine_enclave(intel().sgx_quote(attributes=flags(0b111)))
    assert refused(checks) == {"debug": "intel-debug"}
    assert claims["TCB status"] == "UpToDate"


@pytest.mark.parametrize("value", [0b100, 0b10101, 0b100101])
def test_attributes_that_give_away_more_than_a_workload_needs_are_refused(value: int) -> None:
    checks, _ = examine_enclave(intel().sgx_quote(attributes=flags(value)))
    assert refused(checks) == {"enclave attributes": "sgx-attributes"}


def test_attributes_that_the_policy_names_pass_with_a_warning() -> None:
    policy = sgx_policy(allow=tuple(EnclaveWeakness))
    quote = intel().sgx_quote(attributes=flags(0b110111))
    checks, _ = examine_enclave(quote, policy=policy)
    assert refused(checks) == {}
    assert warned(checks) == {"debug": "intel-debug", "enclave attributes": "sgx-attributes"}
    checks, _ = examine_enclave(intel().sgx_quote(attributes=flags(0b100)), policy=policy)
    assert refused(checks) == {"enclave attributes": "sgx-attributes"}, "INIT is not a weakness"


@pytest.mark.parametrize(
    "report",
    [
        {"mr_enclave": b"\x01" * 32},
        {"mr_signer": b"\x01" * 32},
        {"isv_prod_id": 2},
        {"isv_svn": 2},
        {"config_id": b"\1" + bytes(63)},
    ],
    ids=["enclave", "signer", "product", "svn", "config"],
)
def test_another_enclave_is_refused(report: dict[str, Any]) -> None:
    """Same signer and another product, or an older version with known holes, is another enclave."""
    checks, _ = examine_enclave(intel().sgx_quote(**report))
    assert refused(checks) == {"enclave": "sgx-enclave-not-accepted"}


def test_a_policy_that_names_nothing_accepts_nothing() -> None:
    for changes in ({"enclaves": ()}, {"signers": ()}, {"config_ids": ()}):
        checks, _ = examine_enclave(intel().sgx_quote(), policy=sgx_policy(**changes))
        assert refused(checks) == {"enclave": "sgx-enclave-not-accepted"}


def test_any_means_any_only_where_it_is_written() -> None:
    policy = sgx_policy(
        accept_any_enclave=True, accept_any_signer=True, accept_any_config_id=True, isv_prod_id=None
    )
    strange = intel().sgx_quote(
        mr_enclave=bytes(32), mr_signer=bytes(32), isv_prod_id=9, config_id=b"\1" * 64
    )
    assert refused(examine_enclave(strange, policy=policy)[0]) == {}
    old = intel().sgx_quote(isv_svn=0)
    assert refused(examine_enclave(old, policy=policy)[0]) == {
        "enclave": "sgx-enclave-not-accepted"
    }


def test_a_quote_of_a_td_is_no_quote_of_an_enclave() -> None:
    for version in (4, 5):
        checks, _ = examine_enclave(intel().td_quote(version=version))
        assert refused(checks) == {"format": "tee-mismatch"}


@pytest.mark.parametrize("version", [3, 4, 5])
def test_every_link_is_checked_in_every_version(version: int) -> None:
    stranger = Intel.make()

    def steps(**signing: Any) -> dict[str, str]:
        made = intel().sgx_quote(version=version, signing=signing)
        return refused(examine_enclave(made)[0])

    assert steps(quote_signer=p256()) == {"quote signature": "signature-invalid"}
    assert steps(vouched=bytes(32)) == {"attestation key": "attestation-key-not-bound"}
    assert steps(qe_signer=p256()) == {"QE report": "signature-invalid"}
    assert steps(qe={"isv_prod_id": 2}) == {"quoting enclave": "quoting-enclave-mismatch"}
    checks, _ = examine_enclave(stranger.sgx_quote(version=version), vendor=intel())
    assert refused(checks) == {"PCK certificate": "chain-not-anchored"}


def test_collateral_for_tds_does_not_judge_enclaves() -> None:
    checks, _ = examine_enclave(intel().sgx_quote(), gather(intel().collateral("TDX")))
    assert refused(checks) == {"collateral": "intel-collateral-mismatch"}
    checks, _ = examine_enclave(intel().sgx_quote(), NO_COLLATERAL)
    assert tier_of(checks, "collateral") is Tier.UNVERIFIABLE


def test_an_enclave_on_an_old_platform_is_refused() -> None:
    given = gather(intel().collateral("SGX", tcb_info={"tcbLevels": [tcb_level("SGX", pcesvn=99)]}))
    checks, _ = examine_enclave(intel().sgx_quote(), given)
    assert refused(checks) == {"TCB status": "tcb-not-supported"}


def test_the_verifier_knows_the_kind() -> None:
    assert verifier.KINDS["sgx"] == (sgx.STEPS, sgx.appraise)
