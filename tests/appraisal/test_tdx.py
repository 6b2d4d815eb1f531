"""Kind `tdx`: each link of the chain and each rule refuses alone what it is there for."""

import hashlib
import json
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from attestation.appraisal import tdx, verifier
from attestation.appraisal.result import Question, Tier
from attestation.endorsements.collateral import NO_COLLATERAL
from attestation.endorsements.intel_tcb import TcbStatus
from attestation.evidence.tdx import TdxEvidence
from attestation.policy.revocation import Revocation
from attestation.policy.tdx import Register, TdWeakness
from tests.simulators.intel import (
    NOW,
    PPID,
    Authority,
    Domain,
    Intel,
    Platform,
    intel,
    module,
    p256,
    pem,
    svn_level,
    tcb_level,
)
from tests.simulators.intel_case import (
    examine_td,
    gather,
    platform_policy,
    refused,
    tdx_policy,
    tier_of,
    warned,
)

SEPT_VE_DISABLE = 1 << 28
TD15 = Domain(tee_tcb_svn2=bytes([6, 1, 3]) + bytes(13))


def quote(domain: Domain | None = None, **details: Any) -> bytes:
    return intel().td_quote(domain, **details)


def collateral(**changes: Any) -> Any:
    return gather(intel().collateral(**changes))


# -- what is accepted -----------------------------------------------------------------------------


@pytest.mark.parametrize(("version", "domain"), [(4, Domain()), (5, Domain()), (5, TD15)])
def test_a_genuine_quote_is_accepted(version: int, domain: Domain) -> None:
    checks, claims = examine_td(quote(domain, version=version))
    assert refused(checks) == {}
    assert {check.tier for check in checks} == {Tier.AFFIRMING}
    assert (claims["TCB status"], claims["PPID"]) == ("UpToDate", PPID.hex())


def test_zeros_behind_the_quote_are_padding() -> None:
    checks, _ = examine_td(quote(padding=bytes(3065)))
    assert refused(checks) == {}


def test_certificates_may_come_in_der_and_without_the_root() -> None:
    chain = b"".join(entry.public_bytes(Encoding.DER) for entry in intel().chain[:2])
    checks, _ = examine_td(quote(certification=(5, chain)))
    assert refused(checks) == {}


def test_a_quote_without_its_certificates_is_judged_with_those_beside_it() -> None:
    bare = quote(certification=(1, bytes(34)))
    chain = tuple(entry.public_bytes(Encoding.DER) for entry in intel().chain)
    assert refused(examine_td(bare, certificates=chain)[0]) == {}
    with_chain = intel().collateral(pck_certificate_chain=pem(intel().chain))
    assert refused(examine_td(bare, gather(with_chain))[0]) == {}


def test_of_several_items_the_one_for_this_platform_is_used() -> None:
    other = intel().collateral(tcb_info={"fmspc": "00806F050000"})
    checks, _ = examine_td(quote(), gather(other, b"not even JSON", intel().collateral()))
    assert refused(checks) == {}


# -- the five links -------------------------------------------------------------------------------


def test_a_report_that_the_attestation_key_did_not_sign_is_refused() -> None:
    checks, _ = examine_td(quote(quote_signer=p256()))
    assert refused(checks) == {"quote signature": "signature-invalid"}


def test_an_attestation_key_that_no_quoting_enclave_vouches_for_is_refused() -> None:
    """Whoever makes a key of his own can sign any report with it."""
    checks, _ = examine_td(quote(vouched=hashlib.sha256(b"another key").digest()))
    assert refused(checks) == {"attestation key": "attestation-key-not-bound"}


def test_a_qe_report_with_more_in_it_than_the_key_is_refused() -> None:
    """REPORTDATA beyond the hash is zero; else the same report could mean two things."""
    vouched = _digest_of_key(bytes(range(32))) + b"\1"
    checks, _ = examine_td(quote(vouched=vouched))
    assert refused(checks) == {"attestation key": "attestation-key-not-bound"}


def _digest_of_key(authentication: bytes) -> bytes:
    numbers = intel().attestation_key.public_key().public_numbers()
    point = numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")
    return hashlib.sha256(point + authentication).digest()


