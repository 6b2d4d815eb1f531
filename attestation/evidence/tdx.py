"""Evidence of kind `tdx`: a quote about an Intel trust domain."""

from typing import Final

from attrs import frozen

from attestation import limits
from attestation.encoding.record import Record, array, item, octets, optional
from attestation.errors import DecodeError
from attestation.evidence.event_log import EventLog
from attestation.evidence.intel_quote_bodies import RTMRS
from attestation.evidence.tpm import PcrBank

KIND: Final = "tdx"

_FIRST_RTMR: Final = 1  # UEFI, confidential computing: index 0 is MRTD, 1 to 4 are RTMR 0 to 3


@frozen(kw_only=True)
class TdxEvidence(Record):
    """The body of a bundle: the quote, and what the worker knows to go with it.

    `certificates` is the DER chain of the PCK, leaf first, for a quote that does not hold it;
    `event_log` the CC event log (ACPI table CCEL), which says what the RTMRs measured.
    """

    VERSION = 1
    LIMIT = limits.EVIDENCE_BYTES

    quote: bytes = item(octets(limit=limits.INTEL_QUOTE_BYTES), secret=True)
    certificates: tuple[bytes, ...] = item(
        array(octets(limit=limits.CERTIFICATE_BYTES), limit=limits.CERTIFICATES),
        default=(),
        secret=True,
    )
    event_log: bytes | None = item(
        optional(octets(limit=limits.EVENT_LOG_BYTES)), default=None, secret=True
    )


def replay_rtmrs(event_log: bytes) -> dict[int, bytes]:
    """Return what a CC event log makes of each RTMR that it measures something into.

    UEFI 2.10 section 38.4.1: the crypto-agile log of a TPM, with another numbering. Raises
    `DecodeError`, also where the log has no SHA-384, which is all that an RTMR has.
    """
    log = EventLog.from_bytes(event_log)
    if PcrBank.SHA384 not in log.banks:
        raise DecodeError("a CC event log without SHA-384 digests")
    values = log.replay(PcrBank.SHA384)
    if not values.keys() <= set(range(_FIRST_RTMR, _FIRST_RTMR + RTMRS)):
        raise DecodeError("an event of something that is no RTMR")
    return {index - _FIRST_RTMR: value for index, value in values.items()}
