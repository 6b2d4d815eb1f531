"""TCB status: Intel's rules, and a second implementation of them that shares nothing with ours.

The second one works on the JSON itself, as tables, so that a slip in one does not repeat in both.
"""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation.appraisal.intel_refusals import TdxModuleError
from attestation.appraisal.intel_tcb import appraise_tcb, find_module
from attestation.endorsements.intel_pck import Pck, SgxType
from attestation.endorsements.intel_tcb import QeIdentity, TcbInfo
from attestation.evidence.intel_quote import Quote
from tests.simulators.intel import Domain, intel, module, svn_level, tcb_level

STATUSES = [
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
    "Revoked",
]


def pck(components: bytes, pce_svn: int) -> Pck:
    return Pck(
        ppid=bytes(16),
        components=components,
        pce_svn=pce_svn,
        cpu_svn=components,
        pce_id=bytes(2),
        fmspc=bytes(6),
        sgx_type=SgxType.SCALABLE,
        platform_instance=None,
        flags={},
    )


def status_of(
    *,
    levels: list[dict[str, Any]],
    modules: list[dict[str, Any]] | None = None,
    qe: list[dict[str, Any]] | None = None,
    components: bytes = b"\5" * 16,
    pce_svn: int = 11,
    svn: bytes = bytes([6, 1, 3]) + bytes(13),
    svn2: bytes | None = None,
) -> tuple[str, tuple[str, ...]]:
    """Return the status and advisories of a platform."""
    modules = [module("TDX_01", svn_level(1))] if modules is None else modules
    changes = {"tcbLevels": levels, "tdxModuleIdentities": modules}
    info = TcbInfo.parse(json.dumps(intel().tcb_info(**changes)).encode())
    identity = intel().qe_identity(tcbLevels=qe or [svn_level(8)])
    quote = Quote.from_bytes(
        intel().td_quote(Domain(tee_tcb_svn=svn, tee_tcb_svn2=svn2), version=5)
    )
    found = appraise_tcb(
        info,
        QeIdentity.parse(json.dumps(identity).encode()),
        pck(components, pce_svn),
        quote,
    )
    return found.overall.status.value, found.overall.advisories


# -- a second implementation ----------------------------------------------------------------------

WORSE = {
    "UpToDate": "OutOfDate",
    "SWHardeningNeeded": "OutOfDate",
    "ConfigurationNeeded": "OutOfDateConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded": "OutOfDateConfigurationNeeded",
}


def second_opinion(
    levels: list[dict[str, Any]],
    modules: list[dict[str, Any]],
    qe: list[dict[str, Any]],
    components: bytes,
    pce_svn: int,
    svn: bytes,
) -> str:
    """Return the status of a TD of TDX 1.0, from the JSON."""

    def key(level: dict[str, Any]) -> tuple[list[int], int, list[int]]:
        tcb = level["tcb"]
        return svns(tcb["sgxtcbcomponents"]), tcb["pcesvn"], svns(tcb["tdxtcbcomponents"])

    def svns(entries: list[dict[str, int]]) -> list[int]:
        return [entry["svn"] for entry in entries]

    status = "NotSupported"
    for level in sorted(levels, key=key, reverse=True):
        sgx, pce, tdx = key(level)
        skip = 2 if svn[1] > 0 else 0
        lower = [i for i in range(16) if components[i] < sgx[i]]
        lower += [i for i in range(skip, 16) if svn[i] < tdx[i]]
        if not lower and pce_svn >= pce:
            status = level["tcbStatus"]
            break
    parts = [(qe, 8)]
    if svn[1] > 0:
        (chosen,) = [entry for entry in modules if entry["id"] == f"TDX_{svn[1]:02X}"]
        parts.insert(0, (chosen["tcbLevels"], svn[0]))
    for part, have in parts:
        reached = [level for level in part if level["tcb"]["isvsvn"] <= have]
        if not reached or status == "NotSupported":
            return "NotSupported"
        best = max(reached, key=lambda level: level["tcb"]["isvsvn"])["tcbStatus"]
        if best == "Revoked":
            status = "Revoked"
        elif best != "UpToDate":
            status = WORSE.get(status, status)
    return status


component = st.integers(0, 3)
components16 = st.lists(component, min_size=16, max_size=16)


