"""Appraise Evidence of kind `nitro`: the steps of docs/appraisal.md, from 8 on.

A document is signed by a key whose certificate lives three hours, so it is judged as of when it was
made; an auditor gives that time. How old it may be is the policy's word.
"""

import hmac
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from attestation import limits
from attestation.appraisal.checklist import Checklist, Step, Weakness
from attestation.appraisal.claims import Case, Claims
from attestation.appraisal.refusals import (
    BindingMismatchError,
    PcrNotAcceptedError,
    PcrNotQuotedError,
    ReferenceValuesMissingError,
)
from attestation.endorsements import aws
from attestation.endorsements.chains import parse_certificate
from attestation.endorsements.collateral import Collateral
from attestation.errors import SignatureInvalidError, VerificationError
from attestation.evidence.nitro import PCR_BYTES, NitroDocument, NitroEvidence
from attestation.policy.nitro import NitroPolicy

REPORT_STEPS: Final = (
    Step.authentic("format"),
    Step.authentic("certificates"),
    Step.authentic("signature"),
    Step.authentic("time"),
    Step.acceptable("age"),
    Step.acceptable("debug"),
    Step.acceptable("reference values"),
)
STEPS: Final = (Step.authentic("body"), *REPORT_STEPS, Step.authentic("binding"))

_SKEW: Final = timedelta(seconds=limits.CLOCK_SKEW_SECONDS)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_DENIES: Final = NitroPolicy(pcrs=(), max_age_seconds=0)
"""What a policy without a table for this kind says."""


class DocumentTimeError(VerificationError):
    """The document is from the future, or from before its key. Compare clocks; ask again."""

    code = "document-time"


class DocumentStaleError(VerificationError):
    """The document is older than nitro.max_age_seconds. Ask the worker for new Evidence."""

    code = "document-stale"


class DebugEnclaveError(VerificationError):
    """A debug enclave: its console shows its memory. Start it without --debug-mode."""

    code = "debug-enclave"


def appraise(
    case: Case, checks: Checklist, *, root: Callable[[], x509.Certificate] = aws.root
) -> Claims:
    """Run all steps; the claims are worth what their verdict is worth."""
    evidence = checks.need("a document", NitroEvidence.from_bytes, case.bundle.body)
    document = _judge(evidence, case.policy.nitro or _DENIES, case.now, checks, root)
    # It is about these keys and Challenges.
    checks.run(_binding, case, document)
    return _claims(document)


def examine(
    evidence: NitroEvidence,
    *,
    policy: NitroPolicy,
    collateral: Collateral,  # noqa: ARG001 - a document brings all that it needs
    now: datetime,
    checks: Checklist,
    root: Callable[[], x509.Certificate] = aws.root,
) -> Claims:
    """Run `REPORT_STEPS`: judge a document by itself, whatever it is about."""
    return _claims(_judge(evidence, policy, now, checks, root))


def _judge(
    evidence: NitroEvidence,
    policy: NitroPolicy,
    now: datetime,
    checks: Checklist,
    root: Callable[[], x509.Certificate],
) -> NitroDocument:
    # The document parses.
    document = checks.need("a COSE_Sign1 document", NitroDocument.from_bytes, evidence.document)
    # Its certificates lead from AWS's root to the enclave's key at `now`.
    checks.run(_certificates, document, now, root)
    # That key signed it.
    checks.run(verify_signature, document)
    # It was made while the key lived, and not later than now.
    checks.run(_time, document, now)
    checks.run(_age, document, policy, now)
    # It is no debug enclave, and an image that the policy names.
    checks.run(_debug, document, policy)
    checks.run(_reference_values, document, policy)
    return document


def _certificates(
    document: NitroDocument, now: datetime, root: Callable[[], x509.Certificate]
) -> str:
    line = aws.verify_line(document.certificate, document.cabundle, now=now, root=root)
    return f"{len(line)} certificates from AWS's root to the enclave's"


def verify_signature(document: NitroDocument) -> str:
    """Check that the key of its certificate signed `document` (RFC 9053 section 2.1), or raise.

    Whether AWS vouches for that certificate is another step.
    """
    key = aws.enclave_key(document.certificate)
    half = len(document.signature) // 2
    r, s = (
        int.from_bytes(part, "big")
        for part in (document.signature[:half], document.signature[half:])
    )
    try:
        key.verify(encode_dss_signature(r, s), document.signed, ec.ECDSA(hashes.SHA384()))
    except InvalidSignature as error:
        raise SignatureInvalidError("the enclave's key did not sign this") from error
    return "signed by the enclave's key"


def _time(document: NitroDocument, now: datetime) -> str:
    leaf, made = parse_certificate(document.certificate), _made_at(document)
    if made > now + _SKEW:
        raise DocumentTimeError(f"made at {made.isoformat()}, which is still to come")
    if not leaf.not_valid_before_utc - _SKEW <= made <= leaf.not_valid_after_utc + _SKEW:
        raise DocumentTimeError(f"made at {made.isoformat()}, when its key was not alive")
    return f"made at {made.isoformat()}"


def _age(document: NitroDocument, policy: NitroPolicy, now: datetime) -> str:
    age = now - _made_at(document)
    if age > timedelta(seconds=policy.max_age_seconds):
        raise DocumentStaleError(
            f"{age.total_seconds():g} s old where {policy.max_age_seconds} s are allowed"
        )
    return f"{age.total_seconds():g} s old"


def _debug(document: NitroDocument, policy: NitroPolicy) -> str | Weakness:
    # AWS, "Cryptographic attestation": with --debug-mode the PCRs of the image are zero. One of
    # the three is enough: no image hashes to it.
    if not any(document.pcrs.get(index) == bytes(PCR_BYTES) for index in (0, 1, 2)):
        return "PCR 0 to 2 are not zero"
    if not policy.allow_debug:
        raise DebugEnclaveError("the PCRs of the image are zero")
    return Weakness(code=DebugEnclaveError.code, detail="a debug enclave, which the policy allows")


def _reference_values(document: NitroDocument, policy: NitroPolicy) -> str | Weakness:
    if policy.accept_any_pcrs:
        return Weakness(code="pcr-any", detail="the policy accepts whatever image was started")
    if not policy.pcrs:
        raise ReferenceValuesMissingError("the policy names no PCR")
    for index, accepted in policy.pcrs:
        value = document.pcrs.get(index)
        if value is None:
            raise PcrNotQuotedError(f"PCR {index} is not in the document")
        if value not in accepted:
            raise PcrNotAcceptedError(f"PCR {index} is {value.hex()}")
    return f"{len(policy.pcrs)} PCRs have Reference Values"


def _binding(case: Case, document: NitroDocument) -> str:
    if not hmac.compare_digest(document.user_data or b"", case.report_data()):
        raise BindingMismatchError("the document is about other keys or Challenges")
    return "its user data name this key set and these Challenges"


def _made_at(document: NitroDocument) -> datetime:
    return _EPOCH + timedelta(milliseconds=document.timestamp_ms)


def _claims(document: NitroDocument) -> Claims:
    return {
        "module": document.module_id,
        "made at": _made_at(document).isoformat(),
        **{f"PCR {index}": document.pcrs[index].hex() for index in sorted(document.pcrs)},
    }