def test_authentication_data_of_any_length_is_bound() -> None:
    assert refused(examine_td(quote(authentication=b""))[0]) == {}
    assert refused(examine_td(quote(authentication=bytes(700)))[0]) == {}
    checks, _ = examine_td(quote(authentication=b"x", vouched=_digest_of_key(b"")))
    assert refused(checks) == {"attestation key": "attestation-key-not-bound"}


def test_a_qe_report_that_the_platform_did_not_sign_is_refused() -> None:
    checks, _ = examine_td(quote(qe_signer=p256()))
    assert refused(checks) == {"QE report": "signature-invalid"}


def test_a_pck_certificate_of_another_issuer_is_refused() -> None:
    """The chain in the quote is untrusted: its middle does not have to have issued its leaf."""
    stranger = Intel.make()
    chain = pem([stranger.pck.certificate, *intel().chain[1:]]).encode()
    checks, _ = examine_td(stranger.td_quote(certification=(5, chain)), vendor=intel())
    assert refused(checks) == {"PCK certificate": "chain-invalid"}


def test_a_whole_chain_of_the_right_names_under_another_root_is_refused() -> None:
    checks, _ = examine_td(Intel.make().td_quote(), vendor=intel())
    assert refused(checks) == {"PCK certificate": "chain-not-anchored"}


def test_a_foreign_chain_with_the_true_root_at_its_end_is_refused() -> None:
    stranger = Intel.make()
    chain = pem([*stranger.chain[:2], intel().root.certificate]).encode()
    checks, _ = examine_td(stranger.td_quote(certification=(5, chain)), vendor=intel())
    assert refused(checks) == {"PCK certificate": "chain-not-anchored"}


def test_the_pinned_root_is_intels_and_not_the_simulators() -> None:
    checks, _ = examine_td(quote(), vendor=intel())
    assert refused(checks) == {}
    assert tdx.examine.__kwdefaults__["root"] is tdx.appraise.__kwdefaults__["root"]
    assert tdx.intel_root() != intel().root.certificate


# -- collateral -----------------------------------------------------------------------------------


def test_without_collateral_the_verdict_is_unverifiable_and_not_a_forgery() -> None:
    checks, _ = examine_td(quote(), NO_COLLATERAL)
    assert refused(checks) == {"collateral": "intel-collateral-missing"}
    assert tier_of(checks, "collateral") is Tier.UNVERIFIABLE
    authentic = [check.tier for check in checks if check.question is Question.AUTHENTIC]
    assert Tier.CONTRAINDICATED not in authentic


def test_many_items_none_of_which_fits_are_as_good_as_none() -> None:
    others = [intel().collateral(tcb_info={"fmspc": f"{n:012X}"}) for n in range(2)]
    checks, _ = examine_td(quote(), gather(*others))
    assert refused(checks) == {"collateral": "intel-collateral-missing"}


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"tcb_info": {"fmspc": "90C06F000000"}}, "fmspc-mismatch"),
        ({"tcb_info": {"pceId": "0100"}}, "intel-collateral-mismatch"),
        ({"tee": "SGX"}, "intel-collateral-mismatch"),
    ],
)
def test_collateral_of_another_platform_is_refused(changes: dict[str, Any], code: str) -> None:
    checks, _ = examine_td(quote(), collateral(**changes))
    assert refused(checks) == {"collateral": code}


def test_the_revocation_list_of_the_other_pck_ca_is_refused() -> None:
    """The list of the processor CA says nothing about what the platform CA issued."""
    other = intel().root.issue("Intel SGX PCK Processor CA", is_ca=True)
    checks, _ = examine_td(quote(), collateral(pck_crl=other.crl().hex()))
    assert refused(checks) == {"collateral": "intel-collateral-mismatch"}


@pytest.mark.parametrize(
    ("name", "step"), [("tcb_info", "TCB info"), ("qe_identity", "QE identity")]
)
def test_a_text_that_intel_did_not_sign_is_refused(name: str, step: str) -> None:
    """The status is in there: one byte makes an old platform a current one."""
    item = json.loads(intel().collateral())
    text = item[name].replace('"isvsvn":8', '"isvsvn":7').replace('"svn":5', '"svn":1')
    assert text != item[name]
    checks, _ = examine_td(quote(), gather(json.dumps({**item, name: text}).encode()))
    assert refused(checks) == {step: "signature-invalid"}


