"""What an appraisal works on: the Evidence, the policy and the time, before any verdict."""

from collections.abc import Mapping
from datetime import datetime
from typing import TypeAlias

from attrs import frozen

from attestation.endorsements.collateral import Collateral
from attestation.evidence.binding import report_data
from attestation.evidence.bundle import EvidenceBundle
from attestation.evidence.keyset import KeySet
from attestation.policy.policy import Policy

Claims: TypeAlias = Mapping[str, str]
"""What the Evidence says about its machine, by name, for people to read. Decides nothing."""


@frozen(kw_only=True)
class Case:
    """One appraisal: what the steps of a kind may look at."""

    bundle: EvidenceBundle
    keyset: KeySet
    policy: Policy
    collateral: Collateral
    now: datetime

    def report_data(self) -> bytes:
        """Return the 64 bytes that hardware must have signed for this bundle."""
        return report_data(
            self.keyset.keyset_id(), self.bundle.nonce_root, self.bundle.gpu_evidence
        )
