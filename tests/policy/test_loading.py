"""A policy file is read strictly, and every refusal names the line."""

import hashlib
from pathlib import Path

import pytest

from attestation import limits
from attestation.errors import PolicyError
from attestation.evidence.tpm import PcrBank
from attestation.policy.loading import load_policy, parse_policy
from attestation.policy.policy import Policy
from attestation.policy.template import policy_template
from tests.simulators.vendor import Operator, pem

OPERATOR = Operator()
DIGEST = hashlib.sha256(b"x").hexdigest()

TPM = f"""\
version = 1

[evidence]
kinds = ["tpm"]
max_age_seconds = 600

[keys]
max_lifetime_seconds = 3600

[catalogue]
digests = ["sha256:{DIGEST}"]

[tpm]
pcr_bank = "sha256"
roots = ["roots.pem"]
attestation_keys = ["sha256:{DIGEST}"]

[tpm.pcrs]
7 = ["{DIGEST}"]
11 = [
    "{"00" * 32}",
    "{DIGEST}",
]
"""

INSECURE = policy_template(allow_insecure_evidence=True)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "roots.pem").write_bytes(pem(OPERATOR.root))
    (tmp_path / "empty.pem").write_bytes(b"")
    return tmp_path


def refusal(text: str, directory: Path) -> str:
    with pytest.raises(PolicyError) as refused:
        parse_policy(text, directory=directory, name="policy.toml")
    return str(refused.value)


def line_of(text: str, needle: str) -> int:
    return next(n for n, line in enumerate(text.splitlines(), start=1) if needle in line)


def test_a_policy_holds_what_the_file_says(directory: Path) -> None:
    (directory / "policy.toml").write_text(TPM)
    policy = load_policy(directory / "policy.toml")
    assert policy.evidence.kinds == ("tpm",)
    assert not policy.evidence.allow_insecure_evidence
    assert policy.evidence.max_age_seconds == 600
    assert policy.catalogue.digests == (bytes.fromhex(DIGEST),)
    assert not policy.catalogue.accept_any
    assert policy.tpm is not None
    assert policy.tpm.pcr_bank is PcrBank.SHA256
    assert policy.tpm.roots == (OPERATOR.root_der,)
    assert policy.tpm.pcrs == (
        (7, (bytes.fromhex(DIGEST),)),
        (11, (bytes(32), bytes.fromhex(DIGEST))),
    )


def test_an_unknown_key_is_refused_with_its_line(directory: Path) -> None:
    text = TPM.replace("max_age_seconds", "max_age")
    message = refusal(text, directory)
    assert f"line {line_of(text, '[evidence]')}" in message
    assert "evidence.max_age_seconds: is missing" in message
    text = TPM.replace("[catalogue]", "[catalogue]\nanything = true")
    assert f"line {line_of(text, 'anything')}: catalogue.anything" in refusal(text, directory)


@pytest.mark.parametrize(
    "dropped",
    [
        "version = 1",
        'kinds = ["tpm"]',
        "max_age_seconds = 600",
        "max_lifetime_seconds = 3600",
        f'digests = ["sha256:{DIGEST}"]',
        'pcr_bank = "sha256"',
    ],
)
def test_a_missing_field_is_refused_with_the_line_of_its_table(
    dropped: str, directory: Path
) -> None:
    lines = TPM.splitlines()
    table = next((n for n in range(lines.index(dropped), 0, -1) if lines[n].startswith("[")), 0)
    text = TPM.replace(dropped, "")
    assert f"line {table + 1}: " in refusal(text, directory)


