"""The certificate table of an extended report: a host's bytes, read without leaving them."""

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation import limits
from attestation.errors import DecodeError
from attestation.evidence.sev_snp_table import CertificateTable
from tests.simulators.amd import ARK_GUID, ASK_GUID, CRL_GUID, VCEK_GUID, VLEK_GUID, table

REAL = (
    Path(__file__).resolve().parents[3]
    / "shared/vectors/sev-snp/genoa-v3-tsm-extended/cert_table.bin"
)
STRANGE_GUID = "00000000-0000-0000-0000-000000000001"
GOOD = table((ARK_GUID, b"ark"), (ASK_GUID, b"ask"), (VCEK_GUID, b"vcek"), (CRL_GUID, b"crl"))


@pytest.mark.skipif(not REAL.exists(), reason="no shared vectors beside this checkout")
def test_a_real_table_is_read() -> None:
    read = CertificateTable.from_bytes(REAL.read_bytes())
    assert len(read.certificates) == 3
    assert all(entry.startswith(b"-----BEGIN") for entry in read.certificates)


def test_certificates_and_lists_are_told_apart() -> None:
    read = CertificateTable.from_bytes(GOOD)
    assert read.certificates == (b"ark", b"ask", b"vcek")
    assert read.crls == (b"crl",)
    assert CertificateTable.from_bytes(table((VLEK_GUID, b"v"))).certificates == (b"v",)


def test_no_table_holds_nothing() -> None:
    assert CertificateTable.from_bytes(b"") == CertificateTable()
    assert CertificateTable.from_bytes(bytes(24)) == CertificateTable()


def test_a_kind_that_is_unknown_is_passed_over() -> None:
    read = CertificateTable.from_bytes(table((STRANGE_GUID, b"?"), (VCEK_GUID, b"vcek")))
    assert read.certificates == (b"vcek",)


def test_a_guid_in_another_byte_order_is_unknown() -> None:
    """Text order is what Linux and AMD use; Microsoft's order would be another GUID."""
    good = table((VCEK_GUID, b"vcek"))
    swapped = good[3::-1] + good[5:3:-1] + good[7:5:-1] + good[8:]
    assert CertificateTable.from_bytes(swapped).certificates == ()


@pytest.mark.parametrize(
    ("offset", "length"),
    [
        (48, 5),
        (0, 4),  # the header itself
        (23, 4),
        (52, 1),
        (0xFFFFFFFF, 1),
        (48, 0xFFFFFFFF),
        (0xFFFFFFFF, 0xFFFFFFFF),
    ],
)
def test_a_row_that_points_outside_does_not_parse(offset: int, length: int) -> None:
    good = table((VCEK_GUID, b"vcek"))
    with pytest.raises(DecodeError):
        CertificateTable.from_bytes(good[:16] + struct.pack("<II", offset, length) + good[24:])


def test_a_table_without_an_end_does_not_parse() -> None:
    with pytest.raises(DecodeError):
        CertificateTable.from_bytes(GOOD[:24])


def test_the_same_kind_twice_does_not_parse() -> None:
    with pytest.raises(DecodeError):
        CertificateTable.from_bytes(table((VCEK_GUID, b"one"), (VCEK_GUID, b"two")))


def test_a_table_of_many_rows_does_not_parse() -> None:
    rows = [(f"00000000-0000-0000-0000-{index:012}", b"") for index in range(1, 40)]
    with pytest.raises(DecodeError):
        CertificateTable.from_bytes(table(*rows))


def test_a_table_that_is_too_long_is_not_looked_at() -> None:
    with pytest.raises(DecodeError):
        CertificateTable.from_bytes(bytes(limits.SNP_CERTIFICATE_TABLE_BYTES + 1))


def test_a_table_cut_anywhere_holds_no_more_than_it_did() -> None:
    whole = set(CertificateTable.from_bytes(GOOD).certificates)
    for length in range(1, len(GOOD)):
        try:
            read = CertificateTable.from_bytes(GOOD[:length])
        except DecodeError:
            continue
        assert set(read.certificates) <= whole


@given(st.binary(max_size=600))
def test_any_bytes_are_a_table_or_a_decode_error(data: bytes) -> None:
    try:
        read = CertificateTable.from_bytes(data)
    except DecodeError:
        return
    assert all(entry in data for entry in read.certificates)


@given(st.data())
def test_a_changed_table_parses_or_is_a_decode_error(data: st.DataObject) -> None:
    offset = data.draw(st.integers(0, len(GOOD) - 1))
    changed = GOOD[:offset] + data.draw(st.binary(min_size=1, max_size=4)) + GOOD[offset + 1 :]
    try:
        read = CertificateTable.from_bytes(changed)
    except DecodeError:
        return
    assert all(entry in changed for entry in read.certificates)
