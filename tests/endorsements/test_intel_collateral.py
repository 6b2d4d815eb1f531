"""Items of Intel collateral: parsed strictly, chosen carefully, and believed for what is signed."""

import json
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from attestation import limits
from attestation.endorsements.intel_chain import PckChain, verify_pck_chain
from attestation.endorsements.intel_collateral import (
    CollateralMismatchError,
    CollateralMissingError,
    FmspcMismatchError,
    TextExpiredError,
    read_collateral,
    select_collateral,
)
from attestation.endorsements.intel_pck import PckCa
from attestation.endorsements.intel_tcb import QeIdentity, TcbInfo, TcbStatus
from attestation.errors import DecodeError, SignatureInvalidError
from attestation.evidence.intel_quote import Tee
from tests.simulators.intel import (
    NOW,
    Intel,
    Platform,
    encoded,
    intel,
    module,
    svn_level,
    tcb_level,
)

ROOT = intel().root.certificate
LATER = NOW + timedelta(days=400)


def chain(vendor: Intel | None = None) -> PckChain:
    vendor = vendor or intel()
    return verify_pck_chain(encoded(*vendor.chain), root=ROOT, now=NOW)


def select(*items: bytes, vendor: Intel | None = None, tee: Tee = Tee.TDX) -> Any:
    return select_collateral(items, chain=chain(vendor), tee=tee, root=ROOT, now=NOW)


# -- parsing --------------------------------------------------------------------------------------


def test_an_item_is_read() -> None:
    collateral = read_collateral(intel().collateral())
    assert collateral.tcb_info.tee is Tee.TDX
    assert collateral.tcb_info.evaluation_number == 20
    assert collateral.pck_crl_ca is PckCa.PLATFORM
    assert collateral.pck_certificates == ()
    collateral.check_tcb_info(root=ROOT, now=NOW)
    collateral.check_qe_identity(root=ROOT, now=NOW)


def test_lists_are_read_in_pem_too() -> None:

    crl = x509.load_der_x509_crl(intel().pck_ca.crl()).public_bytes(Encoding.PEM).decode()
    assert read_collateral(intel().collateral(pck_crl=crl)).pck_crl_ca is PckCa.PLATFORM


def test_levels_count_from_the_highest_whatever_their_order() -> None:
    levels = [tcb_level(pcesvn=5, status="OutOfDate"), tcb_level(pcesvn=11), tcb_level(pcesvn=9)]
    info = TcbInfo.parse(json.dumps(intel().tcb_info(tcbLevels=levels)).encode())
    assert [level.pce_svn for level in info.levels] == [11, 9, 5]
    identity = intel().qe_identity(tcbLevels=[svn_level(2), svn_level(9), svn_level(4)])
    levels_of_qe = QeIdentity.parse(json.dumps(identity).encode()).levels
    assert [level.isv_svn for level in levels_of_qe] == [9, 4, 2]


@pytest.mark.parametrize(
    "change",
    [
        {"tcb_info": None},
        {"tcb_info": {"id": "TDX"}},
        {"tcb_info": "[]"},
        {"tcb_info": "\ud800"},
        {"tcb_info_signature": "00"},
        {"tcb_info_signature": "zz" * 64},
        {"tcb_info_issuer_chain": ""},
        {"tcb_info_issuer_chain": "\ud800"},
        {"pck_crl": "zz"},
        {"pck_crl": "00"},
        {"pck_crl": 7},
        {"pck_crl": "-----BEGIN X509 CRL-----\nAA\n-----END X509 CRL-----\n"},
        {"pck_certificate_chain": "none"},
    ],
)
def test_an_item_of_another_form_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(DecodeError):
        read_collateral(json.dumps({**json.loads(intel().collateral()), **change}).encode())


def test_a_list_of_a_version_that_does_not_exist_is_refused() -> None:
    """cryptography raises a class of its own for it, which is no ValueError."""
    crl = intel().pck_ca.crl().replace(b"\x02\x01\x01", b"\x02\x01\x09", 1)
    with pytest.raises(DecodeError):
        read_collateral(intel().collateral(pck_crl=crl.hex()))


