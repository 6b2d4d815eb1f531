"""Intel quotes: every field is where the specification puts it, and nothing else is a quote."""

from contextlib import suppress

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from attestation import limits
from attestation.errors import DecodeError
from attestation.evidence.intel_quote import CertificationType, Quote, Tee
from attestation.evidence.intel_quote_bodies import EnclaveReport, TdExtension, TdReport
from attestation.evidence.sgx import SgxEvidence
from attestation.evidence.tdx import TdxEvidence
from tests.simulators.intel import Domain, intel

TD15 = Domain(
    report_data=bytes(range(64)),
    tee_tcb_svn2=b"\x22" * 16,
    mr_service_td=b"\x33" * 48,
    mr_config_id=b"\x44" * 48,
)
EXTENSION = bytes([1]) + b"".join(
    bytes([value]) * size
    for value, size in enumerate((32, 48, 48, 8, 16, 16, 12, 48, 8), start=0x61)
)
TD15EX = evolve(TD15, extension=EXTENSION)
QUOTES = {
    "v3-sgx": intel().sgx_quote(),
    "v4-sgx": intel().sgx_quote(version=4),
    "v4-tdx": intel().td_quote(),
    "v5-sgx": intel().sgx_quote(version=5),
    "v5-tdx10": intel().td_quote(version=5),
    "v5-tdx15": intel().td_quote(TD15, version=5),
    "v5-tdx15ex": intel().td_quote(TD15EX, version=5),
}
SIGNED = {
    "v3-sgx": 48 + 384,
    "v4-sgx": 48 + 384,
    "v4-tdx": 48 + 584,
    "v5-sgx": 54 + 384,
    "v5-tdx10": 54 + 584,
    "v5-tdx15": 54 + 648,
    "v5-tdx15ex": 54 + 885,
}


def patched(data: bytes, offset: int, value: bytes) -> bytes:
    return data[:offset] + value + data[offset + len(value) :]


@pytest.mark.parametrize("name", QUOTES)
def test_what_is_signed_is_header_descriptor_and_body(name: str) -> None:
    quote = Quote.from_bytes(QUOTES[name])
    assert quote.version == int(name[1])
    assert quote.signed == QUOTES[name][: SIGNED[name]]
    assert quote.tee is (Tee.SGX if "sgx" in name else Tee.TDX)
    assert quote.qe_authentication_data == bytes(range(32))
    assert quote.certification.kind is CertificationType.PCK_CHAIN
    assert quote.certification.has_certificates
    assert quote.qe_report.isv_svn == 8


def test_every_field_of_a_td_report_is_found() -> None:
    report = Quote.from_bytes(QUOTES["v5-tdx15"]).body
    assert isinstance(report, TdReport)
    assert report == TdReport(
        tee_tcb_svn=TD15.tee_tcb_svn,
        mr_seam=TD15.mr_seam,
        mr_signer_seam=TD15.mr_signer_seam,
        seam_attributes=0,
        td_attributes=1 << 28,
        xfam=0x602E7,
        mr_td=TD15.mr_td,
        mr_config_id=TD15.mr_config_id,
        mr_owner=bytes(48),
        mr_owner_config=bytes(48),
        rtmrs=TD15.rtmrs,
        report_data=TD15.report_data,
        tee_tcb_svn2=TD15.tee_tcb_svn2,
        mr_service_td=TD15.mr_service_td,
        extension=None,
    )


def test_every_field_of_an_extended_report_is_found() -> None:
    report = Quote.from_bytes(QUOTES["v5-tdx15ex"]).body
    assert isinstance(report, TdReport)
    assert report.extension == TdExtension(
        vmid=1,
        td_id=b"\x61" * 32,
        device_info=b"\x62" * 48,
        initial_service_td=b"\x63" * 48,
        initial_service_td_attributes=0x6464646464646464,
        initial_cpu_svn=b"\x65" * 16,
        initial_tee_tcb_svn=b"\x66" * 16,
        initial_fmspc=b"\x67" * 12,
        current_service_td=b"\x68" * 48,
        current_service_td_attributes=0x6969696969696969,
    )
    assert report.service_tds == (b"\x33" * 48, b"\x63" * 48, b"\x68" * 48)
    assert evolve(report, extension=None) == Quote.from_bytes(QUOTES["v5-tdx15"]).body


def test_a_report_of_tdx_10_has_no_service_td() -> None:
    report = Quote.from_bytes(QUOTES["v5-tdx10"]).body
    assert isinstance(report, TdReport)
    assert (report.tee_tcb_svn2, report.mr_service_td) == (None, None)
    assert report.service_tds == ()


def test_every_field_of_an_enclave_report_is_found() -> None:
    made = intel().sgx_quote(report_data=bytes(range(64)), config_id=b"\x55" * 64)
    report = Quote.from_bytes(made).body
    assert isinstance(report, EnclaveReport)
    assert (report.mr_enclave, report.mr_signer) == (b"\xe1" * 32, b"\xe2" * 32)
    assert (report.isv_prod_id, report.isv_svn, report.config_svn) == (1, 3, 0)
    assert (report.cpu_svn, report.misc_select) == (b"\x0b" * 16, 0)
    assert report.report_data == bytes(range(64))
    assert report.config_id == b"\x55" * 64
    assert report.flags == 5


