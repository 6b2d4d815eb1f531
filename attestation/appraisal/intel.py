"""The steps that an Intel quote of either kind goes through (docs/appraisal.md, `tdx` and `sgx`).

Five links tie the report to Intel: the attestation key signs it, the quoting enclave's report names
that key, the PCK signs that report, a PCK CA issued the PCK, and the pinned root issued the CA. A
verifier that leaves out one of them accepts a quote that anyone can make.
"""

import hashlib
import hmac
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from typing import TypeVar

from attrs import field, frozen
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from attestation.appraisal.checklist import Checklist, Weakness
from attestation.appraisal.claims import Case, Claims
from attestation.appraisal.intel_refusals import (
    TCB_REFUSALS,
    AdvisoryError,
    AttestationKeyError,
    PckCertificateMissingError,
    PlatformNotAcceptedError,
    QuotingEnclaveError,
    TcbEvaluationError,
    TeeMismatchError,
)
from attestation.appraisal.intel_tcb import Tcb
from attestation.appraisal.refusals import BindingMismatchError
from attestation.endorsements.collateral import Collateral, CollateralKind
from attestation.endorsements.intel_chain import (
    PckChain,
    public_key,
    split_certificates,
    verify_p256,
    verify_pck_chain,
)
from attestation.endorsements.intel_collateral import (
    QuoteCollateral,
    read_collateral,
    select_collateral,
)
from attestation.endorsements.intel_tcb import TcbStatus
from attestation.endorsements.revocation import (
    RevocationMissingError,
    RevocationStaleError,
    check_not_revoked,
)
from attestation.errors import DecodeError, SignatureInvalidError, VerificationError
from attestation.evidence.intel_quote import Quote, Tee
from attestation.evidence.intel_quote_bodies import EnclaveAttributes
from attestation.policy.intel import IntelPolicy
from attestation.policy.revocation import Revocation

B = TypeVar("B")


@frozen(kw_only=True)
class Given:
    """What the steps look at: a quote, what came with it, and what it is judged by."""

    quote: Quote
    certificates: tuple[bytes, ...] = field(repr=False)
    collateral: Collateral = field(repr=False)
    policy: IntelPolicy
    root: x509.Certificate = field(repr=False)
    now: datetime


@frozen(kw_only=True)
class Vouched:
    """A platform that Intel vouches for, and what Intel says of its kind."""

    chain: PckChain
    collateral: QuoteCollateral


def parse_quote(data: bytes, tee: Tee, body: type[B]) -> tuple[Quote, B]:
    """Return the quote and its body, which must be of `tee`."""
    quote = Quote.from_bytes(data)
    if quote.tee is not tee or not isinstance(quote.body, body):
        raise TeeMismatchError(f"a quote of {quote.tee} where one of {tee} is needed")
    return quote, quote.body


def run_signature_steps(given: Given, checks: Checklist) -> None:
    """Run "quote signature" and "attestation key": what needs nothing but the quote."""
    checks.run(_quote_signature, given.quote)
    checks.run(_attestation_key, given.quote)


def run_platform_steps(given: Given, checks: Checklist) -> Vouched:
    """Run the steps from "PCK certificate" to "quoting enclave"."""
    chain = checks.need("leads to the pinned Intel root", _pck_chain, given)
    checks.run(_qe_report, given.quote, chain)
    checks.run(_platform, given.policy, chain)
    collateral = checks.need("is for this platform", _collateral, given, chain)
    vouched = Vouched(chain=chain, collateral=collateral)
    checks.run(_tcb_info, given, collateral)
    checks.run(_qe_identity, given, collateral)
    checks.run(_revocation, given, vouched)
    checks.run(_quoting_enclave, given.quote, collateral)
    return vouched


def run_tcb_steps(
    given: Given, vouched: Vouched, appraise: Callable[[], Tcb], checks: Checklist
) -> Claims:
    """Run "TCB evaluation" and "TCB status"; return what there is to say about the platform."""
    checks.run(_tcb_evaluation, given.policy, vouched.collateral)
    found: list[Tcb] = []

    def judge() -> str | Weakness:
        found.append(appraise())
        return _tcb_status(given.policy, found[0])

    checks.run(judge)
    return _claims(given, vouched) | (_tcb_claims(found[0]) if found else {})