@st.composite
def platform_levels(draw: st.DrawFn) -> list[dict[str, Any]]:
    return [
        tcb_level(
            sgx=draw(st.lists(st.integers(0, 2), min_size=16, max_size=16)),
            tdx=draw(st.lists(st.integers(0, 2), min_size=16, max_size=16)),
            pcesvn=draw(st.integers(10, 12)),
            status=draw(st.sampled_from(STATUSES)),
        )
        for _ in range(draw(st.integers(0, 4)))
    ]


@st.composite
def svn_levels(draw: st.DrawFn) -> list[dict[str, Any]]:
    svns = draw(st.lists(st.integers(0, 9), min_size=1, max_size=4, unique=True))
    return [svn_level(svn, draw(st.sampled_from(STATUSES[:1] + STATUSES[4:]))) for svn in svns]


@settings(max_examples=150, deadline=None)
@given(
    platform_levels(), svn_levels(), svn_levels(), components16, st.integers(9, 13), components16
)
def test_two_implementations_agree_on_every_platform(
    levels: list[dict[str, Any]],
    modules: list[dict[str, Any]],
    qe: list[dict[str, Any]],
    components: list[int],
    pce_svn: int,
    svn: list[int],
) -> None:
    identities = [module(f"TDX_{version:02X}", *modules) for version in range(1, 4)]
    ours, _ = status_of(
        levels=levels,
        modules=identities,
        qe=qe,
        components=bytes(components),
        pce_svn=pce_svn,
        svn=bytes(svn),
    )
    theirs = second_opinion(levels, identities, qe, bytes(components), pce_svn, bytes(svn))
    assert ours == theirs


# -- rules, one by one ----------------------------------------------------------------------------


@pytest.mark.parametrize("index", range(16))
def test_one_component_below_a_level_is_below_it(index: int) -> None:
    for name in ("sgx", "tdx"):
        needed = [0] * 16
        needed[index] = 5 + (name == "sgx")
        level = tcb_level(**{"sgx": [0] * 16, "tdx": [0] * 16, name: needed})
        status, _ = status_of(levels=[level], svn=bytes([4, 0]) + bytes([4] * 14))
        assert status == "NotSupported", name


def test_module_svns_of_different_versions_are_not_compared() -> None:
    """04.01.07 is newer than 05.00.07: comparing all bytes calls a current platform outdated."""
    newest = tcb_level(sgx=[0] * 16, tdx=[5, 0, 7] + [0] * 13)
    older = tcb_level(sgx=[0] * 16, tdx=[0] * 16, status="OutOfDate")
    svn = bytes([4, 1, 7]) + bytes(13)
    assert status_of(levels=[older, newest], svn=svn)[0] == "UpToDate"
    first_version = bytes([4, 0, 7]) + bytes(13)
    assert status_of(levels=[older, newest], svn=first_version)[0] == "OutOfDate"


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("part", ["module", "qe"])
def test_an_outdated_part_makes_the_whole_outdated(status: str, part: str) -> None:
    outdated = [svn_level(1, "OutOfDate", "INTEL-SA-00002")]
    level = tcb_level(sgx=[0] * 16, tdx=[0] * 16, status=status, advisories=["INTEL-SA-00001"])
    changes: dict[str, Any] = (
        {"modules": [module("TDX_01", *outdated)]} if part == "module" else {"qe": outdated}
    )
    found, advisories = status_of(levels=[level], **changes)
    assert found == WORSE.get(status, status)
    assert advisories == ("INTEL-SA-00001", "INTEL-SA-00002")


@pytest.mark.parametrize("part", ["module", "qe"])
def test_a_revoked_part_revokes_the_whole(part: str) -> None:
    revoked = [svn_level(1, "Revoked")]
    changes: dict[str, Any] = (
        {"modules": [module("TDX_01", *revoked)]} if part == "module" else {"qe": revoked}
    )
    assert status_of(levels=[tcb_level(tdx=[0] * 16)], **changes)[0] == "Revoked"


@pytest.mark.parametrize("part", ["module", "qe"])
def test_a_part_below_all_its_levels_is_not_supported(part: str) -> None:
    changes: dict[str, Any] = (
        {"modules": [module("TDX_01", svn_level(99))]} if part == "module" else {}
    ) or {"qe": [svn_level(99)]}
    assert status_of(levels=[tcb_level(tdx=[0] * 16)], **changes) == ("NotSupported", ())


