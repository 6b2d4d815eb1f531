"""Appraise Evidence of kind `tpm`: the steps of docs/appraisal.md, from 8 on.

Anything with a TPM 2.0 is this kind: a chip, a cloud's virtual TPM (Google's roots are built in),
or a software TPM that somebody vouches for.
"""

import hmac
from datetime import datetime
from typing import Final

from attrs import frozen
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from attestation.appraisal.checklist import Checklist, Step, Weakness
from attestation.appraisal.claims import Case, Claims
from attestation.appraisal.pcrs import PCR_STEPS, ParsedQuote, judge_pcrs, require_quote
from attestation.appraisal.refusals import BindingMismatchError, KeyAttributesError
from attestation.endorsements.collateral import Collateral, CollateralKind
from attestation.endorsements.revocation import RevocationMissingError, RevocationStaleError
from attestation.endorsements.tpm import check_revocation, endorse
from attestation.errors import SignatureInvalidError
from attestation.evidence.binding import qualifying_data
from attestation.evidence.tpm import Attest, Attributes, PcrBank, Public, Scheme, Signature
from attestation.evidence.tpm import TpmEvidence as Evidence
from attestation.evidence.tpm_forms import read_key
from attestation.policy.revocation import Revocation
from attestation.policy.tpm import TpmPolicy

REPORT_STEPS: Final = (
    Step.authentic("format"),
    Step.authentic("quote"),
    Step.authentic("attestation key"),
    Step.authentic("signature"),
    Step.authentic("endorsement"),
    *PCR_STEPS,
)
STEPS: Final = (*REPORT_STEPS, Step.authentic("binding"))

_REQUIRED: Final = (
    Attributes.RESTRICTED
    | Attributes.SIGN
    | Attributes.FIXED_TPM
    | Attributes.FIXED_PARENT
    | Attributes.SENSITIVE_DATA_ORIGIN
)

_DENIES: Final = TpmPolicy(pcr_bank=PcrBank.SHA256, pcrs=(), roots=(), attestation_keys=())
"""What a policy without a table for this kind says."""


@frozen(kw_only=True)
class _Parsed:
    ak: Public
    quote: ParsedQuote


def appraise(case: Case, checks: Checklist) -> Claims:
    """Run all steps; the claims are worth what their verdict is worth."""
    evidence = checks.need("a TPM attestation, its signature and its key", _parse_body, case)
    policy = case.policy.tpm or _DENIES
    parsed = _judge(evidence, policy, case.collateral, case.now, checks)
    # It is about these keys and Challenges.
    checks.run(check_binding, case, parsed.quote.attest)
    return _claims(parsed)


def examine(
    evidence: Evidence,
    *,
    policy: TpmPolicy,
    collateral: Collateral,
    now: datetime,
    checks: Checklist,
) -> Claims:
    """Run `REPORT_STEPS`: judge a quote by itself, whatever it is about."""
    both = checks.need("a TPM attestation, its signature and its key", _parse, evidence)
    return _claims(_judge(both, policy, collateral, now, checks))


def _judge(
    both: tuple[Evidence, _Parsed],
    policy: TpmPolicy,
    collateral: Collateral,
    now: datetime,
    checks: Checklist,
) -> _Parsed:
    evidence, parsed = both
    # A TPM made it, and it is a quote.
    quote = checks.need("a quote made inside a TPM", require_quote, parsed.quote.attest)
    # Its key signs nothing but what the TPM makes, and cannot leave the TPM.
    checks.run(check_attributes, parsed.ak)
    # That key signed it.
    checks.need(
        "signed by the attestation key",
        verify_signature,
        parsed.ak,
        parsed.quote.signature,
        evidence.attest,
    )
    # Someone whom the policy names vouches for the key.
    checks.run(_endorsement, evidence, parsed.ak, policy, collateral, now)
    # The values are the quoted ones, and the policy wants them.
    judge_pcrs(checks, parsed.quote, quote, policy)
    return parsed


