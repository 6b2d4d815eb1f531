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
    TcbStatus.CONFIGURATION_NEEDED: TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED,
    TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED: TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED,
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
    levels = [level for level in info.levels if _reaches(pck, level)]
    report = quote.body
    if not isinstance(report, TdReport):
        return _tcb(_first(levels), enclave, None)
    launched = _td_tcb(info, report.tee_tcb_svn, levels, enclave)
    if report.tee_tcb_svn2 is None:
        return launched
    try:
        running = _td_tcb(info, report.tee_tcb_svn2, levels, enclave).overall
    except TdxModuleError:
        running = NOT_SUPPORTED
    return evolve(launched, overall=_relaunch(launched.overall, running))


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


def _td_tcb(info: TcbInfo, svn: bytes, levels: Sequence[TcbLevel], enclave: Standing) -> Tcb:
    """Return the status of a TDX module of `svn` on a platform that reaches `levels`."""
    # Components 0 and 1 are SVN and major version of the module. From version 1 on they are judged
    # by the module's identity, since SVNs of different versions do not compare.
    start = 2 if svn[1] else 0
    platform = _first([level for level in levels if _covers(svn[start:], level.tdx[start:])])
    module = _svn_standing(find_module(info, svn).levels, svn[0]) if svn[1] else None
    return _tcb(platform if module is None else _merge(platform, module), enclave, module)


def _covers(found: bytes, needed: bytes) -> bool:
    return all(have >= need for have, need in zip(found, needed, strict=True))


def _first(levels: Sequence[TcbLevel]) -> Standing:
    return levels[0].standing if levels else NOT_SUPPORTED


def _svn_standing(levels: Sequence[SvnLevel], svn: int) -> Standing:
    return next((level.standing for level in levels if svn >= level.isv_svn), NOT_SUPPORTED)


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


def _relaunch(launched: Standing, running: Standing) -> Standing:
    """Return whether starting the TD anew is all that is missing.

    A TD keeps the TCB of the module that started it. TDX 1.5 also reports the module that runs now:
    where the platform with that one is not out of date, only this TD is.
    """
    if TcbStatus.NOT_SUPPORTED in (launched.status, running.status):
        return NOT_SUPPORTED
    if launched.status not in _OUTDATED or running.status not in _CURRENT:
        return launched
    advised = TcbStatus.TD_RELAUNCH_ADVISED
    if _CONFIGURATION & {launched.status, running.status}:
        advised = TcbStatus.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED
    return evolve(launched, status=advised)