def check_binding(quote: Quote, case: Case) -> str:
    """Check that the quote is about this bundle's keys and Challenges."""
    if not hmac.compare_digest(quote.body.report_data, case.report_data()):
        raise BindingMismatchError("the quote is about other keys or Challenges")
    return "the quote names this key set and these Challenges"


def _quote_signature(quote: Quote) -> str:
    verify_p256(_attestation_public_key(quote.attestation_key), quote.signature, quote.signed)
    return "signed by the attestation key"


@lru_cache(maxsize=256)
def _attestation_public_key(point: bytes) -> ec.EllipticCurvePublicKey:
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + point)
    except ValueError as error:
        raise SignatureInvalidError("the attestation key is no point of P-256") from error


def _attestation_key(quote: Quote) -> str:
    digest = hashlib.sha256(quote.attestation_key + quote.qe_authentication_data).digest()
    # The second half of REPORTDATA is zero: no room for another meaning.
    if not hmac.compare_digest(quote.qe_report.report_data, digest.ljust(64, b"\0")):
        raise AttestationKeyError("the QE report is about another attestation key")
    return "the QE report is about the attestation key"


def _pck_chain(given: Given) -> PckChain:
    return verify_pck_chain(_find_certificates(given), root=given.root, now=given.now)


def _find_certificates(given: Given) -> tuple[bytes, ...]:
    """Return the chain in the quote or, where it has none, the first beside it that fits."""
    certification = given.quote.certification
    if certification.has_certificates:
        return split_certificates(certification.data)
    beside = [given.certificates, *_chains_in(given.collateral)]
    candidates = [chain for chain in beside if chain]
    if not candidates:
        raise PckCertificateMissingError(f"certification data of type {certification.kind}")
    return next((chain for chain in candidates if _fits(given, chain)), candidates[0])


def _chains_in(collateral: Collateral) -> list[tuple[bytes, ...]]:
    found = []
    for data in collateral.of(CollateralKind.INTEL_QUOTE_COLLATERAL):
        try:
            found.append(read_collateral(data).pck_certificates)
        except DecodeError:
            continue  # said where collateral is selected
    return found


def _fits(given: Given, certificates: tuple[bytes, ...]) -> bool:
    try:
        chain = verify_pck_chain(certificates, root=given.root, now=given.now)
        _qe_report(given.quote, chain)
    except (DecodeError, VerificationError):
        return False
    return True


def _qe_report(quote: Quote, chain: PckChain) -> str:
    _check_qe_report(chain.certificates[0], quote.qe_report_signature, quote.qe_report_bytes)
    return "signed by the PCK"


@lru_cache(maxsize=256)
def _check_qe_report(leaf: x509.Certificate, signature: bytes, report: bytes) -> None:
    # A platform makes one QE report for its attestation key and sends it with every quote.
    verify_p256(public_key(leaf), signature, report)


def _platform(policy: IntelPolicy, chain: PckChain) -> str:
    ppid = chain.pck.ppid
    if policy.accept_any_platform:
        return "any: the policy says so"
    for accepted, proof in policy.platforms:
        if accepted == ppid:
            return f"named, custody proof sha256:{proof.hex()}" if proof else "named by the policy"
    raise PlatformNotAcceptedError(f"PPID {ppid.hex()} is not named")


def _collateral(given: Given, chain: PckChain) -> QuoteCollateral:
    return select_collateral(
        given.collateral.of(CollateralKind.INTEL_QUOTE_COLLATERAL),
        chain=chain,
        tee=given.quote.tee,
        root=given.root,
        now=given.now,
    )


def _tcb_info(given: Given, collateral: QuoteCollateral) -> str:
    collateral.check_tcb_info(root=given.root, now=given.now)
    return f"to be renewed by {collateral.tcb_info.next_update.isoformat()}"


