"""The `[tdx]` table: what is not written is refused, and what opens something up is a word."""

from pathlib import Path
from typing import Any

import pytest

from attestation.endorsements.intel_tcb import TcbStatus
from attestation.errors import PolicyError
from attestation.policy.loading import parse_policy
from attestation.policy.policy import Policy
from attestation.policy.revocation import Revocation
from attestation.policy.tdx import Register, TdWeakness, TdxPolicy

PPID = "00112233445566778899aabbccddeeff"
REGISTERS = {name: f'["{index:02x}{"00" * 47}"]' for index, name in enumerate(Register)}
REQUIRED = {
    "tcb_statuses": '["UpToDate"]',
    "minimum_tcb_evaluation_data_number": "20",
    "revocation": '"required"',
    "platforms": '"any"',
    **{name: REGISTERS[name] for name in ("mr_td", "rtmr0", "rtmr1", "rtmr2", "rtmr3")},
}
OPTIONAL = {
    "allow": '["debug"]',
    "xfam": '["e702060000000000"]',
    "advisories": '["INTEL-SA-00615"]',
    **{name: text for name, text in REGISTERS.items() if name not in REQUIRED},
}


def document(table: str, fields: dict[str, str], *tables: str) -> str:
    """Return a policy file for one kind."""
    lines = [f"{name} = {value}" for name, value in fields.items()]
    return "\n".join(
        [
            "version = 1",
            "[evidence]",
            f'kinds = ["{table}"]',
            "max_age_seconds = 60",
            "[keys]",
            "max_lifetime_seconds = 60",
            "[catalogue]",
            'digests = "any"',
            f"[{table}]",
            *lines,
            *tables,
        ]
    )


def load(fields: dict[str, str], *tables: str) -> TdxPolicy:
    policy = parse_policy(document("tdx", fields, *tables), directory=Path())
    assert policy.tdx is not None
    return policy.tdx


def test_the_smallest_policy_denies_what_it_does_not_mention() -> None:
    policy = load(REQUIRED)
    assert policy.platform.tcb_statuses == (TcbStatus.UP_TO_DATE,)
    assert policy.platform.revocation is Revocation.REQUIRED
    assert (policy.allow, policy.xfam, policy.platform.advisories) == ((), (), ())
    for register in ("mr_config_id", "mr_owner", "mr_owner_config", "mr_service_td"):
        assert policy.accepted(Register(register)) == (bytes(48),)
    assert policy.accepted(Register.MR_SEAM) is None, "TCB info says which modules are Intel's"


def test_everything_that_may_be_written_is_read() -> None:
    statuses = {"tcb_statuses": '["UpToDate", "SWHardeningNeeded"]'}
    policy = load(REQUIRED | OPTIONAL | statuses)
    assert policy.allow == (TdWeakness.DEBUG,)
    assert policy.xfam == (0x602E7,)
    assert policy.platform.advisories == ("INTEL-SA-00615",)
    for index, register in enumerate(Register):
        assert policy.accepted(register) == (bytes([index]) + bytes(47),)


@pytest.mark.parametrize("name", REQUIRED)
def test_a_field_that_is_missing_is_an_error_with_its_name(name: str) -> None:
    fields = {field: value for field, value in REQUIRED.items() if field != name}
    with pytest.raises(PolicyError, match=name):
        load(fields)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mr_td", "[]"),
        ("mr_td", '["00"]'),
        ("mr_td", f'["{"AB" * 48}"]'),
        ("mr_td", '"all"'),
        ("mr_td", "true"),
        ("rtmr3", '"zero"'),
        ("tcb_statuses", "[]"),
        ("tcb_statuses", '"any"'),
        ("tcb_statuses", '["uptodate"]'),
        ("tcb_statuses", '["Revoked"]'),
        ("tcb_statuses", '["NotSupported"]'),
        ("tcb_statuses", '["OutOfDate"]'),  # without a word about advisories
        ("minimum_tcb_evaluation_data_number", "-1"),
        ("minimum_tcb_evaluation_data_number", '"any"'),
        ("revocation", '"never"'),
        ("platforms", "[]"),
        ("platforms", '["00"]'),
        ("allow", '["everything"]'),
        ("allow", '"any"'),
        ("allow", "[]"),
        ("xfam", '["e7"]'),
        ("advisories", '"any"'),  # none applies where only UpToDate counts
        ("mrtd", '"any"'),
    ],
)
def test_what_is_unclear_is_an_error_and_not_a_guess(name: str, value: str) -> None:
    with pytest.raises(PolicyError, match="line"):
        load(REQUIRED | {name: value})


@pytest.mark.parametrize("value", ['["SA-1"]', '["INTEL-SA-1", "INTEL-SA-1"]', "[]"])
def test_advisories_are_named_one_by_one(value: str) -> None:
    fields = {"tcb_statuses": '["SWHardeningNeeded"]', "advisories": value}
    with pytest.raises(PolicyError, match="advisories"):
        load(REQUIRED | fields)
    opened = load(REQUIRED | fields | {"advisories": '"any"'})
    assert opened.platform.accept_any_advisory


def test_a_platform_may_be_named_with_a_proof_of_who_holds_it() -> None:
    fields = REQUIRED | {"platforms": f'["{PPID}"]'}
    proof = "ab" * 32
    policy = load(fields, "[tdx.custody]", f'{PPID} = "sha256:{proof}"')
    assert policy.platform.platforms == ((bytes.fromhex(PPID), bytes.fromhex(proof)),)
    assert load(fields).platform.platforms == ((bytes.fromhex(PPID), b""),)


@pytest.mark.parametrize(
    "line", [f'{"0" * 32} = "sha256:{"ab" * 32}"', f'{PPID} = "ab"', f"{PPID} = 7", 'x = "y"']
)
def test_a_custody_proof_that_fits_nothing_is_an_error(line: str) -> None:
    with pytest.raises(PolicyError, match="custody"):
        load(REQUIRED | {"platforms": f'["{PPID}"]'}, "[tdx.custody]", line)


def test_the_digest_of_a_policy_is_that_of_its_values() -> None:
    def digest(fields: dict[str, str]) -> Any:
        return parse_policy(document("tdx", fields), directory=Path()).digest()

    assert digest(REQUIRED) == digest(dict(reversed(REQUIRED.items())))
    assert digest(REQUIRED) != digest(REQUIRED | {"minimum_tcb_evaluation_data_number": "21"})
    assert digest(REQUIRED) != digest(REQUIRED | {"rtmr3": '"any"'})
    assert digest(REQUIRED) != digest(REQUIRED | {"allow": '["pks"]'})


def test_a_policy_survives_its_encoding() -> None:
    policy = parse_policy(document("tdx", REQUIRED | OPTIONAL_ONLY), directory=Path())
    assert Policy.from_bytes(policy.to_bytes()) == policy


OPTIONAL_ONLY = {name: text for name, text in OPTIONAL.items() if name != "advisories"}


def test_the_table_in_the_documentation_loads(repository: Path) -> None:
    page = (repository / "docs/policy.md").read_text()
    (table,) = [block for block in page.split("```") if block.startswith("toml\n[tdx]")]
    head, _, _ = document("tdx", {}).partition("[tdx]")
    policy = parse_policy(head + table.removeprefix("toml\n"), directory=Path()).tdx
    assert policy is not None
    assert policy.accepted(Register.RTMR0) is None
    assert len(policy.platform.platforms[0][1]) == 32
