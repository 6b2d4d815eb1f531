"""Appraise Evidence of kind `tpm`: steps 8 to 15 of docs/appraisal.md.

PCR numbers come from the signed selection and from nowhere else: the same values listed under other
numbers have the same digest.
"""

import hashlib
import hmac
from typing import Final

from attrs import frozen
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from attestation.appraisal.checklist import Checklist, Step
from attestation.appraisal.claims import Case, Claims
from attestation.appraisal.refusals import (
    BindingMismatchError,
    KeyAttributesError,
    NotAQuoteError,
    NotTpmGeneratedError,
    PcrDigestError,
    PcrNotAcceptedError,
    PcrNotQuotedError,
    ReferenceValuesMissingError,
    SelectionMismatchError,
    WeakHashError,
)
from attestation.endorsements.tpm import endorse
from attestation.errors import SignatureInvalidError
from attestation.evidence.binding import qualifying_data
from attestation.evidence.tpm import (
    GENERATED,
    Attest,
    Attributes,
    PcrRow,
    Public,
    Quote,
    Scheme,
    Signature,
    TpmEvidence,
)
from attestation.policy.tpm import TpmPolicy

STEPS: Final = (
    Step.authentic("format"),
    Step.authentic("quote"),
    Step.authentic("binding"),
    Step.authentic("attestation key"),
    Step.authentic("signature"),
    Step.authentic("endorsement"),
    Step.authentic("PCR values"),
    Step.acceptable("reference values"),
)

_REQUIRED: Final = (
    Attributes.RESTRICTED
    | Attributes.SIGN
    | Attributes.FIXED_TPM
    | Attributes.FIXED_PARENT
    | Attributes.SENSITIVE_DATA_ORIGIN
)


@frozen(kw_only=True)
class _Parsed:
    body: TpmEvidence
    attest: Attest
    signature: Signature
    ak: Public


def appraise(case: Case, checks: Checklist) -> Claims:
    """Run the steps; the claims are worth what their verdict is worth."""
    # (8) The body and every TPM structure in it parse.
    parsed = checks.need("a TPM attestation, its signature and its key", _parse, case.bundle.body)
    # (9) A TPM made it, and it is a quote.
    quote = checks.need("a quote made inside a TPM", require_quote, parsed.attest)
    # (10) It is about these keys and Challenges.
    checks.run(_binding, case, parsed.attest)
    # (11) Its key signs nothing but what the TPM makes, and cannot leave the TPM.
    checks.run(check_attributes, parsed.ak)
    # (12) That key signed it.
    checks.need("signed by the attestation key", _check_signature, parsed)
    # (13) Someone whom the policy names vouches for the key.
    checks.run(_endorsement, case, parsed)
    # (14) The listed values are the quoted ones, under the signed numbers.
    checks.run(check_values, quote, parsed.body.pcrs, parsed.signature)
    # (15) Every PCR that the policy names has one of its Reference Values.
    checks.run(_reference_values, case.policy.tpm, quote, parsed.body.pcrs)
    return _claims(parsed)


def require_quote(attest: Attest) -> Quote:
    """Return the quote in `attest`, or raise what it is instead."""
    if attest.magic != GENERATED:
        raise NotTpmGeneratedError(f"starts with {attest.magic:#010x}")
    if attest.quote is None:
        raise NotAQuoteError(f"an attestation of type {attest.kind:#06x}")
    return attest.quote


def check_attributes(ak: Public) -> str:
    """Check that `ak` can only ever have signed what its TPM made."""
    if missing := _REQUIRED & ~ak.attributes:
        raise KeyAttributesError(f"the key lacks {missing.name}")
    if ak.attributes & Attributes.DECRYPT:
        raise KeyAttributesError("the key also decrypts")
    return "restricted to signing, fixed in its TPM"


