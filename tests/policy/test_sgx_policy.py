"""The `[sgx]` table: an enclave is named by what it is, or by signer, product and version."""

from pathlib import Path

import pytest

from attestation.errors import PolicyError
from attestation.policy.loading import parse_policy
from attestation.policy.sgx import EnclaveWeakness, SgxPolicy
from tests.policy.test_tdx_policy import document

REQUIRED = {
    "tcb_statuses": '["UpToDate"]',
    "minimum_tcb_evaluation_data_number": "20",
    "revocation": '"required"',
    "platforms": '"any"',
    "mr_enclave": f'["{"11" * 32}"]',
    "mr_signer": f'["{"22" * 32}"]',
    "isv_prod_id": "7",
    "minimum_isv_svn": "3",
}


def load(fields: dict[str, str]) -> SgxPolicy:
    policy = parse_policy(document("sgx", fields), directory=Path())
    assert policy.sgx is not None
    return policy.sgx


def test_the_smallest_policy_denies_what_it_does_not_mention() -> None:
    policy = load(REQUIRED)
    assert (policy.enclaves, policy.signers) == ((b"\x11" * 32,), (b"\x22" * 32,))
    assert (policy.isv_prod_id, policy.minimum_isv_svn) == (7, 3)
    assert (policy.accept_any_config_id, policy.config_ids) == (False, (bytes(64),))
    assert policy.allow == ()


def test_what_opens_something_up_is_a_word() -> None:
    anything = {"mr_enclave": '"any"', "mr_signer": '"any"', "isv_prod_id": '"any"'}
    policy = load(REQUIRED | anything | {"config_id": '"any"', "allow": '["debug"]'})
    assert policy.accept_any_enclave
    assert policy.accept_any_signer
    assert policy.accept_any_config_id
    assert policy.isv_prod_id is None
    assert policy.allow == (EnclaveWeakness.DEBUG,)


@pytest.mark.parametrize("name", REQUIRED)
def test_a_field_that_is_missing_is_an_error_with_its_name(name: str) -> None:
    with pytest.raises(PolicyError, match=name):
        load({field: value for field, value in REQUIRED.items() if field != name})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mr_enclave", "[]"),
        ("mr_enclave", '["11"]'),
        ("mr_signer", '"all"'),
        ("isv_prod_id", "65536"),
        ("isv_prod_id", "true"),
        ("minimum_isv_svn", '"any"'),
        ("minimum_isv_svn", "-1"),
        ("config_id", '["00"]'),
        ("allow", '["init"]'),
        ("mr_td", '"any"'),
    ],
)
def test_what_is_unclear_is_an_error_and_not_a_guess(name: str, value: str) -> None:
    with pytest.raises(PolicyError, match="line"):
        load(REQUIRED | {name: value})
