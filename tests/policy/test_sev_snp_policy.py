"""The table `[sev_snp]`: what is not written is refused, and what is loosened is written."""

import re
from pathlib import Path

import pytest

from attestation.errors import PolicyError
from attestation.evidence.sev_snp import Signer
from attestation.evidence.sev_snp_tcb import Product
from attestation.policy.loading import parse_policy
from attestation.policy.policy import Policy
from attestation.policy.revocation import Revocation
from attestation.policy.sev_snp import HostFeature, SevSnpPolicy

HEAD = f"""version = 1
[evidence]
kinds = ["sev-snp"]
max_age_seconds = 0
[keys]
max_lifetime_seconds = 600
[catalogue]
digests = ["sha256:{"ab" * 32}"]
"""
MEASUREMENT, CHIP, TURIN = "01" * 48, "02" * 64, "03" * 8
LINES = {
    "products": 'products = ["genoa", "turin"]',
    "signing_keys": 'signing_keys = ["vcek"]',
    "revocation": 'revocation = "required"',
    "minimum_abi": 'minimum_abi = "0.31"',
    "vmpls": "vmpls = [0]",
    "measurements": f'measurements = ["{MEASUREMENT}"]',
    "chips": f'chips = ["{CHIP}", "{TURIN}"]',
}
MINIMUM = """[sev_snp.minimum_tcb]
genoa = { bootloader = 10, tee = 0, snp = 25, microcode = 84 }
turin = { fmc = 1, bootloader = 1, tee = 1, snp = 4, microcode = 81 }
"""


def read(*more: str, minimum: str = MINIMUM, **changes: str | None) -> SevSnpPolicy:
    table = whole(*more, minimum=minimum, **changes).sev_snp
    assert table is not None
    return table


def whole(*more: str, minimum: str = MINIMUM, **changes: str | None) -> Policy:
    lines = [line for line in (LINES | changes).values() if line is not None]
    text = "\n".join([HEAD, "[sev_snp]", *lines, *more, minimum])
    return parse_policy(text, directory=Path("/nonexistent"))


def test_a_policy_is_read_as_it_is_written() -> None:
    policy = read()
    assert policy.products == (Product.GENOA, Product.TURIN)
    assert policy.signing_keys == (Signer.VCEK,)
    assert policy.revocation is Revocation.REQUIRED
    assert policy.minimum_abi == (0, 31)
    assert policy.measurements == (bytes.fromhex(MEASUREMENT),)
    assert policy.least_tcb(Product.GENOA) == {
        "bootloader": 10,
        "tee": 0,
        "snp": 25,
        "microcode": 84,
    }
    assert policy.least_tcb(Product.TURIN) == {
        "fmc": 1,
        "bootloader": 1,
        "tee": 1,
        "snp": 4,
        "microcode": 81,
    }
    assert policy.least_tcb(Product.MILAN) is None


def test_what_is_left_out_is_not_allowed() -> None:
    policy = read()
    assert not policy.allow_debug
    assert not policy.allow_migration_agent
    assert not policy.allow_smt
    assert not policy.allow_multiple_sockets
    assert not policy.allow_cxl
    assert not policy.accept_any_measurement
    assert not policy.accept_any_chip
    assert not policy.accept_any_csp
    assert policy.products_with_extractable_keys == ()


@pytest.mark.parametrize("field", sorted(LINES))
def test_each_field_has_to_be_there(field: str) -> None:
    with pytest.raises(PolicyError, match=field):
        read(**{field: None})


def test_a_chip_of_turin_is_written_without_its_zeros() -> None:
    assert {chip for chip, _ in read().chips} == {
        bytes.fromhex(CHIP),
        bytes.fromhex(TURIN).ljust(64, b"\0"),
    }


def test_milan_among_the_products_is_refused_with_the_reason() -> None:
    """Somebody who copies a list of products must not accept forgeries without a word."""
    with pytest.raises(PolicyError, match=r"2605\.12990"):
        read(products='products = ["milan"]')


def test_milan_is_accepted_under_the_name_of_its_weakness() -> None:
    policy = read(
        'products_with_extractable_keys = ["milan"]',
        minimum=MINIMUM + 'milan = "any"\n',
    )
    assert policy.products_with_extractable_keys == (Product.MILAN,)
    assert policy.least_tcb(Product.MILAN) == dict.fromkeys(
        ("bootloader", "tee", "snp", "microcode"), 0
    )


def test_a_sound_product_is_not_called_weak() -> None:
    with pytest.raises(PolicyError):
        read('products_with_extractable_keys = ["genoa"]', products=None)


def test_each_accepted_product_has_a_minimum() -> None:
    with pytest.raises(PolicyError, match="turin"):
        read(minimum=MINIMUM[: MINIMUM.index("turin")])


def test_a_minimum_of_a_product_that_is_not_accepted_is_a_mistake() -> None:
    with pytest.raises(PolicyError, match="turin"):
        read(products='products = ["genoa"]')


@pytest.mark.parametrize(
    "genoa",
    [
        "genoa = { bootloader = 10, tee = 0, snp = 25 }",
        "genoa = { fmc = 1, bootloader = 10, tee = 0, snp = 25, microcode = 84 }",
        "genoa = { bootloader = 256, tee = 0, snp = 25, microcode = 84 }",
        'genoa = "ANY"',
        "genoa = 0",
    ],
)
def test_a_minimum_names_the_parts_that_the_product_has(genoa: str) -> None:
    with pytest.raises(PolicyError, match="genoa"):
        read(
            products='products = ["genoa"]',
            minimum=f"[sev_snp.minimum_tcb]\n{genoa}\n",
        )