@pytest.mark.parametrize(
    ("name", "step"), [("tcb_info", "TCB info"), ("qe_identity", "QE identity")]
)
@pytest.mark.parametrize(
    ("days", "code"), [(-2, "intel-text-not-yet-valid"), (30, "intel-text-expired")]
)
def test_a_text_outside_its_window_is_refused(name: str, step: str, days: int, code: str) -> None:
    later = {"nextUpdate": "2028-01-01T00:00:00Z", "issueDate": "2025-01-01T00:00:00Z"}
    other = {"tcb_info": "qe_identity", "qe_identity": "tcb_info"}[name]
    crls = {
        "root_ca_crl": intel().root.crl(now=NOW + timedelta(days=days)).hex(),
        "pck_crl": intel().pck_ca.crl(now=NOW + timedelta(days=days)).hex(),
    }
    given = collateral(**{other: later}, **crls)
    checks, _ = examine_td(quote(), given, now=NOW + timedelta(days=days))
    assert refused(checks) == {step: code}


def test_a_text_signed_by_a_platform_is_refused() -> None:
    """A PCK certificate leads to the same root; it is not for signing TCB info."""
    vendor = intel()
    usurper = Intel(
        root=vendor.root,
        pck_ca=vendor.pck_ca,
        signer=vendor.pck_ca,
        platform=vendor.platform,
        pck=vendor.pck,
        attestation_key=vendor.attestation_key,
    )
    checks, _ = examine_td(quote(), gather(usurper.collateral()))
    assert refused(checks)["TCB info"] == "chain-invalid"
    assert refused(checks)["QE identity"] == "chain-invalid"


def test_of_two_that_hold_the_newer_evaluation_is_used() -> None:
    """Somebody who keeps an older TCB info, still in its window, must not get to choose."""
    behind = [tcb_level(sgx=[9] * 16), tcb_level(status="OutOfDate")]
    newer = intel().collateral(
        tcb_info={"tcbEvaluationDataNumber": 21, "tcbLevels": behind},
        qe_identity={"tcbEvaluationDataNumber": 21},
    )
    checks, _ = examine_td(quote(), gather(intel().collateral(), newer))
    assert refused(checks) == {"TCB status": "tcb-out-of-date"}


def test_an_unsigned_item_cannot_push_a_signed_one_aside() -> None:
    item = json.loads(intel().collateral())
    item["tcb_info"] = item["tcb_info"].replace(":20,", ":99,")
    checks, _ = examine_td(quote(), gather(json.dumps(item).encode(), intel().collateral()))
    assert refused(checks) == {}


# -- revocation -----------------------------------------------------------------------------------


def test_a_revoked_platform_is_refused() -> None:
    crl = intel().pck_ca.crl(intel().pck.certificate)
    checks, _ = examine_td(quote(), collateral(pck_crl=crl.hex()))
    assert refused(checks) == {"revocation": "certificate-revoked"}


@pytest.mark.parametrize("who", ["pck_ca", "signer", "root"])
def test_a_revoked_authority_is_refused(who: str) -> None:
    crl = intel().root.crl(getattr(intel(), who).certificate)
    checks, _ = examine_td(quote(), collateral(root_ca_crl=crl.hex()))
    assert refused(checks) == {"revocation": "certificate-revoked"}


def test_a_revocation_that_only_another_list_knows_counts() -> None:
    crl = intel().pck_ca.crl(intel().pck.certificate)
    checks, _ = examine_td(quote(), gather(intel().collateral(), crls=(crl,)))
    assert refused(checks) == {"revocation": "certificate-revoked"}


@pytest.mark.parametrize("name", ["pck_crl", "root_ca_crl"])
def test_a_missing_revocation_list_is_not_an_empty_one(name: str) -> None:
    checks, _ = examine_td(quote(), collateral(**{name: ""}))
    assert refused(checks) == {"revocation": "revocation-missing"}
    assert tier_of(checks, "revocation") is Tier.UNVERIFIABLE


@pytest.mark.parametrize("name", ["pck_crl", "root_ca_crl"])
def test_a_stale_revocation_list_is_refused(name: str) -> None:
    issuer = {"pck_crl": intel().pck_ca, "root_ca_crl": intel().root}[name]
    old = issuer.crl(now=NOW - timedelta(days=60))
    checks, _ = examine_td(quote(), collateral(**{name: old.hex()}))
    assert refused(checks) == {"revocation": "revocation-stale"}


