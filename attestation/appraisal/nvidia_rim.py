"""Appraise one of NVIDIA's manifests by itself: for those who keep a store of them."""

from datetime import datetime
from typing import Final

from attestation.appraisal.checklist import Checklist, Step
from attestation.endorsements.nvidia_rim import Rim

STEPS: Final = (Step.authentic("manifest"),)


def examine(data: bytes, *, now: datetime, checks: Checklist) -> Rim:
    """Check chain, signature and digest; what is inside is returned only then."""
    # (1) NVIDIA's manifest CA vouches for its signer at `now`, and that one signed exactly this.
    return checks.need("signed by NVIDIA", _verified, data, now)


def _verified(data: bytes, now: datetime) -> Rim:
    return Rim.verify(data, now=now)
