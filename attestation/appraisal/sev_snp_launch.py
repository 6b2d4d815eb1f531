"""Steps of kind `sev-snp` about the guest: how it was launched, and at which level it speaks."""

from attestation.appraisal.checklist import Weakness
from attestation.appraisal.sev_snp_refusals import (
    GuestDebugError,
    GuestMigratableError,
    GuestPolicyError,
    LaunchIdentityError,
    LaunchMeasurementError,
    LaunchMeasurementsMissingError,
    VmplNotAcceptedError,
)
from attestation.evidence.sev_snp import GuestPolicy, Report
from attestation.policy.sev_snp import SevSnpPolicy


def check_debug(policy: SevSnpPolicy, report: Report) -> str | Weakness:
    """Refuse a guest whose memory the host may read."""
    if not report.allows(GuestPolicy.DEBUG):
        return "the host may not debug the guest"
    if not policy.allow_debug:
        raise GuestDebugError(f"guest policy {report.policy:#x}")
    return Weakness(code="guest-debug-allowed", detail="the host may read the guest's memory")


def check_migration(policy: SevSnpPolicy, report: Report) -> str | Weakness:
    """Refuse a guest that a migration agent may carry away."""
    if not report.allows(GuestPolicy.MIGRATE_MA):
        return "no migration agent"
    if not policy.allow_migration_agent:
        raise GuestMigratableError(f"guest policy {report.policy:#x}")
    return Weakness(code="guest-migration-allowed", detail="a migration agent may be associated")


def check_guest_policy(policy: SevSnpPolicy, report: Report) -> str:
    """Accept the rest of the guest policy, in which a bit may loosen what an older one means."""
    if not report.allows(GuestPolicy.MUST_BE_ONE):
        raise GuestPolicyError("bit 17, which is always set, is not")
    if report.unknown_policy:
        raise GuestPolicyError(f"bits {report.unknown_policy:#x} are unknown here")
    for bit, allowed, what in (
        (GuestPolicy.SMT, policy.allow_smt, "simultaneous multithreading"),
        (GuestPolicy.CXL_ALLOW, policy.allow_cxl, "CXL memory and devices"),
    ):
        if report.allows(bit) and not allowed:
            raise GuestPolicyError(f"the guest permits {what}")
    if not policy.allow_multiple_sockets and not report.allows(GuestPolicy.SINGLE_SOCKET):
        raise GuestPolicyError("the guest permits several sockets")
    if report.minimum_abi < policy.minimum_abi:
        major, minor = report.minimum_abi
        raise GuestPolicyError(f"the guest permits firmware of ABI {major}.{minor}")
    return f"guest policy {report.policy:#x}"


def check_vmpl(policy: SevSnpPolicy, report: Report) -> str:
    """Accept the privilege level that asked for the report; the host asks as 0xffffffff."""
    if report.vmpl not in policy.vmpls:
        raise VmplNotAcceptedError(f"asked for at VMPL {report.vmpl:#x}")
    return f"VMPL {report.vmpl}"


def check_measurement(policy: SevSnpPolicy, report: Report) -> str | Weakness:
    """Accept what was in the guest's memory when it began."""
    if policy.accept_any_measurement:
        return Weakness(
            code="launch-measurement-any", detail="the policy accepts whatever was launched"
        )
    if not policy.measurements:
        raise LaunchMeasurementsMissingError("the policy names no launch measurement")
    if report.measurement not in policy.measurements:
        raise LaunchMeasurementError(f"launched {report.measurement.hex()}")
    return "named by the policy"


def check_identity(policy: SevSnpPolicy, report: Report) -> str:
    """Accept host data, guest SVN and identity keys, where the policy names any."""
    if policy.host_data and report.host_data not in policy.host_data:
        raise LaunchIdentityError(f"host data {report.host_data.hex()}")
    if report.guest_svn < policy.minimum_guest_svn:
        raise LaunchIdentityError(f"guest SVN {report.guest_svn}")
    if policy.id_keys and report.id_key_digest not in policy.id_keys:
        raise LaunchIdentityError(f"identity key {report.id_key_digest.hex()}")
    if policy.author_keys and not (
        # Without AUTHOR_KEY_EN nobody checked the author's signature (AMD 56860, ID_AUTH).
        report.author_key_en and report.author_key_digest in policy.author_keys
    ):
        raise LaunchIdentityError(f"author key {report.author_key_digest.hex()}")
    named = sum(map(bool, (policy.host_data, policy.id_keys, policy.author_keys)))
    return f"as the policy names it in {named} of 3 fields"