def test_a_revocation_list_that_the_ca_did_not_sign_is_refused() -> None:
    forged = Authority(key=p256(), certificate=intel().pck_ca.certificate).crl()
    checks, _ = examine_td(quote(), collateral(pck_crl=forged.hex()))
    assert refused(checks) == {"revocation": "revocation-invalid"}
    policy = tdx_policy(platform=platform_policy(revocation=Revocation.OPTIONAL))
    checks, _ = examine_td(quote(), collateral(pck_crl=forged.hex()), policy=policy)
    assert refused(checks) == {"revocation": "revocation-invalid"}


def test_the_policy_may_do_without_revocation_lists_and_the_result_then_warns() -> None:
    policy = tdx_policy(platform=platform_policy(revocation=Revocation.OPTIONAL))
    checks, _ = examine_td(quote(), collateral(pck_crl="", root_ca_crl=""), policy=policy)
    assert (refused(checks), warned(checks)) == ({}, {"revocation": "revocation-unknown"})
    crl = intel().pck_ca.crl(intel().pck.certificate).hex()
    checks, _ = examine_td(quote(), collateral(pck_crl=crl), policy=policy)
    assert refused(checks) == {"revocation": "certificate-revoked"}


# -- windows of certificates ----------------------------------------------------------------------


def test_a_certificate_outside_its_window_is_refused_even_after_it_was_seen_inside() -> None:
    """What is remembered of a chain is that its signatures hold, never that it is alive."""
    assert refused(examine_td(quote())[0]) == {}
    checks, _ = examine_td(quote(), now=NOW - timedelta(days=400))
    assert refused(checks) == {"PCK certificate": "certificate-not-yet-valid"}
    checks, _ = examine_td(quote(), now=NOW + timedelta(days=4000))
    assert refused(checks) == {"PCK certificate": "certificate-expired"}


def test_an_expired_tcb_signer_is_refused() -> None:
    signer = intel().root.issue("Intel SGX TCB Signing", ends=NOW - timedelta(days=1))
    vendor = Intel(
        root=intel().root,
        pck_ca=intel().pck_ca,
        signer=signer,
        platform=intel().platform,
        pck=intel().pck,
        attestation_key=intel().attestation_key,
    )
    checks, _ = examine_td(quote(), gather(vendor.collateral()))
    assert refused(checks)["TCB info"] == "certificate-expired"


# -- quoting enclave and TDX module ---------------------------------------------------------------


@pytest.mark.parametrize(
    "qe",
    [
        {"mr_signer": b"\x66" * 32},
        {"isv_prod_id": 1},
        {"misc_select": 1},
        {"attributes": bytes.fromhex("13000000000000000000000000000000")},
        {"attributes": bytes.fromhex("91000000000000000000000000000000")},
    ],
    ids=["signer", "product", "miscselect", "debug", "attributes"],
)
def test_any_other_enclave_on_the_platform_is_no_quoting_enclave(qe: dict[str, Any]) -> None:
    """The provisioning key signs reports of whatever enclave asks the PCE for it."""
    checks, _ = examine_td(quote(qe=qe))
    assert refused(checks) == {"quoting enclave": "quoting-enclave-mismatch"}


def test_what_the_masks_leave_open_may_differ() -> None:
    attributes = bytes.fromhex("1500000000000000e700000000000000")
    assert refused(examine_td(quote(qe={"attributes": attributes}))[0]) == {}


@pytest.mark.parametrize(
    "domain",
    [Domain(mr_signer_seam=b"\1" * 48), Domain(seam_attributes=1)],
    ids=["signer", "attributes"],
)
def test_a_tdx_module_that_intel_did_not_sign_is_refused(domain: Domain) -> None:
    checks, _ = examine_td(quote(domain))
    assert refused(checks) == {"TDX module": "tdx-module-mismatch"}


def test_a_tdx_module_that_the_collateral_does_not_know_is_refused() -> None:
    checks, _ = examine_td(quote(Domain(tee_tcb_svn=bytes([6, 2, 3]) + bytes(13))))
    assert refused(checks)["TDX module"] == "tdx-module-mismatch"


