"""Confidential VMs of Azure: one accepted VM, and one test for each link that an attack cuts.

Both kinds share their steps; the SNP kind is run to its end here, on a simulated processor. Real
evidence of both kinds is in tests/vectors/test_azure.py.
"""

import os
from collections.abc import Iterator
from typing import Any

import attrs
import pytest

from attestation.appraisal import azure_snp_vtpm
from attestation.appraisal.result import NOT_REACHED, AttestationResult, Tier
from attestation.appraisal.verifier import appraise
from attestation.endorsements.collateral import NO_COLLATERAL
from attestation.evidence.azure_vtpm import SNP_KIND, TDX_KIND, AzureSnpVtpmEvidence
from attestation.evidence.binding import NonceTree
from attestation.evidence.tpm import PcrBank
from attestation.policy.azure_vtpm import AzureSnpVtpmPolicy
from attestation.policy.policy import Policy
from tests.simulators.amd import SimulatedAmd, SimulatedChip, collateral, snp_policy, trusting
from tests.simulators.azure import SHA384, TDX, SimulatedParavisor, runtime_text
from tests.simulators.event_log import BOOT, agile_log, values
from tests.simulators.evidence import NOW, bundle_for, draw_keyset, tpm_policy
from tests.simulators.tpm import PCRS, RsaTpm
from tests.simulators.vendor import Operator, der

AMD = SimulatedAmd()
CHIP = SimulatedChip(vendor=AMD)
TPM = RsaTpm()
PARAVISOR = SimulatedParavisor(chip=CHIP, tpm=TPM)
KEYSET = draw_keyset()
NONCE = os.urandom(32)
TREE = NonceTree.over([NONCE])
COLLATERAL = collateral(AMD.crl())
POLICY = AzureSnpVtpmPolicy(
    pcr_bank=PcrBank.SHA256, pcrs=((11, (PCRS[11],)),), sev_snp=snp_policy()
)


@pytest.fixture(autouse=True)
def simulated_roots() -> Iterator[None]:
    with trusting(AMD):
        yield


def whole(policy: AzureSnpVtpmPolicy | None, kind: str = SNP_KIND) -> Policy:
    base = tpm_policy({})
    evidence = attrs.evolve(base.evidence, kinds=(kind,))
    return attrs.evolve(base, tpm=None, azure_snp_vtpm=policy, evidence=evidence)


def judge(
    paravisor: SimulatedParavisor = PARAVISOR,
    policy: AzureSnpVtpmPolicy | None = POLICY,
    *,
    kind: str = SNP_KIND,
    bundle: dict[str, Any] | None = None,
    changes: dict[str, Any] | None = None,
    **arguments: Any,
) -> AttestationResult:
    def collect(data: bytes) -> bytes:
        return attrs.evolve(paravisor.evidence(data), **(changes or {})).to_bytes()

    made = attrs.evolve(bundle_for(KEYSET, TREE, collect, kind=kind), **(bundle or {}))
    given = {"nonce": NONCE, "path": TREE.proofs[0], "now": NOW, "collateral": COLLATERAL}
    return appraise(made, policy=whole(policy, kind), **(given | arguments))


def codes(result: AttestationResult) -> list[str]:
    assert not result.accepted
    return [check.code for check in result.refusals]


def test_an_honest_vm_is_affirmed_in_every_numbered_step() -> None:
    result = judge()
    assert result.tier is Tier.AFFIRMING, result.refusals
    assert [check.number for check in result.checks] == list(range(1, 39))
    assert [check.name for check in result.checks[7:]] == [
        step.name for step in azure_snp_vtpm.STEPS
    ]
    assert result.claims["VM secure-boot"] == "True"


def test_runtime_data_hashed_with_another_hash_are_affirmed_too() -> None:
    assert judge(PARAVISOR.but(hash_type=SHA384)).tier is Tier.AFFIRMING


# -- the three links --


def test_runtime_data_that_the_processor_did_not_bind_are_refused() -> None:
    """A key of the attacker's own, beside the honest machine's report."""
    forged = PARAVISOR.but(tpm=RsaTpm(), bound_text=runtime_text(TPM))
    assert codes(judge(forged)) == ["runtime-data-mismatch"]


def test_runtime_data_written_out_anew_are_refused() -> None:
    """The same JSON with a blank more: what was hashed is the text."""
    text = runtime_text(TPM)
    spaced = text.replace(b":", b": ", 1)
    assert codes(judge(PARAVISOR.but(text=spaced, bound_text=text))) == ["runtime-data-mismatch"]


def test_a_quote_of_another_vm_is_refused_and_the_report_is_judged_still() -> None:
    other = PARAVISOR.but(tpm=RsaTpm(), text=runtime_text(TPM))
    result = judge(other)
    assert codes(result) == ["signature-invalid"]
    assert NOT_REACHED not in {check.code for check in result.checks}


def test_a_quote_about_other_keys_is_refused() -> None:
    swapped = {"keyset": draw_keyset().to_bytes()}
    assert codes(judge(bundle=swapped)) == ["binding-mismatch"]


def test_report_data_in_the_hardware_report_do_not_stand_in_for_the_quote() -> None:
    """The report is as old as the boot, and everybody has seen it."""
    old = TPM.evidence(bytes(64))
    stale = {"attest": old.attest, "signature": TPM.bare_signature(old.attest)}
    assert codes(judge(changes=stale)) == ["binding-mismatch"]