def test_a_module_version_without_identity_is_refused_and_not_passed_over() -> None:
    with pytest.raises(TdxModuleError):
        status_of(levels=[tcb_level(tdx=[0] * 16)], modules=[module("TDX_03", svn_level(1))])
    info = TcbInfo.parse(json.dumps(intel().tcb_info()).encode())
    assert find_module(info, bytes(16)) == info.module


# -- relaunch (TDX 1.5) ---------------------------------------------------------------------------

OLD, NEW = bytes([3, 1, 3]) + bytes(13), bytes([6, 1, 3]) + bytes(13)
MODULES = [module("TDX_01", svn_level(5), svn_level(2, "OutOfDate"))]
LEVEL = tcb_level(sgx=[0] * 16, tdx=[5, 0, 3] + [0] * 13)
OLD_LEVEL = {**tcb_level(sgx=[0] * 16, tdx=[0] * 16), "tcbStatus": "OutOfDate"}


def test_an_old_td_on_an_updated_machine_needs_a_new_start_only() -> None:
    assert status_of(levels=[LEVEL], modules=MODULES, svn=OLD, svn2=NEW)[0] == "TDRelaunchAdvised"
    hardening = {**LEVEL, "tcbStatus": "ConfigurationNeeded"}
    found, _ = status_of(levels=[hardening], modules=MODULES, svn=OLD, svn2=NEW)
    assert found == "TDRelaunchAdvisedConfigurationNeeded"
    first = bytes([6, 0, 3]) + bytes(13)
    assert status_of(levels=[LEVEL], modules=MODULES, svn=OLD, svn2=first)[0] == "TDRelaunchAdvised"


@pytest.mark.parametrize(
    "changes",
    [
        {"svn2": OLD},
        {"svn2": None},
        {"svn2": bytes([6, 1, 2]) + bytes(13), "levels": [LEVEL, OLD_LEVEL]},
        {"svn2": bytes([4, 0, 3]) + bytes(13), "levels": [LEVEL, OLD_LEVEL]},
        {"svn2": NEW, "qe": [svn_level(8, "OutOfDate")]},
        {"svn2": NEW, "levels": [{**LEVEL, "tcbStatus": "OutOfDate"}]},
    ],
    ids=["old module", "TDX 1.0", "old microcode", "old first module", "old QE", "old platform"],
)
def test_a_new_start_is_not_advised_where_more_is_missing(changes: dict[str, Any]) -> None:
    given = {"levels": [LEVEL], "modules": MODULES, "svn": OLD, **changes}
    assert status_of(**given)[0] == "OutOfDate"


@pytest.mark.parametrize("svn", [OLD, NEW])
@pytest.mark.parametrize("modules", [MODULES, [*MODULES, module("TDX_07")]])
def test_a_running_module_that_nobody_knows_is_no_update(
    svn: bytes, modules: list[dict[str, Any]]
) -> None:
    """Whatever started the TD: what runs now is below, or beside, all that Intel lists."""
    unknown = bytes([9, 7, 9]) + bytes(13)
    found = status_of(levels=[LEVEL], modules=modules, svn=svn, svn2=unknown)
    assert found[0] == "NotSupported"


def test_a_platform_that_falls_behind_while_the_td_runs_is_no_update() -> None:
    below = bytes([6, 1, 2]) + bytes(13)
    assert status_of(levels=[LEVEL], modules=MODULES, svn=NEW, svn2=below)[0] == "NotSupported"
    assert status_of(levels=[LEVEL, OLD_LEVEL], modules=MODULES, svn=NEW, svn2=below)[0] == (
        "UpToDate"
    )


def test_a_new_start_is_advised_whichever_part_was_old_when_the_td_started() -> None:
    """The microcode may have been what was old, and a level that needs settings is current too."""
    old_microcode = bytes([6, 1, 2]) + bytes(13)
    hardening = {**LEVEL, "tcbStatus": "SWHardeningNeeded"}
    for levels in ([LEVEL, OLD_LEVEL], [hardening, OLD_LEVEL]):
        found, _ = status_of(levels=levels, modules=MODULES, svn=old_microcode, svn2=NEW)
        assert found == "TDRelaunchAdvised"