# -- TCB ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ("OutOfDate", "tcb-out-of-date"),
        ("OutOfDateConfigurationNeeded", "tcb-out-of-date-configuration-needed"),
        ("ConfigurationNeeded", "tcb-configuration-needed"),
        ("SWHardeningNeeded", "tcb-sw-hardening-needed"),
        ("ConfigurationAndSWHardeningNeeded", "tcb-configuration-and-sw-hardening-needed"),
        ("Revoked", "tcb-revoked"),
    ],
)
def test_a_status_that_the_policy_does_not_name_is_refused(status: str, code: str) -> None:
    given = collateral(tcb_info={"tcbLevels": [tcb_level(status=status)]})
    checks, claims = examine_td(quote(), given)
    assert refused(checks) == {"TCB status": code}
    assert claims["TCB status"] == status


def test_a_platform_below_every_level_is_not_supported_and_not_merely_out_of_date() -> None:
    given = collateral(tcb_info={"tcbLevels": [tcb_level(sgx=[99] * 16)]})
    checks, claims = examine_td(quote(), given)
    assert refused(checks) == {"TCB status": "tcb-not-supported"}
    assert claims["TCB status"] == "NotSupported"


def test_a_named_status_passes_with_a_warning_and_only_with_its_advisories() -> None:
    level = tcb_level(status="SWHardeningNeeded", advisories=["INTEL-SA-00615"])
    given = collateral(tcb_info={"tcbLevels": [level]})
    statuses = (TcbStatus.UP_TO_DATE, TcbStatus.SW_HARDENING_NEEDED)

    def policy(**changes: Any) -> Any:
        return tdx_policy(platform=platform_policy(tcb_statuses=statuses, **changes))

    named = policy(advisories=("INTEL-SA-00615",))
    checks, _ = examine_td(quote(), given, policy=named)
    assert (refused(checks), warned(checks)) == ({}, {"TCB status": "tcb-sw-hardening-needed"})
    checks, _ = examine_td(quote(), given, policy=policy(advisories=("INTEL-SA-00001",)))
    assert refused(checks) == {"TCB status": "tcb-advisory"}
    checks, _ = examine_td(quote(), given, policy=policy(accept_any_advisory=True))
    assert refused(checks) == {}


def test_the_tcb_is_taken_from_the_certificate_and_not_from_the_quote() -> None:
    """CPUSVN in a report is the platform's word; the PCK certificate is Intel's."""
    old = intel().on(Platform(components=bytes([1] * 16)))
    checks, _ = examine_td(old.td_quote(), vendor=old)
    assert refused(checks) == {"TCB status": "tcb-not-supported"}


@pytest.mark.parametrize("name", ["tcb_info", "qe_identity"])
def test_collateral_of_an_older_evaluation_than_the_policys_is_refused(name: str) -> None:
    checks, _ = examine_td(quote(), collateral(**{name: {"tcbEvaluationDataNumber": 19}}))
    assert refused(checks) == {"TCB evaluation": "tcb-evaluation-too-old"}


def test_a_machine_that_the_policy_does_not_name_is_refused() -> None:
    elsewhere = intel().on(Platform(ppid=b"\x77" * 16))
    checks, _ = examine_td(elsewhere.td_quote(), vendor=elsewhere)
    assert refused(checks) == {"platform": "platform-not-accepted"}
    nobody = tdx_policy(platform=platform_policy(platforms=()))
    assert refused(examine_td(quote(), policy=nobody)[0]) == {"platform": "platform-not-accepted"}


def test_a_custody_proof_that_the_policy_names_is_in_the_finding() -> None:
    policy = tdx_policy(platform=platform_policy(platforms=((PPID, b"\xcc" * 32),)))
    checks, _ = examine_td(quote(), policy=policy)
    (found,) = [check.detail for check in checks if check.name == "platform"]
    assert "cc" * 32 in found


def test_a_td_that_only_needs_a_new_start_says_so() -> None:
    domain = Domain(tee_tcb_svn=bytes([3, 1, 3]) + bytes(13), tee_tcb_svn2=TD15.tee_tcb_svn)
    checks, claims = examine_td(quote(domain, version=5))
    assert refused(checks) == {"TCB status": "tcb-relaunch-advised"}
    assert claims["TDX module status"] == "OutOfDate"


def test_a_module_identity_of_this_version_is_compared_and_no_other() -> None:
    identities = [module("TDX_03", svn_level(9, "Revoked")), module("TDX_01", svn_level(7))]
    given = collateral(tcb_info={"tdxModuleIdentities": identities})
    checks, _ = examine_td(quote(), given)
    assert refused(checks) == {"TCB status": "tcb-not-supported"}