def verify_signature(ak: Public, signature: Signature, signed: bytes) -> None:
    """Check that `ak` signed `signed`; raises `WeakHashError` or `SignatureInvalidError`."""
    algorithm = signature.signing_hash()
    if algorithm is None:
        raise WeakHashError(f"signed over {signature.hash.value}")
    if ak.scheme not in (None, (signature.scheme, signature.hash)):
        raise SignatureInvalidError("the key signs with another scheme")
    try:
        match ak.key, signature.scheme:
            case rsa.RSAPublicKey() as key, Scheme.RSASSA:
                key.verify(signature.values[0], signed, padding.PKCS1v15(), algorithm)
            case ec.EllipticCurvePublicKey() as key, Scheme.ECDSA:
                r, s = (int.from_bytes(value, "big") for value in signature.values)
                key.verify(encode_dss_signature(r, s), signed, ec.ECDSA(algorithm))
            case _:
                raise SignatureInvalidError("the scheme is not one of that key")
    except InvalidSignature as error:
        raise SignatureInvalidError("the attestation key did not sign this") from error


def check_values(quote: Quote, pcrs: tuple[PcrRow, ...], signature: Signature) -> str:
    """Check that `pcrs` are what `quote` signed, in its order."""
    if tuple((bank, index) for bank, index, _ in pcrs) != quote.selection:
        raise SelectionMismatchError("the values are not listed as the signed selection has them")
    for bank, index, value in pcrs:
        if len(value) != bank.digest_bytes:
            raise PcrDigestError(f"PCR {index} of bank {bank.value} has another length")
    # Part 3, TPM2_Quote: the hash is the signing scheme's, not the bank's.
    hasher = hashlib.new(signature.hash.value)
    for _, _, value in pcrs:
        hasher.update(value)
    if not hmac.compare_digest(hasher.digest(), quote.pcr_digest):
        raise PcrDigestError("the values do not hash to the quoted digest")
    return f"{len(pcrs)} PCR values as quoted"


def _parse(body: bytes) -> _Parsed:
    evidence = TpmEvidence.from_bytes(body)
    return _Parsed(
        body=evidence,
        attest=Attest.from_bytes(evidence.attest),
        signature=Signature.from_bytes(evidence.signature),
        ak=Public.from_bytes(evidence.ak_public),
    )


def _binding(case: Case, attest: Attest) -> str:
    if not hmac.compare_digest(attest.extra_data, qualifying_data(case.report_data())):
        raise BindingMismatchError("the quote is about other keys or Challenges")
    return "the quote names this key set and these Challenges"


def _check_signature(parsed: _Parsed) -> None:
    verify_signature(parsed.ak, parsed.signature, parsed.body.attest)


def _endorsement(case: Case, parsed: _Parsed) -> str:
    policy = case.policy.tpm
    return endorse(
        parsed.ak,
        parsed.body.ak_certificates,
        roots=() if policy is None else policy.roots,
        pinned=() if policy is None else policy.attestation_keys,
        now=case.now,
    )


def _reference_values(policy: TpmPolicy | None, quote: Quote, pcrs: tuple[PcrRow, ...]) -> str:
    if policy is None or not policy.pcrs:
        raise ReferenceValuesMissingError("the policy names no PCR")
    values = {(bank, index): value for bank, index, value in pcrs}
    for index, accepted in policy.pcrs:
        name = (policy.pcr_bank, index)
        if name not in quote.selection or name not in values:
            raise PcrNotQuotedError(f"PCR {index} of bank {policy.pcr_bank.value} is not quoted")
        if values[name] not in accepted:
            raise PcrNotAcceptedError(f"PCR {index} is {values[name].hex()}")
    return f"{len(policy.pcrs)} PCRs have Reference Values"


def _claims(parsed: _Parsed) -> Claims:
    attest = parsed.attest
    return {
        "attestation key": f"sha256:{parsed.ak.fingerprint().hex()}",
        "firmware version": f"{attest.firmware_version:#018x}",
        "resets": f"{attest.reset_count} (restarts {attest.restart_count})",
        **{f"PCR {index} ({bank.value})": value.hex() for bank, index, value in parsed.body.pcrs},
    }