@pytest.mark.parametrize("name", QUOTES)
def test_a_quote_cut_at_any_length_is_refused(name: str) -> None:
    for length in range(len(QUOTES[name])):
        with pytest.raises(DecodeError):
            Quote.from_bytes(QUOTES[name][:length])


@pytest.mark.parametrize("name", QUOTES)
def test_what_follows_a_quote_is_zeros_or_refused(name: str) -> None:
    for count in (1, 39, 307, 3065):
        assert Quote.from_bytes(QUOTES[name] + bytes(count)) == Quote.from_bytes(QUOTES[name])
        with pytest.raises(DecodeError):
            Quote.from_bytes(QUOTES[name] + bytes(count) + b"\1")


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (0, b"\2\0"),
        (0, b"\6\0"),
        (0, b"\3\0"),  # version 3 knows no TDs
        (2, b"\3\0"),  # ECDSA P-384
        (4, b"\x82\0\0\0"),
        (4, b"\x81\1\0\0"),
        (12, b"\0"),  # another quoting enclave's vendor
    ],
    ids=["version-2", "version-6", "version-3", "p384", "tee", "tee-high", "vendor"],
)
def test_a_header_that_means_something_else_is_refused(offset: int, value: bytes) -> None:
    with pytest.raises(DecodeError):
        Quote.from_bytes(patched(QUOTES["v4-tdx"], offset, value))


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (48, b"\1\0"),  # an enclave's body
        (48, b"\2\0"),  # the size is that of TDX 1.5
        (48, b"\4\0"),
        (50, b"\x48\2\0\0"),
        (50, b"\0\0\0\0"),
        (4, b"\0\0\0\0"),  # the header says SGX
    ],
)
def test_a_body_that_does_not_fit_its_descriptor_is_refused(offset: int, value: bytes) -> None:
    with pytest.raises(DecodeError):
        Quote.from_bytes(patched(QUOTES["v5-tdx15"], offset, value))


def test_lengths_that_disagree_are_refused() -> None:
    """Two readers that believe different lengths would see different certificates."""
    quote = QUOTES["v4-tdx"]
    at = 48 + 584
    for offset in (
        at,
        at + 4 + 128 + 2,
        at + 4 + 128 + 6 + 448,
        at + 4 + 128 + 6 + 448 + 2 + 32 + 2,
    ):
        size = int.from_bytes(quote[offset : offset + 2], "little")
        for wrong in (size - 1, size + 1):
            with pytest.raises(DecodeError):
                Quote.from_bytes(patched(quote, offset, wrong.to_bytes(2, "little")))
        with pytest.raises(DecodeError):
            Quote.from_bytes(patched(quote, offset, b"\xff\xff"))


def test_certification_data_of_an_unknown_type_is_refused() -> None:
    for kind in (0, 6, 7, 0xFFFF):
        with pytest.raises(DecodeError):
            Quote.from_bytes(intel().td_quote(certification=(kind, b"data")))
    with pytest.raises(DecodeError):
        Quote.from_bytes(patched(QUOTES["v4-tdx"], 48 + 584 + 4 + 128, b"\5\0"))


def test_the_other_types_only_say_which_certificate_to_look_for() -> None:
    for kind in (1, 2, 3):
        quote = Quote.from_bytes(intel().td_quote(certification=(kind, bytes(404))))
        assert not quote.certification.has_certificates


def test_more_bytes_than_a_quote_can_have_are_refused_unread() -> None:
    with pytest.raises(DecodeError):
        Quote.from_bytes(QUOTES["v4-tdx"] + bytes(limits.INTEL_QUOTE_BYTES))


@given(st.binary(max_size=6000))
def test_any_bytes_parse_or_are_refused(data: bytes) -> None:
    with suppress(DecodeError):
        Quote.from_bytes(data)


@given(st.sampled_from(sorted(QUOTES)), st.integers(0, 6000), st.binary(min_size=1, max_size=8))
def test_a_quote_with_any_bytes_in_it_parses_or_is_refused(
    name: str, offset: int, value: bytes
) -> None:
    with suppress(DecodeError):
        Quote.from_bytes(patched(QUOTES[name], offset, value))


@pytest.mark.parametrize("size", [0, 383, 385, 584])
def test_bodies_have_one_size(size: int) -> None:
    with pytest.raises(DecodeError):
        EnclaveReport.from_bytes(bytes(size))
    with pytest.raises(DecodeError):
        TdReport.from_bytes(bytes(size + 1))


def test_the_bodies_of_bundles_are_records() -> None:
    tdx = TdxEvidence(quote=b"quote", certificates=(b"der",), event_log=b"log")
    assert TdxEvidence.from_bytes(tdx.to_bytes()) == tdx
    sgx = SgxEvidence(quote=b"quote")
    assert SgxEvidence.from_bytes(sgx.to_bytes()) == sgx