def test_a_list_of_somebody_else_is_no_pck_list() -> None:
    with pytest.raises(DecodeError):
        read_collateral(intel().collateral(pck_crl=intel().root.crl().hex()))


@pytest.mark.parametrize(
    "change",
    [
        {"id": "QVE"},
        {"id": None},
        {"version": 1},
        {"version": 2},
        {"version": True},
        {"tcbType": 1},
        {"fmspc": "B0C06F0000"},
        {"fmspc": "B0C06F 000000"},
        {"pceId": 0},
        {"issueDate": "2026-05-31T12:00:00"},
        {"nextUpdate": "soon"},
        {"tcbEvaluationDataNumber": -1},
        {"tcbEvaluationDataNumber": 1.5},
        {"tcbLevels": {}},
        {"tcbLevels": [7]},
        {"tcbLevels": [tcb_level(status="Fine")]},
        {"tcbLevels": [tcb_level(status="NotSupported")]},
        {"tcbLevels": [tcb_level(status="TDRelaunchAdvised")]},
        {"tcbLevels": [tcb_level(sgx=[0] * 15)]},
        {"tcbLevels": [tcb_level(tdx=[0] * 17)]},
        {"tcbLevels": [tcb_level(sgx=[256] + [0] * 15)]},
        {"tcbLevels": [tcb_level(pcesvn=1 << 16)]},
        {"tcbLevels": [tcb_level(advisories=["\n"])]},
        {"tcbLevels": [tcb_level("SGX")]},
        {"tcbLevels": [tcb_level()] * (limits.INTEL_TCB_LEVELS + 1)},
        {"tdxModule": None},
        {"tdxModule": {"mrsigner": "00", "attributes": "0" * 16, "attributesMask": "F" * 16}},
        {"tdxModuleIdentities": [module("TDX_01"), module("tdx_01")]},
        {"tdxModuleIdentities": [{"id": "TDX_01"}]},
    ],
)
def test_tcb_info_that_could_be_misread_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(DecodeError):
        TcbInfo.parse(json.dumps(intel().tcb_info(**change)).encode())


@pytest.mark.parametrize(
    "change",
    [
        {"id": "QVE"},
        {"version": 1},
        {"miscselect": "00"},
        {"attributes": "11"},
        {"mrsigner": "00"},
        {"isvprodid": 1 << 16},
        {"isvprodid": "2"},
        {"tcbLevels": [{"tcbStatus": "UpToDate"}]},
    ],
)
def test_a_qe_identity_that_could_be_misread_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(DecodeError):
        QeIdentity.parse(json.dumps(intel().qe_identity(**change)).encode())


def test_a_member_that_is_there_twice_is_refused() -> None:
    """Which of the two counts depends on who reads: the signature covers both."""
    text = json.dumps(intel().tcb_info())
    twice = text.replace('"tcbType": 0', '"tcbType": 0, "fmspc": "000000000000"')
    with pytest.raises(DecodeError):
        TcbInfo.parse(twice.encode())


@pytest.mark.parametrize("text", [b"", b"{", b"[" * 5000, b'{"version": NaN}', b"\xff", b"7"])
def test_what_is_no_json_object_is_refused(text: bytes) -> None:
    for parse in (TcbInfo.parse, QeIdentity.parse, read_collateral):
        with pytest.raises(DecodeError):
            parse(text)


def test_more_bytes_than_an_item_can_have_are_refused_unread() -> None:
    with pytest.raises(DecodeError):
        read_collateral(b" " * (limits.INTEL_COLLATERAL_BYTES + 1))


members = st.sampled_from(sorted(json.loads(intel().collateral())))
values = st.none() | st.booleans() | st.integers() | st.text(max_size=40) | st.just([])


@given(members, values)
def test_any_item_is_read_or_refused(name: str, value: object) -> None:
    with suppress(DecodeError):
        read_collateral(json.dumps({**json.loads(intel().collateral()), name: value}).encode())


nested = st.recursive(
    values, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner)
)


@given(st.sampled_from(sorted(intel().tcb_info())), nested)
def test_any_tcb_info_is_read_or_refused(name: str, value: object) -> None:
    with suppress(DecodeError):
        TcbInfo.parse(json.dumps(intel().tcb_info(**{name: value})).encode())


