"""The Attester for machines without hardware that could attest. Its Evidence proves nothing."""

from typing import Final

from attestation.evidence.insecure import KIND, InsecureEvidence


class InsecureAttester:
    """Copies the report data. Policies refuse it unless they spell it out."""

    kind: Final = KIND

    def collect(self, report_data: bytes) -> bytes:
        """Return the body of a bundle that nothing signed."""
        return InsecureEvidence(report_data=report_data).to_bytes()
