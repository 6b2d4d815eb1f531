"""Appraise what `tests.simulators.intel` makes, and say what was refused."""

from contextlib import suppress
from datetime import datetime
from typing import Any

from attestation.appraisal import sgx, tdx
from attestation.appraisal.checklist import CannotContinueError, Checklist
from attestation.appraisal.claims import Claims
from attestation.appraisal.result import NOT_REACHED, Check, Tier
from attestation.endorsements.collateral import Collateral, CollateralKind
from attestation.endorsements.intel_tcb import TcbStatus
from attestation.evidence.sgx import SgxEvidence
from attestation.evidence.tdx import TdxEvidence
from attestation.policy.intel import IntelPolicy
from attestation.policy.revocation import Revocation
from attestation.policy.sgx import SgxPolicy
from attestation.policy.tdx import Register, TdxPolicy
from tests.simulators.intel import NOW, Domain, Intel, intel

MR_ENCLAVE, MR_SIGNER = b"\xe1" * 32, b"\xe2" * 32


def platform_policy(**changes: Any) -> IntelPolicy:
    """Return a policy for the simulated platform."""
    values: dict[str, Any] = {
        "tcb_statuses": (TcbStatus.UP_TO_DATE,),
        "minimum_evaluation_number": 20,
        "revocation": Revocation.REQUIRED,
        "accept_any_platform": False,
        "platforms": ((bytes(range(16)), b""),),
    }
    return IntelPolicy(**(values | changes))


def tdx_policy(
    domain: Domain | None = None,
    *,
    platform: IntelPolicy | None = None,
    registers: dict[Register, bytes | None] | None = None,
    **changes: Any,
) -> TdxPolicy:
    """Return a policy that names every register of `domain`; None in `registers` is any value."""
    domain = domain or Domain()
    values: dict[Register, bytes | None] = {
        Register.MR_TD: domain.mr_td,
        Register.RTMR0: domain.rtmrs[0],
        Register.RTMR1: domain.rtmrs[1],
        Register.RTMR2: domain.rtmrs[2],
        Register.RTMR3: domain.rtmrs[3],
        Register.MR_CONFIG_ID: bytes(48),
        Register.MR_OWNER: bytes(48),
        Register.MR_OWNER_CONFIG: bytes(48),
        Register.MR_SERVICE_TD: bytes(48),
        Register.MR_SEAM: domain.mr_seam,
        **(registers or {}),
    }
    rows = tuple(
        (register, value is None, () if value is None else (value,))
        for register, value in values.items()
    )
    return TdxPolicy(platform=platform or platform_policy(), registers=rows, **changes)


def sgx_policy(*, platform: IntelPolicy | None = None, **changes: Any) -> SgxPolicy:
    """Return a policy for the simulated enclave."""
    values: dict[str, Any] = {
        "accept_any_enclave": False,
        "enclaves": (MR_ENCLAVE,),
        "accept_any_signer": False,
        "signers": (MR_SIGNER,),
        "isv_prod_id": 1,
        "minimum_isv_svn": 3,
        "accept_any_config_id": False,
        "config_ids": (bytes(64),),
    }
    return SgxPolicy(platform=platform or platform_policy(), **(values | changes))


def gather(*items: bytes, crls: tuple[bytes, ...] = ()) -> Collateral:
    """Return collateral with these items of Intel's."""
    kinds = [(CollateralKind.INTEL_QUOTE_COLLATERAL, item) for item in items]
    return Collateral.from_items([*kinds, *((CollateralKind.CRL, crl) for crl in crls)])


def examine_td(
    quote: bytes,
    collateral: Collateral | None = None,
    *,
    policy: TdxPolicy | None = None,
    vendor: Intel | None = None,
    now: datetime = NOW,
    **evidence: Any,
) -> tuple[tuple[Check, ...], Claims]:
    """Judge a quote of a TD under the simulated root; return every check, and the claims."""
    vendor = vendor or intel()
    checks = Checklist()
    checks.announce(tdx.REPORT_STEPS)
    claims: Claims = {}
    with suppress(CannotContinueError):  # the checks say at which step
        claims = tdx.examine(
            TdxEvidence(quote=quote, **evidence),
            policy=policy or tdx_policy(),
            collateral=gather(vendor.collateral()) if collateral is None else collateral,
            now=now,
            checks=checks,
            root=lambda: vendor.root.certificate,
        )
    return checks.finish(), claims


def examine_enclave(
    quote: bytes,
    collateral: Collateral | None = None,
    *,
    policy: SgxPolicy | None = None,
    vendor: Intel | None = None,
    now: datetime = NOW,
    **evidence: Any,
) -> tuple[tuple[Check, ...], Claims]:
    """Judge a quote of an enclave under the simulated root."""
    vendor = vendor or intel()
    checks = Checklist()
    checks.announce(sgx.REPORT_STEPS)
    claims: Claims = {}
    with suppress(CannotContinueError):  # the checks say at which step
        claims = sgx.examine(
            SgxEvidence(quote=quote, **evidence),
            policy=policy or sgx_policy(),
            collateral=gather(vendor.collateral("SGX")) if collateral is None else collateral,
            now=now,
            checks=checks,
            root=lambda: vendor.root.certificate,
        )
    return checks.finish(), claims


def refused(checks: tuple[Check, ...]) -> dict[str, str]:
    """Return the codes of the checks that failed, by step."""
    return {
        check.name: check.code
        for check in checks
        if not check.tier.accepted and check.code != NOT_REACHED
    }


def warned(checks: tuple[Check, ...]) -> dict[str, str]:
    """Return the codes of the checks that passed with a warning, by step."""
    return {check.name: check.code for check in checks if check.tier is Tier.WARNING}


def tier_of(checks: tuple[Check, ...], name: str) -> Tier:
    """Return the tier of one step."""
    return next(check.tier for check in checks if check.name == name)