@pytest.mark.parametrize("table", ["evidence", "keys", "catalogue", "tpm", "tpm.pcrs"])
def test_a_missing_table_is_refused(table: str, directory: Path) -> None:
    inside = (f"[{table}]", f"[{table}.")
    blocks = [block for block in TPM.split("\n\n") if not block.startswith(inside)]
    assert f"{table}: is missing" in refusal("\n\n".join(blocks), directory)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('kinds = ["tpm"]', "kinds = []"),
        (f'digests = ["sha256:{DIGEST}"]', "digests = []"),
        ('roots = ["roots.pem"]', "roots = []"),
        (f'attestation_keys = ["sha256:{DIGEST}"]', "attestation_keys = []"),
        (f'7 = ["{DIGEST}"]', "7 = []"),
    ],
)
def test_an_empty_list_is_refused_with_its_line(old: str, new: str, directory: Path) -> None:
    text = TPM.replace(old, new)
    message = refusal(text, directory)
    assert f"line {line_of(text, new)}: " in message
    assert "empty list" in message


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("version = 1", "version = 2"),
        ("version = 1", "version = true"),
        ("version = 1", 'version = "1"'),
        ('kinds = ["tpm"]', 'kinds = "tpm"'),
        ('kinds = ["tpm"]', "kinds = [1]"),
        ('kinds = ["tpm"]', 'kinds = ["TPM"]'),
        ('kinds = ["tpm"]', 'kinds = ["tpm2"]'),
        ('kinds = ["tpm"]', 'kinds = ["tpm", "tpm"]'),
        ("max_age_seconds = 600", "max_age_seconds = -1"),
        ("max_age_seconds = 600", "max_age_seconds = 600.0"),
        ("max_age_seconds = 600", "max_age_seconds = true"),
        ("max_age_seconds = 600", 'max_age_seconds = "any"'),
        ("max_lifetime_seconds = 3600", "max_lifetime_seconds = 3601"),
        ("max_lifetime_seconds = 3600", "max_lifetime_seconds = 0"),
        (f'digests = ["sha256:{DIGEST}"]', 'digests = "all"'),
        (f'digests = ["sha256:{DIGEST}"]', 'digests = ["any"]'),
        (f'digests = ["sha256:{DIGEST}"]', f'digests = ["{DIGEST}"]'),
        (f'digests = ["sha256:{DIGEST}"]', f'digests = ["sha256:{DIGEST[:-2]}"]'),
        (f'digests = ["sha256:{DIGEST}"]', f'digests = ["sha256:{DIGEST.upper()}"]'),
        ('pcr_bank = "sha256"', 'pcr_bank = "sha1"'),
        ('pcr_bank = "sha256"', "pcr_bank = 256"),
        ('pcr_bank = "sha256"', "pcr_bank = []"),
        ('roots = ["roots.pem"]', 'roots = ["missing.pem"]'),
        ('roots = ["roots.pem"]', 'roots = ["empty.pem"]'),
        ('roots = ["roots.pem"]', 'roots = [".."]'),
        (f'7 = ["{DIGEST}"]', f'7 = "{DIGEST}"'),
        (f'7 = ["{DIGEST}"]', f'7 = ["{DIGEST}00"]'),
        (f'7 = ["{DIGEST}"]', f'7 = ["{DIGEST[:62]}  "]'),
        (f'7 = ["{DIGEST}"]', f'24 = ["{DIGEST}"]'),
        (f'7 = ["{DIGEST}"]', f'07 = ["{DIGEST}"]'),
        (f'7 = ["{DIGEST}"]', f'all = ["{DIGEST}"]'),
    ],
)
def test_a_value_that_is_not_understood_is_refused_with_its_line(
    old: str, new: str, directory: Path
) -> None:
    text = TPM.replace(old, new)
    assert f"line {line_of(text, new)}: " in refusal(text, directory)


def test_a_duplicate_key_is_refused_with_its_line(directory: Path) -> None:
    text = TPM + f'7 = ["{DIGEST}"]\n'
    assert f"line {len(text.splitlines())}" in refusal(text, directory)