def test_a_report_that_another_chip_signed_is_refused() -> None:
    """Whoever has no key of AMD's can still write a report about a key of his own."""
    stranger = CHIP.but(certificates=None)
    forged = attrs.evolve(
        PARAVISOR, chip=stranger.but(key=SimulatedChip(vendor=AMD).key)
    ).hcl_report()
    assert "report-signature-invalid" in codes(judge(changes={"hcl_report": forged}))


def test_a_chain_to_a_root_of_the_same_name_is_refused() -> None:
    stranger = SimulatedChip(vendor=SimulatedAmd(owner="somebody else"))
    assert not judge(PARAVISOR.but(chip=stranger)).accepted


# -- formats --


@pytest.mark.parametrize(
    "paravisor",
    [
        pytest.param(PARAVISOR.but(report_type=TDX), id="a report of the other processor"),
        pytest.param(PARAVISOR.but(version=2), id="another version"),
        pytest.param(PARAVISOR.but(text=b"{}"), id="no key"),
        pytest.param(PARAVISOR.but(text=runtime_text(TPM, kid="HCLEkPub")), id="the other key"),
    ],
)
def test_a_report_that_does_not_parse_is_malformed(paravisor: SimulatedParavisor) -> None:
    assert codes(judge(paravisor)) == ["malformed"]


def test_evidence_of_one_kind_is_not_evidence_of_the_other() -> None:
    result = judge(kind=TDX_KIND)
    assert codes(result) in (["kind-not-accepted"], ["malformed"])


def test_a_policy_without_a_table_denies() -> None:
    assert codes(judge(policy=None)) == ["kind-not-accepted"]


# -- what the policy says of the hardware, and of the boot --


def test_a_guest_that_is_not_at_the_paravisors_level_is_refused() -> None:
    """A report that a guest at VMPL 2 made for itself says nothing of the vTPM."""
    assert codes(judge(PARAVISOR.but(chip=CHIP.but(vmpl=2)))) == ["vmpl-not-accepted"]


def test_a_paravisor_that_nobody_reviewed_is_refused() -> None:
    other = CHIP.but(measurement=b"o" * 48)
    assert codes(judge(PARAVISOR.but(chip=other))) == ["launch-measurement-not-accepted"]


def test_a_debug_vm_is_refused() -> None:
    debug = CHIP.but(guest_policy=CHIP.guest_policy | 1 << 19)
    assert codes(judge(PARAVISOR.but(chip=debug))) == ["guest-debug"]


def test_without_collateral_a_vm_is_unverifiable() -> None:
    result = judge(collateral=NO_COLLATERAL)
    assert result.tier is Tier.UNVERIFIABLE


def test_a_guest_that_booted_something_else_is_refused() -> None:
    other = attrs.evolve(TPM, pcrs=dict(PCRS) | {11: bytes(32)})
    assert codes(judge(PARAVISOR.but(tpm=other))) == ["pcr-not-accepted"]


def test_values_under_other_numbers_are_refused() -> None:
    honest = PARAVISOR.evidence(bytes(64)).pcrs
    shifted = tuple((bank, index + 1, value) for bank, index, value in honest)
    assert "pcr-selection-mismatch" in codes(judge(changes={"pcrs": shifted}))


def test_a_false_log_is_refused() -> None:
    booted = attrs.evolve(TPM, pcrs=values(BOOT), event_log=agile_log(BOOT[1:]))
    anything = attrs.evolve(POLICY, pcrs=(), accept_any_pcrs=True)
    assert codes(judge(PARAVISOR.but(tpm=booted), anything)) == ["event-log-mismatch"]


# -- Microsoft's certificate --


def test_a_certificate_is_needed_only_where_the_policy_says_so() -> None:
    wants = attrs.evolve(POLICY, require_ak_certificate=True)
    result = judge(policy=wants)
    assert codes(result) == ["ak-not-endorsed"]
    assert result.tier is Tier.UNVERIFIABLE


def test_a_certificate_of_somebody_elses_ca_is_unverifiable() -> None:
    """Its issuer may be one of Microsoft's that is not known here yet."""
    chain = Operator().certify(TPM.rsa_key.public_key())
    result = judge(PARAVISOR.but(ak_certificates=[der(chain[0])]))
    assert codes(result) == ["ak-not-endorsed"]
    assert result.tier is Tier.UNVERIFIABLE


def test_a_certificate_that_leads_to_somebody_elses_root_is_refused() -> None:
    operator = Operator()
    chain = [*operator.certify(TPM.rsa_key.public_key()), operator.root]
    result = judge(PARAVISOR.but(ak_certificates=[der(entry) for entry in chain]))
    assert codes(result) == ["chain-not-anchored"]


def test_garbage_instead_of_a_certificate_is_malformed() -> None:
    assert codes(judge(PARAVISOR.but(ak_certificates=[b"\x30\x03abc"]))) == ["malformed"]


def test_a_body_with_a_byte_too_many_is_malformed() -> None:
    body = PARAVISOR.collect(bytes(64)) + b"\0"
    assert codes(judge(bundle={"body": body})) == ["malformed"]
    assert AzureSnpVtpmEvidence.from_bytes(body[:-1])
