"""Evidence of kind `sev-snp`: an accepted guest on every product, and one test for each attack."""

import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import attrs
import pytest

from attestation.appraisal.result import OK, AttestationResult, Tier
from attestation.appraisal.sev_snp import STEPS
from attestation.appraisal.verifier import appraise
from attestation.endorsements.collateral import NO_COLLATERAL, Collateral
from attestation.errors import EvidenceRefusedError
from attestation.evidence.binding import NonceTree
from attestation.evidence.keyset import KeySet
from attestation.evidence.sev_snp import Signer
from attestation.evidence.sev_snp_tcb import Product
from attestation.policy.revocation import Revocation
from attestation.policy.sev_snp import HostFeature, SevSnpPolicy
from tests.simulators.amd import (
    ARK_GUID,
    ASK_GUID,
    BEGINNING,
    CRL_GUID,
    CRL_LIFE,
    CSP,
    CXL,
    DEBUG,
    GUEST_POLICY,
    MIGRATE_MA,
    ONE,
    SINGLE_SOCKET,
    VCEK_GUID,
    VCEK_LIFE,
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

VENDORS = {product: SimulatedAmd(product=product) for product in Product}
GENOA = VENDORS[Product.GENOA]
FORGER = SimulatedAmd(owner="forger")
CRLS = collateral(*(vendor.crl() for vendor in VENDORS.values()))
NEXT_YEAR = BEGINNING + CRL_LIFE + timedelta(days=1)
MILAN_TOO = {
    "products_with_extractable_keys": (Product.MILAN,),
    "minimum_tcb": tuple((product, 0, 0, 0, 0, 0) for product in Product),
}
VLEKS_TOO = {"signing_keys": tuple(Signer), "csps": (CSP,)}


@pytest.fixture(autouse=True)
def _trusted() -> Iterator[None]:
    with trusting(*VENDORS.values()):
        yield


@pytest.fixture
def chip() -> SimulatedChip:
    return SimulatedChip()


@attrs.frozen(kw_only=True)
class Window:
    """A Challenge, the keys drawn for it, and its place in the tree."""

    nonce: bytes = attrs.field(factory=lambda: os.urandom(32))
    keyset: KeySet = attrs.field(factory=draw_keyset)

    @property
    def tree(self) -> NonceTree:
        return NonceTree.over([bytes(32), self.nonce])

    def judge(self, collect: Callable[[bytes], bytes], **changes: Any) -> AttestationResult:
        given = {"policy": snp_policy(), "collateral": CRLS, "now": NOW} | changes
        policy = given.pop("policy")
        return appraise(
            bundle_for(self.keyset, self.tree, collect, kind="sev-snp"),
            policy=whole_policy(policy) if isinstance(policy, SevSnpPolicy) else policy,
            nonce=self.nonce,
            path=self.tree.proofs[1],
            **given,
        )


def judge(chip: SimulatedChip, **changes: Any) -> AttestationResult:
    return Window().judge(chip.collect, **changes)


def refused(chip: SimulatedChip, **changes: Any) -> list[str]:
    result = judge(chip, **changes)
    with pytest.raises(EvidenceRefusedError):
        result.recipient_key()
    return [check.code for check in result.refusals]


def weaknesses(result: AttestationResult) -> list[str]:
    assert result.accepted
    return [check.code for check in result.checks if check.tier is Tier.WARNING]


# -- accepted -------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [2, 3, 4, 5])
@pytest.mark.parametrize("product", [Product.GENOA, Product.TURIN])
def test_an_honest_guest_is_affirmed_in_every_numbered_step(product: Product, version: int) -> None:
    window = Window()
    chip = SimulatedChip(vendor=VENDORS[product], version=version)
    result = window.judge(chip.collect)
    assert {check.code for check in result.checks} == {OK}
    assert [check.name for check in result.checks[7:]] == [step.name for step in STEPS]
    assert result.recipient_key().public_bytes == window.keyset.kem_public_key
    assert result.claims["product"] == product.title()
    assert result.claims["signing key"] == "VCEK"


@pytest.mark.parametrize("cpuid", [(0x19, 0x11, 1), (0x19, 0xA0, 2), (0x19, 0xAF, 0)])
def test_bergamo_and_siena_are_under_the_root_of_genoa(cpuid: tuple[int, int, int]) -> None:
    assert judge(SimulatedChip(cpuid=cpuid)).accepted


def test_a_vlek_says_which_provider_and_that_no_chip_is_known() -> None:
    result = judge(SimulatedChip(signer=Signer.VLEK), policy=snp_policy(**VLEKS_TOO))
    assert result.accepted
    assert result.claims["provider"] == CSP
    assert result.claims["chip"] == "not named by a VLEK"


def test_certificates_come_from_the_certificate_table(chip: SimulatedChip) -> None:
    rows = [
        (VCEK_GUID, GENOA.certify(chip)),
        (ASK_GUID, der(GENOA.ask)),
        (ARK_GUID, der(GENOA.ark)),
    ]
    assert judge(chip.but(certificates=(), table=table(*rows))).accepted
    rows.append((CRL_GUID, GENOA.crl()))
    assert judge(chip.but(certificates=(), table=table(*rows)), collateral=NO_COLLATERAL).accepted


def test_certificates_come_from_collateral(chip: SimulatedChip) -> None:
    given = collateral(GENOA.crl(), certificates=[GENOA.certify(chip)])
    assert judge(chip.but(certificates=()), collateral=given).accepted


def test_a_certificate_that_amd_issued_again_is_as_good(chip: SimulatedChip) -> None:
    """AMD re-issues a VCEK with a new validity: pinning its bytes would lose the machine."""
    first = judge(chip)
    again = judge(chip.but(certified_from=BEGINNING + timedelta(days=30)))
    assert first.accepted
    assert again.accepted


def test_firmware_newer_than_what_is_reported_is_no_contradiction(chip: SimulatedChip) -> None:
    """CURRENT_TCB may be above REPORTED_TCB; the certificate is for the reported one."""
    lower = bytes([9, *chip.tcb[1:]])
    older = chip.but(certified_tcb=lower)
    assert "snp-tcb-too-low" in refused(older)
    lenient = snp_policy(minimum_tcb=((Product.GENOA, 0, 9, 0, 25, 84),))
    assert judge(older, policy=lenient).accepted


# -- authentic ------------------------------------------------------------------------------------


def test_a_report_about_other_keys_is_refused(chip: SimulatedChip) -> None:
    """A coordinator that shows its own keys with an honest worker's report gets nothing."""
    assert Window().judge(lambda _: chip.collect(bytes(64))).refusals[0].code == "binding-mismatch"


def test_without_a_certificate_nothing_is_said_about_the_report(chip: SimulatedChip) -> None:
    result = judge(chip.but(certificates=()))
    assert result.tier is Tier.UNVERIFIABLE
    assert [check.code for check in result.refusals] == ["vcek-missing"]


def test_a_report_by_another_chip_is_refused_by_signature_and_by_chip(chip: SimulatedChip) -> None:
    other = SimulatedChip()
    codes = refused(chip.but(certificates=(GENOA.certify(other),)))
    assert codes == ["report-signature-invalid", "chip-id-mismatch"]


def test_a_report_signed_by_a_key_that_nobody_certified_is_refused(chip: SimulatedChip) -> None:
    stolen = SimulatedChip(hardware_id=chip.hardware_id)
    codes = refused(stolen.but(certificates=(GENOA.certify(chip),)))
    assert codes == ["report-signature-invalid"]


def test_a_certificate_by_a_stranger_is_refused(chip: SimulatedChip) -> None:
    assert refused(chip.but(certificates=(FORGER.certify(chip),)))[0] == "vcek-not-issued"


def test_a_self_made_chain_is_refused(chip: SimulatedChip) -> None:
    """Names, extensions and signatures in order, and in the certificate table of the report."""
    rows = [
        (VCEK_GUID, FORGER.certify(chip)),
        (ASK_GUID, der(FORGER.ask)),
        (ARK_GUID, der(FORGER.ark)),
        (CRL_GUID, FORGER.crl()),
    ]
    codes = refused(chip.but(certificates=(), table=table(*rows)))
    assert "chain-not-anchored" in codes


def test_a_self_made_root_beside_a_genuine_chain_is_refused(chip: SimulatedChip) -> None:
    own = (GENOA.certify(chip), der(GENOA.ask), der(FORGER.ark))
    assert refused(chip.but(certificates=own)) == ["chain-not-anchored"]


def test_the_chain_of_another_product_is_refused(chip: SimulatedChip) -> None:
    milan = VENDORS[Product.MILAN]
    codes = refused(chip.but(certificates=(GENOA.certify(chip), der(milan.ask), der(milan.ark))))
    assert "vcek-not-issued" in codes


def test_a_vlek_intermediate_does_not_vouch_for_chips(chip: SimulatedChip) -> None:
    own = (GENOA.certify(chip), der(GENOA.asvk), der(GENOA.ark))
    assert "vcek-not-issued" in refused(chip.but(certificates=own))


def test_an_expired_certificate_is_refused(chip: SimulatedChip) -> None:
    old = chip.but(certified_from=NOW - VCEK_LIFE - timedelta(days=1))
    assert refused(old) == ["certificate-expired"]


def test_a_certificate_of_the_future_is_refused(chip: SimulatedChip) -> None:
    young = chip.but(certified_from=NOW + timedelta(days=1))
    assert refused(young) == ["certificate-not-yet-valid"]


def test_a_revoked_intermediate_is_refused(chip: SimulatedChip) -> None:
    given = collateral(GENOA.crl(GENOA.ask))
    assert refused(chip, collateral=given) == ["certificate-revoked"]
    lenient = snp_policy(revocation=Revocation.OPTIONAL)
    assert refused(chip, collateral=given, policy=lenient) == ["certificate-revoked"]


def test_the_revocation_of_the_vlek_intermediate_does_not_touch_chips(chip: SimulatedChip) -> None:
    assert judge(chip, collateral=collateral(GENOA.crl(GENOA.asvk))).accepted


def test_without_a_revocation_list_the_report_is_unverifiable(chip: SimulatedChip) -> None:
    result = judge(chip, collateral=NO_COLLATERAL)
    assert result.tier is Tier.UNVERIFIABLE
    assert [check.code for check in result.refusals] == ["revocation-missing"]


def test_a_stale_revocation_list_is_refused() -> None:
    window = Window(keyset=draw_keyset(now=NEXT_YEAR))
    result = window.judge(SimulatedChip().collect, now=NEXT_YEAR)
    assert [check.code for check in result.refusals] == ["revocation-stale"]


@pytest.mark.parametrize("given", [NO_COLLATERAL, collateral(GENOA.crl(ends=BEGINNING))])
def test_without_current_revocation_data_the_policy_can_accept_with_a_warning(
    given: Collateral, chip: SimulatedChip
) -> None:
    lenient = snp_policy(revocation=Revocation.OPTIONAL)
    assert weaknesses(judge(chip, collateral=given, policy=lenient)) == ["revocation-unknown"]


def test_a_revocation_list_that_a_stranger_signed_is_refused(chip: SimulatedChip) -> None:
    codes = refused(chip, collateral=collateral(FORGER.crl()))
    assert codes == ["revocation-invalid"]


@pytest.mark.parametrize("key_info", [2, 6, 8, 0b11100])
def test_a_report_that_says_it_is_unsigned_is_refused(key_info: int, chip: SimulatedChip) -> None:
    assert refused(chip.but(key_info=key_info))[0] == "report-unsigned"


def test_a_vcek_does_not_stand_in_for_a_vlek(chip: SimulatedChip) -> None:
    """The report says which kind of key signed; the certificate has to be of that kind."""
    codes = refused(chip.but(key_info=4), policy=snp_policy(**VLEKS_TOO))
    assert "report-signature-invalid" in codes


@pytest.mark.parametrize(
    "body", [b"", b"\xa0", SimulatedChip().report(bytes(64))], ids=["empty", "map", "bare report"]
)
def test_what_is_no_body_is_malformed(body: bytes) -> None:
    result = Window().judge(lambda _: body)
    assert result.refusals[0].code == "malformed"


@pytest.mark.parametrize("junk", [b"", b"junk", b"-----BEGIN CERTIFICATE-----"])
def test_a_certificate_that_is_none_is_malformed(junk: bytes, chip: SimulatedChip) -> None:
    assert refused(chip.but(certificates=(junk, GENOA.certify(chip)))) == ["malformed"]


def test_a_table_that_points_outside_is_malformed(chip: SimulatedChip) -> None:
    bad = table((VCEK_GUID, GENOA.certify(chip)))[:-1]
    assert refused(chip.but(table=bad)) == ["malformed"]


# -- acceptable -----------------------------------------------------------------------------------


def test_a_report_may_not_claim_a_newer_tcb_than_amd_certified(chip: SimulatedChip) -> None:
    newer = bytes([*chip.tcb[:7], 255])
    codes = refused(chip.but(reported_tcb=newer))
    assert codes == ["certified-tcb-mismatch"]


def test_every_byte_of_the_tcb_is_compared(chip: SimulatedChip) -> None:
    for index in range(8):
        other = bytearray(chip.tcb)
        other[index] ^= 1
        assert refused(chip.but(reported_tcb=bytes(other))) == ["certified-tcb-mismatch"]


@pytest.mark.parametrize("part", range(5))
def test_a_tcb_below_the_minimum_in_any_part_is_refused(part: int) -> None:
    turin = SimulatedChip(vendor=VENDORS[Product.TURIN])
    minimum = [1, 1, 1, 4, 81]
    minimum[part] += 1
    policy = snp_policy(minimum_tcb=((Product.TURIN, *minimum),))
    assert refused(turin, policy=policy) == ["snp-tcb-too-low"]


def test_a_policy_without_a_minimum_for_the_product_is_unverifiable(chip: SimulatedChip) -> None:
    policy = snp_policy(minimum_tcb=((Product.TURIN, 0, 0, 0, 0, 0),))
    assert judge(chip, policy=policy).tier is Tier.UNVERIFIABLE
    assert refused(chip, policy=policy) == ["minimum-tcb-missing"]


def test_milan_is_refused_unless_the_policy_names_its_weakness() -> None:
    milan = SimulatedChip(vendor=VENDORS[Product.MILAN])
    everything = snp_policy(products=tuple(Product), minimum_tcb=MILAN_TOO["minimum_tcb"])
    assert refused(milan, policy=everything) == ["signing-key-extractable"]
    accepted = judge(milan, policy=snp_policy(**MILAN_TOO))
    assert weaknesses(accepted) == ["signing-key-extractable-accepted"]
    assert accepted.tier is Tier.WARNING


def test_a_product_that_is_not_named_is_refused(chip: SimulatedChip) -> None:
    assert refused(chip, policy=snp_policy(products=(Product.TURIN,))) == ["product-not-accepted"]


def test_a_milan_does_not_pass_as_a_genoa() -> None:
    milan = SimulatedChip(vendor=VENDORS[Product.MILAN], product_name="Genoa")
    assert "product-mismatch" in refused(milan)
    milan = SimulatedChip(vendor=VENDORS[Product.MILAN], cpuid=(0x19, 0x11, 1))
    assert "product-mismatch" in refused(milan)


def test_a_cpu_that_is_unknown_here_is_refused(chip: SimulatedChip) -> None:
    assert refused(chip.but(cpuid=(0x1A, 0x50, 0))) == ["product-mismatch"]


def test_a_certificate_in_the_layout_of_another_product_is_refused() -> None:
    """The same eight bytes are other patch levels: SNP 25 of a Genoa would be read as FMC."""
    odd = SimulatedChip(struct_version=1, hardware_id=bytes([1] * 8))
    assert "product-mismatch" in refused(odd)


def test_a_report_that_hides_its_chip_is_refused(chip: SimulatedChip) -> None:
    assert refused(chip.but(chip_id=bytes(64))) == ["chip-id-hidden"]


def test_a_report_that_names_another_chip_is_refused(chip: SimulatedChip) -> None:
    assert refused(chip.but(chip_id=os.urandom(64))) == ["chip-id-mismatch"]


def test_a_turins_chip_id_has_nothing_behind_its_eight_bytes() -> None:
    turin = SimulatedChip(vendor=VENDORS[Product.TURIN])
    longer = turin.but(chip_id=turin.certified_id + b"\1" + bytes(55))
    assert refused(longer) == ["chip-id-mismatch"]


def test_only_chips_that_the_policy_names_are_accepted(chip: SimulatedChip) -> None:
    rows = ((chip.hardware_id, bytes(32)), (os.urandom(64), b""))
    allowed = snp_policy(accept_any_chip=False, chips=rows)
    result = judge(chip, policy=allowed)
    assert result.accepted
    assert "custody proven" in next(c.detail for c in result.checks if c.name == "chip")
    assert refused(SimulatedChip(), policy=allowed) == ["chip-not-accepted"]
    assert refused(chip, policy=snp_policy(accept_any_chip=False)) == ["chip-not-accepted"]


def test_a_vlek_cannot_say_that_it_is_an_accepted_chip() -> None:
    """CHIP_ID is signed by a key that all machines of the provider have."""
    vlek = SimulatedChip(signer=Signer.VLEK)
    named = vlek.but(chip_id=vlek.hardware_id)
    policy = snp_policy(**VLEKS_TOO, accept_any_chip=False, chips=((vlek.hardware_id, b""),))
    assert refused(named, policy=policy) == ["chip-not-accepted"]


def test_a_vlek_is_refused_unless_the_policy_names_it_and_its_provider() -> None:
    vlek = SimulatedChip(signer=Signer.VLEK)
    assert refused(vlek) == ["signing-key-not-accepted"]
    other = VLEKS_TOO | {"csps": ("CN=other",)}
    assert refused(vlek, policy=snp_policy(**other)) == ["signing-key-not-accepted"]
    anyone = VLEKS_TOO | {"csps": (), "accept_any_csp": True}
    assert judge(vlek, policy=snp_policy(**anyone)).accepted


def test_a_vcek_is_refused_where_only_vleks_are_accepted(chip: SimulatedChip) -> None:
    policy = snp_policy(**(VLEKS_TOO | {"signing_keys": (Signer.VLEK,)}))
    assert refused(chip, policy=policy) == ["signing-key-not-accepted"]


@pytest.mark.parametrize(
    ("guest_policy", "code"),
    [
        (GUEST_POLICY | DEBUG, "guest-debug"),
        (GUEST_POLICY | MIGRATE_MA, "guest-migratable"),
        (GUEST_POLICY | CXL, "guest-policy-not-accepted"),
        (GUEST_POLICY & ~ONE, "guest-policy-not-accepted"),
        (GUEST_POLICY | 1 << 26, "guest-policy-not-accepted"),
        (GUEST_POLICY | 1 << 63, "guest-policy-not-accepted"),
    ],
)
def test_a_guest_that_permits_too_much_is_refused(
    guest_policy: int, code: str, chip: SimulatedChip
) -> None:
    assert refused(chip.but(guest_policy=guest_policy)) == [code]


@pytest.mark.parametrize(
    "changes", [{"allow_smt": False}, {"allow_multiple_sockets": False}, {"minimum_abi": (1, 55)}]
)
def test_a_policy_that_permits_less_refuses(changes: dict[str, Any], chip: SimulatedChip) -> None:
    assert refused(chip, policy=snp_policy(**changes)) == ["guest-policy-not-accepted"]


def test_a_guest_that_permits_little_passes_a_strict_policy(chip: SimulatedChip) -> None:
    strict = snp_policy(allow_smt=False, allow_multiple_sockets=False, minimum_abi=(1, 55))
    assert judge(chip.but(guest_policy=ONE | SINGLE_SOCKET | 0x0137), policy=strict).accepted


def test_a_debugged_guest_is_accepted_only_by_name_and_with_a_warning(chip: SimulatedChip) -> None:
    debugged = chip.but(guest_policy=GUEST_POLICY | DEBUG | MIGRATE_MA)
    policy = snp_policy(allow_debug=True, allow_migration_agent=True)
    assert weaknesses(judge(debugged, policy=policy)) == [
        "guest-debug-allowed",
        "guest-migration-allowed",
    ]


@pytest.mark.parametrize("vmpl", [1, 2, 3, 0xFFFFFFFF])
def test_a_report_of_another_level_or_of_the_host_is_refused(
    vmpl: int, chip: SimulatedChip
) -> None:
    """The host can ask for a report itself; its VMPL field then has all bits set."""
    assert refused(chip.but(vmpl=vmpl)) == ["vmpl-not-accepted"]


def test_the_level_under_a_paravisor_is_accepted_by_number(chip: SimulatedChip) -> None:
    assert judge(chip.but(vmpl=1), policy=snp_policy(vmpls=(1,))).accepted
    assert refused(chip, policy=snp_policy(vmpls=(1,))) == ["vmpl-not-accepted"]


def test_another_image_is_refused(chip: SimulatedChip) -> None:
    assert refused(chip.but(measurement=bytes(48))) == ["launch-measurement-not-accepted"]


def test_a_policy_without_measurements_is_unverifiable(chip: SimulatedChip) -> None:
    assert refused(chip, policy=snp_policy(measurements=())) == ["launch-measurements-missing"]
    assert judge(chip, policy=snp_policy(measurements=())).tier is Tier.UNVERIFIABLE


def test_any_image_is_accepted_only_by_name_and_with_a_warning(chip: SimulatedChip) -> None:
    policy = snp_policy(accept_any_measurement=True, measurements=())
    result = judge(chip.but(measurement=os.urandom(48)), policy=policy)
    assert weaknesses(result) == ["launch-measurement-any"]


@pytest.mark.parametrize("feature", [HostFeature.MEMORY_ENCRYPTION, HostFeature.RAPL_DISABLED])
def test_a_host_without_a_required_protection_is_refused(
    feature: HostFeature, chip: SimulatedChip
) -> None:
    policy = snp_policy(required_features=(feature,))
    assert refused(chip, policy=policy) == ["host-feature-missing"]


def test_a_host_with_its_aliases_checked_is_told_from_one_without(chip: SimulatedChip) -> None:
    policy = snp_policy(required_features=(HostFeature.ALIAS_CHECK,))
    assert judge(chip, policy=policy).accepted
    assert refused(chip.but(platform_info=1), policy=policy) == ["host-feature-missing"]


@pytest.mark.parametrize(
    ("field", "value"),
    [("host_data", b"h" * 32), ("id_keys", b"i" * 48), ("author_keys", b"a" * 48)],
)
def test_a_launch_identity_that_the_policy_names_is_compared(
    field: str, value: bytes, chip: SimulatedChip
) -> None:
    policy = snp_policy(**{field: (value,)})
    own = {"host_data": "host_data", "id_keys": "id_key_digest", "author_keys": "author_key_digest"}
    right = chip.but(**{own[field]: value}, key_info=1)
    assert judge(right, policy=policy).accepted
    assert refused(chip, policy=policy) == ["launch-identity-not-accepted"]


def test_an_author_key_that_nothing_checked_is_no_author(chip: SimulatedChip) -> None:
    """Without AUTHOR_KEY_EN the digest is what the host wrote there."""
    claimed = chip.but(author_key_digest=b"a" * 48)
    policy = snp_policy(author_keys=(b"a" * 48,))
    assert refused(claimed, policy=policy) == ["launch-identity-not-accepted"]


def test_a_guest_of_an_older_svn_is_refused(chip: SimulatedChip) -> None:
    policy = snp_policy(minimum_guest_svn=2)
    assert refused(chip.but(guest_svn=1), policy=policy) == ["launch-identity-not-accepted"]
    assert judge(chip.but(guest_svn=2), policy=policy).accepted


def test_a_policy_without_the_table_accepts_no_report(chip: SimulatedChip) -> None:
    policy = attrs.evolve(whole_policy(snp_policy()), sev_snp=None)
    assert refused(chip, policy=policy) == ["kind-not-accepted"]


def test_one_run_shows_everything_that_is_wrong(chip: SimulatedChip) -> None:
    bad = chip.but(guest_policy=GUEST_POLICY | DEBUG, vmpl=3, measurement=bytes(48))
    assert refused(bad, collateral=NO_COLLATERAL) == [
        "revocation-missing",
        "guest-debug",
        "vmpl-not-accepted",
        "launch-measurement-not-accepted",
    ]