# -- belief ---------------------------------------------------------------------------------------


def test_a_text_is_believed_for_its_exact_bytes() -> None:
    """Written out again, the same JSON is another text, and another number in it is a lie."""
    item = json.loads(intel().collateral())
    item["tcb_info"] = json.dumps(json.loads(item["tcb_info"]))
    with pytest.raises(SignatureInvalidError):
        read_collateral(json.dumps(item).encode()).check_tcb_info(root=ROOT, now=NOW)


def test_signature_and_text_of_two_items_do_not_mix() -> None:
    item = json.loads(intel().collateral())
    item["tcb_info_signature"] = item["qe_identity_signature"]
    with pytest.raises(SignatureInvalidError):
        read_collateral(json.dumps(item).encode()).check_tcb_info(root=ROOT, now=NOW)


def test_that_a_signature_held_is_remembered_and_that_a_window_was_open_is_not() -> None:
    collateral = read_collateral(intel().collateral())
    collateral.check_tcb_info(root=ROOT, now=NOW)
    with pytest.raises(TextExpiredError):
        collateral.check_tcb_info(root=ROOT, now=LATER)


def test_that_a_signature_held_under_one_root_says_nothing_about_another() -> None:
    collateral = read_collateral(intel().collateral())
    collateral.check_tcb_info(root=ROOT, now=NOW)
    with pytest.raises(Exception, match="only has Intel's name"):
        collateral.check_tcb_info(root=Intel.make().root.certificate, now=NOW)


# -- choice ---------------------------------------------------------------------------------------


def test_one_item_that_does_not_fit_is_a_mismatch_and_many_are_none() -> None:
    other = intel().collateral(tcb_info={"fmspc": "00806F050000"})
    sgx = intel().collateral("SGX")
    with pytest.raises(FmspcMismatchError):
        select(other)
    with pytest.raises(CollateralMismatchError):
        select(sgx)
    with pytest.raises(DecodeError):
        select(b"{}")
    for items in ((), (other, sgx), (other, b"{}")):
        with pytest.raises(CollateralMissingError):
            select(*items)


def test_an_identity_of_the_other_quoting_enclave_does_not_fit() -> None:
    mixed = intel().collateral(qe_identity=intel().qe_identity("SGX"))
    with pytest.raises(CollateralMismatchError):
        select(mixed)


def test_the_newest_that_holds_is_chosen() -> None:
    def item(number: int, **changes: Any) -> bytes:
        return intel().collateral(tcb_info={"tcbEvaluationDataNumber": number, **changes})

    expired = item(30, nextUpdate="2026-05-31T13:00:00Z")
    chosen = select(item(18), expired, item(19), item(17))
    assert chosen.tcb_info.evaluation_number == 19
    younger = item(19, issueDate="2026-06-01T00:00:00Z")
    assert select(item(19), younger).tcb_info.issue_date > chosen.tcb_info.issue_date


def test_where_none_holds_one_is_chosen_for_its_refusal() -> None:
    expired = [
        intel().collateral(
            tcb_info={"nextUpdate": "2026-05-31T13:00:00Z", "tcbEvaluationDataNumber": number}
        )
        for number in (17, 18)
    ]
    with pytest.raises(TextExpiredError):
        select(*expired).check_tcb_info(root=ROOT, now=NOW)


def test_platforms_that_differ_in_their_pce_do_not_share_collateral() -> None:
    other = intel().on(Platform(pce_id=b"\1\0"))
    with pytest.raises(CollateralMismatchError):
        select(intel().collateral(), vendor=other)
    assert select(other.collateral(), vendor=other).tcb_info.pce_id == b"\1\0"


def test_every_status_of_the_service_is_known() -> None:
    for status in set(TcbStatus) - {
        TcbStatus.NOT_SUPPORTED,
        TcbStatus.TD_RELAUNCH_ADVISED,
        TcbStatus.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED,
    }:
        text = json.dumps(intel().tcb_info(tcbLevels=[tcb_level(status=status.value)]))
        assert TcbInfo.parse(text.encode()).levels[0].standing.status is status