# -- the trust domain -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bits", "step", "code"),
    [
        (SEPT_VE_DISABLE | 1, "debug", "intel-debug"),
        (SEPT_VE_DISABLE | 1 << 5, "debug", "intel-debug"),
        (0, "TD attributes", "td-sept-ve"),
        (SEPT_VE_DISABLE | 1 << 29, "TD attributes", "td-attributes"),
        (SEPT_VE_DISABLE | 1 << 30, "TD attributes", "td-attributes"),
        (SEPT_VE_DISABLE | 1 << 31, "TD attributes", "td-attributes"),
        (SEPT_VE_DISABLE | 1 << 63, "TD attributes", "td-attributes"),
        (SEPT_VE_DISABLE | 1 << 40, "TD attributes", "td-attributes"),
    ],
    ids=["debug", "profiling", "sept-ve", "migratable", "pks", "kl", "perfmon", "reserved"],
)
def test_an_attribute_that_weakens_a_td_is_refused(bits: int, step: str, code: str) -> None:
    checks, claims = examine_td(quote(Domain(td_attributes=bits)))
    assert refused(checks) == {step: code}
    assert claims["TCB status"] == "UpToDate", "an auditor sees the TCB of a debug TD"


def test_attributes_that_the_policy_names_pass_with_a_warning() -> None:
    policy = tdx_policy(allow=tuple(TdWeakness))
    checks, _ = examine_td(quote(Domain(td_attributes=1 | 1 << 30)), policy=policy)
    assert refused(checks) == {}
    assert warned(checks) == {"debug": "intel-debug", "TD attributes": "td-attributes"}


def test_no_policy_allows_profiling_or_reserved_bits() -> None:
    policy = tdx_policy(allow=tuple(TdWeakness))
    for bit in (1, 4, 5, 6, 8, 27 - 1, 40, 62):
        attributes = SEPT_VE_DISABLE | 1 << bit
        assert refused(examine_td(quote(Domain(td_attributes=attributes)), policy=policy)[0])


@pytest.mark.parametrize("xfam", [0, 0x1, 0x602E7 | 1 << 40, 0x602E7 | 1 << 3])
def test_features_that_the_tdx_module_does_not_define_are_refused(xfam: int) -> None:
    assert refused(examine_td(quote(Domain(xfam=xfam)))[0]) == {"XFAM": "td-xfam"}


def test_a_list_of_features_is_exact() -> None:
    policy = tdx_policy(xfam=(0x3,))
    assert refused(examine_td(quote(), policy=policy)[0]) == {"XFAM": "td-xfam"}
    assert refused(examine_td(quote(Domain(xfam=3)), policy=policy)[0]) == {}


def test_a_service_td_is_refused_unless_it_is_named() -> None:
    """A migration TD can move the TD with its secrets."""
    domain = Domain(tee_tcb_svn2=TD15.tee_tcb_svn2, mr_service_td=b"\x51" * 48)
    made = quote(domain, version=5)
    assert refused(examine_td(made)[0]) == {"service TD": "td-service-td"}
    named = tdx_policy(registers={Register.MR_SERVICE_TD: b"\x51" * 48})
    assert refused(examine_td(made, policy=named)[0]) == {}


@pytest.mark.parametrize("offset", [None, 81, 181])
def test_a_service_td_that_was_bound_at_first_or_is_now_is_refused(offset: int | None) -> None:
    """The extended report says both: a TD that was moved by a stranger's service TD is not mine."""
    extension = bytes(237)
    if offset is not None:
        extension = extension[:offset] + b"\x51" + extension[offset + 1 :]
    domain = Domain(tee_tcb_svn2=TD15.tee_tcb_svn2, extension=extension)
    found = refused(examine_td(intel().td_quote(domain, version=5))[0])
    assert found == ({} if offset is None else {"service TD": "td-service-td"})


@pytest.mark.parametrize("register", [name for name in Register if name != "mr_service_td"])
def test_a_register_with_another_value_is_refused(register: Register) -> None:
    policy = tdx_policy(registers={register: b"\xee" * 48})
    checks, _ = examine_td(quote(), policy=policy)
    assert refused(checks) == {"measurements": "td-measurement-not-accepted"}