def test_insecure_evidence_takes_both_words(directory: Path) -> None:
    policy = parse_policy(INSECURE, directory=directory)
    assert policy.evidence.allow_insecure_evidence
    without = INSECURE.replace("allow_insecure_evidence = true", "")
    assert "allow_insecure_evidence" in refusal(without, directory)
    off = INSECURE.replace("allow_insecure_evidence = true", "allow_insecure_evidence = false")
    assert "allow_insecure_evidence" in refusal(off, directory)
    unnamed = TPM.replace("[evidence]", "[evidence]\nallow_insecure_evidence = true")
    assert "allow_insecure_evidence" in refusal(unnamed, directory)
    text = INSECURE.replace("allow_insecure_evidence = true", "allow_insecure_evidence = 1")
    assert "not true or false" in refusal(text, directory)


def test_tpm_evidence_needs_its_section_and_its_section_needs_tpm_evidence(
    directory: Path,
) -> None:
    orphan = INSECURE + "\n[tpm]\n" + TPM.partition("[tpm]\n")[2]
    assert f"line {line_of(orphan, '[tpm]')}: tpm" in refusal(orphan, directory)


def test_tpm_evidence_needs_someone_who_vouches(directory: Path) -> None:
    text = "\n".join(
        line for line in TPM.splitlines() if not line.startswith(("roots", "attestation_keys"))
    )
    assert "neither roots nor attestation_keys" in refusal(text, directory)


def test_an_empty_table_of_pcrs_is_refused(directory: Path) -> None:
    text = TPM.partition("7 = [")[0]
    assert f"line {line_of(text, '[tpm.pcrs]')}: tpm.pcrs" in refusal(text, directory)


@pytest.mark.parametrize(
    "text",
    ["", "version = 1", "not toml", "[[evidence]]\n", "x = " + "[" * 5000, "\0", 'evidence=""'],
)
def test_other_texts_are_policy_errors(text: str, directory: Path) -> None:
    refusal(text, directory)


def test_files_that_are_no_policies_are_policy_errors(tmp_path: Path) -> None:
    huge, binary = tmp_path / "huge.toml", tmp_path / "binary.toml"
    huge.write_bytes(b"#" * (limits.POLICY_BYTES + 1))
    binary.write_bytes(b"\xff\xfe")
    for path in (huge, binary, tmp_path, tmp_path / "missing.toml"):
        with pytest.raises(PolicyError, match=path.name):
            load_policy(path)


def test_the_digest_is_about_values_and_not_about_their_spelling(directory: Path) -> None:
    policy = parse_policy(TPM, directory=directory)
    reordered = TPM.replace(
        f'    "{"00" * 32}",\n    "{DIGEST}",\n', f'    "{DIGEST}", "{"00" * 32}" # swapped\n'
    )
    assert reordered != TPM
    assert parse_policy(reordered, directory=directory).digest() == policy.digest()
    longer = TPM.replace("max_age_seconds = 600", "max_age_seconds = 601")
    assert parse_policy(longer, directory=directory).digest() != policy.digest()
    assert Policy.from_bytes(policy.to_bytes()) == policy


def test_the_digest_covers_the_certificates_and_not_their_path(directory: Path) -> None:
    before = parse_policy(TPM, directory=directory).digest()
    (directory / "renamed.pem").write_bytes(pem(OPERATOR.root))
    renamed = TPM.replace("roots.pem", "renamed.pem")
    assert parse_policy(renamed, directory=directory).digest() == before
    (directory / "roots.pem").write_bytes(pem(Operator().root))
    assert parse_policy(TPM, directory=directory).digest() != before


def test_the_template_for_tpms_accepts_nothing_before_it_is_filled_in(directory: Path) -> None:
    text = policy_template(allow_insecure_evidence=False)
    assert "allow_insecure_evidence" not in text
    assert f"line {line_of(text, 'roots = []')}: tpm.roots" in refusal(text, directory)
    filled = text.replace("roots = []", 'roots = ["roots.pem"]')
    assert f"line {line_of(filled, '11 = []')}: tpm.pcrs.11" in refusal(filled, directory)
    parse_policy(filled.replace("11 = []", f'11 = ["{DIGEST}"]'), directory=directory)
