"""dcap-qvl, the Rust verifier, on every Intel vector: it agrees, or docs/appraisal.md says why not.

It knows no middle between a status and an error. Where it refuses a genuine quote, the reason is in
a list that is as short as it is.
"""

import hashlib
import json
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from attestation.appraisal.result import Question, Tier
from tests.simulators.intel import (
    NOW,
    Domain,
    encoded,
    intel,
    module,
    pem,
    raw_point,
    svn_level,
    tcb_level,
)
from tests.simulators.intel_case import examine_td, gather
from tests.vectors.intel import KINDS, examine, words
from tests.vectors.verdict import conclude

dcap_qvl = pytest.importorskip("dcap_qvl", reason="dcap-qvl is not installed")

VECTORS = Path(__file__).resolve().parents[2] / ".." / "shared" / "vectors"
INDEX = VECTORS / "index.shared.json"

POLICY: Final = {
    "Debug mode is enabled": "debug",
    "SEPT_VE_DISABLE is not enabled": "sept_ve_disable_not_set",
    "Invalid MR service TD": "mrservicetd_nonzero",
    "No matching TCB level found": "tcb:NotSupported",
}
"""What it refuses as if it were forged, and we call authentic and not acceptable."""


def _cases() -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    if not INDEX.exists():
        return {}
    return {
        f"{entry['kind']}-{entry['name']}-{check['id']}": (entry, check)
        for entry in json.loads(INDEX.read_text())["entries"]
        if entry["kind"] in KINDS
        for check in entry["checks"]
        if "collateral" in {**entry["files"], **check.get("inputs", {})}
    }


CASES = _cases()


def theirs(quote: bytes, collateral: bytes, now: datetime, root: bytes | None = None) -> str:
    """Return the status that it gives, or "error: " and its words."""
    given = dcap_qvl.QuoteCollateralV3.from_json(collateral.decode())
    seconds = int(now.timestamp())
    try:
        if root is None:
            return str(dcap_qvl.verify(quote, given, seconds).status)
        return str(dcap_qvl.verify_with_root_ca(quote, given, root, seconds).status)
    except Exception as error:  # noqa: BLE001 - its errors have no class of their own
        return f"error: {error}"


@pytest.mark.skipif(not CASES, reason="the shared vectors are not here")
@pytest.mark.parametrize("name", CASES or [""])
def test_it_agrees_on_every_vector(name: str) -> None:
    entry, check = CASES[name]
    files = {**entry["files"], **check.get("inputs", {})}
    given = [(VECTORS / files[role]).read_bytes() for role in ("quote", "collateral")]
    answer = theirs(given[0], given[1], datetime.fromisoformat(check["verify_at"]))
    checks, claims = examine(entry, check, VECTORS)
    got = conclude(checks, words)
    if got.verdict != "authentic":
        assert answer.startswith("error: ")
        return
    known = [word for text, word in POLICY.items() if text in answer]
    if known:
        assert known[0] in got.reasons
    else:
        assert answer == claims["TCB status"]


def _both(collateral: bytes, domain: Domain | None = None, **quote: Any) -> tuple[str, str]:
    """Return the status of both verifiers for a simulated TD."""
    made = intel().td_quote(domain, **quote)
    root = intel().root.certificate.public_bytes(Encoding.DER)
    checks, claims = examine_td(made, gather(collateral))
    refused = any(
        check.question is Question.AUTHENTIC and check.tier is Tier.CONTRAINDICATED
        for check in checks
    )
    return ("reject" if refused else claims["TCB status"]), theirs(made, collateral, NOW, root)


def test_it_accepts_what_the_simulator_makes() -> None:
    assert _both(intel().collateral()) == ("UpToDate", "UpToDate")
    domain = Domain(tee_tcb_svn2=bytes([6, 1, 3]) + bytes(13))
    assert _both(intel().collateral(), domain, version=5) == ("UpToDate", "UpToDate")


@pytest.mark.parametrize(
    "status",
    ["SWHardeningNeeded", "ConfigurationNeeded", "ConfigurationAndSWHardeningNeeded", "OutOfDate"],
)
def test_it_agrees_on_the_status_of_a_level(status: str) -> None:
    given = intel().collateral(tcb_info={"tcbLevels": [tcb_level(status=status)]})
    assert _both(given) == (status, status)


def test_it_agrees_that_module_versions_do_not_compare() -> None:
    levels = [tcb_level(tdx=[7, 0, 2] + [0] * 13), tcb_level(tdx=[0] * 16, status="OutOfDate")]
    assert _both(intel().collateral(tcb_info={"tcbLevels": levels})) == ("UpToDate", "UpToDate")


def test_it_agrees_that_an_outdated_module_makes_the_platform_outdated() -> None:
    outdated = {"tdxModuleIdentities": [module("TDX_01", svn_level(9), svn_level(1, "OutOfDate"))]}
    assert _both(intel().collateral(tcb_info=outdated)) == ("OutOfDate", "OutOfDate")