def test_a_policy_without_a_row_for_a_register_accepts_no_value_of_it() -> None:
    policy = tdx_policy()
    for index in range(len(policy.registers)):
        rows = policy.registers[:index] + policy.registers[index + 1 :]
        fewer = type(policy)(platform=policy.platform, registers=rows)
        assert refused(examine_td(quote(), policy=fewer)[0])


# -- the event log --------------------------------------------------------------------------------


def _event(index: int, digest: bytes, kind: int = 0xD) -> bytes:
    numbers = (index, kind, 1)
    head = b"".join(number.to_bytes(4, "little") for number in numbers)
    return head + b"\x0c\0" + digest + (4).to_bytes(4, "little") + b"data"


def _log(*events: bytes, algorithm: int = 0x0C, size: int = 48) -> bytes:
    spec = b"Spec ID Event03\0" + bytes(4) + b"\0\2\0\2" + (1).to_bytes(4, "little")
    spec += algorithm.to_bytes(2, "little") + size.to_bytes(2, "little") + b"\0"
    head = (1).to_bytes(4, "little") + (3).to_bytes(4, "little") + bytes(20)
    return head + len(spec).to_bytes(4, "little") + spec + b"".join(events)


def _extended(*digests: bytes) -> bytes:
    value = bytes(48)
    for digest in digests:
        value = hashlib.sha384(value + digest).digest()
    return value


def test_an_event_log_must_lead_to_the_registers_that_it_speaks_of() -> None:
    first, second = b"\1" * 48, b"\2" * 48
    domain = Domain(rtmrs=(_extended(first, second), _extended(second), b"\3" * 48, bytes(48)))
    policy = tdx_policy(domain)
    log = _log(_event(1, first), _event(2, second), _event(1, second), _event(1, first, kind=3))
    made = quote(domain)
    assert refused(examine_td(made, policy=policy, event_log=log + b"\xff" * 90)[0]) == {}
    for wrong in (
        _log(_event(1, second), _event(1, first)),
        _log(_event(1, first)),
        _log(_event(3, first)),
    ):
        checks, _ = examine_td(made, policy=policy, event_log=wrong)
        assert refused(checks) == {"event log": "event-log-rtmr-mismatch"}


@pytest.mark.parametrize(
    "log",
    [b"", b"\1" * 40, _log(_event(0, bytes(48))), _log(_event(5, bytes(48)))],
    ids=["empty", "junk", "mrtd", "no-register"],
)
def test_an_event_log_that_is_none_is_refused(log: bytes) -> None:
    checks, _ = examine_td(quote(), event_log=log)
    assert refused(checks) == {"event log": "malformed"}


def test_an_event_log_without_sha384_is_refused() -> None:
    checks, _ = examine_td(quote(), event_log=_log(algorithm=0x0B, size=32))
    assert refused(checks) == {"event log": "malformed"}


# -- format ---------------------------------------------------------------------------------------


def test_a_quote_of_an_enclave_is_no_quote_of_a_td() -> None:
    """Same root, same format: an enclave that anyone writes must not count as a TD."""
    for version in (3, 4, 5):
        checks, _ = examine_td(intel().sgx_quote(version=version))
        assert refused(checks) == {"format": "tee-mismatch"}


def test_a_quote_that_cannot_be_parsed_is_refused_before_anything_else() -> None:
    checks, _ = examine_td(b"\4\0")
    assert refused(checks) == {"format": "malformed"}


def test_a_pck_certificate_that_is_nowhere_is_missing_and_not_forged() -> None:
    checks, _ = examine_td(quote(certification=(1, bytes(34))))
    assert refused(checks) == {"PCK certificate": "pck-certificate-missing"}
    assert tier_of(checks, "PCK certificate") is Tier.UNVERIFIABLE


def test_certificates_beside_the_quote_do_not_replace_those_in_it() -> None:
    """Collateral that carries a chain must not decide whose key signed the quote."""
    item = intel().collateral(pck_certificate_chain=pem(intel().chain))
    stranger = Intel.make()
    checks, _ = examine_td(stranger.td_quote(), gather(item), vendor=intel())
    assert refused(checks) == {"PCK certificate": "chain-not-anchored"}


def test_the_verifier_knows_the_kind() -> None:
    assert verifier.KINDS["tdx"] == (tdx.STEPS, tdx.appraise)
    assert TdxEvidence.from_bytes(TdxEvidence(quote=b"q").to_bytes()).event_log is None
