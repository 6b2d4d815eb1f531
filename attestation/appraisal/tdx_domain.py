"""What a policy wants of a trust domain itself: its attributes and what was measured into it."""

from collections.abc import Mapping
from typing import Final

from attestation.appraisal.checklist import Weakness
from attestation.appraisal.claims import Claims
from attestation.appraisal.intel_refusals import (
    DebugError,
    EventLogMismatchError,
    SeptVeError,
    ServiceTdError,
    TdAttributesError,
    TdMeasurementError,
    XfamError,
)
from attestation.evidence.intel_quote_bodies import (
    TD_DEBUG_CLASS,
    TD_MEASUREMENT_BYTES,
    XFAM_FIXED,
    XFAM_KNOWN,
    TdAttributes,
    TdReport,
)
from attestation.evidence.tdx import replay_rtmrs
from attestation.policy.tdx import WEAK_BITS, Register, TdWeakness, TdxPolicy

_KNOWN_BITS: Final = sum(TdAttributes)
_ZEROS: Final = bytes(TD_MEASUREMENT_BYTES)


def check_debug(policy: TdxPolicy, report: TdReport) -> str | Weakness:
    """Check that the host cannot look into the TD."""
    group = report.td_attributes & TD_DEBUG_CLASS
    if not group:
        return "not under debug"
    detail = f"bits {group:#04x} of group TUD are set"
    if TdWeakness.DEBUG in policy.allow and group == TdAttributes.DEBUG:
        return Weakness(code=DebugError.code, detail=detail)
    raise DebugError(detail)


def check_attributes(policy: TdxPolicy, report: TdReport) -> str | Weakness:
    """Check all attributes but debug; those that are not known here are refused."""
    attributes = report.td_attributes & ~TD_DEBUG_CLASS
    if unknown := attributes & ~_KNOWN_BITS:
        raise TdAttributesError(f"bits {unknown:#x} have no meaning that is known here")
    sept_ve = not attributes & TdAttributes.SEPT_VE_DISABLE
    if sept_ve and TdWeakness.SEPT_VE not in policy.allow:
        raise SeptVeError("SEPT_VE_DISABLE is not set")
    weak = {name for name, bit in WEAK_BITS.items() if attributes & bit}
    if refused := weak - set(policy.allow):
        raise TdAttributesError(", ".join(sorted(refused)))
    if sept_ve:
        weak.add(TdWeakness.SEPT_VE)
    if weak:
        return Weakness(code=TdAttributesError.code, detail=", ".join(sorted(weak)))
    return "none that weakens the TD"


def check_xfam(policy: TdxPolicy, report: TdReport) -> str:
    """Check the processor features that the TD may use."""
    if policy.xfam:
        if report.xfam not in policy.xfam:
            raise XfamError(f"{report.xfam:#x} is not named")
        return "named by the policy"
    if report.xfam & XFAM_FIXED != XFAM_FIXED or report.xfam & ~XFAM_KNOWN:
        raise XfamError(f"{report.xfam:#x} has bits that the TDX module does not define")
    return "features that the TDX module defines"


def check_service_td(policy: TdxPolicy, report: TdReport) -> str:
    """Check that no service TD is bound, or one that the policy names."""
    accepted = policy.accepted(Register.MR_SERVICE_TD)
    # TDX 1.0 has no such field, and no service TDs either.
    values = report.service_tds or (_ZEROS,)
    for value in values:
        if accepted is not None and value not in accepted:
            raise ServiceTdError(f"MRSERVICETD is {value.hex()}")
    return "none is bound" if set(values) == {_ZEROS} else "one that the policy accepts"


def check_measurements(policy: TdxPolicy, report: TdReport) -> str | Weakness:
    """Check every register against its Reference Values."""
    free: list[Register] = []
    values = _values(report)
    for register, value in values.items():
        accepted = policy.accepted(register)
        if accepted is None:
            free.append(register)
        elif value not in accepted:
            raise TdMeasurementError(f"{register} is {value.hex()}")
    if Register.MR_TD in free:
        # Firmware of any kind can write whatever it likes into the registers that it extends.
        return Weakness(code="td-measurement-any", detail="the policy permits any MRTD")
    return f"{len(values) - len(free)} registers have Reference Values"


def check_event_log(event_log: bytes | None, report: TdReport) -> str:
    """Check that the log, where there is one, leads to the RTMRs that it speaks of."""
    if event_log is None:
        return "there is none"
    replayed = replay_rtmrs(event_log)
    for index, value in replayed.items():
        if report.rtmrs[index] != value:
            raise EventLogMismatchError(f"the log makes RTMR{index} {value.hex()}")
    return f"leads to RTMR {', '.join(str(index) for index in sorted(replayed))}"


def describe(report: TdReport) -> Claims:
    """Return what the report says of the TD."""
    claims = {str(register): value.hex() for register, value in _values(report).items()}
    if report.extension is not None:
        claims |= {"TD id": report.extension.td_id.hex(), "VM id": str(report.extension.vmid)}
    return claims | {
        "td_attributes": f"{report.td_attributes:#018x}",
        "xfam": f"{report.xfam:#018x}",
        "tee_tcb_svn": report.tee_tcb_svn.hex(),
    }


def _values(report: TdReport) -> Mapping[Register, bytes]:
    rtmrs = (Register.RTMR0, Register.RTMR1, Register.RTMR2, Register.RTMR3)
    return {
        Register.MR_TD: report.mr_td,
        **dict(zip(rtmrs, report.rtmrs, strict=True)),
        Register.MR_CONFIG_ID: report.mr_config_id,
        Register.MR_OWNER: report.mr_owner,
        Register.MR_OWNER_CONFIG: report.mr_owner_config,
        Register.MR_SEAM: report.mr_seam,
    }
