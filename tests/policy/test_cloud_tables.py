"""The tables of virtual TPMs and enclaves in a policy file, read strictly."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from attestation.endorsements import azure, gcp
from attestation.errors import PolicyError
from attestation.evidence.tpm import PcrBank
from attestation.policy.loading import parse_policy
from attestation.policy.policy import Policy
from attestation.policy.revocation import Revocation

DIGEST, OTHER, LONG = "ab" * 32, "cd" * 32, "ef" * 48

HEAD = """version = 1
[evidence]
kinds = ["KIND"]
max_age_seconds = 60
[keys]
max_lifetime_seconds = 600
[catalogue]
digests = "any"
"""

TPM = f"""[tpm]
pcr_bank = "sha256"
roots = ["builtin:gcp"]
revocation = "optional"
require_event_log = true
[tpm.pcrs]
7 = ["{DIGEST}"]
[tpm.events]
4 = ["{OTHER}", "{DIGEST}"]
"""

NITRO = f"""[nitro]
max_age_seconds = 600
[nitro.pcrs]
0 = ["{LONG}"]
8 = ["{"00" * 48}", "{LONG}"]
"""

SNP = f"""products = ["genoa"]
signing_keys = ["vcek"]
revocation = "required"
measurements = ["{LONG}"]
chips = "any"
minimum_abi = "0.0"
vmpls = [0]
minimum_tcb.genoa = {{ bootloader = 10, tee = 0, snp = 23, microcode = 84 }}
"""

AZURE_SNP = f"""[azure_snp_vtpm]
pcr_bank = "sha256"
require_ak_certificate = true
[azure_snp_vtpm.pcrs]
11 = ["{DIGEST}"]
[azure_snp_vtpm.sev_snp]
{SNP}"""

AZURE_TDX = f"""[azure_tdx_vtpm]
pcr_bank = "sha384"
pcrs = "any"
[azure_tdx_vtpm.tdx]
tcb_statuses = ["UpToDate"]
minimum_tcb_evaluation_data_number = 17
revocation = "required"
platforms = "any"
mr_td = ["{LONG}"]
rtmr0 = "any"
rtmr1 = "any"
rtmr2 = "any"
rtmr3 = "any"
"""

TABLES = {"tpm": TPM, "nitro": NITRO, "azure-snp-vtpm": AZURE_SNP, "azure-tdx-vtpm": AZURE_TDX}


def read(kind: str, table: str) -> Policy:
    return parse_policy(HEAD.replace("KIND", kind) + table, directory=Path("/nowhere"))


def refusal(kind: str, table: str) -> str:
    with pytest.raises(PolicyError) as refused:
        read(kind, table)
    return str(refused.value)


def test_a_table_for_tpms_holds_what_it_says() -> None:
    tpm = read("tpm", TPM).tpm
    assert tpm is not None
    assert tpm.roots == tuple(sorted(root.public_bytes(Encoding.DER) for root in gcp.roots()))
    assert tpm.revocation is Revocation.OPTIONAL
    assert tpm.require_event_log
    assert tpm.events == ((4, (bytes.fromhex(DIGEST), bytes.fromhex(OTHER))),)
    assert not tpm.accept_any_pcrs


def test_a_table_for_enclaves_holds_what_it_says() -> None:
    nitro = read("nitro", NITRO).nitro
    assert nitro is not None
    assert [index for index, _ in nitro.pcrs] == [0, 8]
    assert nitro.max_age_seconds == 600
    assert not nitro.allow_debug


def test_tables_for_azure_hold_those_of_the_hardware() -> None:
    snp, tdx = (
        read("azure-snp-vtpm", AZURE_SNP).azure_snp_vtpm,
        read("azure-tdx-vtpm", AZURE_TDX).azure_tdx_vtpm,
    )
    assert snp is not None
    assert tdx is not None
    assert snp.require_ak_certificate
    assert snp.sev_snp.vmpls == (0,)
    assert tdx.pcr_bank is PcrBank.SHA384
    assert tdx.accept_any_pcrs
    assert not tdx.require_ak_certificate


@pytest.mark.parametrize("kind", TABLES)
def test_a_policy_with_each_table_has_a_digest_and_comes_back(kind: str) -> None:
    policy = read(kind, TABLES[kind])
    assert Policy.from_bytes(policy.to_bytes()) == policy


def test_revocation_lists_are_required_where_nothing_is_said() -> None:
    tpm = read("tpm", TPM.replace('revocation = "optional"\n', "")).tpm
    assert tpm is not None
    assert tpm.revocation is Revocation.REQUIRED


def test_events_may_stand_instead_of_values() -> None:
    tpm = read("tpm", TPM.replace(f'[tpm.pcrs]\n7 = ["{DIGEST}"]\n', "")).tpm
    assert tpm is not None
    assert tpm.pcrs == ()
    assert tpm.events


def test_microsofts_roots_are_built_in_too() -> None:
    tpm = read("tpm", TPM.replace("builtin:gcp", "builtin:azure")).tpm
    assert tpm is not None
    assert tpm.roots == tuple(root.public_bytes(Encoding.DER) for root in azure.roots())


@pytest.mark.parametrize(
    ("kind", "old", "new"),
    [
        ("tpm", '"builtin:gcp"', '"builtin:aws"'),
        ("tpm", '"builtin:gcp"', '"builtin:"'),
        ("tpm", '"optional"', '"no"'),
        ("tpm", '"optional"', "false"),
        ("tpm", "require_event_log = true", 'require_event_log = "yes"'),
        ("tpm", "[tpm.events]\n4", "[tpm.events]\n24"),
        ("tpm", f'4 = ["{OTHER}", "{DIGEST}"]\n', ""),
        ("tpm", OTHER, OTHER[2:]),
        ("tpm", f'[tpm.pcrs]\n7 = ["{DIGEST}"]\n[tpm.events]\n4 = ["{OTHER}", "{DIGEST}"]\n', ""),
        ("tpm", "pcr_bank", 'pcrs = "all"\npcr_bank'),
        ("tpm", '"sha256"', '"sha1"'),
        ("nitro", "max_age_seconds = 600\n", ""),
        ("nitro", "max_age_seconds = 600", "max_age_seconds = 0"),
        ("nitro", "max_age_seconds = 600", "max_age_seconds = 10801"),
        ("nitro", "max_age_seconds = 600", "max_age_seconds = 600\nallow_debug = 1"),
        ("nitro", f'0 = ["{LONG}"]', f'32 = ["{LONG}"]'),
        ("nitro", f'0 = ["{LONG}"]', "0 = []"),
        ("nitro", f'0 = ["{LONG}"]', f'0 = ["{DIGEST}"]'),
        ("nitro", f'0 = ["{LONG}"]', f'0 = ["{"00" * 48}"]'),
        ("nitro", NITRO[NITRO.index("[nitro.pcrs]") :], "[nitro.pcrs]\n"),
        ("nitro", NITRO[NITRO.index("[nitro.pcrs]") :], ""),
        ("nitro", "[nitro]\n", '[nitro]\nroots = ["mine.pem"]\n'),
        ("azure-snp-vtpm", "vmpls = [0]\n", ""),
        ("azure-snp-vtpm", "[azure_snp_vtpm.sev_snp]\n" + SNP, ""),
        ("azure-snp-vtpm", "require_ak_certificate = true", "require_ak_certificate = 1"),
        ("azure-snp-vtpm", f'[azure_snp_vtpm.pcrs]\n11 = ["{DIGEST}"]\n', ""),
        ("azure-tdx-vtpm", 'pcrs = "any"\n', ""),
        ("azure-tdx-vtpm", "[azure_tdx_vtpm.tdx]", "[azure_tdx_vtpm.sev_snp]"),
        ("azure-tdx-vtpm", 'pcrs = "any"', 'pcrs = "any"\nroots = ["builtin:azure"]'),
    ],
)
def test_a_table_that_is_unclear_is_refused(kind: str, old: str, new: str) -> None:
    table = TABLES[kind]
    assert old in table
    assert "line " in refusal(kind, table.replace(old, new, 1))
