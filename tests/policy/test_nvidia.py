"""The `[gpu]` table: every field said, each opening a word that a reviewer sees."""

from pathlib import Path

import pytest

from attestation.errors import PolicyError
from attestation.policy.loading import parse_policy
from attestation.policy.nvidia import GpuPolicy, version_numbers

HEAD = """version = 1
[evidence]
kinds = ["insecure"]
allow_insecure_evidence = true
max_age_seconds = 60
[keys]
max_lifetime_seconds = 600
[catalogue]
digests = "any"
"""
GPU = """[gpu]
required = true
families = ["hopper", "nvswitch"]
minimum_driver = "550.90.07"
devices = ["41431d480fe5e87274"]
rim = "required"
ocsp = "optional"
[gpu.minimum_firmware]
hopper = "96.00.9F.00.01"
nvswitch = "any"
"""


def parsed(text: str) -> GpuPolicy | None:
    return parse_policy(HEAD + text, directory=Path("/nonexistent")).gpu


def test_a_policy_without_the_table_accepts_no_gpu_evidence() -> None:
    assert parsed("") is None


def test_the_table_says_what_it_says() -> None:
    assert parsed(GPU) == GpuPolicy(
        required=True,
        families=("hopper", "nvswitch"),
        minimum_driver="550.90.07",
        minimum_firmware=(("hopper", "96.00.9F.00.01"), ("nvswitch", None)),
        devices=("41431d480fe5e87274",),
        require_rim=True,
        require_ocsp=False,
    )


def test_any_is_a_word() -> None:
    text = GPU.replace('"550.90.07"', '"any"').replace('["41431d480fe5e87274"]', '"any"')
    policy = parsed(text)
    assert policy is not None
    assert (policy.minimum_driver, policy.devices) == (None, None)


@pytest.mark.parametrize("line", [line for line in GPU.splitlines() if "=" in line])
def test_every_field_has_to_be_there(line: str) -> None:
    with pytest.raises(PolicyError, match="line"):
        parsed(GPU.replace(f"{line}\n", ""))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('"hopper", ', '"ampere", '),
        ('["hopper", "nvswitch"]', "[]"),
        ('"550.90.07"', '"550"'),
        ('"550.90.07"', '"newest"'),
        ('"550.90.07"', "550"),
        ('"96.00.9F.00.01"', '"96.00.9f.00.01"'),
        ('"96.00.9F.00.01"', '"550.90.07"'),
        ('["41431d480fe5e87274"]', "[]"),
        ('["41431d480fe5e87274"]', '["41431D480FE5E87274"]'),
        ('"required"', '"yes"'),
        ('"optional"', "true"),
        ("required = true", 'required = "true"'),
        ('nvswitch = "any"', 'nvswitch = "any"\nblackwell = "any"'),
        ("required = true", "required = true\nrequire = true"),
    ],
)
def test_what_is_unclear_is_an_error_with_its_line(before: str, after: str) -> None:
    assert before in GPU
    with pytest.raises(PolicyError, match="line"):
        parsed(GPU.replace(before, after, 1))


def test_versions_that_are_none_are_not_compared() -> None:
    assert version_numbers("550.90.07", 10) == (550, 90, 7)
    assert version_numbers("96.00.9F", 16) == (0x96, 0, 0x9F)
    assert version_numbers("", 10) is None
    assert version_numbers("550.x", 10) is None
