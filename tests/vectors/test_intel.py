"""Real Intel quotes: the verdicts of the shared index, and the fields that a parser must return."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.x509 import Certificate

from attestation.endorsements.chains import parse_certificate
from attestation.endorsements.intel_chain import (
    PckChain,
    intel_root,
    split_certificates,
    verify_pck_chain,
)
from attestation.evidence.intel_quote import Quote
from attestation.evidence.intel_quote_bodies import (
    EnclaveAttributes,
    EnclaveReport,
    TdAttributes,
    TdReport,
)
from attestation.evidence.tdx import replay_rtmrs
from tests.vectors.intel import KINDS, examine, words
from tests.vectors.verdict import agrees, conclude

VECTORS = Path(__file__).resolve().parents[2] / ".." / "shared" / "vectors"
INDEX = VECTORS / "index.shared.json"

pytestmark = pytest.mark.skipif(not INDEX.exists(), reason="the shared vectors are not here")


def _entries() -> list[dict[str, Any]]:
    if not INDEX.exists():
        return []
    entries = json.loads(INDEX.read_text())["entries"]
    return [entry for entry in entries if entry["kind"] in KINDS]


ENTRIES = {f"{entry['kind']}-{entry['name']}": entry for entry in _entries()}
CHECKS = {
    f"{name}-{check['id']}": (name, check)
    for name, entry in ENTRIES.items()
    for check in entry["checks"]
}
FIELDS = [name for name, entry in ENTRIES.items() if entry["expected_fields"]]


@pytest.mark.parametrize("name", CHECKS)
def test_the_verdict_is_that_of_the_index(name: str) -> None:
    entry_name, check = CHECKS[name]
    checks, claims = examine(ENTRIES[entry_name], check, VECTORS)
    expected = check["expected"]
    got = conclude(checks, words)
    assert agrees(expected, got), got
    if expected["verdict"] == "authentic":
        assert set(got.reasons) == set(expected.get("reasons", ()))
        assert claims["TCB status"] == expected["tcb_status"]
        assert claims["QE status"] == expected["qe_status"]
        advisories = [name for name in claims["advisories"].split(", ") if name]
        assert sorted(advisories) == sorted(expected["advisory_ids"])


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_that_the_index_names_is_returned(name: str) -> None:
    expected = dict(ENTRIES[name]["expected_fields"])
    quote = Quote.from_bytes(_read(name, "quote"))
    found = _quote_fields(quote) | _pck_fields(quote)
    body = quote.body
    found |= _td_fields(body) if isinstance(body, TdReport) else _enclave_fields(body)
    size = len(quote.signed)
    data = _read(name, "quote")
    lengths = {size + 4 + int.from_bytes(data[size : size + 4], "little"), len(data)}
    # The index counts the zeros behind a quote in some entries and not in others.
    assert expected.pop("quote_length", len(data)) in lengths
    found["pck"] = {field: found["pck"][field] for field in expected["pck"]}
    assert {field: found[field] for field in expected} == expected


def _read(name: str, role: str) -> bytes:
    return (VECTORS / ENTRIES[name]["files"][role]).read_bytes()


def _quote_fields(quote: Quote) -> dict[str, Any]:
    return {
        "version": quote.version,
        "att_key_type": 2,
        "tee_type": {"SGX": "0x0", "TDX": "0x81"}[quote.tee],
        "report_data": quote.body.report_data.hex(),
        "qe_auth_data_length": len(quote.qe_authentication_data),
        "certification_data_type": int(quote.certification.kind),
    }


def _td_fields(report: TdReport) -> dict[str, Any]:
    bits = {
        name: bool(report.td_attributes & TdAttributes[name])
        for name in ("DEBUG", "SEPT_VE_DISABLE", "MIGRATABLE", "PKS", "KL", "PERFMON")
    }
    fields = {
        "body_type": "td10" if report.tee_tcb_svn2 is None else "td15",
        "debug": bits["DEBUG"],
        "td_attributes_bits": bits,
        "tee_tcb_svn": report.tee_tcb_svn.hex(),
        "mrseam": report.mr_seam.hex(),
        "mrsignerseam": report.mr_signer_seam.hex(),
        "seamattributes": report.seam_attributes.to_bytes(8, "little").hex(),
        "td_attributes": report.td_attributes.to_bytes(8, "little").hex(),
        "xfam": report.xfam.to_bytes(8, "little").hex(),
        "mrtd": report.mr_td.hex(),
        "mrconfigid": report.mr_config_id.hex(),
        "mrowner": report.mr_owner.hex(),
        "mrownerconfig": report.mr_owner_config.hex(),
        **{f"rtmr{index}": value.hex() for index, value in enumerate(report.rtmrs)},
    }
    if report.tee_tcb_svn2 is not None and report.mr_service_td is not None:
        fields["tee_tcb_svn2"] = report.tee_tcb_svn2.hex()
        fields["mrservicetd"] = report.mr_service_td.hex()
    return fields


def _enclave_fields(report: EnclaveReport) -> dict[str, Any]:
    return {
        "body_type": "sgx",
        "debug": bool(report.flags & EnclaveAttributes.DEBUG),
        "cpusvn": report.cpu_svn.hex(),
        "attributes": report.attributes.hex(),
        "mrenclave": report.mr_enclave.hex(),
        "mrsigner": report.mr_signer.hex(),
        "isvprodid": report.isv_prod_id,
        "isvsvn": report.isv_svn,
    }


def _pck_fields(quote: Quote) -> dict[str, Any]:
    chain = _chain(quote)
    leaf, pck = chain.certificates[0], chain.pck
    fields = {
        "fmspc": pck.fmspc.hex(),
        "pceid": pck.pce_id.hex(),
        "ppid": pck.ppid.hex(),
        "comp": list(pck.components),
        "pcesvn": pck.pce_svn,
        "sgxtype": f"{pck.sgx_type:02x}",
        "ca": chain.ca.value,
        "platform_instance": pck.platform_instance and pck.platform_instance.hex(),
    }
    return {"pck": fields, "pck_validity": [_begin(leaf).date().isoformat(), _end(leaf)]}


def _chain(quote: Quote) -> PckChain:
    certificates = split_certificates(quote.certification.data)
    begin = _begin(parse_certificate(certificates[0]))
    return verify_pck_chain(certificates, root=intel_root(), now=begin)


def _begin(certificate: Certificate) -> datetime:
    return certificate.not_valid_before_utc


def _end(certificate: Certificate) -> str:
    return certificate.not_valid_after_utc.date().isoformat()


# -- event logs -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in ENTRIES if "ccel" in ENTRIES[name]["files"]])
def test_an_event_log_of_the_same_boot_leads_to_the_registers(name: str) -> None:
    report = Quote.from_bytes(_read(name, "quote")).body
    assert isinstance(report, TdReport)
    replayed = replay_rtmrs(_read(name, "ccel"))
    assert sorted(replayed) == [0, 1, 2]
    assert [replayed[index] for index in range(3)] == list(report.rtmrs[:3])


@pytest.mark.parametrize(
    "name", [name for name in ENTRIES if "ccel_other_boot" in ENTRIES[name]["files"]]
)
def test_an_event_log_of_another_boot_is_refused(name: str) -> None:
    entry = ENTRIES[name]
    files = {**entry["files"], "ccel": entry["files"]["ccel_other_boot"]}
    for check in entry["checks"]:
        checks, _ = examine({**entry, "files": files}, check, VECTORS)
        got = conclude(checks, words)
        assert (got.verdict, got.reasons) == ("reject", ("rtmr_mismatch",))


# -- every byte -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tdx-v4-20a06f-nearai", "tdx-v5-td15-go-tdx-uptodate"])
def test_no_byte_of_a_real_quote_can_be_changed(name: str, tmp_path: Path) -> None:
    entry = ENTRIES[name]
    good = _read(name, "quote")
    (check, *_) = entry["checks"]
    collateral = (VECTORS / check["inputs"]["collateral"]).resolve()
    check = {**check, "inputs": {"collateral": str(collateral)}}
    changed = tmp_path / "quote"
    end = len(good.rstrip(b"\0"))
    for offset in range(0, end, 37):
        data = bytearray(good)
        data[offset] ^= 1 << offset % 8
        changed.write_bytes(data)
        checks, _ = examine({**entry, "files": {"quote": str(changed)}}, check, tmp_path)
        assert conclude(checks, words).verdict == "reject", offset
