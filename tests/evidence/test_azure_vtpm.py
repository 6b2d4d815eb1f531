"""What a paravisor keeps in NV memory: report, runtime data, and the one key that counts."""

import json
from typing import Any

import attrs
import pytest

from attestation import limits
from attestation.errors import DecodeError
from attestation.evidence.azure_vtpm import HclReport, RuntimeClaims, read_runtime_data
from tests.simulators.amd import SimulatedChip
from tests.simulators.azure import SHA384, TDX, SimulatedParavisor, jwk, runtime_text
from tests.simulators.tpm import RsaTpm

TPM = RsaTpm()
PARAVISOR = SimulatedParavisor(chip=SimulatedChip(), tpm=TPM)
REPORT = PARAVISOR.hcl_report()
OTHER_KEY = jwk(RsaTpm())


def text(**changes: Any) -> bytes:
    return runtime_text(TPM, **changes)


def test_the_text_is_kept_as_it_was_stored() -> None:
    """A text that is written out anew, with blanks or in another order, has another hash."""
    spaced = json.dumps(json.loads(text()), indent=1).encode()
    report = HclReport.from_bytes(attrs.evolve(PARAVISOR, text=spaced).hcl_report())
    assert report.runtime.text == spaced
    assert report.runtime.report_data() != HclReport.from_bytes(REPORT).runtime.report_data()
    assert report.runtime.claims().ak == HclReport.from_bytes(REPORT).runtime.claims().ak


def test_the_key_is_the_one_for_signing() -> None:
    claims = RuntimeClaims.from_text(text())
    assert claims.ak.fingerprint() == TPM.fingerprint()
    assert claims.configuration() == {"console-enabled": "True", "secure-boot": "True"}


def test_the_hash_is_the_one_that_the_header_names() -> None:
    report = HclReport.from_bytes(PARAVISOR.but(hash_type=SHA384).hcl_report())
    assert report.runtime.hash == "sha384"
    assert report.runtime.report_data()[48:] == bytes(16)


def test_runtime_data_are_read_without_the_report_around_them() -> None:
    alone = PARAVISOR.request_data(PARAVISOR.runtime_text())
    assert read_runtime_data(alone) == read_runtime_data(REPORT)
    assert read_runtime_data(alone + bytes(7)) == read_runtime_data(REPORT)


def test_no_report_cut_within_its_data_parses() -> None:
    end = len(REPORT.rstrip(b"\0"))
    for length in range(0, end, 5):
        with pytest.raises(DecodeError):
            HclReport.from_bytes(REPORT[:length])


@pytest.mark.parametrize(
    "report",
    [
        pytest.param(REPORT[:-1] + b"\1", id="something behind the text"),
        pytest.param(b"HCLB" + REPORT[4:], id="another magic"),
        pytest.param(PARAVISOR.but(version=2).hcl_report(), id="another version"),
        pytest.param(PARAVISOR.but(report_type=1).hcl_report(), id="an unknown processor"),
        pytest.param(PARAVISOR.but(hash_type=0).hcl_report(), id="an unknown hash"),
        pytest.param(REPORT + bytes(limits.HCL_REPORT_BYTES), id="too long"),
    ],
)
def test_another_report_is_malformed(report: bytes) -> None:
    with pytest.raises(DecodeError):
        HclReport.from_bytes(report)


@pytest.mark.parametrize(
    "runtime",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"[]", id="a list"),
        pytest.param(b"{}", id="no keys"),
        pytest.param(b'{"keys": {}}', id="keys that are no list"),
        pytest.param(b'{"keys": [1, null]}', id="keys that are none"),
        pytest.param(text() + text(), id="two documents"),
        pytest.param(b"[" * 100_000, id="nested deeply"),
        pytest.param(b'{"n": NaN}', id="not a number"),
        pytest.param(b'{"n": 1e400}', id="a float"),
        pytest.param(b'{"n": ' + b"1" * 5000 + b"}", id="a number of 5000 digits"),
        pytest.param(b'{"keys": [], "keys": []}', id="a name twice"),
        pytest.param(b"\xff\xfe", id="not UTF-8"),
        pytest.param(text(kid="HCLEkPub"), id="only the other key"),
        pytest.param(text(kty="oct"), id="a symmetric key"),
        pytest.param(text(key_ops=["decrypt"]), id="a key for something else"),
        pytest.param(text(key_ops=None), id="a key for nothing"),
        pytest.param(text(key_ops=["sign", "encrypt"]), id="a key for everything"),
        pytest.param(text(n=""), id="a modulus of nothing"),
        pytest.param(text(n="AQAB"), id="a modulus of 24 bits"),
        pytest.param(text(n=7), id="a modulus that is a number"),
        pytest.param(text(n="ä" * 342), id="a modulus that is not base64url"),
        pytest.param(text(n="A" * 2000), id="a modulus that is too long"),
        pytest.param(text(e="AA"), id="an exponent of zero"),
    ],
)
def test_runtime_data_without_the_key_are_malformed(runtime: bytes) -> None:
    with pytest.raises(DecodeError):
        RuntimeClaims.from_text(runtime)


def test_the_use_that_old_paravisors_wrote_is_read() -> None:
    """Those of 2022 and 2023 said of the attestation key, as of all keys, that it encrypts."""
    old = RuntimeClaims.from_text(text(key_ops=["encrypt"]))
    assert old.ak == RuntimeClaims.from_text(text()).ak


def test_two_keys_of_the_name_are_malformed() -> None:
    """Else one reader would take the first and another the last."""
    document = json.loads(text())
    document["keys"].append(OTHER_KEY)
    with pytest.raises(DecodeError):
        RuntimeClaims.from_text(json.dumps(document).encode())


def test_what_is_shown_of_the_configuration_cannot_move_a_cursor() -> None:
    document = json.loads(text())
    document["vm-configuration"] = {"a\x1b[2J": "\x1b]0;title\7" + "x" * 500, "nested": {"a": 1}}
    [(name, value)] = RuntimeClaims.from_text(json.dumps(document).encode()).configuration().items()
    assert name.isprintable()
    assert value.isprintable()
    assert len(value) <= 80


def test_a_td_report_is_told_from_an_snp_report() -> None:
    runtime = read_runtime_data(PARAVISOR.but(report_type=TDX).hcl_report())
    assert runtime.report_type.name == "TDX"
