"""PCR values of a signed quote: the steps that every kind with a TPM shares.

PCR numbers come from the signed selection and from nowhere else: the same values listed under other
numbers have the same digest.
"""

import hashlib
import hmac
from typing import Final

from attrs import frozen

from attestation.appraisal.checklist import Checklist, Step, Weakness
from attestation.appraisal.event_log import check_events, check_log
from attestation.appraisal.refusals import (
    NotAQuoteError,
    NotTpmGeneratedError,
    PcrDigestError,
    PcrNotAcceptedError,
    PcrNotQuotedError,
    ReferenceValuesMissingError,
    SelectionMismatchError,
    WeakHashError,
)
from attestation.errors import VerificationError
from attestation.evidence.event_log import EventLog
from attestation.evidence.tpm import (
    GENERATED,
    Attest,
    PcrBank,
    PcrQuote,
    PcrRow,
    Public,
    Quote,
    Signature,
)
from attestation.evidence.tpm_forms import read_signature
from attestation.policy.tpm import PcrPolicy

PCR_STEPS: Final = (
    Step.authentic("PCR values"),
    Step.authentic("event log"),
    Step.acceptable("signature hash"),
    Step.acceptable("PCR banks"),
    Step.acceptable("reference values"),
    Step.acceptable("boot events"),
)


class PcrBankError(VerificationError):
    """The quote has no PCRs but of the SHA-1 bank. Switch on another bank in the firmware."""

    code = "pcr-bank-sha1"


class PcrValueMissingError(VerificationError):
    """The policy names a PCR whose value was not sent. Configure the worker to send values."""

    code = "pcr-value-missing"


@frozen(kw_only=True)
class ParsedQuote:
    """A quote with all that came beside it, in the form that the steps look at."""

    evidence: PcrQuote
    attest: Attest
    signature: Signature
    event_log: EventLog | None

    @classmethod
    def of(cls, evidence: PcrQuote, ak: Public) -> "ParsedQuote":
        """Parse every structure, or raise `DecodeError`."""
        attest = Attest.from_bytes(evidence.attest)
        # A bare signature does not name its hash; the digest beside it was made with the same.
        made_with = attest.quote and attest.quote.digest_hash()
        return cls(
            evidence=evidence,
            attest=attest,
            signature=read_signature(
                evidence.signature, key=ak.key, hash=made_with or PcrBank.SHA256
            ),
            event_log=None if not evidence.event_log else EventLog.from_bytes(evidence.event_log),
        )


def require_quote(attest: Attest) -> Quote:
    """Return the quote in `attest`, or raise what it is instead."""
    if attest.magic != GENERATED:
        raise NotTpmGeneratedError(f"starts with {attest.magic:#010x}")
    if attest.quote is None:
        raise NotAQuoteError(f"an attestation of type {attest.kind:#06x}")
    return attest.quote


def judge_pcrs(checks: Checklist, parsed: ParsedQuote, quote: Quote, policy: PcrPolicy) -> None:
    """Run `PCR_STEPS` on a quote whose signature has been checked."""
    rows = parsed.evidence.pcrs
    values = {(bank, index): value for bank, index, value in rows}
    checks.run(check_values, quote, rows, parsed.signature)
    checks.run(check_log, parsed.event_log, values)
    checks.run(_check_hash, parsed.signature)
    checks.run(_check_banks, quote)
    checks.run(_reference_values, policy, quote, rows)
    checks.run(check_events, policy, parsed.event_log, values)


def check_values(quote: Quote, pcrs: tuple[PcrRow, ...], signature: Signature) -> str:
    """Check that `pcrs` are what `quote` signed, in its order."""
    if not pcrs:
        return "no values were sent; their digest alone is known"
    if tuple((bank, index) for bank, index, _ in pcrs) != quote.selection:
        raise SelectionMismatchError("the values are not listed as the signed selection has them")
    for bank, index, value in pcrs:
        if len(value) != bank.digest_bytes:
            raise PcrDigestError(f"PCR {index} of bank {bank.value} has another length")
    # Part 3, TPM2_Quote: the hash is the signing scheme's, not the bank's.
    hasher = hashlib.new(signature.hash.value, usedforsecurity=False)
    for _, _, value in pcrs:
        hasher.update(value)
    if not hmac.compare_digest(hasher.digest(), quote.pcr_digest):
        raise PcrDigestError("the values do not hash to the quoted digest")
    return f"{len(pcrs)} PCR values as quoted"


def _check_hash(signature: Signature) -> str:
    if signature.hash is PcrBank.SHA1:
        raise WeakHashError(f"signed over {signature.hash.value}")
    return f"signed over {signature.hash.value}"


def _check_banks(quote: Quote) -> str:
    banks = {bank for bank, _ in quote.selection}
    if not banks:
        raise PcrNotQuotedError("the quote is about no PCR at all")
    if banks == {PcrBank.SHA1}:
        raise PcrBankError("every quoted PCR is of the SHA-1 bank")
    return f"quoted of {', '.join(sorted(banks))}"


def _reference_values(policy: PcrPolicy, quote: Quote, pcrs: tuple[PcrRow, ...]) -> str | Weakness:
    if policy.accept_any_pcrs:
        return Weakness(code="pcr-any", detail="the policy accepts whatever was booted")
    if not policy.pcrs and not policy.events:
        raise ReferenceValuesMissingError("the policy names no PCR")
    values = {(bank, index): value for bank, index, value in pcrs}
    for index, accepted in policy.pcrs:
        name = (policy.pcr_bank, index)
        if name not in quote.selection:
            raise PcrNotQuotedError(f"PCR {index} of bank {policy.pcr_bank.value} is not quoted")
        if name not in values:
            raise PcrValueMissingError(f"no value of PCR {index} was sent")
        if values[name] not in accepted:
            raise PcrNotAcceptedError(f"PCR {index} is {values[name].hex()}")
    return f"{len(policy.pcrs)} PCRs have Reference Values"