def _qe_identity(given: Given, collateral: QuoteCollateral) -> str:
    collateral.check_qe_identity(root=given.root, now=given.now)
    return f"to be renewed by {collateral.qe_identity.next_update.isoformat()}"


def _revocation(given: Given, vouched: Vouched) -> str | Weakness:
    leaf, issuer, root = vouched.chain.certificates
    own = (vouched.collateral.root_ca_crl, vouched.collateral.pck_crl)
    crls = [crl for crl in (*own, *given.collateral.of(CollateralKind.CRL)) if crl]
    signers = vouched.collateral.signers(root=given.root, now=given.now)
    issued = [(leaf, issuer), *((entry, root) for entry in (issuer, root, *signers))]
    try:
        for certificate, by in issued:
            check_not_revoked(certificate, issuer=by, crls=crls, now=given.now)
    except (RevocationMissingError, RevocationStaleError) as error:
        if given.policy.revocation is Revocation.OPTIONAL:
            return Weakness(code="revocation-unknown", detail=f"{error}: the policy permits that")
        raise
    return f"{len(issued)} certificates are not revoked"


def _quoting_enclave(quote: Quote, collateral: QuoteCollateral) -> str:
    report, identity = quote.qe_report, collateral.qe_identity
    if report.flags & EnclaveAttributes.DEBUG:
        raise QuotingEnclaveError("the quoting enclave is in debug mode")
    if report.mr_signer != identity.mr_signer or report.isv_prod_id != identity.isv_prod_id:
        raise QuotingEnclaveError("another signer or product than Intel's quoting enclave")
    if report.misc_select & identity.misc_select_mask != identity.misc_select:
        raise QuotingEnclaveError("MISCSELECT is not that of Intel's quoting enclave")
    attributes = int.from_bytes(report.attributes, "little")
    if attributes & identity.attributes_mask != identity.attributes:
        raise QuotingEnclaveError("the attributes are not those of Intel's quoting enclave")
    return f"Intel's, SVN {report.isv_svn}"


def _tcb_evaluation(policy: IntelPolicy, collateral: QuoteCollateral) -> str:
    number = min(collateral.tcb_info.evaluation_number, collateral.qe_identity.evaluation_number)
    if number < policy.minimum_evaluation_number:
        raise TcbEvaluationError(f"{number} where {policy.minimum_evaluation_number} is needed")
    return f"number {number}"


def _tcb_status(policy: IntelPolicy, tcb: Tcb) -> str | Weakness:
    status = tcb.overall.status
    detail = f"{status}, level of {tcb.overall.date or 'no date'}"
    refusal = TCB_REFUSALS[status]
    if status not in policy.tcb_statuses:
        raise refusal(detail)
    if status is TcbStatus.UP_TO_DATE:
        return detail
    unnamed = [name for name in tcb.overall.advisories if name not in policy.advisories]
    if unnamed and not policy.accept_any_advisory:
        raise AdvisoryError(f"{status} because of {', '.join(unnamed)}")
    return Weakness(code=refusal.code, detail=detail)


def _claims(given: Given, vouched: Vouched) -> dict[str, str]:
    pck, info = vouched.chain.pck, vouched.collateral.tcb_info
    claims = {
        "quote version": str(given.quote.version),
        "report data": given.quote.body.report_data.hex(),
        "FMSPC": pck.fmspc.hex(),
        "PPID": pck.ppid.hex(),
        "PCK CA": vouched.chain.ca.value,
        "SGX type": pck.sgx_type.name.lower().replace("_", " "),
        "TCB evaluation data number": str(info.evaluation_number),
    }
    if pck.platform_instance is not None:
        claims["platform instance"] = pck.platform_instance.hex()
    claims |= {name: "yes" if value else "no" for name, value in pck.flags.items()}
    return claims


def _tcb_claims(tcb: Tcb) -> dict[str, str]:
    claims = {
        "TCB status": tcb.overall.status.value,
        "TCB level date": tcb.overall.date,
        "advisories": ", ".join(tcb.overall.advisories),
        "QE status": tcb.quoting_enclave.status.value,
    }
    if tcb.module is not None:
        claims["TDX module status"] = tcb.module.status.value
    return claims
