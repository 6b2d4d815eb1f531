"""Mistakes that other systems shipped around SEV-SNP: here each is a refusal."""

import os
from collections.abc import Iterator
from datetime import timedelta

import attrs
import pytest

from attestation.appraisal.result import AttestationResult, Tier
from attestation.appraisal.verifier import appraise
from attestation.endorsements.collateral import NO_COLLATERAL
from attestation.errors import DecodeError, EvidenceRefusedError
from attestation.evidence.binding import NonceTree
from attestation.evidence.bundle import EvidenceBundle
from attestation.evidence.insecure import InsecureEvidence
from attestation.evidence.keyset import KeySet
from attestation.evidence.sev_snp_table import CertificateTable
from attestation.policy.sev_snp import SevSnpPolicy
from tests.simulators.amd import (
    ARK_GUID,
    ASK_GUID,
    VCEK_GUID,
    SimulatedAmd,
    SimulatedChip,
    collateral,
    der,
    snp_policy,
    table,
    trusting,
    whole_policy,
)
from tests.simulators.evidence import NOW, bundle_for, draw_keyset

AMD = SimulatedAmd()
CRLS = collateral(AMD.crl())


@pytest.fixture(autouse=True)
def _trusted() -> Iterator[None]:
    with trusting(AMD):
        yield


@attrs.frozen(kw_only=True)
class Worker:
    """A worker on a simulated machine that answers one Challenge."""

    chip: SimulatedChip = attrs.field(factory=SimulatedChip)
    nonce: bytes = attrs.field(factory=lambda: os.urandom(32))
    keyset: KeySet = attrs.field(factory=draw_keyset)

    @property
    def tree(self) -> NonceTree:
        return NonceTree.over([self.nonce])

    @property
    def bundle(self) -> EvidenceBundle:
        return bundle_for(self.keyset, self.tree, self.chip.collect, kind="sev-snp")

    def judge(
        self,
        bundle: EvidenceBundle | None = None,
        *,
        policy: SevSnpPolicy | None = None,
        nonce: bytes | None = None,
        given: object = CRLS,
    ) -> AttestationResult:
        return appraise(
            self.bundle if bundle is None else bundle,
            policy=whole_policy(policy or snp_policy()),
            nonce=self.nonce if nonce is None else nonce,
            path=self.tree.proofs[0],
            now=NOW,
            collateral=given,  # type: ignore[arg-type]
        )


def codes(result: AttestationResult) -> list[str]:
    with pytest.raises(EvidenceRefusedError):
        result.recipient_key()
    return [check.code for check in result.refusals]


def test_a_key_beside_the_report_is_not_a_key_in_the_report() -> None:
    """Mistake 1: clients sealed to a key that nobody compared with the report."""
    worker = Worker()
    swapped = attrs.evolve(worker.bundle, keyset=draw_keyset().to_bytes())
    assert codes(worker.judge(swapped)) == ["binding-mismatch"]


def test_a_report_copied_to_another_host_is_refused() -> None:
    """Mistake 2: a genuine report, shown by someone who has not its keys."""
    honest, thief = Worker(), Worker()
    shown = attrs.evolve(thief.bundle, body=honest.bundle.body)
    assert codes(thief.judge(shown)) == ["binding-mismatch"]


def test_a_field_of_the_evidence_chooses_no_weaker_verifier() -> None:
    """Mistake 4: a mock that the attacker could select. The kind must be one the policy names."""
    worker = Worker()
    mock = attrs.evolve(
        worker.bundle,
        kind="insecure",
        body=InsecureEvidence(report_data=bytes(64)).to_bytes(),
    )
    assert codes(worker.judge(mock)) == ["kind-not-accepted"]


@pytest.mark.parametrize("key_info", [2, 0b11100])
def test_a_report_that_says_it_needs_no_signature_gets_none_accepted(key_info: int) -> None:
    """Mistake 4 again, in the report: MASK_CHIP_KEY and the key of kind none."""
    worker = Worker(chip=SimulatedChip(key_info=key_info))
    assert "report-unsigned" in codes(worker.judge())