def test_a_vlek_needs_the_providers_named() -> None:
    """A VLEK is the same on all of a provider's machines: whose, is what there is to accept."""
    both = 'signing_keys = ["vcek", "vlek"]'
    with pytest.raises(PolicyError, match="csps"):
        read(signing_keys=both)
    policy = read('csps = ["CN=cc-us-east-2.amazonaws.com"]', signing_keys=both)
    assert policy.csps == ("CN=cc-us-east-2.amazonaws.com",)
    assert read('csps = "any"', signing_keys=both).accept_any_csp


def test_providers_without_a_vlek_are_a_mistake() -> None:
    with pytest.raises(PolicyError, match="csps"):
        read('csps = "any"')


def test_any_measurement_and_any_chip_take_the_word() -> None:
    policy = read(measurements='measurements = "any"', chips='chips = "any"')
    assert policy.accept_any_measurement
    assert policy.accept_any_chip


def test_a_proof_of_custody_stands_beside_its_chip() -> None:
    proof = f'[sev_snp.custody]\n"{TURIN}" = "sha256:{"cd" * 32}"\n'
    rows = dict(read(minimum=MINIMUM + proof).chips)
    assert rows[bytes.fromhex(TURIN).ljust(64, b"\0")] == b"\xcd" * 32
    assert rows[bytes.fromhex(CHIP)] == b""


@pytest.mark.parametrize(
    "row",
    [
        f'"{"09" * 8}" = "sha256:{"cd" * 32}"',
        f'"{TURIN}" = "{"cd" * 32}"',
        f'"{TURIN}" = 1',
        f'"03" = "sha256:{"cd" * 32}"',
    ],
)
def test_a_proof_of_custody_of_no_listed_chip_is_a_mistake(row: str) -> None:
    with pytest.raises(PolicyError, match="custody"):
        read(minimum=f"{MINIMUM}[sev_snp.custody]\n{row}\n")


def test_the_features_of_a_host_are_named() -> None:
    policy = read('required_features = ["alias-check", "ecc"]')
    assert policy.required_features == (HostFeature.ALIAS_CHECK, HostFeature.ECC)


@pytest.mark.parametrize(
    ("field", "line"),
    [
        ("products", "products = []"),
        ("products", 'products = ["rome"]'),
        ("products", 'products = ["Genoa"]'),
        ("signing_keys", 'signing_keys = ["none"]'),
        ("signing_keys", 'signing_keys = ["vcek", "vcek"]'),
        ("revocation", 'revocation = "no"'),
        ("revocation", "revocation = false"),
        ("minimum_abi", "minimum_abi = 0"),
        ("minimum_abi", 'minimum_abi = "1"'),
        ("minimum_abi", 'minimum_abi = "1.256"'),
        ("minimum_abi", 'minimum_abi = "1.-1"'),
        ("vmpls", "vmpls = []"),
        ("vmpls", "vmpls = [4]"),
        ("vmpls", "vmpls = [false]"),
        ("vmpls", "vmpls = [0, 0]"),
        ("vmpls", 'vmpls = "any"'),
        ("measurements", "measurements = []"),
        ("measurements", 'measurements = ["any"]'),
        ("measurements", f'measurements = ["{"AB" * 48}"]'),
        ("measurements", f'measurements = ["{"ab" * 32}"]'),
        ("chips", f'chips = ["{"00" * 64}"]'),
        ("chips", f'chips = ["{"00" * 8}"]'),
        ("chips", f'chips = ["{"01" * 9}"]'),
        ("chips", f'chips = ["{TURIN}", "{TURIN + "00" * 56}"]'),
    ],
)
def test_a_value_that_is_unclear_is_refused_with_its_line(field: str, line: str) -> None:
    with pytest.raises(PolicyError, match=rf"line \d+: sev_snp\.{field}"):
        read(**{field: line})


@pytest.mark.parametrize(
    "line",
    [
        "allow_debug = 1",
        'allow_smt = "yes"',
        "allow_everything = true",
        "minimum_guest_svn = -1",
        'required_features = ["smt"]',
        f'host_data = ["{"ab" * 31}"]',
        f'id_keys = ["{"ab" * 32}"]',
        "author_keys = []",
    ],
)
def test_what_may_be_left_out_is_read_strictly_too(line: str) -> None:
    with pytest.raises(PolicyError):
        read(line)


def test_the_table_belongs_to_its_kind() -> None:
    text = HEAD.replace('"sev-snp"', '"tpm"')
    with pytest.raises(PolicyError):
        parse_policy(f"{text}[sev_snp]\n", directory=Path("/nonexistent"))


def test_every_value_changes_the_digest() -> None:
    digests = {
        policy.digest()
        for policy in (
            whole(),
            whole("allow_debug = true"),
            whole("minimum_guest_svn = 1"),
            whole(revocation='revocation = "optional"'),
            whole(chips='chips = "any"'),
            whole(minimum=MINIMUM.replace("25", "24")),
        )
    }
    assert len(digests) == 6


def test_the_order_of_lists_does_not_change_the_digest() -> None:
    assert whole().digest() == whole(products='products = ["turin", "genoa"]').digest()


def test_the_table_in_the_documentation_loads(repository: Path) -> None:
    page = (repository / "docs/policy.md").read_text()
    blocks = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    documented = next(block for block in blocks if block.startswith("[sev_snp]"))
    policy = parse_policy(HEAD + documented, directory=repository).sev_snp
    assert policy is not None
    assert len(policy.chips) == 1


def test_a_policy_survives_its_encoding() -> None:
    assert Policy.from_bytes(whole().to_bytes()) == whole()