def test_it_agrees_that_open_settings_stay_open_when_a_part_is_outdated() -> None:
    changes = {
        "tcbLevels": [tcb_level(status="ConfigurationNeeded")],
        "tdxModuleIdentities": [module("TDX_01", svn_level(9), svn_level(1, "OutOfDate"))],
    }
    both = _both(intel().collateral(tcb_info=changes))
    assert both == ("OutOfDateConfigurationNeeded", "OutOfDateConfigurationNeeded")


def test_it_agrees_that_a_new_start_may_be_all_that_is_missing() -> None:
    old, new = bytes([3, 1, 3]) + bytes(13), bytes([6, 1, 3]) + bytes(13)
    domain = Domain(tee_tcb_svn=old, tee_tcb_svn2=new)
    both = _both(intel().collateral(), domain, version=5)
    assert both == ("TDRelaunchAdvised", "TDRelaunchAdvised")


@pytest.mark.parametrize("svn", [bytes([6, 1, 2]), bytes([6, 1, 3]), bytes([3, 1, 3])])
@pytest.mark.parametrize("svn2", [bytes([6, 1, 2]), bytes([6, 1, 3]), bytes([3, 1, 3])])
@pytest.mark.parametrize("status", ["UpToDate", "SWHardeningNeeded", "ConfigurationNeeded"])
@pytest.mark.parametrize("extension", [b"", bytes(237)], ids=["1.5", "1.5 extended"])
def test_it_agrees_on_what_started_a_td_and_what_runs_now(
    svn: bytes, svn2: bytes, status: str, extension: bytes
) -> None:
    levels = [
        tcb_level(tdx=[5, 0, 3] + [0] * 13, status=status),
        tcb_level(tdx=[0] * 16, status="OutOfDate"),
    ]
    domain = Domain(tee_tcb_svn=svn + bytes(13), tee_tcb_svn2=svn2 + bytes(13), extension=extension)
    ours, other = _both(intel().collateral(tcb_info={"tcbLevels": levels}), domain, version=5)
    assert ours == other


@pytest.mark.parametrize(
    "quote",
    [
        {"vouched": b"\1" * 32},
        {"qe": {"mr_signer": bytes(32)}},
        {"qe": {"isv_prod_id": 9}},
        {"qe": {"misc_select": 1}},
    ],
    ids=["attestation key", "QE signer", "QE product", "MISCSELECT"],
)
def test_it_refuses_the_forgeries_that_we_refuse(quote: dict[str, Any]) -> None:
    ours, other = _both(intel().collateral(), **quote)
    assert (ours, other.startswith("error: ")) == ("reject", True)


# -- disagreements: docs/appraisal.md lists them ---------------------------------------------------


@pytest.mark.parametrize("bits", [1, 0, 1 << 29], ids=["debug", "SEPT_VE", "migratable"])
def test_d1_it_gives_no_status_where_a_policy_is_not_met(bits: int) -> None:
    attributes = bits if bits == 0 else bits | 1 << 28
    ours, other = _both(intel().collateral(), Domain(td_attributes=attributes))
    assert (ours, other.startswith("error: ")) == ("UpToDate", True)


def test_d2_it_reads_half_of_the_qe_reports_data() -> None:
    digest = hashlib.sha256(raw_point(intel().attestation_key) + bytes(range(32))).digest()
    assert _both(intel().collateral(), vouched=digest + b"\1") == ("reject", "UpToDate")


def test_d3_it_does_not_compare_the_pce() -> None:
    assert _refused_here(intel().collateral(tcb_info={"pceId": "0100"})) == "UpToDate"


def test_d4_it_passes_over_whatever_follows_a_quote() -> None:
    assert _refused_here(intel().collateral(), padding=b"hidden") == "UpToDate"


def test_d5_it_takes_a_chain_from_the_collateral_before_that_of_the_quote() -> None:
    other = intel().pck_ca.issue("PCK", extension=intel().platform.extension())
    chain = pem([other.certificate, *intel().chain[1:]])
    ours, theirs_ = _both(intel().collateral(pck_certificate_chain=chain))
    assert (ours, theirs_.startswith("error: ")) == ("UpToDate", True)


@pytest.mark.parametrize(
    "quote",
    [{"authentication": b"short"}, {"certification": (5, b"".join(encoded(*intel().chain)))}],
    ids=["authentication data", "certificates in DER"],
)
def test_d6_it_knows_one_form_where_the_format_has_several(quote: dict[str, Any]) -> None:
    ours, other = _both(intel().collateral(), **quote)
    assert (ours, other.startswith("error: ")) == ("UpToDate", True)


def _refused_here(collateral: bytes, **quote: Any) -> str:
    """Return what it says of something that is refused here before any status is known."""
    made = intel().td_quote(**quote)
    checks, _ = examine_td(made, gather(collateral))
    assert any(check.tier is Tier.CONTRAINDICATED for check in checks)
    root = intel().root.certificate.public_bytes(Encoding.DER)
    return theirs(made, collateral, NOW, root)