def check_attributes(ak: Public) -> str:
    """Check that `ak` can only ever have signed what its TPM made."""
    if ak.attributes is None:
        return "the key came without its public area: its attributes are its endorser's word"
    if missing := _REQUIRED & ~ak.attributes:
        raise KeyAttributesError(f"the key lacks {missing.name}")
    if ak.attributes & Attributes.DECRYPT:
        raise KeyAttributesError("the key also decrypts")
    return "restricted to signing, fixed in its TPM"


def verify_signature(ak: Public, signature: Signature, signed: bytes) -> None:
    """Check that `ak` signed `signed`, or raise `SignatureInvalidError`.

    Over SHA-1 as well: that such a signature is not accepted is another step's word.
    """
    if ak.scheme not in (None, (signature.scheme, signature.hash)):
        raise SignatureInvalidError("the key signs with another scheme")
    algorithm = signature.signing_hash()
    try:
        match ak.key, signature.scheme:
            case rsa.RSAPublicKey() as key, Scheme.RSASSA:
                key.verify(signature.values[0], signed, padding.PKCS1v15(), algorithm)
            case rsa.RSAPublicKey() as key, Scheme.RSAPSS:
                # Part 1, B.7: the salt is as long as it can be or, under FIPS, as the hash.
                pss = padding.PSS(mgf=padding.MGF1(algorithm), salt_length=padding.PSS.AUTO)
                key.verify(signature.values[0], signed, pss, algorithm)
            case ec.EllipticCurvePublicKey() as key, Scheme.ECDSA:
                r, s = (int.from_bytes(value, "big") for value in signature.values)
                key.verify(encode_dss_signature(r, s), signed, ec.ECDSA(algorithm))
            case _:
                raise SignatureInvalidError("the scheme is not one of that key")
    except (InvalidSignature, UnsupportedAlgorithm) as error:
        raise SignatureInvalidError("the attestation key did not sign this") from error


def check_binding(case: Case, attest: Attest) -> str:
    """Check that the quote is about the key set and the Challenges of `case`."""
    if not hmac.compare_digest(attest.extra_data, qualifying_data(case.report_data())):
        raise BindingMismatchError("the quote is about other keys or Challenges")
    return "the quote names this key set and these Challenges"


def quote_claims(attest: Attest, parsed: ParsedQuote) -> Claims:
    """Return what a quote says, for people to read."""
    return {
        "firmware version": f"{attest.firmware_version:#018x}",
        "resets": f"{attest.reset_count} (restarts {attest.restart_count})",
        **{
            f"PCR {index} ({bank.value})": value.hex()
            for bank, index, value in parsed.evidence.pcrs
        },
    }


def _parse_body(case: Case) -> tuple[Evidence, _Parsed]:
    return _parse(Evidence.from_bytes(case.bundle.body))


def _parse(evidence: Evidence) -> tuple[Evidence, _Parsed]:
    ak = read_key(evidence.ak_public)
    return evidence, _Parsed(ak=ak, quote=ParsedQuote.of(evidence, ak))


def _endorsement(
    evidence: Evidence, ak: Public, policy: TpmPolicy, collateral: Collateral, now: datetime
) -> str | Weakness:
    endorsement = endorse(
        ak,
        evidence.ak_certificates,
        roots=policy.roots,
        pinned=policy.attestation_keys,
        intermediates=collateral.of(CollateralKind.TPM_CERTIFICATE),
        now=now,
    )
    try:
        check_revocation(endorsement.path, crls=collateral.of(CollateralKind.CRL), now=now)
    except (RevocationMissingError, RevocationStaleError) as error:
        if policy.revocation is not Revocation.OPTIONAL:
            raise
        return Weakness(
            code="revocation-unknown",
            detail=f"{endorsement.finding}; {error}: the policy permits that",
        )
    return endorsement.finding


def _claims(parsed: _Parsed) -> Claims:
    return {
        "attestation key": f"sha256:{parsed.ak.fingerprint().hex()}",
        **quote_claims(parsed.quote.attest, parsed.quote),
    }
