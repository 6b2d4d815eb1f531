"""Evidence of kind `insecure`: the binding in clear, signed by nothing.

For laptops and tests. It carries the same binding as real Evidence, so that the protocol around it
is the same, and it proves nothing: whoever stands in the middle can make it.
"""

from typing import Final

from attrs import frozen

from attestation.encoding.record import Record, item, octets

KIND: Final = "insecure"

REPORT_DATA_BYTES: Final = 64


@frozen(kw_only=True)
class InsecureEvidence(Record):
    """The body of a bundle: the report data, and nobody's word for it."""

    TYPE = "INSECURE"
    VERSION = 1
    LIMIT = 256

    report_data: bytes = item(octets(exactly=REPORT_DATA_BYTES))
