"""Evidence of kind `sgx`: a quote about an Intel SGX enclave."""

from typing import Final

from attrs import frozen

from attestation import limits
from attestation.encoding.record import Record, array, item, octets

KIND: Final = "sgx"


@frozen(kw_only=True)
class SgxEvidence(Record):
    """The body of a bundle: the quote, and the PCK's chain for a quote that does not hold it."""

    VERSION = 1
    LIMIT = limits.EVIDENCE_BYTES

    quote: bytes = item(octets(limit=limits.INTEL_QUOTE_BYTES), secret=True)
    certificates: tuple[bytes, ...] = item(
        array(octets(limit=limits.CERTIFICATE_BYTES), limit=limits.CERTIFICATES),
        default=(),
        secret=True,
    )
