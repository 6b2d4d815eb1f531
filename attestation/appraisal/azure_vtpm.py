"""What both kinds of Azure confidential VM share: a quote of a vTPM that lives in the VM itself.

The processor signed, at boot, the hash of a text that names the vTPM's key (`runtime data`); that
key signs a fresh quote. So there are three links to check, and the hardware's own steps:

    processor -> hardware report -> REPORTDATA = hash of the text -> HCLAkPub -> quote -> nonce

The hardware report is as old as the boot and may be shown by anyone: only the quote is fresh.
"""

import hmac
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final

from attrs import frozen
from cryptography import x509

from attestation.appraisal.checklist import Checklist, Step
from attestation.appraisal.claims import Claims
from attestation.appraisal.pcrs import PCR_STEPS, ParsedQuote, judge_pcrs, require_quote
from attestation.appraisal.tpm import quote_claims, verify_signature
from attestation.endorsements import azure
from attestation.endorsements.chains import ChainNotAnchoredError, parse_certificate
from attestation.endorsements.collateral import Collateral, CollateralKind
from attestation.endorsements.revocation import RevocationMissingError, RevocationStaleError
from attestation.endorsements.tpm import (
    KeyNotEndorsedError,
    check_leaf,
    check_revocation,
    find_path,
)
from attestation.errors import DecodeError, VerificationError
from attestation.evidence.azure_vtpm import (
    AzureSnpVtpmEvidence,
    AzureTdxVtpmEvidence,
    ReportType,
    RuntimeClaims,
    RuntimeData,
    read_runtime_data,
)
from attestation.policy.tpm import PcrPolicy

VTPM_STEPS: Final = (
    Step.authentic("runtime data"),
    Step.authentic("quote"),
    Step.authentic("signature"),
    Step.authentic("AK certificate"),
    *PCR_STEPS,
    Step.authentic("runtime binding"),
)


class RuntimeBindingError(VerificationError):
    """The hardware report is about other runtime data. Treat the Evidence as forged."""

    code = "runtime-data-mismatch"


@frozen(kw_only=True)
class Vtpm:
    """The vTPM's half of the Evidence, parsed."""

    runtime: RuntimeData
    claims: RuntimeClaims
    quote: ParsedQuote
    ak_certificates: tuple[bytes, ...]

    @classmethod
    def of(
        cls, evidence: AzureSnpVtpmEvidence | AzureTdxVtpmEvidence, report_type: ReportType
    ) -> "Vtpm":
        """Parse it, or raise `DecodeError`."""
        runtime = read_runtime_data(evidence.hcl_report)
        if runtime.report_type is not report_type:
            raise DecodeError("runtime data of another kind of hardware")
        claims = runtime.claims()
        return cls(
            runtime=runtime,
            claims=claims,
            quote=ParsedQuote.of(evidence, claims.ak),
            ak_certificates=evidence.ak_certificates,
        )


def judge_vtpm(
    checks: Checklist,
    vtpm: Vtpm,
    *,
    policy: PcrPolicy,
    require_ak_certificate: bool,
    collateral: Collateral,
    now: datetime,
    report_data: Callable[[], bytes],
) -> Claims:
    """Run `VTPM_STEPS` but the first; `report_data` reads that of the hardware report."""
    ak = vtpm.claims.ak
    # A TPM made it, and it is a quote.
    quote = checks.need("a quote made inside a TPM", require_quote, vtpm.quote.attest)
    # The key that the runtime data name signed it.
    checks.run(_signature, vtpm)
    # A certificate for that key, if there is one, is Microsoft's.
    checks.run(_ak_certificate, vtpm, require_ak_certificate, collateral, now)
    # The values are the quoted ones, and the policy wants them.
    judge_pcrs(checks, vtpm.quote, quote, policy)
    # The hardware signed these runtime data.
    checks.run(_runtime_binding, vtpm.runtime, report_data)
    return {
        "vTPM key": f"sha256:{ak.fingerprint().hex()}",
        **quote_claims(vtpm.quote.attest, vtpm.quote),
        **{f"VM {name}": value for name, value in vtpm.claims.configuration().items()},
    }


def _signature(vtpm: Vtpm) -> str:
    verify_signature(vtpm.claims.ak, vtpm.quote.signature, vtpm.quote.evidence.attest)
    return "signed by the vTPM's key"


def _ak_certificate(
    vtpm: Vtpm,
    required: bool,  # noqa: FBT001 - a policy's word
    collateral: Collateral,
    now: datetime,
) -> str:
    if not vtpm.ak_certificates:
        if required:
            raise KeyNotEndorsedError("no certificate for the vTPM's key came with the quote")
        return "none given: the processor vouches for the key"
    path = _path_to_microsoft(
        vtpm.ak_certificates, collateral.of(CollateralKind.TPM_CERTIFICATE), now
    )
    check_leaf(path[0], vtpm.claims.ak)
    try:
        check_revocation(path, crls=collateral.of(CollateralKind.CRL), now=now)
    except (RevocationMissingError, RevocationStaleError):
        # Microsoft publishes no list for these certificates, and the processor vouches as well.
        return "Microsoft certified the key too; there is no list of what it revoked"
    return "Microsoft certified the key too"


def _path_to_microsoft(
    certificates: Sequence[bytes], intermediates: Sequence[bytes], now: datetime
) -> tuple[x509.Certificate, ...]:
    try:
        return find_path(certificates, roots=azure.roots(), intermediates=intermediates, now=now)
    except ChainNotAnchoredError as error:
        shown = [parse_certificate(der) for der in certificates]
        if any(certificate.issuer == certificate.subject for certificate in shown):
            raise  # it leads to a root, and that is somebody else's
        raise KeyNotEndorsedError(
            "an issuer between this certificate and the root is missing"
        ) from error


def _runtime_binding(runtime: RuntimeData, report_data: Callable[[], bytes]) -> str:
    if not hmac.compare_digest(report_data(), runtime.report_data()):
        raise RuntimeBindingError("REPORTDATA is not the hash of the runtime data")
    return f"REPORTDATA is the {runtime.hash} of the runtime data"
