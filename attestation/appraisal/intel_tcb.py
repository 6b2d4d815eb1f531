"""Which TCB status a platform has: Intel's rules for levels, TDX modules and quoting enclaves.

Intel SGX and TDX Provisioning Certification Service API, "TCB level comparison", and the behaviour
of Intel's Quote Verification Library. The rules decide nothing about acceptance: a policy does.
"""

from collections.abc import Sequence
from typing import Final

from attrs import evolve, frozen

from attestation.appraisal.intel_refusals import TdxModuleError
from attestation.endorsements.intel_pck import Pck
from attestation.endorsements.intel_tcb import (
    NOT_SUPPORTED,
    ModuleIdentity,
    QeIdentity,
    Standing,
    SvnLevel,
    TcbInfo,
    TcbLevel,
    TcbStatus,
)
from attestation.evidence.intel_quote import Quote
from attestation.evidence.intel_quote_bodies import TdReport

_OUT_OF_DATE: Final = {
    TcbStatus.UP_TO_DATE: TcbStatus.OUT_OF_DATE,
    TcbStatus.SW_HARDENING_NEEDED: TcbStatus.OUT_OF_DATE,
    TcbStatus.TD_RELAUNCH_ADVISED: TcbStatus.OUT_OF_DATE,
    TcbStatus.CONFIGURATION_NEEDED: TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED,
    TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED: TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED,
    TcbStatus.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED: TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED,
}
"""What a status becomes when another part of the platform is out of date; others stay."""

_CURRENT: Final = frozenset(
    {
        TcbStatus.UP_TO_DATE,
        TcbStatus.SW_HARDENING_NEEDED,
        TcbStatus.CONFIGURATION_NEEDED,
        TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED,
    }
)
_OUTDATED: Final = frozenset({TcbStatus.OUT_OF_DATE, TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED})
_CONFIGURATION: Final = frozenset(
    {
        TcbStatus.CONFIGURATION_NEEDED,
        TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED,
        TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED,
    }
)


@frozen(kw_only=True)
class Tcb:
    """The status of all parts together, and of those that have one of their own."""

    overall: Standing
    quoting_enclave: Standing
    module: Standing | None
    """Of a TDX module that has levels of its own; None for SGX and for the first modules."""


def appraise_tcb(info: TcbInfo, identity: QeIdentity, pck: Pck, quote: Quote) -> Tcb:
    """Return the status of the platform that made `quote`; raises `TdxModuleError`."""
    enclave = _svn_standing(identity.levels, quote.qe_report.isv_svn)
    report = quote.body
    if not isinstance(report, TdReport):
        return _tcb(_first([level for level in info.levels if _reaches(pck, level)]), enclave, None)
    sgx_levels = [level for level in info.levels if _reaches(pck, level)]
    levels = [level for level in sgx_levels if _reaches_tdx(report, level)]
    platform = _first(levels)
    module = _module_standing(info, report)
    if module is not None:
        merged = _merge(platform, module)
        platform = _relaunch(info, report, _first(sgx_levels), merged, module, enclave)
    return _tcb(platform, enclave, module)


def find_module(info: TcbInfo, tee_tcb_svn: bytes) -> ModuleIdentity:
    """Return who must have signed the TDX module of that SVN; raises `TdxModuleError`.

    The second byte is the module's major version. Each has an identity of its own, but for the
    first, which the older member of TCB info describes.
    """
    version = tee_tcb_svn[1]
    identity = info.module_identities.get(f"TDX_{version:02X}") if version else info.module
    if identity is None:
        raise TdxModuleError(f"TCB info knows no module TDX_{version:02X}")
    return identity


def _tcb(platform: Standing, enclave: Standing, module: Standing | None) -> Tcb:
    return Tcb(overall=_merge(platform, enclave), quoting_enclave=enclave, module=module)


def _reaches(pck: Pck, level: TcbLevel) -> bool:
    return pck.pce_svn >= level.pce_svn and _covers(pck.components, level.sgx)


def _reaches_tdx(report: TdReport, level: TcbLevel) -> bool:
    # Components 0 and 1 are SVN and major version of the module. From version 1 on they are judged
    # by the module's identity, since SVNs of different versions do not compare.
    start = 2 if report.tee_tcb_svn[1] else 0
    return _covers(report.tee_tcb_svn[start:], level.tdx[start:])


def _covers(found: bytes, needed: bytes) -> bool:
    return all(have >= need for have, need in zip(found, needed, strict=True))


def _first(levels: Sequence[TcbLevel]) -> Standing:
    return levels[0].standing if levels else NOT_SUPPORTED


def _svn_standing(levels: Sequence[SvnLevel], svn: int) -> Standing:
    return next((level.standing for level in levels if svn >= level.isv_svn), NOT_SUPPORTED)


def _module_standing(info: TcbInfo, report: TdReport) -> Standing | None:
    svn, version = report.tee_tcb_svn[:2]
    if not version:
        return None  # the levels of the platform have compared its SVN
    return _svn_standing(find_module(info, report.tee_tcb_svn).levels, svn)


def _merge(platform: Standing, part: Standing) -> Standing:
    """Return the status of a platform, one part of which has the status `part`."""
    if TcbStatus.NOT_SUPPORTED in (platform.status, part.status):
        return NOT_SUPPORTED
    status = platform.status
    if part.status is TcbStatus.REVOKED:
        status = TcbStatus.REVOKED
    elif part.status is not TcbStatus.UP_TO_DATE:
        status = _OUT_OF_DATE.get(status, status)
    return Standing(
        status=status,
        advisories=tuple(dict.fromkeys((*platform.advisories, *part.advisories))),
        date=min(platform.date, part.date),
    )


def _relaunch(
    info: TcbInfo,
    report: TdReport,
    sgx: Standing,
    platform: Standing,
    module: Standing,
    enclave: Standing,
) -> Standing:
    """Return whether starting the TD anew is all that is missing.

    A TD keeps the TCB of the module that started it. TDX 1.5 also reports the module that runs now:
    where only the former is out of date, the platform is not.
    """
    if (
        report.tee_tcb_svn2 is None
        or not info.levels
        or enclave.status is not TcbStatus.UP_TO_DATE
        or sgx.status not in _CURRENT
        or platform.status not in _OUTDATED
        or module.status is not TcbStatus.OUT_OF_DATE
    ):
        return platform
    svn2, newest = report.tee_tcb_svn2, info.levels[0].tdx
    least = newest[0]
    if svn2[1]:
        module_levels = find_module(info, svn2).levels
        if not module_levels:
            return NOT_SUPPORTED
        least = module_levels[0].isv_svn
    if svn2[0] < least or svn2[2] < newest[2]:
        return platform
    advised = TcbStatus.TD_RELAUNCH_ADVISED
    if _CONFIGURATION & {sgx.status, platform.status}:
        advised = TcbStatus.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED
    return evolve(platform, status=advised)