def test_the_patch_level_is_the_certificates_and_not_the_reports() -> None:
    """Mistake 6 (TOB-WAPI-8): the level was read where the attacker's firmware writes it."""
    old = SimulatedChip(certified_tcb=bytes([1, 0, 0, 0, 0, 0, 1, 1]))
    claimed = old.but(reported_tcb=SimulatedChip().tcb)
    assert codes(Worker(chip=claimed).judge()) == ["certified-tcb-mismatch", "snp-tcb-too-low"]


def test_a_replayed_report_answers_no_new_challenge() -> None:
    """Mistake 6 (TOB-WAPI-7): no nonce of the client's, so stolen session keys stayed good."""
    worker = Worker()
    assert codes(worker.judge(nonce=os.urandom(32))) == ["nonce-mismatch"]


def test_a_chain_that_the_host_serves_is_no_root_of_trust() -> None:
    """Mistake 7: a verdict taken from what the host said about itself."""
    forger = SimulatedAmd(owner="forger")
    chip = SimulatedChip(vendor=forger)
    rows = [
        (VCEK_GUID, forger.certify(chip)),
        (ASK_GUID, der(forger.ask)),
        (ARK_GUID, der(forger.ark)),
    ]
    worker = Worker(chip=chip.but(certificates=(), table=table(*rows)))
    assert "chain-not-anchored" in codes(worker.judge())


def test_a_length_in_a_table_allocates_nothing() -> None:
    """Mistake 8: a length prefix without a bound."""
    with pytest.raises(DecodeError):
        CertificateTable.from_bytes(bytes(range(16)) + b"\xff" * 8 + bytes(24))


def test_an_outage_of_amds_server_is_no_outage_here() -> None:
    """Mistake 12: a rate limit there stopped every verification. What was gathered is enough."""
    chip = SimulatedChip()
    given = collateral(AMD.crl(), certificates=[AMD.certify(chip)])
    assert Worker(chip=chip.but(certificates=())).judge(given=given).accepted


def test_a_product_of_another_market_name_is_no_unknown_product() -> None:
    """Mistake 12 (Zen 4c): Bergamo and Siena are other models under the root of Genoa."""
    assert Worker(chip=SimulatedChip(cpuid=(0x19, 0xA0, 2))).judge().accepted


def test_a_missing_certificate_is_neither_passed_nor_called_forged() -> None:
    """A verifier passed what it had no endorsement for; another called it an attack."""
    result = Worker(chip=SimulatedChip(certificates=())).judge()
    assert result.tier is Tier.UNVERIFIABLE
    assert codes(result) == ["vcek-missing"]


def test_revocation_is_looked_up_for_the_intermediate() -> None:
    """Looked up by the VCEK's serial number, which is 0 for all, nothing is ever revoked."""
    given = collateral(AMD.crl(AMD.ask))
    assert codes(Worker().judge(given=given)) == ["certificate-revoked"]


def test_no_revocation_data_is_not_good_revocation_data() -> None:
    assert codes(Worker().judge(given=NO_COLLATERAL)) == ["revocation-missing"]


def test_an_empty_policy_accepts_nothing() -> None:
    """ "Not checked if nil", nine times over: an empty list there accepted everything."""
    empty = snp_policy(
        products=(),
        signing_keys=(),
        minimum_tcb=(),
        vmpls=(),
        measurements=(),
        accept_any_chip=False,
    )
    assert codes(Worker().judge(policy=empty)) == [
        "signing-key-not-accepted",
        "product-not-accepted",
        "minimum-tcb-missing",
        "chip-not-accepted",
        "vmpl-not-accepted",
        "launch-measurements-missing",
    ]


def test_a_paravisors_level_is_not_taken_for_the_workloads() -> None:
    """VMPL 0 under a paravisor is the paravisor: which level counts is written in the policy."""
    assert codes(Worker().judge(policy=snp_policy(vmpls=(2,)))) == ["vmpl-not-accepted"]


def test_a_verdict_is_about_the_time_that_was_given() -> None:
    """Verifiers that ask the clock cannot repeat a verdict, and cannot be tested on expiry."""
    worker = Worker()
    late = NOW + timedelta(days=8 * 365)
    result = appraise(
        worker.bundle,
        policy=whole_policy(snp_policy()),
        nonce=worker.nonce,
        path=worker.tree.proofs[0],
        now=late,
        collateral=CRLS,
    )
    assert {"certificate-expired", "revocation-stale"} <= set(codes(result))
